"""Simulation-based calibration: parameters from the prior, data from the parameters, draws from the posterior given the data.

The rank of each parameter among its posterior draws is then uniform. All simulations run in one program, one after the other: the
sampler of one chain, whose argument is the leaves of the log density: the data. Broken twins must fail; the one that
is broken least needs as many simulations as the right program gets, the others fewer.

Source: Talts et al. (2018), "Validating Bayesian inference algorithms with simulation-based calibration", algorithm 2.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from judge import FAILURE_RATE, WithoutJacobian, uniform_ranks

import luciole as lc
from luciole import dist
from luciole.inference.kernels.adaptation import warmup_schedule
from luciole.inference.kernels.records import Plan
from luciole.inference.kernels.target import trace_target
from luciole.inference.run.batching import batch
from luciole.inference.run.chain import Begin

pytestmark = pytest.mark.usefixtures("x64")
NUM_WARMUP, NUM_DRAWS, NUM_BINS = 150, 63, 16
THINNING = 3  # leaves draws nearly independent; a NUTS chain on these models has an autocorrelation time of 1 to 2


def normal(y=None, wrong=1.0):
    """Unknown mean and scale. `wrong` is what a broken simulator makes of the scale's prior."""
    mu = lc.sample("mu", dist.Normal(0.0, 1.0))
    sigma = lc.sample("sigma", dist.HalfNormal(wrong))
    with lc.plate("observation", 2):
        lc.sample("y", dist.Normal(mu, sigma), obs=y)


def autoregression(y=None, wrong=1.0):
    """A short AR(1), sampled inside a scan: an interval, a positive number, and observations in a loop.

    `wrong` is what a broken simulator makes of the noise.
    """
    phi = lc.sample("phi", dist.Uniform(-1.0, 1.0))
    sigma = lc.sample("sigma", dist.LogNormal(0.0, 1.0))

    def step(last, now):
        value = lc.sample("y", dist.Normal(phi * last, wrong * sigma), obs=now)
        return value, None

    jax.lax.scan(step, jnp.zeros(()), y, length=8)


MODELS = {"normal": normal, "autoregression": autoregression}


def ranks(model, num_simulations, seed, simulator=None, broken=lambda density: density):
    """By parameter, its rank among NUM_DRAWS posterior draws in each simulation, int (simulation,)."""
    simulate, infer = jax.random.split(jax.random.key(seed))
    truth = lc.prior_predictive(simulator or model, simulate, num_simulations)
    densities = [broken(lc.log_density(model, y)) for y in truth["y"]]
    target = trace_target(densities[0], lc.init_to_uniform(), 1)
    leaves = zip(*(jax.tree.leaves(density) for density in densities), strict=True)
    leaves = tuple(jnp.stack([jnp.asarray(v) for v in values]) for values in leaves)

    kernel = lc.NUTS(model)
    plan = Plan(
        warmup_schedule(NUM_WARMUP),
        kernel.tuning(target.layout.dim, np.dtype(float)),
        np.int32(THINNING),
        np.asarray(False),
    )
    total = np.int32(NUM_WARMUP + THINNING * NUM_DRAWS)
    sampler = batch(target, kernel.transition(), 1, int(total), plan)

    def simulation(arguments):
        words, leaves = arguments
        data = target.data._replace(leaves=leaves)
        begin = Begin(np.zeros(1, bool), target.fixed)
        state = sampler.begin(words, plan, jnp.zeros((1, target.layout.dim)))
        machine = sampler.enter(data, plan, begin, state, jnp.bool_(True), total)
        machine, _ = sampler.advance(machine, data, plan, np.int32(2**30), np.int32(0))
        chunk = sampler.leave(machine, data, plan)
        return tuple(value[:, :NUM_DRAWS] for value in chunk.values), chunk.kept.count, chunk.kept.ok

    keys = jax.random.key_data(jax.random.split(infer, num_simulations))
    values, count, ok = jax.jit(lambda arguments: jax.lax.map(simulation, arguments))((keys, leaves))
    assert np.asarray(ok).all()
    assert (np.asarray(count) == NUM_DRAWS).all()
    draws = {name: np.asarray(value)[:, 0] for name, value in zip(target.names, values, strict=True)}
    return {name: (value < truth[name][:, None]).sum(1) for name, value in draws.items()}


def p_values(model, **options):
    return {name: uniform_ranks(r, NUM_DRAWS, NUM_BINS) for name, r in ranks(model, **options).items()}


NUM_SIMULATIONS = 500


@pytest.mark.parametrize(
    "name", [pytest.param("normal", marks=pytest.mark.slow), pytest.param("autoregression", marks=pytest.mark.exhaustive)]
)
def test_ranks_are_uniform(name):
    found = p_values(MODELS[name], num_simulations=NUM_SIMULATIONS, seed=1)
    assert min(found.values()) > FAILURE_RATE / len(found), found


@pytest.mark.slow
def test_without_the_jacobian_they_are_not():
    found = p_values(normal, num_simulations=150, seed=1, broken=WithoutJacobian.of)
    assert min(found.values()) < FAILURE_RATE / len(found), found


@pytest.mark.exhaustive
def test_with_other_noise_in_the_simulator_they_are_not():
    simulator = functools.partial(autoregression, wrong=1.5)
    found = p_values(autoregression, num_simulations=100, seed=1, simulator=simulator)
    assert min(found.values()) < FAILURE_RATE / len(found), found


@pytest.mark.exhaustive
def test_with_another_prior_in_the_simulator_they_are_not():
    found = p_values(normal, num_simulations=NUM_SIMULATIONS, seed=1, simulator=functools.partial(normal, wrong=1.5))
    assert min(found.values()) < FAILURE_RATE / len(found), found
