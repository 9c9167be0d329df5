"""Interval arithmetic holds what it must: every rule against samples, in higher precision where numpy has it, and against derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy import special
from scipy import special as scipy_special

from luciole import BoundError
from luciole.inference.flymc.bounds import gaussian_tail, intervals, jets, ranges, walk
from luciole.transforms.jax_compat import open_jaxpr

RNG = np.random.default_rng(0)
long = np.longdouble


def wide_intervals(num, low, high, largest=3.0):
    """Intervals of all widths inside (low, high), among them points and tiny ones."""
    width = np.exp(RNG.uniform(np.log(1e-12), np.log(largest), num))
    width[: num // 10] = 0.0
    start = RNG.uniform(low, high, num)
    start = np.where(RNG.random(num) < 0.3, low + (start - low) * 1e-3, start)
    return np.minimum(start, high - width), np.minimum(start, high - width) + width


def within(x, low, high, slack=0.0):
    return np.all(x >= low - slack) and np.all(x <= high + slack)


@pytest.fixture(autouse=True)
def _double(x64):
    pass


@pytest.mark.parametrize("operation", ["add", "multiply"])
def test_arithmetic_rounds_outward(operation):
    ends = [np.sort(RNG.normal(size=(2, 2000)) * 10.0 ** RNG.integers(-8, 8, 2000), axis=0) for _ in range(2)]
    x, y = (intervals.Interval(jnp.asarray(a), jnp.asarray(b)) for a, b in ends)
    found = getattr(intervals, operation)(x, y)
    for s, t in [(0, 0), (0, 1), (1, 0), (1, 1), (0.3, 0.7)]:
        a, b = (long(e[0]) + long(p) * (long(e[1]) - long(e[0])) for e, p in zip(ends, (s, t), strict=True))
        exact = a + b if operation == "add" else a * b
        assert within(exact, long(np.asarray(found.low)), long(np.asarray(found.high)))


def test_a_number_times_an_interval_is_as_the_general_product():
    x = intervals.Interval(jnp.array([-1.0, 2.0]), jnp.array([3.0, 4.0]))
    two = intervals.point(jnp.array([-2.0, 2.0]))
    general = intervals.multiply(x, intervals.Interval(two.low, two.low + 0))
    for short in (intervals.multiply(x, two), intervals.multiply(two, x)):
        np.testing.assert_array_equal(short.low, general.low)
        np.testing.assert_array_equal(short.high, general.high)


def test_nought_times_infinity_is_nought_and_nan_is_everything():
    nought, infinite = intervals.point(0.0), intervals.Interval(jnp.array(-jnp.inf), jnp.array(jnp.inf))
    assert abs(float(intervals.multiply(nought, infinite).high)) < 1e-300
    unknown = intervals.add(infinite, infinite)
    assert unknown.low == -np.inf
    assert unknown.high == np.inf
    assert not within(long(1) / 3, *map(float, intervals.Interval(0.34, 0.35)))  # the test's own eye


DOMAINS = {
    "exp": (-20, 20), "exp2": (-20, 20), "expm1": (-20, 20), "log": (1e-3, 50), "log1p": (-0.99, 50), "sqrt": (1e-3, 50),
    "rsqrt": (1e-2, 50), "reciprocal": (1e-2, 50), "square": (-5, 5), "logistic": (-12, 12), "softplus": (-12, 12), "tanh": (-6, 6),
    "erf": (-4, 4), "erfc": (-4, 4), "atan": (-6, 6), "sinh": (-6, 6), "cosh": (-6, 6), "lgamma": (0.05, 30), "digamma": (0.05, 30),
    "log_ndtr": (-30, 8),
}  # fmt: skip
LONG = {
    "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1, "log": np.log, "log1p": np.log1p, "sqrt": np.sqrt,
    "reciprocal": lambda x: 1 / x, "square": lambda x: x * x, "logistic": lambda x: 1 / (1 + np.exp(-x)),
    "softplus": lambda x: np.log1p(np.exp(-abs(x))) + np.maximum(x, 0), "tanh": np.tanh, "atan": np.arctan, "sinh": np.sinh,
    "cosh": np.cosh, "rsqrt": lambda x: 1 / np.sqrt(x),
}  # fmt: skip
DOUBLE = {
    "erf": scipy_special.erf, "erfc": scipy_special.erfc, "lgamma": scipy_special.gammaln, "digamma": scipy_special.digamma,
    "log_ndtr": scipy_special.log_ndtr,
}  # fmt: skip
DIFFERENTIABLE = {
    "log_ndtr": gaussian_tail.log_ndtr,
    "softplus": jax.nn.softplus,
    "logistic": jax.nn.sigmoid,
    "reciprocal": lambda x: 1 / x,
}


def test_every_rule_is_tested():
    assert set(DOMAINS) == set(ranges.UNIVARIATE) == set(LONG) | set(DOUBLE)


def powers(exponent):
    """Of long doubles, with their derivatives."""
    factors = [np.prod([long(exponent) - k for k in range(order)]) if order else long(1) for order in range(4)]
    return [lambda x, f=f, n=n: f * x ** (long(exponent) - n) if f else 0 * x for n, f in enumerate(factors)]


def of_sigmoids(scale):
    """The derivatives of sigmoid(scale x), from the first."""

    def product(x):
        return 1 / ((1 + np.exp(-abs(x))) * (1 + np.exp(abs(x))))

    first = [product, lambda x: -product(x) * np.tanh(x / 2), lambda x: product(x) * (1 - 6 * product(x))]
    return [lambda x, f=f, n=n: long(scale) ** n * f(scale * x) for n, f in enumerate(first, 1)]


EXPONENTIALS = [np.exp] * 4
LONG_DERIVATIVES = {
    "exp": EXPONENTIALS, "expm1": [np.expm1, *EXPONENTIALS[1:]],
    "exp2": [lambda x, k=k: np.log(long(2)) ** k * np.exp2(x) for k in range(4)],
    "log": [np.log, *powers(-1)[:3]], "log1p": [np.log1p, *(lambda x, f=f: f(1 + x) for f in powers(-1)[:3])],
    "sqrt": [np.sqrt, *powers(0.5)[1:]], "rsqrt": [lambda x: 1 / np.sqrt(x), *powers(-0.5)[1:]],
    "reciprocal": powers(-1), "square": powers(2), "sinh": [np.sinh, np.cosh] * 2, "cosh": [np.cosh, np.sinh] * 2,
    "logistic": [LONG["logistic"], *of_sigmoids(1)], "softplus": [LONG["softplus"], LONG["logistic"], *of_sigmoids(1)[:2]],
    "tanh": [np.tanh, *(lambda x, f=f: 2 * f(x) for f in of_sigmoids(2))],
    "atan": [np.arctan, lambda x: 1 / (1 + x * x), lambda x: -2 * x / (1 + x * x) ** 2, lambda x: (6 * x * x - 2) / (1 + x * x) ** 3],
    **{f"power {n}": powers(n) for n in (3, 7, 30, -2, -5, -12, 0.3, 1.7, -2.5)},
}  # fmt: skip


def far_and_wide(function):
    """Numbers of all sizes inside a domain, and beside those where a value cancels."""
    size = np.exp(np.concatenate([RNG.uniform(np.log(lo), np.log(hi), 4000) for lo, hi in ((1e-12, 1e-3), (1e-3, 1), (1, 50), (50, 700))]))
    near = np.array([0.41421356, 1.3169578969, 0.6584789485, 0.5773502692]) + 1e-9 * RNG.normal(size=(500, 4))
    x = np.concatenate([size, -size, near.ravel(), -near.ravel(), np.exp(RNG.uniform(-30, -1e-3, 4000)) - 1])
    return x if function.lowest is None else x[x > function.lowest]


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n.startswith("power") else []) for n in LONG_DERIVATIVES])
def test_values_and_derivatives_are_rounded_outward(name):
    """Every primitive that long doubles know, at points, where nothing but the rounding keeps the exact value inside."""
    kind, _, exponent = name.partition(" ")
    number = float(exponent or 0)
    function = ranges.power(int(number) if number == int(number) else number) if exponent else ranges.UNIVARIATE[kind]
    x = far_and_wide(function)
    point = intervals.Interval(jnp.asarray(x), jnp.asarray(x))
    found = jax.jit(lambda p: [ranges.range_of(function, order, p) for order in range(len(function.derivatives))])(point)
    for exact, (low, high) in zip(LONG_DERIVATIVES[name], found, strict=True):
        with np.errstate(all="ignore"):
            value = exact(long(x))
        inside = np.isfinite(value.astype(float))
        assert inside.mean() > 0.5
        assert within(value[inside], np.asarray(low)[inside], np.asarray(high)[inside])


@pytest.mark.slow
def test_a_bound_of_eight_units_is_not_enough():
    """The broken twin: the far ends of exp2, and a derivative beside its zero, without errors of their own."""
    for name, order, x in (("exp2", 0, -698.9161), ("cosh", 0, 528.543), ("logistic", 3, 1.31708)):
        near = x + 1e-3 * RNG.random(4000)
        short = ranges.UNIVARIATE[name].derivatives[order]._replace(error=None)
        broken = ranges.Univariate([short])
        low, high = ranges.range_of(broken, 0, intervals.Interval(jnp.asarray(near), jnp.asarray(near)))
        assert not within(LONG_DERIVATIVES[name][order](long(near)), np.asarray(low), np.asarray(high))


def samples(low, high):
    return [low, high, *(low + s * (high - low) for s in RNG.random((10, len(low))))]


@functools.partial(jax.jit, static_argnums=(0, 1))
def range_in(name, order, low, high):
    return ranges.range_of(ranges.UNIVARIATE[name], order, intervals.Interval(low, high))


@pytest.mark.parametrize("name", DOMAINS)
def test_ranges_hold_the_function(name):
    low, high = wide_intervals(2000, *DOMAINS[name])
    found = range_in(name, 0, jnp.asarray(low), jnp.asarray(high))
    for x in samples(low, high):
        exact = LONG[name](long(x)) if name in LONG else DOUBLE[name](x)
        slack = 0.0 if name in LONG else 3e-15 * np.abs(exact)  # of the reference itself
        assert within(exact, np.asarray(found.low), np.asarray(found.high), slack)


def quick_are(names, *quick):
    """Those that are not named are marked slow: each costs a few compilations."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", quick_are(DOMAINS, "logistic", "log1p", "tanh", "square"))
def test_ranges_hold_the_derivatives_and_are_exact(name):
    """Against JAX's derivatives: an interval that misses a turning point, or is a fiftieth too wide, is seen."""
    derivative = DIFFERENTIABLE.get(name) or getattr(jnp, name, None) or getattr(jax.lax, name)
    known = {"lgamma": 1, "digamma": 0}  # beyond, JAX differentiates polygamma no further
    low, high = wide_intervals(300, *DOMAINS[name])
    for order in range(1, len(ranges.UNIVARIATE[name].derivatives)):
        if name in known and order > known[name]:
            exact = jax.jit(lambda x, n=order - known[name]: special.polygamma(n, x))
        else:
            derivative = jax.grad(derivative)
            exact = jax.jit(jax.vmap(derivative))
        found = range_in(name, order, jnp.asarray(low), jnp.asarray(high))
        values = np.stack([np.asarray(exact(jnp.asarray(x))) for x in samples(low, high)])
        size = 1e-8 * (1 + np.abs(values).max(0))  # of automatic differentiation
        assert within(values, np.asarray(found.low), np.asarray(found.high), size)
        dense = np.stack([np.asarray(exact(jnp.asarray(low + s * (high - low)))) for s in np.linspace(0, 1, 101)])
        spread = dense.max(0) - dense.min(0)
        assert np.all(np.asarray(found.high - found.low) <= spread * 1.02 + 20 * size)


def test_a_planted_wrong_turning_point_is_seen():
    """The broken twin of the two tests above."""
    right = ranges.UNIVARIATE["logistic"]
    broken = right._replace(
        derivatives=[right.derivatives[0], right.derivatives[1]._replace(critical=((0.0, 0.24),)), *right.derivatives[2:]]
    )
    found = ranges.range_of(broken, 1, intervals.Interval(jnp.array(-1.0), jnp.array(1.0)))
    assert float(found.high) < 0.25


@pytest.mark.parametrize("exponent", [2, 3, -1, -2, 4, 0, 1])
def test_powers_of_any_sign(exponent):
    low, high = wide_intervals(1000, -3, 3)
    if exponent < 0:
        low, high = np.where(low * high <= 0, low + 10, low), np.where(low * high <= 0, high + 10, high)
    for order in range(4):
        factor = np.prod([exponent - k for k in range(order)]) if order else 1
        found = ranges.range_of(ranges.power(exponent), order, intervals.Interval(jnp.asarray(low), jnp.asarray(high)))
        for x in samples(low, high):
            exact = long(factor) * long(x) ** (exponent - order) if factor else long(0) * x
            assert within(exact, np.asarray(found.low), np.asarray(found.high))


def test_outside_the_domain_nothing_is_known():
    for name in ("log", "sqrt", "reciprocal", "lgamma"):
        for order in range(3):
            found = ranges.range_of(ranges.UNIVARIATE[name], order, intervals.Interval(jnp.array(-1.0), jnp.array(1.0)))
            assert float(found.low) == -np.inf
            assert float(found.high) == np.inf


# The walk: the jet of a whole function against JAX's derivatives.

FUNCTIONS = {
    "product": lambda x: x * jnp.exp(-x) + 3.0 / (2.0 + x**2),
    "logaddexp": lambda x: jnp.logaddexp(x, 1.0) - jnp.logaddexp(0.5, -2 * x),
    "both move": lambda x: jnp.logaddexp(x, x**2),
    "xlogy": lambda x: special.xlogy(2.0, 1 + x**2) + special.xlog1py(3.0, jnp.exp(x)),
    "probit": lambda x: special.log_ndtr(1 - x),
    "softplus": lambda x: jax.nn.softplus(x) + jax.nn.log_sigmoid(3 * x) + jnp.tanh(x) + jax.nn.sigmoid(x),
    "power": lambda x: (1 + x**2) ** 1.5 + jnp.power(2.0, x) + jnp.sqrt(2 + x) + jnp.square(x - 1) + (x + 5) ** 2.0 + jax.lax.rsqrt(x + 4),
    "gamma": lambda x: special.gammaln(jnp.exp(x)) - special.digamma(3 + x),
    "stacked": lambda x: jnp.sum(jnp.stack([x, 2 * x, jnp.sin(1.0) * x]) ** 2) + jnp.exp(jnp.arange(3.0) * x)[::-1].sum(),
    "joined": lambda x: (jnp.concatenate([x[None], jnp.ones(2)]) ** 3 * jnp.array([1.0, 2.0, 3.0])).sum(),
    "decided": lambda x: jnp.where(x > -10, x**3, 0.0) + jnp.abs(x + 10) + jnp.clip(x, -9, 9) ** 2 + jnp.sign(x + 9) * jnp.maximum(x, -9),
    "other": lambda x: jax.lax.erf(x) + jnp.arctan(x) + jnp.sinh(x) - jnp.cosh(x) - jnp.log1p(x**2),
}  # fmt: skip


@functools.partial(jax.jit, static_argnums=(0, 3))
def jet_in(function, low, high, orders):
    jaxpr, consts = open_jaxpr(jax.make_jaxpr(function)(0.0))
    return jax.vmap(lambda a, b: walk.jet_of(jaxpr, consts, intervals.Interval(a, b), (), orders))(low, high)


def jet(function, low, high, orders=4):
    return jet_in(function, jnp.asarray(low), jnp.asarray(high), orders)


@pytest.mark.slow
@pytest.mark.parametrize("name", quick_are(FUNCTIONS, "logaddexp", "decided", "joined"))
def test_jets_hold_the_derivatives_of_whole_functions(name):
    function = FUNCTIONS[name]
    low, high = wide_intervals(200, -1.5, 1.5, largest=1.0)
    found, points = jet(function, low, high), jet(function, low, low)
    derivative = function
    for order, (entry, there) in enumerate(zip(found, points, strict=True)):
        exact = jax.jit(jax.vmap(derivative))
        values = np.stack([np.asarray(exact(jnp.asarray(x))) for x in samples(low, high)])
        slack = 1e-9 * (1 + np.abs(values).max(0))
        ends = (0.0, 0.0) if entry is None else (np.asarray(entry.low), np.asarray(entry.high))
        assert within(values, *ends, slack)
        if (name, order) != ("probit", 3):  # whose third derivative is not known
            assert np.isfinite(ends).all()
            assert there is None or np.all(np.asarray(there.high - there.low) < 1e-10 * (1 + np.abs(np.asarray(there.high))))
        derivative = jax.grad(derivative)


@pytest.mark.parametrize(
    "function", [jnp.abs, jax.nn.relu, lambda x: jnp.where(x > 0, x, x**2), lambda x: jnp.clip(x, 0, 1), lambda x: jnp.minimum(x, -x)]
)
def test_a_kink_that_is_straddled_leaves_the_derivatives_unknown(function):
    second = jet(function, [-0.1, 0.2], [0.1, 0.3], 3)[2]
    assert np.asarray(second.low)[0] == -np.inf
    assert np.isfinite(np.asarray(second.low)[1])


@pytest.mark.parametrize(
    ("function", "primitive"),
    [
        (lambda x: jnp.floor(x) * 1.0, "floor"),
        (lambda x: jax.lax.fori_loop(0, 3, lambda i, v: v * x, 1.0), "scan"),
        (lambda x: jax.lax.while_loop(lambda v: v < 3, lambda v: v * 2, x), "while"),
        (lambda x: special.i0e(x), "bessel_i0e"),
        (lambda x: jnp.cbrt(x), "cbrt"),
        (lambda x: jnp.exp(x) * x.astype(int), "convert_element_type"),
    ],
)
def test_what_has_no_rule_is_named(function, primitive):
    with pytest.raises(BoundError, match=f"`{primitive}`"):
        jet(function, [0.0], [1.0])


def test_what_the_result_does_not_need_is_not_refused():
    def function(x):
        jnp.floor(x)
        return x**2

    assert float(np.asarray(jet(function, [1.0], [2.0])[2].low)[0]) == pytest.approx(2.0)


# The Gaussian tail.


@pytest.mark.slow
def test_the_gaussian_tail_is_good_to_the_last_digits():
    z = np.concatenate([np.linspace(-60, 12, 20001), np.linspace(-5.001, -4.999, 101)])
    np.testing.assert_allclose(gaussian_tail.log_ndtr(jnp.asarray(z)), scipy_special.log_ndtr(z), rtol=2e-14, atol=1e-300)
    x = z[z < -1]
    hazard = np.sqrt(2 / np.pi) / scipy_special.erfcx(-x / np.sqrt(2))
    np.testing.assert_allclose(gaussian_tail.hazard(jnp.asarray(x)), hazard, rtol=1e-14)
    curvature = np.asarray(gaussian_tail.curvature_above(jnp.asarray(np.sort(z))))
    assert np.all(np.diff(curvature) <= 1e-12)
    assert np.all((curvature >= 0) & (curvature <= 1))


def test_jets_of_a_product_follow_leibniz():
    x = jets.identity(intervals.point(jnp.array(2.0)), 4)
    cube = jets.multiply_jets(x, jets.multiply_jets(x, x))
    assert [round(float(e.low), 9) for e in cube] == [8.0, 12.0, 12.0, 6.0]
