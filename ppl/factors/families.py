"""The likelihood families that are known by name, as functions of a row's linear predictor.

Each is written in the form that loses no digits, which is not always NumPyro's: Bernoulli(probs=sigmoid(eta)) is clipped there where
sigmoid(eta) rounds to 0 or 1, and is not clipped here. Where nothing is clipped the two agree to rounding.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln, log_ndtr
from numpyro.distributions import continuous, discrete
from numpyro.distributions.conjugate import NegativeBinomial2, NegativeBinomialLogits, NegativeBinomialProbs

from ..log_probs import negative_binomial_logits

__all__ = ["KNOWN", "SOFTMAX", "Known", "reference_softmax", "softmax"]

LogLikelihood = Callable[[Any, dict[str, Any], dict[str, Any]], Any]


class Known(NamedTuple):
    """Of a distribution: the parameter that has the predictor, the log likelihood for each link that it may have, the other parameters."""

    parameter: str
    links: dict[str, LogLikelihood]
    others: tuple[str, ...] = ()


def _log_choose(n: Any, k: Any) -> Any:
    return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)


def bernoulli_logit(eta: Any, row: dict[str, Any], shared: dict[str, Any]) -> Any:
    """y eta - log(1 + e^eta)."""
    return -jax.nn.softplus(jnp.where(row["value"] > 0, -eta, eta))


def bernoulli_probit(eta: Any, row: dict[str, Any], shared: dict[str, Any]) -> Any:
    """log Phi((2 y - 1) eta)."""
    return log_ndtr(jnp.where(row["value"] > 0, eta, -eta))


def binomial_logit(eta: Any, row: dict[str, Any], shared: dict[str, Any]) -> Any:
    """y eta - n log(1 + e^eta) + log binom(n, y)."""
    y, n = row["value"], {**row, **shared}["total_count"]
    return -y * jax.nn.softplus(-eta) - (n - y) * jax.nn.softplus(eta) + _log_choose(n, y)


def poisson_log(eta: Any, row: dict[str, Any], shared: dict[str, Any]) -> Any:
    """y eta - e^eta - log y!."""
    return row["value"] * eta - jnp.exp(eta) - gammaln(row["value"] + 1)


def negative_binomial_log(eta: Any, row: dict[str, Any], shared: dict[str, Any]) -> Any:
    """Mean e^eta and concentration k: success has the logit eta - log k."""
    k = {**row, **shared}["concentration"]
    return negative_binomial_logits(row["value"], k, eta - jnp.log(k))


def negative_binomial_logit(eta: Any, row: dict[str, Any], shared: dict[str, Any]) -> Any:
    """y eta - (y + k) log(1 + e^eta) + log binom(y + k - 1, y)."""
    return negative_binomial_logits(row["value"], {**row, **shared}["total_count"], eta)


def normal(eta: Any, row: dict[str, Any], shared: dict[str, Any]) -> Any:
    """-r^2 / 2 - log scale - log(2 pi) / 2, r = (y - eta) / scale."""
    scale = {**row, **shared}["scale"]
    return -0.5 * ((row["value"] - eta) / scale) ** 2 - jnp.log(scale) - 0.5 * jnp.log(2 * jnp.pi)


def student_t(eta: Any, row: dict[str, Any], shared: dict[str, Any]) -> Any:
    """-(df + 1) / 2 log(1 + r^2 / df) - log scale + constant, r = (y - eta) / scale."""
    p = {**row, **shared}
    scale, df = p["scale"], p["df"]
    constant = gammaln((df + 1) / 2) - gammaln(df / 2) - 0.5 * jnp.log(df * jnp.pi)
    return -0.5 * (df + 1) * jnp.log1p(((p["value"] - eta) / scale) ** 2 / df) - jnp.log(scale) + constant


def cauchy(eta: Any, row: dict[str, Any], shared: dict[str, Any]) -> Any:
    """-log(1 + r^2) - log scale - log pi."""
    scale = {**row, **shared}["scale"]
    return -jnp.log1p(((row["value"] - eta) / scale) ** 2) - jnp.log(scale) - jnp.log(jnp.pi)


def logistic(eta: Any, row: dict[str, Any], shared: dict[str, Any]) -> Any:
    """-r - 2 log(1 + e^-r) - log scale."""
    scale = {**row, **shared}["scale"]
    r = jnp.abs((row["value"] - eta) / scale)
    return -r - 2 * jnp.log1p(jnp.exp(-r)) - jnp.log(scale)


def softmax(eta: Any, row: dict[str, Any], shared: dict[str, Any]) -> Any:
    """eta_y - log sum_k e^eta_k; eta: (K,)."""
    return eta[row["value"]] - jax.nn.logsumexp(eta)


def reference_softmax(eta: Any, row: dict[str, Any], shared: dict[str, Any]) -> Any:
    """As `softmax`, of the logits (0, eta); eta: (K - 1,)."""
    return softmax(jnp.concatenate([jnp.zeros_like(eta[:1]), eta]), row, shared)


KNOWN: dict[type, Known] = {
    discrete.BernoulliLogits: Known("logits", {"identity": bernoulli_logit}),
    discrete.BernoulliProbs: Known("probs", {"logit": bernoulli_logit, "probit": bernoulli_probit}),
    discrete.BinomialLogits: Known("logits", {"identity": binomial_logit}, ("total_count",)),
    discrete.BinomialProbs: Known("probs", {"logit": binomial_logit}, ("total_count",)),
    discrete.Poisson: Known("rate", {"log": poisson_log}),
    NegativeBinomial2: Known("mean", {"log": negative_binomial_log}, ("concentration",)),
    NegativeBinomialLogits: Known("logits", {"identity": negative_binomial_logit}, ("total_count",)),
    NegativeBinomialProbs: Known("probs", {"logit": negative_binomial_logit}, ("total_count",)),
    continuous.Normal: Known("loc", {"identity": normal}, ("scale",)),
    continuous.StudentT: Known("loc", {"identity": student_t}, ("df", "scale")),
    continuous.Cauchy: Known("loc", {"identity": cauchy}, ("scale",)),
    continuous.Logistic: Known("loc", {"identity": logistic}, ("scale",)),
}

SOFTMAX = discrete.CategoricalLogits
