"""Programs of a shape that is met in other people's code: rules that are not linear, conditions of a batch, carries that change places."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from luciole.transforms import DerivativeError
from luciole.transforms import autodiff as ad

pytestmark = pytest.mark.usefixtures("quick_compile")

A = np.array([0.1, 0.5, 0.9])
TURNS, V = np.array([1, 2, 3, 0, 4]), np.arange(5.0) / 3


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def clipped(x, most):
    """The identity, with a clipped cotangent."""
    return x * 1.0


clipped.defvjp(lambda x, most: (x * 1.0, None), lambda most, kept, g: (jnp.clip(g, -most, most),))


def cubes(a):
    return (clipped(a, 0.1) ** 3).sum()


def test_a_backward_rule_that_is_not_linear():
    """d/da clip(3 a^2, 0.1), which is zero where it is clipped: not the clipped tangent."""
    expected = np.array([0.6, 0.0, 0.0])
    np.testing.assert_allclose(ad.hvp(cubes, (A,), (np.ones(3),)), expected, atol=1e-12)


@pytest.mark.slow
def test_such_a_rule_in_every_order_and_under_vmap():
    def total(t, f, a):
        return t.grad(f)(a).sum()

    mapped = jax.vmap(cubes)
    for f, a in ((cubes, A), (lambda a: mapped(jnp.stack([a, 2 * a])).sum(), A)):
        expected = jax.grad(lambda a: total(jax, f, a))(a)  # noqa: B023
        for outer, inner in ((ad, ad), (jax, ad), (ad, jax)):
            np.testing.assert_allclose(outer.grad(lambda a: total(inner, f, a))(a), expected, atol=1e-12)  # noqa: B023


def terms(a):
    return jax.vmap(lambda n, v: lax.fori_loop(0, n, lambda i, c: c + jnp.sin(v * a[0] * i), a[1]))(TURNS, V).sum()


def test_a_loop_with_a_condition_for_each_member():
    """`vmap` of a loop whose number of turns is mapped too."""
    expected = sum(A[1] + sum(np.sin(v * A[0] * i) for i in range(n)) for n, v in zip(TURNS, V, strict=True))
    slope = sum(sum(v * i * np.cos(v * A[0] * i) for i in range(n)) for n, v in zip(TURNS, V, strict=True))
    for value, moved in (
        ad.jvp(terms, (A,), (np.array([1.0, 2.0, 0.0]),)),
        (terms(A), ad.linearize(terms, A)[1](np.array([1.0, 2.0, 0.0]))),
    ):
        np.testing.assert_allclose((value, moved), (expected, slope + 2.0 * len(V)), rtol=1e-12)


def test_its_reverse_is_refused_by_name():
    with pytest.raises(DerivativeError, match=r"'while' cannot be reversed.*dynamic_loop"):
        ad.grad(terms)(A)


@pytest.mark.slow
@pytest.mark.parametrize(
    "f",
    [
        pytest.param(lambda a: lax.scan(lambda c, v: ((c[1], c[0] * v, c[1] * c[2] + v), None), (a[0], a[1], a[2]), a)[0][2], id="swapped"),
        pytest.param(lambda a: lax.scan(lambda c, v: ((c[1] * v, c[2] + 0.3, a.sum()), c[0]), (1.0, 2.0, 3.0), a)[1].sum(), id="late"),
        pytest.param(lambda a: lax.scan(lambda c, v: (c, (c, 2.0, v * a)), a[0], a)[1][2].sum() * a[0], id="handed on"),
        pytest.param(lambda a: jax.vjp(lambda v: jnp.sin(v) * v.sum(), a)[1](a)[0].sum(), id="jax.vjp inside"),
        pytest.param(lambda a: lax.map(lambda v: jnp.sin(v * a).sum(), a, batch_size=2).sum(), id="map in batches"),
        pytest.param(lambda a: lax.fori_loop(0, 3, lambda i, b: b.at[i].set(b[i - 1] * a[0] + a[i]), jnp.ones(3)).sum(), id="in place"),
    ],
)
def test_structure(f):
    def all_of(t):
        return (
            t.grad(f)(A),
            t.jvp(f, (A,), (np.cos(A),))[1],
            t.jvp(t.grad(f), (A,), (np.cos(A),))[1],
            t.grad(lambda a: t.grad(f)(a).sum())(A),
        )

    ours, theirs = jax.jit(lambda: all_of(ad))(), jax.jit(lambda: all_of(jax))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), ours, theirs)
