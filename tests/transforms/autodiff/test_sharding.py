"""Derivatives of and inside `shard_map`, with and without checked variation, without the fallback."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from luciole.transforms import autodiff as ad

RNG = np.random.default_rng(0)
X, W = RNG.normal(size=(4, 3)), RNG.normal(size=3)


@pytest.fixture
def mesh():
    return jax.make_mesh((2,), ("i",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])


def mapped(mesh, checked):
    def body(x, w):
        start = lax.pcast(w.sum(), ("i",), to="varying") if checked else w.sum()
        last, ys = lax.scan(lambda c, u: (jnp.sin(c * u.sum()) + lax.psum(u @ w, "i") * 0.1, c), start, x)
        return lax.psum(jnp.sum(jnp.tanh(x @ w)) + last, "i"), ys

    f = jax.shard_map(body, mesh=mesh, in_specs=(P("i"), P()), out_specs=(P(), P("i")), check_vma=checked)
    return lambda x, w: (lambda a, b: a * b.sum())(*f(x, w))


@pytest.mark.parametrize("checked", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_derivatives_of_a_map(mesh, checked):
    f = mapped(mesh, checked)

    def everything(t):
        def run(x, w):
            gradient = t.grad(f, (0, 1))
            return gradient(x, w), t.jvp(f, (x, w), (x, w)), t.jvp(gradient, (x, w), (x, w))[1]

        return jax.jit(run)(X, W)

    with ad.without_fallback():
        ours = everything(ad)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(everything(jax)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("checked", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_derivatives_inside_a_map(mesh, checked):
    def run(t):
        body = lambda x, w: t.grad(lambda v: jnp.sum(jnp.sin(x @ v)))(w)[None]  # noqa: E731
        return jax.shard_map(body, mesh=mesh, in_specs=(P("i"), P()), out_specs=P("i"), check_vma=checked)(X, W)

    np.testing.assert_allclose(run(ad), run(jax), rtol=1e-13)
