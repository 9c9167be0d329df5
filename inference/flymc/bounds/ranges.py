"""The exact range of a univariate function and of its first three derivatives over an interval.

Each is given by its value and by the critical points of each order: between them it is monotone, so that its range over [low, high] is the
hull of the values at the ends and at the critical points inside. `_TABLE` holds one entry per primitive.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.nn import sigmoid, softplus
from jax.scipy.special import polygamma

from . import gaussian_tail
from .intervals import Interval, outward

__all__ = ["ORDERS", "UNIVARIATE", "Derivative", "Univariate", "power", "range_of"]

ORDERS = 4  # the function itself and three derivatives
_EPSILON = float(np.finfo(np.float64).eps)
_TINY = 4 * float(np.finfo(np.float64).tiny)
_ROOT_3 = float(np.sqrt(3.0))
_TWO_OVER_ROOT_PI = float(2 / np.sqrt(np.pi))
Critical = Sequence[tuple[float, float]]


class Derivative(NamedTuple):
    """One derivative of a function.

    critical: its critical points with their values.
    error: x -> a bound of the error of its value at x beyond the eight units in the last place that all are widened by; None for 0.
    """

    function: Callable[[Any], Any]
    critical: Critical = ()
    error: Callable[[Any], Any] | None = None


class Univariate(NamedTuple):
    """derivatives: the k-th for k = 0, 1, ..., as far as known.

    lowest: the function is defined above it; None if everywhere.
    pole: whether 0 must lie outside the interval.
    error: relative and absolute error of all values beyond the units in the last place.
    """

    derivatives: Sequence[Derivative]
    lowest: float | None = None
    pole: bool = False
    error: float = 0.0


def range_of(function: Univariate, order: int, x: Interval) -> Interval:
    """All values of the derivative of that order on the interval, rounded outward; the whole line where it is unknown or undefined."""
    everything = Interval(jnp.full_like(x.low, -jnp.inf), jnp.full_like(x.low, jnp.inf))
    if order >= len(function.derivatives):
        return everything
    derivative, critical, own_error = function.derivatives[order]
    ends = derivative(x.low), derivative(x.high)
    low, high = jnp.minimum(*ends), jnp.maximum(*ends)
    for at, value in critical:
        inside = (x.low <= at) & (at <= x.high)
        low = jnp.where(inside, jnp.minimum(low, value), low)
        high = jnp.where(inside, jnp.maximum(high, value), high)
    size = jnp.maximum(jnp.abs(low), jnp.abs(high))
    error = function.error * (1 + size) if function.error else 0.0
    if own_error is not None:
        error = error + jnp.maximum(own_error(x.low), own_error(x.high))
    found = outward(low, high, error)
    outside = jnp.isnan(ends[0]) | jnp.isnan(ends[1])
    if function.lowest is not None:
        outside |= ~(x.low > function.lowest)
    if function.pole:
        outside |= (x.low <= 0) & (x.high >= 0)
    return Interval(jnp.where(outside, -jnp.inf, found.low), jnp.where(outside, jnp.inf, found.high))


def _monotone(*derivatives: Callable[[Any], Any]) -> list[Derivative]:
    return [Derivative(f) for f in derivatives]


def _with_argument(*derivatives: tuple[Callable[[Any], Any], Critical]) -> list[Derivative]:
    """Exponentials that round their argument: an error of a unit in the last place there is one of |x| units in the value."""
    return [Derivative(f, critical, lambda x, f=f: _EPSILON * jnp.abs(x) * jnp.abs(f(x))) for f, critical in derivatives]


def _logistic_1(x):
    return sigmoid(x) * sigmoid(-x)


def _logistic_2(x):
    return _logistic_1(x) * -jnp.tanh(x / 2)


def _logistic_3(x):
    p = _logistic_1(x)
    return p * (1 - 6 * p)


_TURN_2, _TURN_3 = float(np.log(2 + _ROOT_3)), float(np.log(5 + 2 * np.sqrt(6.0)))
_LOGISTIC = [
    Derivative(sigmoid),
    Derivative(_logistic_1, ((0.0, 0.25),)),
    Derivative(_logistic_2, ((_TURN_2, -1 / (6 * _ROOT_3)), (-_TURN_2, 1 / (6 * _ROOT_3)))),
    Derivative(
        _logistic_3,
        ((0.0, -0.125), (_TURN_3, 1 / 24), (-_TURN_3, 1 / 24)),
        lambda x: 8 * _EPSILON * _logistic_1(x),  # 1 - 6 p cancels
    ),
]


def _tanh(order: int) -> Derivative:
    """tanh(x) = 2 sigmoid(2 x) - 1."""
    derivative, critical, error = _LOGISTIC[order]
    scale = 2.0 ** (order + 1)
    moved = tuple((at / 2, scale * value) for at, value in critical)

    def scaled_error(x):
        return scale * (_TINY + (0.0 if error is None else error(2 * x)))  # what is flushed to 0 is lost `scale` times

    return Derivative(lambda x: scale * derivative(2 * x), moved, scaled_error)


def _erf_1(x):
    return _TWO_OVER_ROOT_PI * jnp.exp(-(x**2))


_ERF = [
    Derivative(lax.erf),
    Derivative(_erf_1, ((0.0, _TWO_OVER_ROOT_PI),)),
    Derivative(
        lambda x: -2 * x * _erf_1(x),
        tuple((s * np.sqrt(0.5), -s * _TWO_OVER_ROOT_PI * np.sqrt(2.0) * np.exp(-0.5)) for s in (-1, 1)),
    ),
    Derivative(
        lambda x: (4 * x**2 - 2) * _erf_1(x),
        ((0.0, -2 * _TWO_OVER_ROOT_PI), *((s * np.sqrt(1.5), 4 * _TWO_OVER_ROOT_PI * np.exp(-1.5)) for s in (-1, 1))),
    ),
]
_ARCTAN = [
    Derivative(lax.atan),
    Derivative(lambda x: 1 / (1 + x**2), ((0.0, 1.0),)),
    Derivative(lambda x: -2 * x / (1 + x**2) ** 2, tuple((s / _ROOT_3, -s * 3 * _ROOT_3 / 8) for s in (-1, 1))),
    Derivative(
        lambda x: (6 * x**2 - 2) / (1 + x**2) ** 3,
        ((0.0, -2.0), (1.0, 0.5), (-1.0, 0.5)),
        lambda x: 8 * _EPSILON / (1 + x**2) ** 2,  # 6 x^2 - 2 cancels
    ),
]
_LGAMMA_TURN, _LGAMMA_LEAST = 1.4616321449683623, -0.1214862905358496
_GAMMA = [
    Derivative(lax.lgamma, ((_LGAMMA_TURN, _LGAMMA_LEAST),)),
    *_monotone(
        lax.digamma,
        lambda x: polygamma(1, x),
        lambda x: polygamma(2, x),
        lambda x: polygamma(3, x),
    ),
]
_LOG1P_ERROR = 4e-14  # XLA's is off by 120 units in the last place near -0.41
_CANCELLED = 1e-14  # of the values of special functions near their zeros, and of derivatives written with cancelling terms


def power(exponent) -> Univariate:
    """x ** exponent; a whole number that is given as an int is allowed a negative x, any other exponent needs a positive one."""
    whole = isinstance(exponent, int)
    derivatives = []
    factor, degree = 1, exponent
    for _ in range(ORDERS):
        if whole and factor == 0:
            derivatives.append(Derivative(lambda x: jnp.zeros_like(x)))
            continue
        turns = ((0.0, 0.0),) if whole and degree > 0 and degree % 2 == 0 else ()
        value = _scaled_power(factor, degree, whole)
        products = abs(degree) if whole else 0  # as many roundings at most
        lost = _TINY * abs(factor) if whole else 0.0  # by a power that is flushed to 0
        derivatives.append(Derivative(value, turns, lambda x, f=value, n=products, lost=lost: n * _EPSILON * jnp.abs(f(x)) + lost))
        factor, degree = factor * degree, degree - 1
    if whole:
        return Univariate(derivatives, pole=exponent < 0)
    return Univariate(derivatives, lowest=0.0, error=_CANCELLED)


def _scaled_power(factor, degree, whole: bool):
    if whole:
        return lambda x: float(factor) * lax.integer_pow(x, degree)
    return lambda x: factor * jnp.power(x, degree)


UNIVARIATE: dict[str, Univariate] = {
    "exp": Univariate(_monotone(*[jnp.exp] * ORDERS)),
    "exp2": Univariate(_with_argument(*[(lambda x, k=k: np.log(2.0) ** k * jnp.exp2(x), ()) for k in range(ORDERS)])),
    "expm1": Univariate(_monotone(jnp.expm1, *[jnp.exp] * 3)),
    "log": Univariate(_monotone(jnp.log, lambda x: 1 / x, lambda x: -1 / x**2, lambda x: 2 / x**3), lowest=0.0),
    "log1p": Univariate(
        _monotone(jnp.log1p, lambda x: 1 / (1 + x), lambda x: -1 / (1 + x) ** 2, lambda x: 2 / (1 + x) ** 3),
        lowest=-1.0,
        error=_LOG1P_ERROR,
    ),
    "sqrt": Univariate(
        _monotone(jnp.sqrt, lambda x: 0.5 / jnp.sqrt(x), lambda x: -0.25 / (x * jnp.sqrt(x)), lambda x: 0.375 / (x**2 * jnp.sqrt(x))),
        lowest=0.0,
    ),
    "rsqrt": Univariate(
        _monotone(
            lambda x: 1 / jnp.sqrt(x),
            lambda x: -0.5 / (x * jnp.sqrt(x)),
            lambda x: 0.75 / (x**2 * jnp.sqrt(x)),
            lambda x: -1.875 / (x**3 * jnp.sqrt(x)),
        ),
        lowest=0.0,
    ),
    "reciprocal": power(-1),
    "square": power(2),
    "logistic": Univariate(_LOGISTIC, error=1e-17),
    "softplus": Univariate([Derivative(softplus), *_LOGISTIC[:3]], error=1e-17),
    "tanh": Univariate([Derivative(jnp.tanh), *(_tanh(k) for k in (1, 2, 3))]),
    "erf": Univariate(_ERF, error=_CANCELLED),
    "erfc": Univariate(
        [Derivative(lax.erfc), *(Derivative(lambda x, f=f: -f(x), tuple((at, -v) for at, v in c)) for f, c, _ in _ERF[1:])],
        error=_CANCELLED,
    ),
    "atan": Univariate(_ARCTAN),
    "sinh": Univariate(_with_argument(*[(jnp.sinh, ()), (jnp.cosh, ((0.0, 1.0),))] * 2)),
    "cosh": Univariate(_with_argument(*[(jnp.cosh, ((0.0, 1.0),)), (jnp.sinh, ())] * 2)),
    "lgamma": Univariate(_GAMMA[:4], lowest=0.0, error=_CANCELLED),
    "digamma": Univariate(_GAMMA[1:], lowest=0.0, error=_CANCELLED),
    "log_ndtr": Univariate(
        _monotone(
            gaussian_tail.log_ndtr,
            gaussian_tail.hazard,
            lambda z: -gaussian_tail.curvature_above(z),
        ),
        error=2e-12,
    ),
}
"""By the name of the primitive, or of the function of JAX's that is known as a whole."""
