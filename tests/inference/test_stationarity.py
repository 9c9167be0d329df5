"""One transition leaves the target as it is: from exact draws, exact draws. Each check has a broken twin that must fail it."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from luciole.inference import HMC, NUTS, Slice
from luciole.inference.kernels import elliptical, hmc, slice, trajectory
from luciole.inference.kernels.adaptation import warmup_schedule
from luciole.inference.kernels.kernel import start_chain, tuning_of
from luciole.inference.kernels.records import Plan
from luciole.transforms import stream_for
from luciole.transforms.autobatch import autobatch, program

SHAPES = np.array([0.8, 1.5, 4.0], np.float32)
NUM_CHAINS, NUM_TRANSITIONS = 40_000, 3
MAX_Z = 5.0  # four statistics a run: one false alarm in half a million runs


def log_density(x):
    return (SHAPES * x - jnp.exp(x)).sum()


def worst_z(kernel, seed=0, **options):
    """Largest |z| of the change of four statistics, over independent chains that start from exact draws.

    `options` replace fields of the kernel's transition.
    """
    dim = len(SHAPES)
    plan = Plan(warmup_schedule(0), kernel.tuning(dim, np.float32), np.int32(1), np.asarray(False))
    value_and_grad = jax.value_and_grad(log_density)
    key = np.array([seed, 99], np.uint32)

    @program(heavy=True)
    def density(x, auxiliary):
        return *value_and_grad(x), auxiliary

    # Built here, after a test has broken something: a program reads the names of its module when it is compiled.
    static = replace(kernel.transition(), **options)
    transition = static.program(density, plan)

    @program
    def several(state):
        for _ in range(NUM_TRANSITIONS):
            state, _ = transition(state, static.noise(state.stream, state.position))
        return state.position

    def begin(chain, x):
        return start_chain(value_and_grad(x), x, stream_for(key, chain), jax.tree.map(jnp.asarray, plan.tuning))

    start = np.log(np.random.default_rng(seed).gamma(SHAPES, size=(NUM_CHAINS, dim))).astype(np.float32)
    end = np.asarray(autobatch(several)(jax.jit(jax.vmap(begin))(np.arange(NUM_CHAINS, dtype=np.uint32), start)))
    assert np.abs(end - start).mean() > 0.3, "the chains did not move"

    def statistics(x):
        return np.stack([x.sum(1), (x**2).sum(1), np.exp(x).sum(1), log_density_rows(x)], 1).astype(np.float64)

    change = statistics(end) - statistics(start)
    return np.abs(change.mean(0) / (change.std(0) / np.sqrt(NUM_CHAINS))).max()


def log_density_rows(x):
    return (SHAPES * x - np.exp(x)).sum(1)


@pytest.mark.parametrize("dense", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_nuts_is_stationary(dense):
    matrix = np.array([[1.5, 0.3, 0.0], [0.3, 0.8, 0.1], [0.0, 0.1, 0.3]], np.float32)
    matrix = matrix if dense else np.diag(matrix)
    assert worst_z(NUTS(None, step_size=0.6, inverse_mass_matrix=matrix, dense_mass=dense)) < MAX_Z


@pytest.mark.slow
def test_nuts_with_weight_sign_flipped_is_not(monkeypatch):
    monkeypatch.setattr(trajectory, "energy_error", lambda new, start: start - new)
    assert worst_z(NUTS(None, step_size=0.6, inverse_mass_matrix=np.ones(3))) > 2 * MAX_Z


def unchecked(density, max_depth, layout):
    """`trajectory.iterative` without its check of the sub-trees."""
    step = trajectory._step(density, layout)

    @program
    def grow(start, step_size, walk, depth):
        leaf, growing = jnp.int32(0), True
        while growing:
            walk = step(start, step_size, walk)
            leaf = leaf + 1
            growing = leaf < jax.lax.shift_left(jnp.int32(1), depth) and not walk.stops
        return walk

    return trajectory._doubling(grow, max_depth, layout)


@pytest.mark.slow
def test_nuts_without_subtree_check_is_not():
    assert worst_z(NUTS(None, step_size=0.6, inverse_mass_matrix=np.ones(3)), walk=unchecked) > MAX_Z


@pytest.mark.slow
def test_recursive_nuts_is_stationary():
    assert worst_z(NUTS(None, step_size=0.6, inverse_mass_matrix=np.ones(3)), walk=trajectory.recursive) < MAX_Z


@pytest.mark.slow
def test_nuts_that_only_goes_forward_is_not(monkeypatch):
    monkeypatch.setattr(trajectory, "random_bits", lambda *_: (jnp.uint32(0xFFFFFFFF), None))
    assert worst_z(NUTS(None, step_size=0.6, inverse_mass_matrix=np.ones(3))) > MAX_Z


@pytest.mark.parametrize("jitter", [0.0, pytest.param(0.7, marks=pytest.mark.slow)])
def test_hmc_is_stationary(jitter):
    assert worst_z(HMC(None, num_steps=4, jitter=jitter, step_size=0.6, inverse_mass_matrix=np.ones(3))) < MAX_Z


@pytest.mark.slow
def test_hmc_that_accepts_the_wrong_way_is_not(monkeypatch):
    monkeypatch.setattr(hmc, "energy_error", lambda new, start: start - new)
    assert worst_z(HMC(None, num_steps=4, step_size=0.6, inverse_mass_matrix=np.ones(3))) > 2 * MAX_Z


@pytest.mark.slow
def test_hmc_that_always_accepts_is_not(monkeypatch):
    monkeypatch.setattr(hmc, "energy_error", lambda new, start: jnp.zeros_like(new))
    assert worst_z(HMC(None, num_steps=4, step_size=0.6, inverse_mass_matrix=np.ones(3))) > 2 * MAX_Z


NARROW = {"width": [0.5, 1.0, 0.3], "max_steps_out": 3}  # the budget is often spent


@pytest.mark.parametrize("options", [NARROW, pytest.param({"width": 3.0, "max_steps_out": 0}, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_slice_is_stationary(options):
    assert worst_z(Slice(None, **options)) < MAX_Z


@pytest.mark.slow
def test_slice_that_takes_what_is_outside_is_not(monkeypatch):
    monkeypatch.setattr(slice, "is_inside", lambda value, level: value <= level)
    assert worst_z(Slice(None, **NARROW)) > 2 * MAX_Z


@pytest.mark.slow
def test_slice_whose_interval_lies_above_the_point_is_not(monkeypatch):
    lay = slice.lay
    monkeypatch.setattr(slice, "lay", lambda x, width, place, share, budget: lay(x, width, 0 * place, share, budget))
    assert worst_z(Slice(None, **NARROW)) > MAX_Z


@pytest.mark.slow
def test_slice_whose_low_end_may_take_all_steps_is_not(monkeypatch):
    lay = slice.lay
    monkeypatch.setattr(slice, "lay", lambda x, width, place, share, budget: lay(x, width, place, 0 * share + 0.999, budget))
    assert worst_z(Slice(None, **NARROW)) > MAX_Z


def with_prior(factor):
    """Elliptical slice sampling as if the prior were this Gaussian; what it is not stands in the likelihood, so that any one will do."""
    options = {"means": (np.array([0.3, -0.2, 1.0], np.float32),), "factors": (np.asarray(factor, np.float32),)}
    return SimpleNamespace(
        transition=elliptical.EllipticalSliceTransition,
        tuning=lambda dim, dtype: tuning_of(1.0, np.ones(dim, dtype), False, options=options),
    )


DIAGONAL = [1.5, 1.0, 0.7]
LOWER = [[[1.5, 0.0, 0.0], [0.4, 1.0, 0.0], [-0.3, 0.2, 0.7]]]


@pytest.mark.parametrize("factor", [LOWER, pytest.param(DIAGONAL, marks=pytest.mark.slow)], ids=["dense", "diagonal"])
@pytest.mark.slow
def test_elliptical_slice_is_stationary(factor):
    assert worst_z(with_prior(factor)) < MAX_Z


@pytest.mark.slow
def test_elliptical_slice_that_counts_the_prior_twice_is_not(monkeypatch):
    monkeypatch.setattr(elliptical, "log_likelihood", lambda log_density, whitened, *_: log_density)
    assert worst_z(with_prior(LOWER)) > 2 * MAX_Z


@pytest.mark.slow
def test_elliptical_slice_around_the_wrong_mean_is_not(monkeypatch):
    whiten = elliptical.whiten
    monkeypatch.setattr(elliptical, "whiten", lambda prior, x: whiten(prior, x + prior.means[0]))
    assert worst_z(with_prior(LOWER)) > 2 * MAX_Z


@pytest.mark.slow
def test_elliptical_slice_that_only_turns_forward_is_not(monkeypatch):
    monkeypatch.setattr(elliptical, "bracket", lambda low, high, theta: (jnp.zeros_like(low), jnp.abs(theta)))
    assert worst_z(with_prior(LOWER)) > MAX_Z
