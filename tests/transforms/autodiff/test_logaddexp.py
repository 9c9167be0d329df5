"""The rule for JAX's `logaddexp`, of which softplus and log_sigmoid are made: one exponential, and nothing lost at the edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from luciole.transforms import grad, value_and_grad
from luciole.transforms.equations import occurs

X = np.array([-800.0, -3.0, 0.0, 0.5, 40.0, 900.0])
FUNCTIONS = {
    "softplus": jax.nn.softplus,
    "log_sigmoid": jax.nn.log_sigmoid,
    "two operands": lambda x: jnp.logaddexp(x, 1.3 * x[::-1]),
    "a constant": lambda x: jnp.logaddexp(0.3, x),
}


def total(f):
    return lambda x: f(x).sum()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_three_derivatives(name):
    ours = theirs = total(FUNCTIONS[name])
    for _ in range(3):
        ours, theirs = total(grad(ours)), total(jax.grad(theirs))
        np.testing.assert_allclose(jax.jit(ours)(X), jax.jit(theirs)(X), rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(grad(ours)(X), jax.grad(theirs)(X), rtol=1e-12, atol=1e-14)


def test_infinities():
    inf = np.inf
    x, y = np.array([-inf, inf, -inf, inf, 0.0, inf]), np.array([-inf, inf, 0.0, 0.0, -inf, -inf])
    np.testing.assert_array_equal(grad(lambda x: jnp.logaddexp(x, y).sum())(x), [0.5, 0.5, 0.0, 1.0, 1.0, 1.0])
    assert np.isnan(grad(lambda x: jnp.logaddexp(x, 0.0).sum())(np.array([np.nan]))).all()


def exponentials(f):
    found = []
    occurs(jax.make_jaxpr(f)(X), lambda eqn: found.append(eqn.primitive.name) is not None)
    return sum(name in ("exp", "logistic") for name in found)


def test_one_exponential():
    assert exponentials(value_and_grad(total(jax.nn.softplus))) == 1
    assert exponentials(jax.value_and_grad(total(jax.nn.softplus))) > 1, "the twin: JAX's rule"


def test_a_users_own_function_of_that_name():
    @jax.custom_jvp
    def logaddexp(x, y):
        return x + y

    logaddexp.defjvp(lambda primals, tangents: (logaddexp(*primals), 7 * tangents[0]))
    np.testing.assert_array_equal(grad(lambda x: logaddexp(x, 0.0).sum())(X), 7.0)
