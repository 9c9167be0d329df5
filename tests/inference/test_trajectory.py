"""The two ways to write a trajectory are one: equal draw for draw, compiled for a batch and as plain Python."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import luciole as lc
from luciole import dist
from luciole.inference.kernels.integrator import Phase, energy
from luciole.inference.kernels.metric import metric_of, momentum
from luciole.inference.kernels.trajectory import Start, iterative, recursive
from luciole.transforms import normal, stream_for
from luciole.transforms.autobatch import autobatch, program

SHAPES = np.array([0.8, 1.5, 4.0])
STEP_SIZES = np.array([0.005, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.45, 0.6, 0.8, 1.2, 3.0, 10.0])
MAX_DEPTH = 6
INVERSE_MASS = {False: np.array([1.2, 0.8, 0.4]), True: np.array([[1.2, 0.3, 0.0], [0.3, 0.8, 0.1], [0.0, 0.1, 0.4]])}


def log_density(x):
    """Log-gamma variables: skewed, and off the scale a few steps to the right."""
    return (SHAPES * x - jnp.exp(x)).sum()


value_and_grad = jax.value_and_grad(log_density)


@program(heavy=True)
def density(x, auxiliary):
    return *value_and_grad(x), auxiliary


def starts(num, dense):
    def one(chain, x, step_size):
        metric, stream = metric_of(jnp.asarray(INVERSE_MASS[dense])), stream_for(np.array([3, 1], np.uint32), chain)
        p = momentum(metric, normal(stream, 1, x.shape))
        value, gradient = value_and_grad(x)
        return Start(metric, step_size, stream, Phase(x, p, gradient), value, energy(metric, value, p))

    x = np.log(np.random.default_rng(0).gamma(SHAPES, size=(num, 3)))
    return jax.jit(jax.vmap(one))(np.arange(num, dtype=np.uint32), x, np.resize(STEP_SIZES, num))


def assert_equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dense", [pytest.param(False, marks=pytest.mark.slow), pytest.param(True, marks=pytest.mark.exhaustive)])
def test_recursive_and_iterative_are_equal_draw_for_draw_and_to_plain_python(dense, x64):
    batch = starts(2600, dense)
    walks = [walk(density, MAX_DEPTH) for walk in (recursive, iterative)]
    one, other = (autobatch(walk)(batch) for walk in walks)
    assert_equal(one, other)

    # Nothing that a trajectory can do was left out.
    depth, n_steps, diverging = np.asarray(one.depth), np.asarray(one.n_steps), np.asarray(one.diverging)
    assert set(depth) == set(range(1, MAX_DEPTH + 1))
    whole = n_steps == 2**depth - 1
    turned = ~whole & ~diverging  # within a sub-tree
    assert all((diverging & (depth == d)).any() for d in (1, 2, 3)), "no trajectory diverges after a few doublings"
    assert turned.sum() > 50, "no sub-tree turns"
    assert (whole & (depth == MAX_DEPTH)).any() and (whole & (depth < MAX_DEPTH)).any()
    moved = np.abs(np.asarray(one.choice.position - batch.phase.position)).max(1) > 0
    assert 0.5 < moved.mean() < 1

    # Plain Python takes its time: one chain of each sort.
    for walk in walks:
        for sort in (whole & (depth == 5), diverging & (n_steps > 3), turned & (n_steps > 10)):
            chain = int(np.argmax(sort))
            assert sort[chain]
            assert_equal(walk(jax.tree.map(lambda leaf, n=chain: leaf[n], batch)), jax.tree.map(lambda leaf, n=chain: leaf[n], one))


@pytest.mark.slow
@pytest.mark.parametrize(("length", "step_size"), [(2.0, 0.63), (1.0, 0.7)])
def test_hmc_goes_as_far_as_it_is_told(length, step_size):
    """Exact dynamics on N(0, 1) turn phase space: draws have autocorrelation cos(length); whole steps make it cos(2.52), cos(1.4)."""
    kernel = lc.HMC(lambda: lc.sample("x", dist.Normal(0, 1)), trajectory_length=length, step_size=step_size)
    mcmc = lc.MCMC(kernel, num_warmup=10, num_samples=5000, num_chains=8, progress_bar=False).run(jax.random.key(0))
    x = mcmc.get_samples(group_by_chain=True)["x"]
    assert np.mean(x[:, 1:] * x[:, :-1]) == pytest.approx(np.cos(length), abs=0.06)
