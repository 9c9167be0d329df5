"""Loops whose number of turns is known at run time: exact, within their memory, and loud where they cannot be."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from luciole.transforms import DerivativeError
from luciole.transforms import autodiff as ad

THETA, INIT = np.array([0.7, -1.1, 0.4]), np.array([0.2, 1.5, -0.3])


def step(i, carry, theta):
    return jnp.sin(carry * theta) + 0.1 * i


def unrolled(n):
    def run(theta, init):
        for i in range(n):
            init = step(i, init, theta)
        return init

    return run


def loop(n, theta, init, checkpoint="tape", max_trips=10):
    return ad.dynamic_loop(n, step, theta, init, max_trips=max_trips, checkpoint=checkpoint)


def close(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("checkpoint", [pytest.param("tape", marks=pytest.mark.slow), "sqrt", pytest.param("tree", marks=pytest.mark.slow)])
@pytest.mark.parametrize("t", [ad, pytest.param(jax, marks=pytest.mark.slow)], ids=["ours", "jax"])
def test_derivatives_for_any_number_of_turns(t, checkpoint):
    def total(n, theta, init):
        return loop(n, theta, init, checkpoint).sum()

    gradient = jax.jit(lambda n, *a: t.grad(lambda *b: total(n, *b), (0, 1))(*a))
    product = jax.jit(lambda n, theta: t.jvp(t.grad(lambda x: total(n, x, INIT)), (theta,), (INIT,))[1])
    for n in (0, 1, 6, 9, 10):
        reference = lambda *a, n=n: unrolled(n)(*a).sum()  # noqa: E731
        close(gradient(n, THETA, INIT), jax.grad(reference, (0, 1))(THETA, INIT))
        close(product(n, THETA), jax.jvp(jax.grad(reference), (THETA, INIT), (INIT, 0 * INIT))[1])


@pytest.mark.parametrize("checkpoint", ["tape", *(pytest.param(c, marks=pytest.mark.slow) for c in ("sqrt", "tree"))])
def test_members_of_a_batch_may_take_different_numbers_of_turns(checkpoint):
    ns = jnp.array([1, 6, 10])
    ours = jax.vmap(lambda n: ad.grad(lambda x: loop(n, x, INIT, checkpoint).sum())(THETA))(ns)
    close(ours, jnp.stack([jax.grad(lambda x, n=n: unrolled(n)(x, INIT).sum())(THETA) for n in (1, 6, 10)]))


def test_an_overrun_is_poisoned_and_reported(caplog):
    gradient = jax.jit(lambda n: ad.value_and_grad(lambda x: loop(n, x, INIT).sum())(THETA))
    with caplog.at_level(logging.ERROR, logger="luciole"):
        value, g = gradient(11)
        jax.effects_barrier()
    assert np.isnan(value)
    assert np.isnan(g).all()
    assert "11 turns exceed the stated capacity max_trips=10" in caplog.text
    caplog.clear()
    assert np.isfinite(gradient(10)[0])
    assert not caplog.text
    with pytest.raises(DerivativeError, match="11 turns exceed"):
        loop(11, THETA, INIT)


def test_integer_carries_and_pytrees():
    def count(i, carry, theta):
        return {"k": carry["k"] + 2, "x": carry["x"] * theta + carry["k"]}

    def total(theta):
        return ad.dynamic_loop(jnp.int32(3), count, theta, {"k": 0, "x": 1.0}, max_trips=4)["x"]

    np.testing.assert_allclose(ad.grad(total)(2.0), jax.grad(lambda t: ((1 * t + 0) * t + 2) * t + 4)(2.0))


def test_a_step_that_changes_its_carry():
    with pytest.raises(DerivativeError, match=r"structure .*test_dynamic_loops.py"):
        ad.dynamic_loop(2, lambda i, c, t: (c, c), 1.0, 1.0, max_trips=3)
    with pytest.raises(DerivativeError, match=r"turns a carry of float64\[\] into float64\[2\], at the value \(.*test_dynamic_loops.py"):
        ad.dynamic_loop(2, lambda i, c, t: jnp.stack([c, c]), 1.0, 1.0, max_trips=3)
    with pytest.raises(DerivativeError, match="positive"):
        loop(1, THETA, INIT, max_trips=0)


def test_checkpoints_need_less_memory_than_a_tape():
    def temp(checkpoint):
        f = lambda n, x: ad.grad(lambda t: loop(n, t, jnp.ones(3), checkpoint, max_trips=10_000).sum())(x)  # noqa: E731
        return jax.jit(f).lower(5, THETA).compile().memory_analysis().temp_size_in_bytes

    assert temp("sqrt") < 0.1 * temp("tape")


def additive(n, x):
    return jnp.sum(lax.fori_loop(0, n, lambda i, s: s + jnp.sin(i * x), jnp.zeros(100)))


def temp_bytes(f, *args):
    return jax.jit(f).lower(*args).compile().memory_analysis().temp_size_in_bytes


def test_an_additive_loop_stores_nothing_per_turn():
    x = jnp.ones(100)
    ours, theirs = ([temp_bytes(t.grad(lambda v, n=n: additive(n, v)), x) for n in (10, 10_000)] for t in (ad, jax))
    assert ours[1] <= ours[0] + 64
    assert theirs[1] > 100 * theirs[0]
    close(jax.jit(ad.grad(lambda v: additive(1000, v)))(x), jax.jit(jax.grad(lambda v: additive(1000, v)))(x))


def test_an_additive_loop_of_traced_length():
    x = jnp.ones(100)
    gradient = jax.jit(lambda n, v: ad.grad(lambda u: additive(n, u))(v))
    assert temp_bytes(lambda n, v: ad.grad(lambda u: additive(n, u))(v), 5, x) < 10_000
    close(gradient(1000, x), jax.jit(jax.grad(lambda v: additive(1000, v)))(x))


def test_the_transposed_body_of_an_additive_loop_carries_the_cotangent_unchanged():
    """The structural test behind it: no buffer in any loop of the gradient has an axis for the turns."""
    jaxpr = jax.make_jaxpr(ad.grad(lambda v: additive(977, v)))(jnp.ones(100))
    assert "977" not in "".join(str(v.aval) for e in jaxpr.jaxpr.eqns for v in e.outvars)
    assert "[977" not in str(jaxpr)
    assert "[977" in str(jax.make_jaxpr(jax.grad(lambda v: additive(977, v)))(jnp.ones(100)))
