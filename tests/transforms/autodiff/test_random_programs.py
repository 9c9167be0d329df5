"""Random programs: derivatives of first and second order against JAX's, and the dot product test."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from jax import lax

from luciole.transforms import autodiff as ad

UNARY = [
    jnp.sin,
    jnp.tanh,
    jnp.square,
    lambda x: jnp.exp(0.3 * x),
    lambda x: x[::-1],
    jnp.cumsum,
    jax.nn.softplus,
    lambda x: jnp.where(x > 0.1, x, 0.5 * x),
    lambda x: x / (1 + x**2),
    lambda x: jax.jit(jnp.cos)(x) * x.sum(),
    lambda x: x[jnp.array([0, 2, 2, 1])],
    lambda x: lax.scan(lambda c, u: (jnp.sin(c + u), c * u), 0.3, x)[1],
    jax.checkpoint(lambda x: jnp.sin(x) * jnp.cos(x)),
    lambda x: lax.cond(x[0] > 0, jnp.sin, jnp.cos, x),
    lambda x: jnp.outer(x, x) @ jnp.arange(4.0),
    lambda x: x.at[1].add(x[0] ** 2),
    lambda x: jnp.pad(x, (1, 0))[:4],
    lambda x: lax.fori_loop(0, 3, lambda i, s: s + jnp.sin(i * x), x),
]
BINARY = [
    jnp.add,
    jnp.subtract,
    jnp.multiply,
    lambda a, b: a / (2 + jnp.cos(b)),
    lambda a, b: jnp.dot(a, b) * a,
    jnp.logaddexp,
    lambda a, b: jnp.concatenate([a[:2], b[2:]]),
]


@st.composite
def programs(draw):
    """A list of steps; each applies an operation to values made before."""
    steps, count = [], 2
    for _ in range(draw(st.integers(2, 7))):
        if draw(st.booleans()):
            steps.append((draw(st.sampled_from(UNARY)), (draw(st.integers(0, count - 1)),)))
        else:
            places = st.integers(0, count - 1)
            steps.append((draw(st.sampled_from(BINARY)), (draw(places), draw(places))))
        count += 1
    return steps


def run(steps):
    def f(x, y):
        values = [x, y]
        for operation, places in steps:
            values.append(0.5 * operation(*(values[p] for p in places)))
        return values[-1]

    return f


def check(steps, seed):
    rng = np.random.default_rng(seed)
    f, (x, y, t, u, c) = run(steps), rng.normal(size=(5, 4))
    scalar = lambda *a: jnp.vdot(c, jnp.sin(f(*a)))  # noqa: E731

    def ours(x, y):
        value, linear = ad.linearize(f, x, y)
        with ad.without_fallback():
            gradient = ad.grad(scalar, (0, 1))
            return (
                value,
                linear(t, u),
                linear.T(c),
                gradient(x, y),
                ad.jvp(gradient, (x, y), (t, u))[1],
                ad.grad(lambda *a: jnp.vdot(t, ad.grad(scalar)(*a)), (0, 1))(x, y),
            )

    def theirs(x, y):
        value, pull = jax.vjp(f, x, y)
        gradient = jax.grad(scalar, (0, 1))
        return (
            value,
            jax.jvp(f, (x, y), (t, u))[1],
            pull(jnp.asarray(c)),
            gradient(x, y),
            jax.jvp(gradient, (x, y), (t, u))[1],
            jax.grad(lambda *a: jnp.vdot(t, jax.grad(scalar)(*a)), (0, 1))(x, y),
        )

    a, b = jax.jit(ours)(x, y), jax.jit(theirs)(x, y)
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-10 * (1 + np.max(np.abs(right))))
    left, right = jnp.vdot(a[1], c), jnp.vdot(t, a[2][0]) + jnp.vdot(u, a[2][1])
    np.testing.assert_allclose(left, right, rtol=0, atol=1e-10 * (1 + np.sum(np.abs(a[1] * c))))


@settings(max_examples=4, suppress_health_check=list(HealthCheck))
@given(programs(), st.integers(0, 2**16))
def test_random_programs(steps, seed):
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        check(steps, seed)
    finally:
        jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.slow
@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(programs(), st.integers(0, 2**16))
def test_more_random_programs(steps, seed):
    test_random_programs.hypothesis.inner_test(steps, seed)


@pytest.mark.exhaustive
@settings(max_examples=1000, suppress_health_check=list(HealthCheck))
@given(programs(), st.integers(0, 2**16))
def test_many_random_programs(steps, seed):
    test_random_programs.hypothesis.inner_test(steps, seed)
