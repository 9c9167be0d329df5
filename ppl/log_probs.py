"""Log probabilities in a better form than NumPyro's: the same functions, cheaper or with more digits, and users' models stay as they are.

    Bernoulli, logits      -log(1 + e^s), s = -x where y = 1 and x where y = 0: one exponential for value and derivative
    negative binomial      by Stirling's series, so that its limit, Poisson, loses no digits either; NumPyro goes through
                           log B(a, y + 1), which is off by up to 7e-7 nats in float64, and dear

`better` gives a distribution whose `log_prob` is that; everything else of it, and of what is wrapped around it, is NumPyro's.
"""

import copy
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln
from numpyro.distributions import (
    BernoulliLogits,
    Distribution,
    GammaPoisson,
    NegativeBinomial2,
    NegativeBinomialLogits,
    NegativeBinomialProbs,
)

from ..transforms import defines_linearization

__all__ = ["better", "negative_binomial_logits"]


def better(dist: Distribution) -> Distribution:
    """The distribution, with the log probability of this module where it has one."""
    inside = getattr(dist, "base_dist", None)
    if isinstance(inside, Distribution):
        found = better(inside)
        if found is inside:
            return dist
        changed: Any = copy.copy(dist)
        changed.base_dist = found
        return changed
    form = _FORMS.get(type(dist))
    if form is None:
        return dist
    changed = copy.copy(dist)
    changed.__class__ = form
    return changed


class _Bernoulli(BernoulliLogits):
    def log_prob(self, value: Any) -> Any:
        """y x - log(1 + e^x), for a y between 0 and 1 too, as NumPyro has it."""
        value = jnp.asarray(value)
        one = value > 0.5
        x = jnp.asarray(self.logits)
        s = jnp.where(one, -x, x)
        log_prob = -jax.nn.softplus(s)
        if not jnp.issubdtype(value.dtype, jnp.floating):
            return log_prob
        between = jnp.where(one, 1 - value, value)
        return log_prob + jnp.where(between == 0, 0.0, between * s)


class _NegativeBinomial(GammaPoisson):
    def log_prob(self, value: Any) -> Any:
        rate = jnp.asarray(self.rate)
        return negative_binomial(value, self.concentration, jnp.log1p(1 / rate), lambda base: jnp.log(base / (1 + rate)))


class _NegativeBinomialLogits(NegativeBinomialLogits):
    def log_prob(self, value: Any) -> Any:
        return negative_binomial_logits(value, self.total_count, self.logits)


_FORMS: dict[type, Any] = {
    BernoulliLogits: _Bernoulli,
    **dict.fromkeys((GammaPoisson, NegativeBinomial2, NegativeBinomialProbs), _NegativeBinomial),
    NegativeBinomialLogits: _NegativeBinomialLogits,
}

_LARGE, _HALF = 10, 5  # from where Stirling's series of six terms has all digits of float64; half as many factors in one logarithm
_SERIES = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360)
_SLOPES = tuple(-(2 * i + 1) * term for i, term in enumerate(_SERIES))


def negative_binomial(y: Any, a: Any, failures: Any, log_of: Callable[[Any], Any]) -> Any:
    """log Gamma(a + y) - log Gamma(a) - log y! + a log(1 - q) + y log q, of counts y.

    Args:
        a: the concentration. failures: -log(1 - q). log_of: x -> log(x q).
    """
    dtype = jnp.result_type(float, a, failures)
    y, a = jnp.asarray(y, dtype), jnp.asarray(a, dtype)
    successes = jnp.where(y == 0, 0, y * log_of(_moved(a) + y))
    return _rising(a, y) + successes - a * failures - gammaln(y + 1)


def negative_binomial_logits(y: Any, a: Any, x: Any) -> Any:
    """`negative_binomial` with q = 1 / (1 + e^-x)."""
    return negative_binomial(y, a, jax.nn.softplus(x), lambda base: jnp.log(base) - jax.nn.softplus(-x))


def _moved(a: Any) -> Any:
    """b: a, or where that is small a + 10."""
    return jnp.where(a < _LARGE, a + _LARGE, a)


def _rising_value(a: Any, y: Any) -> Any:
    """log Gamma(a + y) - log Gamma(a) - y log(b + y). With c the rest of Stirling's series, and n = 10, it is

        (b - 1/2) log(1 + y / b) - y + c(b + y) - c(b) - sum_{i < n} log(1 + y / (a + i)),

    without the last sum where a is large. No digits are lost, as they are between two log-gammas, and nothing is as dear as one.
    """
    small, b, inverse = _parts(a)
    halves = inverse[:_HALF], inverse[_HALF:]  # one product of ten could be too large for float32
    steps = sum(jnp.log(math.prod(1 + y * one for one in half)) for half in halves)
    return (b - 0.5) * jnp.log1p(y / b) - y + _rest(b + y) - _rest(b) - jnp.where(small, steps, 0)


@defines_linearization(_rising_value)
def _rising(a: Any, y: Any) -> Any:
    """The derivatives in a and in y: psi(a + y) - psi(a) and psi(a + y), less those of y log(b + y)."""

    def slope(x: Any) -> Any:
        return _terms(_SLOPES, x) / x**2 - 0.5 / x

    small, b, inverse = _parts(a)
    passed = sum(1 / (jnp.where(small, a, 1) + y + i) for i in range(_LARGE))
    in_y = slope(b + y) - y / (b + y) - jnp.where(small, passed, 0)
    in_a = in_y + jnp.log1p(y / b) - slope(b) + jnp.where(small, sum(inverse), 0)
    return _rising_value(a, y), lambda da, dy: in_a * da + in_y * dy


def _parts(a: Any) -> Any:
    """Whether a is small, b, and 1 / (a + i) for i < n where it is."""
    small = a < _LARGE
    few = jnp.where(small, a, 1)
    return small, _moved(a), [1 / (few + i) for i in range(_LARGE)]


def _rest(x: Any) -> Any:
    """log Gamma(x) - (x - 1/2) log x + x - log(2 pi) / 2, for x of 10 or more."""
    return _terms(_SERIES, x) / x


def _terms(series: Any, x: Any) -> Any:
    """sum_i series_i / x^(2 i)."""
    z = 1 / x**2
    return functools.reduce(lambda total, term: total * z + term, reversed(series))
