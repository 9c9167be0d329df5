"""Traced indices that are out of range: the gradient is that of the value that was computed, whatever the mode of indexing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from luciole.transforms import autodiff as ad

pytestmark = pytest.mark.usefixtures("quick_compile")

X, U = np.array([0.3, -0.5, 0.8, 1.1]), np.array([0.2, 0.4, -0.6, 0.9, 0.1, 0.7])
INDICES = np.array([[0, 3, -1, -4, 4, -5], [9, -9, 2, 3, -2, 1]])


def updates(x):
    return U * x[0] + x[1] * np.arange(1.0, 7.0)


def each(f):
    """A function of one index, of all of them."""
    return lambda i, x: jnp.stack([f(k, x) for k in i])


def at(op, mode, one=False):
    if one:
        return lambda i, x: getattr((1.5 + x**2).at[i[4]], op)(U[0] * x[0], mode=mode)
    return lambda i, x: getattr((1.5 + x**2).at[i], op)(updates(x), mode=mode)


READ = {
    "default": lambda i, x: x[i],
    "default, one": each(lambda k, x: x[k]),
    "default, two axes": lambda i, x: jnp.outer(x, x)[i, i[::-1]] + jnp.outer(x, x)[:, i][1],
    "promise": lambda i, x: x.at[i].get(mode="promise_in_bounds"),
    "clip": lambda i, x: x.at[i].get(mode="clip"),
    "fill": lambda i, x: x.at[i].get(mode="fill", fill_value=2.0),
    "take": lambda i, x: jnp.take(x, i, fill_value=2.0),
    "take, clip": lambda i, x: jnp.take(x, i, mode="clip"),
    "take, wrap": lambda i, x: jnp.take(x, i, mode="wrap"),
    "take, axis": lambda i, x: jnp.take(jnp.outer(x, x), i, axis=1, mode="clip"),
    "along an axis": lambda i, x: jnp.take_along_axis(jnp.outer(x, x), i[None] + jnp.zeros((4, 1), int), 1, mode="promise_in_bounds"),
    "mapped": lambda i, x: jax.vmap(lambda k, y: y[k])(i, jnp.outer(U, x)),
    "dynamic_slice": lambda i, x: jnp.stack([lax.dynamic_slice(x, (k,), (2,)) for k in i]),
    "dynamic_slice, mapped": lambda i, x: jax.vmap(lambda k, y: lax.dynamic_slice(y, (k,), (2,)))(i, jnp.outer(U, x)),
    "in a loop": lambda i, x: lax.scan(lambda c, k: (c + x[k] * c, c * x[k]), 1.0, i)[1],
}
WRITE = {
    **{f"add {mode}": at("add", mode) for mode in (None, "clip", "fill", "promise_in_bounds")},
    **{f"{op} {mode}, one": at(op, mode, True) for op in ("set", "multiply") for mode in (None, "clip", "promise_in_bounds")},
    "dynamic_update_slice": lambda i, x: jnp.stack([lax.dynamic_update_slice(x, x[:2] ** 2, (k,)) for k in i]),
    "segment_sum": lambda i, x: jax.ops.segment_sum(updates(x), i, 4),
    "segment_sum promise": lambda i, x: jax.ops.segment_sum(updates(x), i, 4, mode="promise_in_bounds"),
    "mapped": lambda i, x: jax.vmap(lambda k, y: y.at[k].add(y[0] ** 2))(i, jnp.outer(U, x)),
}


def one_loss(programs, x, i):
    return sum(jnp.sum(jnp.sin(v) * np.cos(np.arange(v.size)).reshape(v.shape)) for v in (f(i, x) for f in programs))


def differences(loss, x, i, h=1e-6):
    steps = jnp.concatenate([x + h * jnp.eye(4), x - h * jnp.eye(4)])
    values = jax.vmap(lambda y: loss(y, i))(steps)
    return (values[:4] - values[4:]) / (2 * h)


def check(programs):
    def both(x, i):
        def loss(x, i):
            return one_loss(programs, x, i)

        return ad.grad(loss)(x, i), differences(loss, x, i), ad.jvp(ad.grad(loss), (x, i), (x, None))[1], differences_of_grad(loss, x, i)

    def differences_of_grad(loss, x, i, h=1e-6):
        return (ad.grad(loss)(x + h * x, i) - ad.grad(loss)(x - h * x, i)) / (2 * h)

    run = jax.jit(both)
    for i in INDICES:
        ours, expected, ours2, expected2 = run(X, i)
        np.testing.assert_allclose(ours, expected, atol=1e-7)
        np.testing.assert_allclose(ours2, expected2, atol=1e-7)


@pytest.mark.slow
def test_the_known_case():
    """theta has three entries, group ids are 1 to 3 where 0 to 2 were meant: the last entry counts the rows of two groups."""
    group = np.repeat([1, 2, 3], 4)

    def density(theta, group):
        return jnp.sum(theta[group])

    np.testing.assert_array_equal(jax.jit(ad.grad(density))(np.ones(3), group), [0, 4, 8])
    np.testing.assert_array_equal(jax.jit(ad.grad(density))(np.ones(3), -group), [4, 4, 4])


def test_adding_where_a_promise_is_broken():
    check([WRITE["add promise_in_bounds"], READ["default"]])


@pytest.mark.slow
@pytest.mark.parametrize("name", READ)
def test_reading(name):
    check([READ[name]])


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITE)
def test_writing(name):
    check([WRITE[name]])
