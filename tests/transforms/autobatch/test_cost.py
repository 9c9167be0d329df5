"""Operations of jaxprs against counts by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from luciole.transforms.autobatch.cost import WHILE_ITERATIONS, equations, flops, has_loop

MATRIX, VECTOR = jnp.ones((4, 4)), jnp.ones(4)


@jax.custom_jvp
def product(a, x):
    return a @ x


product.defjvp(lambda primals, tangents: (product(*primals), tangents[0] @ primals[1]))

COUNTS = {
    "matrix product": (lambda a, x: a @ a, 2 * 4**3),
    "elementwise": (lambda a, x: jnp.sin(x), 4),
    "reduction": (lambda a, x: lax.reduce(x, -jnp.inf, lax.max, (0,)), 4),
    "jit": (lambda a, x: jax.jit(product)(a, x), 2 * 4**2),
    "scan": (lambda a, x: lax.scan(lambda c, _: (a @ c, None), x, length=5)[0], 5 * 2 * 4**2),
    "while": (lambda a, x: lax.while_loop(lambda c: True, lambda c: a @ c, x), WHILE_ITERATIONS * 2 * 4**2),
    "cond": (lambda a, x: lax.switch(0, [lambda x: x, lambda x: a @ x, jnp.sin], x), 2 * 4**2),
    "cholesky": (lambda a, x: lax.linalg.cholesky(a, symmetrize_input=False), 4**3 / 3),
    "triangular solve": (lambda a, x: lax.linalg.triangular_solve(a, a, left_side=True), 4**3),
}


@pytest.mark.parametrize("name", COUNTS)
def test_operations(name):
    function, expected = COUNTS[name]
    beside = {"cholesky": 6 * 4**2, "cond": 2}.get(name, 0)  # a mask for the triangle; the index of the branch
    assert expected <= flops(jax.make_jaxpr(function)(MATRIX, VECTOR)) <= expected + beside


def test_equations_and_loops_are_found_at_any_depth():
    inner = jax.jit(lambda x: lax.while_loop(lambda c: c[0] < 3, lambda c: c + 1, jnp.sin(x)))
    closed = jax.make_jaxpr(lambda x: lax.cond(True, inner, jnp.cos, x))(VECTOR)
    assert has_loop(closed) and not has_loop(jax.make_jaxpr(jnp.sin)(1.0))
    assert equations(closed) >= 5
