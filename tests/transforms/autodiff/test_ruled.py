"""Derivatives that a user writes: the rule is what is used, everywhere, and it is checked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from luciole.transforms import DerivativeError
from luciole.transforms import autodiff as ad

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(50, 3)), RNG.normal(size=50)
W, BATCH = RNG.normal(size=3), RNG.normal(size=(4, 3))


def body(w):
    return -0.5 * jnp.sum((Y - X @ w) ** 2)


@ad.defines_linearization(body)
def by_statistics(w):
    gram, moment = X.T @ X, X.T @ Y
    g = moment - gram @ w
    return -0.5 * (Y @ Y) + moment @ w - 0.5 * w @ gram @ w, lambda t: g @ t


@ad.defines_linearization(body)
def tripled(w):
    """A rule that is wrong on purpose, so that its use shows."""
    g = 3.0 * (X.T @ (Y - X @ w))
    return body(w), lambda t: g @ t


@pytest.mark.parametrize("t", [ad, jax], ids=["ours", "jax"])
@pytest.mark.slow
def test_the_rule_is_used_and_not_the_body(t):
    three = 3 * jax.grad(body)(W)
    np.testing.assert_allclose(t.grad(tripled)(W), three, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(t.grad(jax.jit(tripled)))(W), three, rtol=1e-12)
    np.testing.assert_allclose(t.jvp(tripled, (W,), (W,))[1], three @ W, rtol=1e-12)
    np.testing.assert_allclose(jax.vmap(t.grad(tripled))(BATCH), 3 * jax.vmap(jax.grad(body))(BATCH), rtol=1e-12)
    np.testing.assert_allclose(t.grad(lambda b: jax.vmap(tripled)(b).sum())(BATCH), 3 * jax.vmap(jax.grad(body))(BATCH), rtol=1e-12)
    looped = lambda w: jax.lax.scan(lambda c, b: (c + tripled(w * b), None), 0.0, BATCH)[0]  # noqa: E731
    plain = lambda w: jax.lax.scan(lambda c, b: (c + body(w * b), None), 0.0, BATCH)[0]  # noqa: E731
    np.testing.assert_allclose(t.grad(looped)(W), 3 * jax.grad(plain)(W), rtol=1e-12)
    np.testing.assert_allclose(t.grad(jax.checkpoint(tripled))(W), three, rtol=1e-12)


@pytest.mark.parametrize("outer", [ad, pytest.param(jax, marks=pytest.mark.slow)], ids=["ours", "jax"])
@pytest.mark.parametrize("inner", [ad, pytest.param(jax, marks=pytest.mark.slow)], ids=["ours", "jax"])
@pytest.mark.slow
def test_second_derivatives(outer, inner):
    expected = jax.hessian(body)(W)
    twice = outer.grad(lambda w: inner.grad(by_statistics)(w) @ W)
    np.testing.assert_allclose(twice(W), expected @ W, rtol=1e-11)
    np.testing.assert_allclose(outer.jvp(inner.grad(by_statistics), (W,), (W,))[1], expected @ W, rtol=1e-11)


def test_the_value_is_that_of_the_function():
    np.testing.assert_allclose(by_statistics(W), body(W), rtol=1e-15)
    assert by_statistics.__name__ == "body"


def test_pytrees_integers_and_several_results():
    def f(p, n):
        return {"a": p["x"] * n, "n": n + 1}, p["y"] ** 2

    @ad.defines_linearization(f)
    def g(p, n):
        return f(p, n), lambda t, _: ({"a": t["x"] * n, "n": None}, 2 * p["y"] * t["y"])

    p = {"x": jnp.ones(2), "y": jnp.array(3.0)}

    def floats(function):
        return lambda q: [v for v in map(jnp.asarray, jax.tree.leaves(function(q, 3))) if v.dtype == float]

    ours, theirs = ad.jvp(floats(g), (p,), (p,)), jax.jvp(floats(f), (p,), (p,))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b)


def test_the_cost_of_a_gradient_does_not_depend_on_the_rows():
    def flops(f):
        analysis = jax.jit(lambda w: f(w)).lower(W).compile().cost_analysis()
        return (analysis[0] if isinstance(analysis, list) else analysis)["flops"]

    _, fast = ad.linearize(by_statistics, W)
    _, slow = ad.linearize(body, W)
    assert flops(lambda w: fast(w)) < 0.1 * flops(lambda w: slow(w))


def test_check_linearization():
    ad.check_linearization(by_statistics, W)
    with pytest.raises(DerivativeError, match="derivative of the rule differs"):
        ad.check_linearization(tripled, W)
    wrong_value = ad.defines_linearization(body)(lambda w: (2 * body(w), by_statistics.rule(w)[1]))
    with pytest.raises(DerivativeError, match="the value of the rule differs"):
        ad.check_linearization(wrong_value, W)
    with pytest.raises(DerivativeError, match="defines_linearization"):
        ad.check_linearization(body, W)


def test_python_numbers_and_keywords():
    square = ad.defines_linearization(lambda x: x**2)(lambda x: (x**2, lambda t: 2 * x * t))
    ad.check_linearization(square, 1.5)
    assert float(ad.grad(square)(1.5)) == 3.0
    with pytest.raises(DerivativeError, match=r"positional arguments only.*\['x'\]"):
        square(x=1.5)


def test_a_map_that_is_not_linear():
    bad = ad.defines_linearization(body)(lambda w: (body(w), lambda t: jnp.sum(t * t)))
    with pytest.raises(DerivativeError, match=r"body is not linear: the primitive 'mul' .*test_ruled.py"):
        ad.grad(bad)(W)
    bent = ad.defines_linearization(body)(lambda w: (body(w), lambda t: jnp.sum(jnp.sin(t))))
    with pytest.raises(DerivativeError, match="'sin'"):
        ad.check_linearization(bent, W)


@pytest.mark.parametrize(
    ("primitive", "linear_map"),
    [
        ("add", lambda w, t: jnp.vdot(Y - X @ w, X @ t) + 1.0),  # its linear part is the true derivative
        ("floor", lambda w, t: jnp.vdot(Y - X @ w, X @ t) + jnp.floor(t[0])),
    ],
)
def test_a_map_that_is_not_linear_where_its_derivative_does_not_show_it(primitive, linear_map):
    bad = ad.defines_linearization(body)(lambda w: (body(w), lambda t: linear_map(w, t)))
    with pytest.raises(DerivativeError, match=rf"body is not linear: the primitive '{primitive}' .*test_ruled.py:\d+"):
        ad.check_linearization(bad, W)


def test_rules_of_the_wrong_form():
    with pytest.raises(DerivativeError, match=r"returns \(value, linear map\)"):
        ad.defines_linearization(body)(lambda w: body(w))(W)
    with pytest.raises(DerivativeError, match="as the function itself"):
        ad.defines_linearization(body)(lambda w: (w, lambda t: t))(W)
    with pytest.raises(DerivativeError, match="shaped like the value"):
        ad.defines_linearization(body)(lambda w: (body(w), lambda t: t))(W)


def test_what_a_rule_closes_over_has_no_derivative():
    def outer(scale):
        f = lambda w: scale * jnp.sum(w)  # noqa: E731
        return ad.defines_linearization(f)(lambda w: (f(w), lambda t: scale * jnp.sum(t)))(W)

    for t in (ad, jax):
        with pytest.raises(DerivativeError, match="closes over"):
            t.grad(outer)(2.0)


SPD = RNG.normal(size=(5, 5))
SPD = SPD @ SPD.T + 5 * np.eye(5)


OWN_RULES = {
    "regression": (lambda: ad.gaussian_regression_log_likelihood(X, Y), (W, 1.3)),
    "family": (lambda: ad.exponential_family_log_likelihood(X, jax.scipy.special.logsumexp), (W,)),
    "log determinant": (lambda: ad.log_determinant, (SPD,)),
    "gaussian": (lambda: ad.gaussian_log_density, (Y[:5], X[:5, 0], SPD)),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n == "regression" else [pytest.mark.slow]) for n in OWN_RULES])
def test_rules_for_our_own_use(name):
    make, args = OWN_RULES[name]
    f = make()
    args = tuple(jnp.asarray(a) for a in args)
    symmetric = tuple(0.5 * (a + a.T) if a.ndim == 2 else a for a in args)
    ad.check_linearization(f, *symmetric)
    places = tuple(range(len(args)))
    ours, body_ = ad.grad(f, places)(*symmetric), jax.grad(f.body, places)(*symmetric)
    for a, b in zip(ours, body_, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)


def test_shapes_of_regression_data():
    with pytest.raises(DerivativeError, match=r"\(50, 3\) and y \(4,\)"):
        ad.gaussian_regression_log_likelihood(X, Y[:4])
