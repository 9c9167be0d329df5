"""The loop knows nothing of how its carries are had again: another way, which keeps integers and computes the update backwards."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from luciole.transforms import DerivativeError
from luciole.transforms import autodiff as ad
from luciole.transforms.autodiff.checkpoints import Checkpoints
from luciole.transforms.autodiff.loops import differentiable_loop
from luciole.transforms.autodiff.turns import WayBack, trace_step

UNIT = 2.0**40


@pytest.fixture(autouse=True)
def float32(float64):
    """Programs with 32-bit numbers, into which the way back brings 64-bit integers."""
    with jax.enable_x64(False):
        yield


def leapfrog(i, carry, theta):
    x, v = carry
    v = v - 0.1 * theta * jnp.sin(x)
    return x + 0.1 * v, v


@dataclass(frozen=True)
class Exact(WayBack):
    """Leapfrog in fixed point, which is undone without a rounding error; nothing is kept but where it ended."""

    capacity: int
    second_order: ClassVar[bool] = False

    def record(self, n, turn, consts, carry, params):
        with jax.enable_x64(True):
            start = [jnp.round(c.astype(float) * UNIT).astype(int) for c in carry]
            kept = lax.fori_loop(0, n, lambda i, s: self.moved(s, params, 1), start)
            return [(c / UNIT).astype(np.float32) for c in kept], kept

    def backwards(self, n, turn, consts, params, kept, carry_cts):
        def back(k, state):
            kept, cts, params_cts = state
            kept = self.moved(kept, params, -1)
            with jax.enable_x64(False):
                carry = [(c / UNIT).astype(np.float32) for c in kept]
                cts, more = turn.back(jnp.int32(n - 1 - k), consts, carry, params, cts)
                return kept, cts, [a + b for a, b in zip(params_cts, more, strict=True)]

        with jax.enable_x64(True):
            assert all(c.dtype == np.int64 for c in kept)
            state = (list(kept), list(carry_cts), turn.no_params_cts(params))
            return lax.fori_loop(0, n, back, state)[1:]

    @staticmethod
    def moved(state, params, sign):
        force = lambda x: jnp.round(0.1 * params[0].astype(float) * jnp.sin(x / UNIT) * UNIT).astype(int)  # noqa: E731
        tenth = lambda v: jnp.round(v * 0.1).astype(int)  # noqa: E731
        x, v = state
        if sign > 0:
            v = v - force(x)
            return [x + tenth(v), v]
        x = x - tenth(v)
        return [x, v + force(x)]


def total(way, n, theta, x):
    traced = trace_step("test", leapfrog, jnp.int32(0), (x, 0.5 * x), theta)
    outs = differentiable_loop(traced.turn, way, n, traced.consts, traced.carry, traced.params)
    return jnp.sum(outs[0] ** 2) + jnp.sum(outs[1])


THETA, X = np.array([1.0, 0.4], np.float32), np.array([0.3, 1.2], np.float32)


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize("t", [ad, pytest.param(jax, marks=pytest.mark.slow)], ids=["ours", "jax"])
def test_integers_pass_through_as_they_are(t):
    def gradients(way, n, theta):
        return t.value_and_grad(lambda *a: total(way, n, *a), (0, 1))(theta, X)

    run = jax.jit(jax.vmap(gradients, (None, 0, None)), static_argnums=0)
    made, expected = (run(way, jnp.int32(np.array([1, 30, 51])), THETA) for way in (Exact(50), Checkpoints.of("tape", 50)))
    for a, b in zip(jax.tree.leaves(made), jax.tree.leaves(expected), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=3e-5)
        assert np.isnan(a[2]).all()
        assert not np.isnan(a[:2]).any()


@pytest.mark.parametrize("t", [ad, jax], ids=["ours", "jax"])
def test_a_way_that_forgets_tangents_has_no_second_derivative(t):
    def curvature(way):
        return t.jvp(t.grad(lambda theta: total(way, jnp.int32(3), theta, X)), (THETA,), (THETA,))[1]

    with pytest.raises(DerivativeError, match=r"second derivative of a loop whose carries come back by Exact \(.*test_ways_back.py"):
        jax.make_jaxpr(lambda: curvature(Exact(5)))()
    jax.make_jaxpr(lambda: curvature(Checkpoints.of("tape", 5)))()


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize("theta", [(), pytest.param((np.float32(0.1),), marks=pytest.mark.slow)], ids=["alone", "beside others"])
def test_what_a_step_closes_over_as_parameters(theta):
    """Traced constants have a derivative then; numbers stay constants, and so does what is an integer."""
    data, seen = np.arange(6, dtype=np.float32).reshape(3, 2), []

    def loss(scale, k):
        def step(i, x, *theta):
            return jnp.tanh(scale * x + jnp.asarray(data)[jnp.asarray(k)[i]] + sum(theta))

        traced = trace_step("test", step, jnp.int32(0), X, *theta)
        lifted = traced.with_constants_as_params()
        seen.append((lifted.turn.num_consts, lifted.turn.num_params, sum(lifted.turn.on_params)))
        outs = differentiable_loop(lifted.turn, Checkpoints.of("tree", 3, 2), jnp.int32(3), lifted.consts, lifted.carry, lifted.params)
        return jnp.sum(outs[0] ** 2)

    def unrolled(scale, k):
        x = jnp.asarray(X)
        for i in range(3):
            x = jnp.tanh(scale * x + data[k[i]] + sum(theta))
        return jnp.sum(x**2)

    order = np.array([2, 1, 0])
    made = jax.jit(lambda scale, k: ad.grad(lambda s: loss(s, k))(scale))(THETA, order)
    np.testing.assert_allclose(made, jax.grad(unrolled)(THETA, order), rtol=1e-5)
    assert seen == [(1, 2 + len(theta), 1 + len(theta))]
