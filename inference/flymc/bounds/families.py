"""The likelihoods whose curvature is known: each in the form that suffers least from rounding, with the exact range of its -l''.

The written form of a log likelihood matters to interval arithmetic by factors of ten to a hundred, so what is known is not traced.
A rule is found by the numpyro class of the distribution and by how its parameter depends on the linear predictor.
"""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.nn import sigmoid, softplus
from jax.scipy.special import gammaln
from numpyro.distributions import discrete

from . import gaussian_tail, shortfalls
from .closed import exponential_chord, exponential_sup, jaakkola_jordan, logistic_chord, logistic_sup
from .records import Row, Rule

__all__ = ["RULES"]

_EPSILON = float(np.finfo(np.float64).eps)
_UP = 1 + 16 * _EPSILON
_LOG_TWO_PI = float(np.log(2 * np.pi))


def _softplus_rule(name, weight, argument, rate, terms, slope, **more) -> Rule:
    """l = -weight softplus(argument) + linear, the argument affine in eta with derivative +-rate; all three are functions of (eta, row)."""

    def factor(row):
        return weight(row) * rate(row) ** 2 * _UP

    def sup_curvature(low, high, row):
        ends = argument(low, row), argument(high, row)
        margin = 8 * _EPSILON * (jnp.abs(ends[0]) + jnp.abs(ends[1]))
        return factor(row) * logistic_sup(jnp.minimum(*ends) - margin, jnp.maximum(*ends) + margin)

    def chord(anchor, radius, row):
        return factor(row) * logistic_chord(argument(anchor, row), radius * jnp.abs(rate(row)) * _UP)

    def everywhere(anchor, row):
        return factor(row) * jaakkola_jordan(argument(anchor, row))

    def shortfall(anchor, offset, row):
        return (weight(row) * shortfalls.softplus(argument(anchor, row), offset * rate(row)),)

    return Rule(name, terms, slope, sup_curvature, chord, everywhere, shortfall=shortfall, **more)


def _one(row: Row):
    return 1.0


def _itself(eta, row: Row):
    return eta


# Counts of successes. Softplus at the observation's own sign keeps all digits of a confident row's likelihood.


def _bernoulli(eta, row):
    return (-softplus(jnp.where(row["value"] > 0, -eta, eta)),)


def _bernoulli_slope(eta, row):
    return jnp.where(row["value"] > 0, sigmoid(-eta), -sigmoid(eta))


def _binomial(eta, row):
    n, y = row["total_count"], row["value"]
    return gammaln(n + 1), -gammaln(y + 1), -gammaln(n - y + 1), -y * softplus(-eta), -(n - y) * softplus(eta)


def _binomial_slope(eta, row):
    n, y = row["total_count"], row["value"]
    return y * sigmoid(-eta) - (n - y) * sigmoid(eta)


BERNOULLI_LOGIT = _softplus_rule("Bernoulli, logit", _one, _itself, _one, _bernoulli, _bernoulli_slope)
BINOMIAL_LOGIT = _softplus_rule("binomial, logit", lambda row: row["total_count"], _itself, _one, _binomial, _binomial_slope)


# Negative binomial: -(y + k) softplus(eta - log k) + y eta.


def _negative_binomial(eta, row, k, shift):
    y = row["value"]
    return gammaln(y + k), -gammaln(y + 1), -gammaln(k), -y * softplus(shift - eta), -k * softplus(eta - shift)


def _negative_binomial_slope(eta, row, k, shift):
    return row["value"] * sigmoid(shift - eta) - k * sigmoid(eta - shift)


NEGATIVE_BINOMIAL_LOG = _softplus_rule(
    "negative binomial, log mean",
    lambda row: row["value"] + row["concentration"],
    lambda eta, row: eta - jnp.log(row["concentration"]),
    _one,
    lambda eta, row: _negative_binomial(eta, row, row["concentration"], jnp.log(row["concentration"])),
    lambda eta, row: _negative_binomial_slope(eta, row, row["concentration"], jnp.log(row["concentration"])),
)
NEGATIVE_BINOMIAL_LOGIT = _softplus_rule(
    "negative binomial, logit",
    lambda row: row["value"] + row["total_count"],
    _itself,
    _one,
    lambda eta, row: _negative_binomial(eta, row, row["total_count"], 0.0),
    lambda eta, row: _negative_binomial_slope(eta, row, row["total_count"], 0.0),
)


# Logistic noise: r = (y - eta) / s, l = -r - 2 softplus(-r) - log s, a convex function of r^2.


def _residual(eta, row):
    return (row["value"] - eta) / row["scale"]


def _logistic_noise(eta, row):
    r = jnp.abs(_residual(eta, row))
    return -r, -2 * jnp.log1p(jnp.exp(-r)), -jnp.log(row["scale"])


def _logistic_noise_gap(r, touching, row):
    r = jnp.abs(r)
    rise = jaakkola_jordan(touching) * (r - touching) * (r + touching)
    return -r, -2 * jnp.log1p(jnp.exp(-r)), touching, 2 * jnp.log1p(jnp.exp(-touching)), rise


LOGISTIC_NOISE = _softplus_rule(
    "logistic noise",
    lambda row: 2.0,
    _residual,
    lambda row: -1 / row["scale"],
    _logistic_noise,
    lambda eta, row: jnp.tanh(_residual(eta, row) / 2) / row["scale"],
    residual_tangent=lambda u, row: jaakkola_jordan(jnp.sqrt(u)),
    residual_gap=_logistic_noise_gap,
)


# Poisson: l = y eta - e^eta.


def _poisson(eta, row):
    return row["value"] * eta, -jnp.exp(eta), -gammaln(row["value"] + 1)


POISSON_LOG = Rule(
    "Poisson, log",
    _poisson,
    lambda eta, row: row["value"] - jnp.exp(eta),
    lambda low, high, row: exponential_sup(low, high),
    lambda anchor, radius, row: exponential_chord(anchor, radius),
    shortfall=lambda anchor, offset, row: (jnp.exp(anchor) * shortfalls.exponential(offset),),
)


# Gaussian: exact.


def _gaussian(eta, row):
    return -0.5 * _residual(eta, row) ** 2, -jnp.log(row["scale"]), -0.5 * _LOG_TWO_PI


def _gaussian_curvature(row):
    return 1 / row["scale"] ** 2


GAUSSIAN = Rule(
    "Gaussian",
    _gaussian,
    lambda eta, row: _residual(eta, row) / row["scale"],
    lambda low, high, row: _gaussian_curvature(row) * jnp.ones_like(low),
    lambda anchor, radius, row: _gaussian_curvature(row) * jnp.ones_like(anchor),
    lambda anchor, row: _gaussian_curvature(row) * jnp.ones_like(anchor),
    lambda u, row: 0.5 * jnp.ones_like(u),
    lambda r, touching, row: (jnp.zeros_like(r),),
    lambda anchor, offset, row: (0.5 * (offset / row["scale"]) ** 2,),
)


# Probit: with z = +-eta, l = log Phi(z), -l'' = lambda (lambda + z), lambda = phi(z) / Phi(z), which falls from 1 to 0.


def _sign(row):
    return jnp.where(row["value"] > 0, 1.0, -1.0)


def _probit_sup(low, high, row):
    lowest = jnp.where(row["value"] > 0, low, -high)
    return gaussian_tail.curvature_above(lowest)


def _probit_chord(anchor, radius, row):
    return gaussian_tail.chord(_sign(row) * anchor, radius)


PROBIT = Rule(
    "Bernoulli, probit",
    lambda eta, row: (gaussian_tail.log_ndtr(_sign(row) * eta),),
    lambda eta, row: _sign(row) * gaussian_tail.hazard(_sign(row) * eta),
    _probit_sup,
    _probit_chord,
    lambda anchor, row: jnp.ones_like(anchor),
)


# Student-t: u = r^2, l = -(nu + 1) / 2 log1p(u / nu), convex in u;
# -l'' = (nu + 1) (nu - u) / (nu + u)^2 / s^2 falls to u = 3 nu, then rises.


def _student_rule(name, df) -> Rule:
    def terms(eta, row):
        nu = df(row)
        constants = gammaln((nu + 1) / 2), -gammaln(nu / 2), -0.5 * jnp.log(nu * np.pi), -jnp.log(row["scale"])
        return *constants, -(nu + 1) / 2 * jnp.log1p(_residual(eta, row) ** 2 / nu)

    def slope(eta, row):
        r, nu = _residual(eta, row), df(row)
        return (nu + 1) * r / (nu + r**2) / row["scale"]

    def sup_curvature(low, high, row):
        rate, nu = 1 / row["scale"], df(row)
        first, last = (row["value"] - high) * rate, (row["value"] - low) * rate
        margin = 8 * _EPSILON * (jnp.abs(row["value"]) + jnp.abs(low) + jnp.abs(high)) * rate
        nearest = jnp.maximum(jnp.maximum(first, -last) - margin, 0.0)
        farthest = jnp.maximum(-first, last) + margin

        def at(r):
            inverse = 1 / (nu + r**2)
            return inverse * ((nu - r**2) * inverse + 16 * _EPSILON)

        return (nu + 1) * rate**2 * jnp.maximum(at(nearest), at(farthest))

    def residual_tangent(u, row):
        nu = df(row)
        return (nu + 1) / (2 * (nu + u))

    def everywhere(anchor, row):
        return 2 * residual_tangent(_residual(anchor, row) ** 2, row) / row["scale"] ** 2 * _UP

    def shortfall(anchor, offset, row):
        """(nu + 1) / 2 (log1p(q - k) + k) with u = q - k = (s^2 - 2 r s) / (nu + r^2), s = t / scale; log1p(u) = u - (u - log1p(u))."""
        nu, r, s = df(row), _residual(anchor, row), offset / row["scale"]
        inverse = 1 / (nu + r**2)
        u = s * (s - 2 * r) * inverse
        return (nu + 1) / 2 * s**2 * inverse, -(nu + 1) / 2 * shortfalls.log1p(u)

    def residual_gap(r, touching, row):
        """(nu + 1) / 2 (x - log1p(x)) with x = (r^2 - touching^2) / (nu + touching^2)."""
        nu, r = df(row), jnp.abs(r)
        return ((nu + 1) / 2 * shortfalls.log1p((r - touching) * (r + touching) / (nu + touching**2)),)

    return Rule(name, terms, slope, sup_curvature, None, everywhere, residual_tangent, residual_gap, shortfall)


STUDENT_T = _student_rule("Student-t", lambda row: row["df"])
CAUCHY = _student_rule("Cauchy", lambda row: 1.0)

RULES: dict[tuple[type, str], Rule] = {
    (discrete.BernoulliLogits, "identity"): BERNOULLI_LOGIT,
    (discrete.BernoulliProbs, "logit"): BERNOULLI_LOGIT,
    (discrete.BernoulliProbs, "probit"): PROBIT,
    (discrete.BinomialLogits, "identity"): BINOMIAL_LOGIT,
    (discrete.BinomialProbs, "logit"): BINOMIAL_LOGIT,
    (dist.NegativeBinomial2, "log"): NEGATIVE_BINOMIAL_LOG,
    (dist.NegativeBinomialLogits, "identity"): NEGATIVE_BINOMIAL_LOGIT,
    (dist.NegativeBinomialProbs, "logit"): NEGATIVE_BINOMIAL_LOGIT,
    (dist.Poisson, "log"): POISSON_LOG,
    (dist.Normal, "identity"): GAUSSIAN,
    (dist.StudentT, "identity"): STUDENT_T,
    (dist.Cauchy, "identity"): CAUCHY,
    (dist.Logistic, "identity"): LOGISTIC_NOISE,
}
"""Rules by (class of the distribution, how its parameter depends on the predictor)."""
