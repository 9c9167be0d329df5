"""The linear program as an object: what it keeps, how it prints, where it may travel. The arguments of the public functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from luciole.transforms import autodiff as ad

X = np.arange(6.0).reshape(3, 2)


def model(params, x):
    return jnp.tanh(x @ params["w"]) + params["b"]


PARAMS = {"w": np.array([0.3, -0.2]), "b": np.array(0.5)}


def test_it_is_evaluated_once_and_applied_many_times():
    calls = []

    def f(x):
        jax.debug.callback(lambda: calls.append(1))
        return jnp.exp(x)

    value, linear = ad.linearize(f, jnp.array(1.0))
    jax.effects_barrier()
    assert len(calls) == 1
    np.testing.assert_allclose([linear(1.0), linear(2.0)], [value, 2 * value])
    jax.effects_barrier()
    assert len(calls) == 1


def test_residuals_are_what_the_equations_refer_to():
    _, linear = ad.linearize(lambda x: jnp.sin(x) * 2.0, jnp.ones(10))
    assert linear.residual_bytes == 10 * 8
    _, linear = ad.linearize(lambda x: x[::-1] * 2.0, jnp.ones(10))
    assert linear.residual_bytes <= 8


def test_a_person_can_read_it():
    _, linear = ad.linearize(lambda p: model(p, X), PARAMS)
    text = str(linear)
    assert text.startswith("linear program: float64[], float64[2] -> float64[3]")
    assert "residuals" in text
    assert "dot_general" in text
    assert "tanh" not in text
    assert "tanh" not in str(linear.T)


def test_a_listing_names_the_compiled_functions_that_were_called():
    @jax.jit
    def squashed(x):
        return jnp.tanh(x)

    _, linear = ad.linearize(lambda x: squashed(x) + 1.0, jnp.ones(3))
    assert "name=squashed" in str(linear)


def test_a_selection_hands_back_only_what_was_linear():
    _, linear = ad.linearize(lambda x: jax.lax.select(x > 1.0, x, jnp.zeros(3)), jnp.arange(3.0))
    np.testing.assert_array_equal(linear.T(jnp.ones(3))[0], [0.0, 0.0, 1.0])
    assert [eqn.primitive.name for eqn in linear.T.jaxpr.eqns].count("select_n") == 1


def test_it_crosses_the_boundary_of_a_compiled_function():
    value, linear = jax.jit(lambda p: ad.linearize(lambda q: model(q, X), p))(PARAMS)
    expected = jax.jvp(lambda p: model(p, X), (PARAMS,), (PARAMS,))
    np.testing.assert_allclose(value, expected[0], rtol=1e-14)
    np.testing.assert_allclose(jax.jit(lambda h, t: h(t))(linear, PARAMS), expected[1], rtol=1e-13)


def test_none_is_zero_at_any_place_of_a_tangent():
    _, linear = ad.linearize(model, PARAMS, X)
    only_b = linear({"w": None, "b": 1.0}, None)
    np.testing.assert_array_equal(only_b, np.ones(3))
    np.testing.assert_array_equal(ad.jvp(model, (PARAMS, X), (None, X))[1], ad.jvp(model, (PARAMS, X), (None, 2 * X))[1] / 2)


def test_integers_have_float0_tangents():
    value, moved = ad.jvp(lambda x, n: (x * n, n + 1), (2.0, 3), (1.0, None))
    assert (value, moved[0], moved[1].dtype) == ((6.0, 4), 3.0, jax.dtypes.float0)
    assert ad.vjp(lambda x, n: x * n, 2.0, 3)[1](1.0)[1].dtype == jax.dtypes.float0


def test_arguments_of_grad():
    f = lambda a, b, *, scale: scale * jnp.sum(a * b**2)  # noqa: E731
    a, b = jnp.ones(2), jnp.array([2.0, 3.0])
    np.testing.assert_array_equal(ad.grad(f)(a, b, scale=2.0), [8, 18])
    np.testing.assert_array_equal(ad.grad(f, argnums=-1)(a, b, scale=2.0), [8, 12])
    first, second = ad.grad(f, argnums=(1, 0))(a, b, scale=1.0)
    np.testing.assert_array_equal((first, second), ([4, 6], [4, 9]))
    value, gradient = ad.value_and_grad(f, 1)(a, b, scale=1.0)
    assert value == 13
    np.testing.assert_array_equal(gradient, [4, 6])


def test_auxiliary_results_are_not_differentiated():
    f = lambda x: (jnp.sum(x**2), {"seen": x, "n": 3})  # noqa: E731
    (value, aux), gradient = ad.value_and_grad(f, has_aux=True)(jnp.ones(2))
    assert (value, aux["n"]) == (2, 3)
    np.testing.assert_array_equal(gradient, [2, 2])
    gradient, aux = ad.grad(f, has_aux=True)(jnp.ones(2))
    np.testing.assert_array_equal(aux["seen"], [1, 1])
    assert len(ad.linearize(f, jnp.ones(2), has_aux=True)) == 3
    assert len(ad.vjp(f, jnp.ones(2), has_aux=True)) == 3
    assert len(ad.jvp(f, (jnp.ones(2),), (jnp.ones(2),), has_aux=True)) == 3


def test_arguments_that_are_not_differentiated_may_be_anything():
    assert ad.grad(lambda x, name, g: g(x) if name == "square" else x, 0)(3.0, "square", jnp.square) == 6


def test_hessian_vector_product_of_several_arguments():
    f = lambda x, y: jnp.sum(x**2 * y)  # noqa: E731
    x, y = jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0])
    expected = jax.jvp(jax.grad(f, (0, 1)), (x, y), (y, x))[1]
    for ours, theirs in zip(ad.hvp(f, (x, y), (y, x)), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-14)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_dtypes_are_kept(dtype):
    g = ad.grad(lambda x: jnp.sum(jnp.exp(x) * 2))(jnp.ones(3, dtype))
    assert g.dtype == dtype
    mixed = ad.grad(lambda x: jnp.sum(x.astype(np.float64) ** 2))(jnp.ones(3, dtype))
    assert mixed.dtype == dtype
