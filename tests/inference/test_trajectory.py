"""The No-U-Turn trajectory as a program, recursive and iterative, against the loop that samplers run today: equal draw for draw."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from luciole.inference.integrator import Phase, energy
from luciole.inference.metric import metric_of
from luciole.inference.trajectory import Start, iterative, recursive
from luciole.inference.tree import grow
from luciole.transforms import autobatch, program, stream_for

MAX_DEPTH, CHAINS = 6, 32


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def log_density(x):
    return -0.5 * jnp.sum(x**2 * jnp.array([4.0, 1.0, 0.25])) - 0.1 * jnp.sum(x**4)


@program(heavy=True)
def density(position):
    return jax.value_and_grad(log_density)(position)


def starts(step_size):
    """Starts of many chains; every fourth takes steps so large that it diverges."""
    rng = np.random.default_rng(0)
    step = np.where(np.arange(CHAINS) % 4 == 3, 8.0, 1.0) * step_size

    def one(chain, position, momentum, step):
        metric = metric_of(jnp.array([0.25, 1.0, 4.0]))
        value, gradient = jax.value_and_grad(log_density)(position)
        stream = stream_for(jnp.array([3, 4], jnp.uint32), chain)
        return Start(metric, step, stream, Phase(position, momentum, gradient), value, energy(metric, value, momentum))

    chains = jnp.arange(CHAINS, dtype=jnp.uint32)
    return jax.vmap(one)(chains, jnp.asarray(rng.normal(size=(CHAINS, 3))), jnp.asarray(rng.normal(size=(CHAINS, 3))), jnp.asarray(step))


def by_the_loop(start):
    value_and_grad = jax.value_and_grad(log_density)
    return grow(value_and_grad, start.metric, start.step_size, start.stream, start.phase, start.log_density, MAX_DEPTH)


def assert_same(one, other):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10), tuple(one), tuple(other))


@pytest.mark.parametrize("step_size", [pytest.param(0.02, marks=pytest.mark.slow), 0.3])
@pytest.mark.parametrize("walk", [recursive, iterative])
def test_equal_to_the_loop_draw_for_draw(walk, step_size):
    start = starts(step_size)
    expected = jax.jit(jax.vmap(by_the_loop))(start)
    depths = set(np.asarray(expected.depth).tolist())
    assert len(depths) > 2 and (step_size < 0.1 or expected.diverging.any()), "the chains should differ"
    assert_same(autobatch(walk(density, MAX_DEPTH))(start), expected)


@pytest.mark.slow
@pytest.mark.parametrize("walk", [recursive, iterative])
def test_plain_python_says_the_same(walk):
    start = jax.tree.map(lambda leaf: leaf[:4], starts(0.3))
    batched = autobatch(walk(density, MAX_DEPTH))(start)
    for chain in range(4):
        one = walk(density, MAX_DEPTH)(jax.tree.map(lambda leaf, chain=chain: leaf[chain], start))
        assert_same(one, jax.tree.map(lambda leaf, chain=chain: leaf[chain], batched))


@pytest.mark.slow
def test_chains_do_not_wait_for_one_another():
    start = starts(0.02)
    stats = autobatch(iterative(density, MAX_DEPTH)).stats(start)
    steps = np.asarray(jax.jit(jax.vmap(by_the_loop))(start).n_steps)
    assert stats.utilisation >= 0.9 * steps.mean() / steps.max()
