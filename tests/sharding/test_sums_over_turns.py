"""What a loop only adds up, such as the gradient of weights that all turns share, is summed over devices once and not in every turn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from luciole import sharding as ls
from luciole.sharding import sums

TURNS, ROWS = 6, 16
RNG = np.random.default_rng(0)
P = {"w": RNG.normal(size=(8, 8)).astype(np.float32) / 3, "u": RNG.normal(size=(4, 8)).astype(np.float32), "b": np.ones(8, np.float32)}
X = RNG.normal(size=(TURNS, ROWS, 4)).astype(np.float32)


def recurrent(p, x):
    def loss(p):
        def turn(h, row):
            return jnp.tanh(h @ p["w"] + row @ p["u"] + p["b"]), None

        return jnp.sum(jax.lax.scan(turn, jnp.zeros((x.shape[1], 8)), x)[0] ** 2)

    return jax.value_and_grad(loss)(p)


def summed_from(start):
    """Gradients of small batches added up, from zero or from something else."""

    def summed(p, x):
        def turn(total, rows):
            return jax.tree.map(jnp.add, total, jax.grad(lambda p: jnp.sum(jnp.tanh(rows @ p["u"] + p["b"]) ** 2))(p)), None

        return jax.lax.scan(turn, jax.tree.map(lambda a: a * 0 + start if start else jnp.zeros_like(a), p), x)[0]

    return summed


def looked_at(p, x):
    """The sum so far is looked at in each turn."""

    def turn(total, rows):
        total = total + rows.T @ rows
        return total, jnp.max(total)

    return jax.lax.scan(turn, jnp.zeros((4, 4)), x)


def check(function, x=X, pad=False):
    part = ls.partition(function, (P, x), {"d": 4}, [ls.ManualPartition({"x": 1}, axis="d", pad=pad)])
    part.check()
    for a, b in zip(jax.tree.leaves(part(P, x)), jax.tree.leaves(jax.jit(function)(P, x)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * np.abs(b).max())
    return part.reports[-1].collectives["all_reduce"]


@pytest.mark.parametrize(("x", "pad"), [(X, False), pytest.param(X[:, :15], True, marks=pytest.mark.slow)])
def test_gradients_of_shared_weights(x, pad):
    assert check(recurrent, x, pad) == 1 + 3


@pytest.mark.parametrize(("start", "collectives"), [(0.0, 2), (1.0, 2 * TURNS)])
def test_only_what_starts_at_zero_may_wait(start, collectives):
    assert check(summed_from(start)) == collectives


def test_a_sum_that_is_looked_at_is_reduced_in_every_turn():
    assert check(looked_at) == TURNS


def test_a_start_that_is_taken_for_zero_is_counted_by_every_device(monkeypatch):
    monkeypatch.setattr(sums, "is_zero", lambda graph, atom: True)
    with pytest.raises(AssertionError):
        check(summed_from(1.0))
