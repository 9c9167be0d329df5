"""Every refusal names what it refuses, the primitive and the user's line, and says what to write instead."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from luciole.transforms import DerivativeError
from luciole.transforms import autodiff as ad
from luciole.transforms.jax_compat import Primitive

HERE = "test_errors.py"


def line_of(f):
    """The number of the first line of a function's body."""
    return f.__code__.co_firstlineno + 1


def test_gradient_of_integers():
    with pytest.raises(DerivativeError, match=rf"square: argument 0 has type int64\[2\] \(.*{HERE}:\d+, in .*real floating point"):
        ad.grad(jnp.square)(jnp.arange(2))
    with pytest.raises(DerivativeError, match=r"argument 1\['n'\] has type int"):
        ad.grad(lambda x, p: x * p["n"], argnums=1)(1.0, {"n": 3})


def test_gradient_of_complex_numbers():
    with pytest.raises(DerivativeError, match="complex128"):
        ad.grad(lambda z: jnp.real(z))(1.0 + 2.0j)


def test_gradient_of_what_is_no_scalar():
    with pytest.raises(DerivativeError, match=r"one real scalar; found float64\[3\].*vjp"):
        ad.grad(jnp.sin)(jnp.ones(3))
    with pytest.raises(DerivativeError, match="one real scalar"):
        ad.grad(lambda x: (x, x))(1.0)
    with pytest.raises(DerivativeError, match="has_aux"):
        ad.grad(lambda x: x, has_aux=True)(1.0)


def test_an_argument_that_is_no_array_or_not_there():
    with pytest.raises(DerivativeError, match="is a str"):
        ad.grad(lambda x: 1.0)("text")
    with pytest.raises(DerivativeError, match="called with 1 positional"):
        ad.grad(lambda x: x, argnums=1)(1.0)


@pytest.mark.parametrize(
    ("cotangent", "message"),
    [
        (np.ones(2), r"shape \(2,\).*\(3,\)"),
        (np.ones(3, np.float32), "dtype float32.*float64"),
        ((np.ones(3),), "structure"),
    ],
)
def test_cotangent_that_does_not_fit(cotangent, message):
    _, linear = ad.linearize(jnp.sin, jnp.ones(3))
    for pull in (ad.transpose(linear), linear.T, ad.vjp(jnp.sin, jnp.ones(3))[1]):
        with pytest.raises(DerivativeError, match=rf"the (co)?tangent .*{message}.*{HERE}:\d+, in test_cotangent"):
            pull(cotangent)


def test_tangent_that_does_not_fit():
    with pytest.raises(DerivativeError, match=r"tangent at \[0\]\['a'\] has shape \(3,\)"):
        ad.jvp(lambda p: p["a"], ({"a": jnp.ones(2)},), ({"a": jnp.ones(3)},))
    with pytest.raises(DerivativeError, match=r"int64.*None"):
        ad.jvp(lambda n: n, (3,), (1,))
    _, linear = ad.linearize(jnp.sin, 1.0)
    with pytest.raises(DerivativeError, match="structure"):
        linear(1.0, 2.0)


def test_transpose_takes_a_linear_program():
    with pytest.raises(DerivativeError, match="LinearProgram"):
        ad.transpose(jnp.sin)


def test_while_loop_that_cannot_be_reversed():
    def f(x):
        return lax.while_loop(lambda s: jnp.sum(s) < 10.0, lambda s: s * s + 1.0, x)  # this line

    with pytest.raises(DerivativeError, match=rf"'while' cannot be reversed .*{HERE}:{line_of(f)}, in .*f\)?.*dynamic_loop.*max_trips"):
        ad.grad(f)(0.5)
    value, moved = ad.jvp(f, (0.5,), (1.0,))
    expected = jax.jvp(f, (0.5,), (1.0,))
    np.testing.assert_allclose((value, moved), expected, rtol=1e-14)


def test_primitive_without_a_rule_and_without_a_fallback():
    def f(x):
        return jnp.sum(lax.cummax(x) ** 2)  # this line

    x = jnp.array([1.0, 3.0, 2.0])
    ad.fallback_counts.clear()
    with (
        ad.without_fallback(),
        pytest.raises(DerivativeError, match=rf"'cummax' cannot be linearized.*{HERE}:{line_of(f)}, in .*f"),
    ):
        ad.grad(f)(x)
    assert not ad.fallback_counts
    np.testing.assert_allclose(ad.grad(f)(x), jax.grad(f)(x))
    assert ad.fallback_counts["linearize", "cummax"] == 1


def test_primitive_that_nobody_has_a_rule_for():
    """With the fallback on, JAX's refusal comes out as ours."""
    unknown = Primitive("unknown")
    unknown.def_abstract_eval(lambda x: x)

    def f(x):
        return unknown.bind(x)

    with pytest.raises(DerivativeError, match=rf"'unknown' cannot be linearized.*{HERE}:{line_of(f)}, in .*f"):
        ad.grad(f)(1.0)


def test_linear_solve_without_its_transpose():
    def f(b):
        return lax.custom_linear_solve(lambda x: 2.0 * x, b, lambda _, b: b / 2.0).sum()

    with pytest.raises(DerivativeError, match=r"custom_linear_solve.*transpose_solve"):
        ad.grad(f)(jnp.ones(2))


def test_forward_derivative_of_a_clipped_backward_rule():
    f = jax.custom_vjp(lambda x: x * 2.0)
    f.defvjp(lambda x: (x * 2.0, None), lambda _, g: (jnp.clip(g, -1.0, 1.0),))
    assert ad.grad(lambda x: 3.0 * f(x))(1.0) == 1.0
    with pytest.raises(DerivativeError, match=r"custom_vjp_call.*not linear in the cotangent"):
        ad.jvp(f, (1.0,), (1.0,))
