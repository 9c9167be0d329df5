"""The programs of a sampler as what users run: the same as plain Python, one gradient in it, well used, alone or in company."""

import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from luciole.inference import HMC, MCMC, NUTS, Slice
from luciole.inference.kernels.adaptation import warmup_schedule
from luciole.inference.kernels.kernel import start_chain
from luciole.inference.kernels.records import Plan
from luciole.inference.kernels.starts import searching
from luciole.inference.kernels.target import trace_target
from luciole.inference.run import batching, chain
from luciole.transforms import stream_for
from luciole.transforms.autobatch import autobatch, build_machine, program
from luciole.transforms.jax_compat import open_jaxpr, subjaxprs

SHAPES = np.array([0.8, 1.5, 4.0])
MATRIX = np.array([[1.2, 0.3, 0.0], [0.3, 0.8, 0.1], [0.0, 0.1, 0.4]])
KERNELS = {
    "nuts": lambda model, **o: NUTS(model, inverse_mass_matrix=np.diag(MATRIX), max_tree_depth=5, **o),
    "nuts_dense": lambda model, **o: NUTS(model, dense_mass=True, inverse_mass_matrix=MATRIX, max_tree_depth=5, **o),
    "hmc": lambda model, **o: HMC(model, trajectory_length=1.5, jitter=0.5, **o),
    "slice": lambda model, step_size=None: Slice(model, width=3.2 * np.sqrt(np.diag(MATRIX)) if step_size is None else step_size),
}
SLOW = set(KERNELS)
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in KERNELS]


def assert_equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def log_density(x):
    return (SHAPES * x - jnp.exp(x)).sum()


@pytest.mark.parametrize("name", NAMES)
def test_a_transition_is_plain_python(name, x64):
    # Chains before, at and after the end of a slow window and of the warm-up, with step sizes of their own.
    schedule = warmup_schedule(40)
    (window_end,) = schedule.window_ends[schedule.window_ends >= 0]
    counters = np.array([0, 10, window_end, 39, 40], np.uint32)
    step_sizes = np.array([0.3, 0.6, 0.2, 3.0, 0.4])
    tuning = KERNELS[name](None).tuning(3, np.float64)._replace(adapt_metric=np.asarray(True))
    plan = Plan(schedule, tuning, np.int32(1), np.asarray(False))
    value_and_grad = jax.value_and_grad(log_density)

    @program(heavy=True)
    def density(x, auxiliary):
        return *value_and_grad(x), auxiliary

    def begin(number, counter, step_size, x):
        stream = stream_for(np.array([3, 1], np.uint32), number)._replace(counter=counter)
        state = start_chain(value_and_grad(x), x, stream, jax.tree.map(jnp.asarray, tuning))
        return state._replace(step_size=step_size)

    x = np.log(np.random.default_rng(1).gamma(SHAPES, size=(5, 3)))
    states = jax.jit(jax.vmap(begin))(np.arange(5, dtype=np.uint32), counters, step_sizes, x)
    static = KERNELS[name](None).transition()
    transition = static.program(density, plan)
    noises = jax.vmap(static.noise)(states.stream, states.position)
    compiled = autobatch(transition)(states, noises)
    after, draws = compiled
    for number in range(5):
        alone = transition(*jax.tree.map(lambda leaf, n=number: leaf[n], (states, noises)))
        assert_equal(alone, jax.tree.map(lambda leaf, n=number: leaf[n], compiled))
    assert (draws.stats["n_steps"] > 1).any() and (np.abs(after.position - x).max(1) > 0).sum() >= 3
    moved = np.abs(np.asarray(after.metric.inverse_mass - states.metric.inverse_mass)).reshape(5, -1).max(1) > 0
    np.testing.assert_array_equal(moved, [False, False, True, False, False])
    np.testing.assert_array_equal(after.step_size != step_sizes, tuning.adapt_step_size & np.array([True, True, True, True, False]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nuts", pytest.param("hmc", marks=pytest.mark.exhaustive), "slice"])
def test_draws_are_the_same_whatever_runs_beside(name, targets, x64):
    """After one transition; later ones may part, by rounding alone, where a trajectory is chaotic."""
    density = targets.log_gammas(SHAPES)

    def run(num_chains):
        mcmc = MCMC(KERNELS[name](density, step_size=0.4), num_warmup=0, num_samples=1, num_chains=num_chains, progress_bar=False)
        mcmc.run(jax.random.key(5))
        return mcmc.get_samples(group_by_chain=True), mcmc.sample_stats, mcmc.state

    few, many = run(2), run(9)
    assert_equal(few, jax.tree.map(lambda leaf: leaf[:2], many))
    assert len(np.unique(many[0]["x"], axis=0)) == 9


def count(jaxpr, name):
    """How often a primitive stands in a jaxpr, at any depth."""
    equations = open_jaxpr(jaxpr)[0].eqns
    return sum((eqn.primitive.name == name) + sum(count(inner, name) for inner in subjaxprs(eqn)) for eqn in equations)


def gradients(kernel, unroll, monkeypatch):
    """How often the user's density and its gradient stand in each program of a sampler."""
    monkeypatch.setattr(batching, "build_machine", partial(build_machine, unroll=unroll))
    target = trace_target(kernel.model, kernel.init_strategy, 3, kernel.transition().uses_gradient)
    tuning = kernel.tuning(target.layout.dim, np.dtype(target.layout.dtype), kernel.model)
    plan = Plan(warmup_schedule(30), tuning, np.int32(1), np.asarray(False))
    sampler = batching.batch(target, kernel.transition(), 3, 20, plan)
    begin = (np.zeros(2, np.uint32), plan, np.zeros((3, 2), np.float32))
    state = jax.eval_shape(sampler.begin, *begin)
    enter = (target.data, plan, chain.Begin(np.zeros(3, bool), target.fixed), state, np.bool_(True), np.int32(20))
    machine = jax.eval_shape(sampler.enter, *enter)
    programs = {
        "begin": jax.make_jaxpr(sampler.begin)(*begin),
        "enter": jax.make_jaxpr(sampler.enter)(*enter),
        "advance": jax.make_jaxpr(sampler.advance)(machine, target.data, plan, np.int32(5), np.int32(0)),
        "leave": jax.make_jaxpr(sampler.leave)(machine, target.data, plan),
    }
    return {name: (count(jaxpr, "lgamma"), count(jaxpr, "digamma")) for name, jaxpr in programs.items()}


@pytest.fixture
def marked(targets):
    """A density that says lgamma once, and its gradient digamma once: nothing else in a sampler does."""
    return targets.FakeDensity({"x": (2,)}, lambda p, _: -lax.lgamma(1 + jnp.exp(p["x"])).sum() - 0.5 * (p["x"] ** 2).sum())


@pytest.mark.parametrize("unroll", [1, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["nuts", "hmc", *(pytest.param(name, marks=pytest.mark.slow) for name in ("nuts_dense", "slice"))])
def test_search_warmup_and_draws_share_one_gradient(name, unroll, marked, monkeypatch):
    matrix = np.eye(2) if name == "nuts_dense" else np.ones(2)
    if name == "slice":
        kernel = Slice(marked)
    else:
        kernel = HMC(marked, num_steps=3) if name == "hmc" else NUTS(marked, dense_mass=name == "nuts_dense", inverse_mass_matrix=matrix)
    none = (0, 0)
    slopes = 0 if name == "slice" else unroll  # a kernel that uses none computes none
    assert gradients(kernel, unroll, monkeypatch) == {"begin": none, "enter": none, "advance": (unroll, slopes), "leave": none}


def test_a_search_with_a_gradient_of_its_own_is_seen(marked, monkeypatch):
    def searching_apart(density, initial, uses_gradient, layout):
        value_and_grad = density.function

        @program
        def own(position, auxiliary):  # not the same code, which the compiler would find
            value, gradient, auxiliary = value_and_grad(position, auxiliary)
            return value + 1, gradient, auxiliary

        return searching(own, initial)

    monkeypatch.setattr(chain, "searching", searching_apart)
    found = gradients(HMC(marked, num_steps=3), 1, monkeypatch)
    assert sum(value for value, _ in found.values()) == sum(gradient for _, gradient in found.values()) == 2, found


@pytest.mark.slow
def test_every_process_makes_the_same_program():
    """Else the persistent cache never hits, and a run is fast or slow by chance: sets have another order in every process."""
    code = """if True:
        import hashlib, jax, numpy as np
        from luciole.inference import NUTS
        from luciole.inference.run import batching
        from luciole.inference.kernels.trajectory import iterative, recursive
        from luciole.transforms.autobatch import autobatch, program
        from tests.inference.test_trajectory import density, starts
        for walk in (iterative, recursive):
            run = autobatch(walk(density, 4))
            print(hashlib.sha256(jax.jit(run).lower(starts(3, False)).as_text().encode()).hexdigest())
    """
    seen = set()
    for seed in ("1", "2", "3"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(p or "." for p in sys.path)}
        seen.add(subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True).stdout)
    assert len(seen) == 1 and len(set(seen.pop().split())) == 2


@pytest.mark.slow
def test_utilisation_counts_everything(targets):
    """A start is found at the thirteenth try in the mean, so that the search cannot be forgotten unseen."""
    picky = targets.FakeDensity({"x": (1,)}, lambda p, _: jnp.log(p["x"] - 1.7).sum() - p["x"].sum())
    mcmc = MCMC(HMC(picky, num_steps=2, step_size=0.01), num_warmup=20, num_samples=30, num_chains=5, progress_bar=False)
    cost = mcmc.run(jax.random.key(0)).cost
    tries = cost["gradient_evaluations"] - 5 * 2 * (20 + 30)
    assert 20 < tries < 200
    assert tries == mcmc._running.snapshot.counts.tries.sum()
    assert 0 < cost["utilisation"] == cost["gradient_evaluations"] / cost["gradient_slots"] <= 1
    # No chain can be faster than one gradient in each turn of the machine.
    slowest = mcmc._running.snapshot.counts.tries.max() + 2 * (20 + 30)
    assert cost["gradient_slots"] >= 5 * slowest


@pytest.mark.slow
def test_chains_do_not_wait_for_one_another(targets, chunks_of):
    density = targets.gaussian(np.zeros(5), np.diag([1.0, 4.0, 9.0, 25.0, 100.0]))
    kernel = NUTS(density, step_size=0.5, inverse_mass_matrix=np.ones(5))

    def utilisation(num_samples):
        mcmc = MCMC(kernel, num_warmup=16, num_samples=num_samples, num_chains=64, progress_bar=False, keep_warmup=True)
        mcmc.run(jax.random.key(1))
        steps = np.concatenate([mcmc.warmup_stats["n_steps"], mcmc.sample_stats["n_steps"]], 1)
        assert mcmc.cost["gradient_evaluations"] == steps.sum() + 64  # a start each
        return mcmc.cost["utilisation"], (steps.mean(0) / steps.max(0)).mean()

    used, synchronous = utilisation(300)
    assert synchronous < 0.6, "the chains are all alike, nobody could wait"
    assert 0.8 <= used <= 1
    # The twin: chains that wait for one another after every transition.
    chunks_of(1)
    assert utilisation(60)[0] < 0.6


@pytest.mark.slow
def test_a_smaller_batch_for_the_last_chains_changes_no_draw(targets, x64):
    """After one transition, as above: NUTS is chaotic."""
    density = targets.gaussian(np.zeros(3), np.diag([1.0, 25.0, 400.0]))

    def run(compact):
        kernel = NUTS(density, step_size=0.4, inverse_mass_matrix=np.ones(3))
        mcmc = MCMC(kernel, num_warmup=0, num_samples=1, num_chains=40, progress_bar=False, compact=compact).run(jax.random.key(0))
        return (mcmc.get_samples(), mcmc.sample_stats, mcmc.state), mcmc.cost["utilisation"]

    (whole, used), (compacted, better) = run(False), run(True)
    assert_equal(whole, compacted)
    assert better > 1.2 * used
