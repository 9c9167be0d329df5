"""The tangent of a large Cholesky factor is computed by blocks: as JAX has it, at less than 0.9 n^3 flops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from luciole.transforms import autodiff as ad


def positive(*shape):
    a = np.random.default_rng(0).normal(size=shape)
    return a @ np.swapaxes(a, -1, -2) + shape[-1] * np.eye(shape[-1])


@pytest.mark.parametrize("shape", [(64, 64), *(pytest.param(s, marks=pytest.mark.slow) for s in [(135, 135), (3, 65, 65), (300, 300)])])
def test_blocks_agree_with_jax(shape, directions):
    k = jnp.asarray(positive(*shape))
    moved, pulled = directions(k, "tangent"), directions(k, "cotangent")
    moved = moved + jnp.swapaxes(moved, -1, -2)
    ours = jax.jit(lambda k: ad.jvp(jnp.linalg.cholesky, (k,), (moved,)))(k)
    theirs = jax.jit(lambda k: jax.jvp(jnp.linalg.cholesky, (k,), (moved,)))(k)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), ours, theirs)
    ours = jax.jit(lambda k: ad.vjp(jnp.linalg.cholesky, k)[1](pulled)[0])(k)
    theirs = jax.jit(lambda k: jax.vjp(jnp.linalg.cholesky, k)[1](pulled)[0])(k)
    np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_blocks_read_the_lower_triangle_as_the_factorization_does():
    """Beside a finite difference, which knows no convention: the upper triangle moves nothing."""
    k = jnp.asarray(positive(64, 64))

    def raw(k):
        return jax.lax.linalg.cholesky(k, symmetrize_input=False)

    upper = jnp.triu(jnp.ones_like(k), 1)
    np.testing.assert_array_equal(ad.jvp(raw, (k,), (upper,))[1], 0)
    lower = jnp.tril(jnp.asarray(np.random.default_rng(1).normal(size=k.shape)))
    difference = (raw(k + 1e-5 * lower) - raw(k - 1e-5 * lower)) / 2e-5
    np.testing.assert_allclose(ad.jvp(raw, (k,), (lower,))[1], jnp.tril(difference), atol=1e-8)


@pytest.mark.slow
def test_blocks_have_second_derivatives(directions):
    k = jnp.asarray(positive(66, 66))
    moved = directions(k)

    def f(k):
        return jnp.sum(jnp.linalg.cholesky(k)[..., -2:] ** 3)

    ours = jax.jit(lambda k: ad.hvp(f, (k,), (moved,)))(k)
    theirs = jax.jit(lambda k: jax.jvp(jax.grad(f), (k,), (moved,))[1])(k)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def test_cost():
    """Products and solves of the linear program, counted on its equations, against n^3 / 3 of the factorization."""
    n = 400
    _, linear = ad.linearize(lambda k: jax.lax.linalg.cholesky(k), jnp.asarray(positive(n, n)))
    flops = 0
    for eqn in linear.jaxpr.eqns:
        size = np.prod(eqn.outvars[0].aval.shape)
        if eqn.primitive.name == "dot_general":
            flops += 2 * size * eqn.invars[0].aval.shape[eqn.params["dimension_numbers"][0][0][0]]
        elif eqn.primitive.name == "triangular_solve":
            flops += size * eqn.invars[0].aval.shape[-1]
    assert 0.1 * n**3 < flops < 0.9 * n**3
