"""Likelihoods of a linear predictor, rows to try them on, and an adversary who looks for offsets where a bound fails."""

from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax
from jax.scipy.special import gammaln
from numpyro.distributions import discrete

import luciole as lc
from luciole.inference.flymc.setup import set_up
from luciole.ppl import log_density
from luciole.ppl.factors import Family, find_factor


def _unchecked(distribution, *args, **kwargs):
    return distribution(*args, validate_args=False, **kwargs)


def _bernoulli(eta, row, shared):
    return _unchecked(discrete.BernoulliLogits, eta).log_prob(row["value"])


def _binomial(eta, row, shared):
    """NumPyro's own cancels terms of the size of y eta, which a confident row's tolerance does not allow for."""
    y, n = row["value"], row["total_count"]
    constant = gammaln(n + 1) - gammaln(y + 1) - gammaln(n - y + 1)
    return constant + y * jax.nn.log_sigmoid(eta) + (n - y) * jax.nn.log_sigmoid(-eta)


def _probit(eta, row, shared):
    """JAX's `log_ndtr` jumps by 4e-9 at -20; this form is good down to -37."""
    z = (2 * row["value"] - 1) * eta * np.sqrt(0.5)
    return jnp.where(z < 0, jnp.log(0.5 * lax.erfc(-jnp.minimum(z, 0))), jnp.log1p(-0.5 * lax.erfc(jnp.maximum(z, 0))))


def _poisson(eta, row, shared):
    return _unchecked(dist.Poisson, jnp.exp(eta)).log_prob(row["value"])


def _negative_binomial(eta, row, shared):
    """NumPyro's own is off by a constant of 1e-6, that of its `betaln`."""
    y, k, mean = row["value"], row["concentration"], jnp.exp(eta)
    constant = gammaln(y + k) - gammaln(y + 1) - gammaln(k)
    return constant - k * jnp.log1p(mean / k) - y * jnp.log1p(k / mean)


def _negative_binomial_logits(eta, row, shared):
    return _unchecked(dist.NegativeBinomialLogits, row["total_count"], eta).log_prob(row["value"])


def _of_residual(distribution):
    def log_likelihood(eta, row, shared):
        df = (row["df"],) if "df" in row else ()
        return _unchecked(distribution, *df, eta, row["scale"]).log_prob(row["value"])

    return log_likelihood


def _cloglog(eta, row, shared):
    """A user's likelihood that nothing is known of: P(1) = 1 - exp(-exp(eta))."""
    return jnp.where(row["value"] > 0, jnp.log(-jnp.expm1(-jnp.exp(eta))), -jnp.exp(eta))


def _gamma(eta, row, shared):
    return _unchecked(dist.Gamma, row["shape"], row["shape"] * jnp.exp(-eta)).log_prob(row["value"])


FAMILIES = {
    "bernoulli": Family(discrete.BernoulliLogits, "identity", 1, _bernoulli),
    "binomial": Family(discrete.BinomialLogits, "identity", 1, _binomial),
    "probit": Family(discrete.BernoulliProbs, "probit", 1, _probit),
    "poisson": Family(dist.Poisson, "log", 1, _poisson),
    "negative binomial": Family(dist.NegativeBinomial2, "log", 1, _negative_binomial),
    "negative binomial logits": Family(dist.NegativeBinomialLogits, "identity", 1, _negative_binomial_logits),
    "gaussian": Family(dist.Normal, "identity", 1, _of_residual(dist.Normal)),
    "student": Family(dist.StudentT, "identity", 1, _of_residual(dist.StudentT)),
    "cauchy": Family(dist.Cauchy, "identity", 1, _of_residual(dist.Cauchy)),
    "logistic": Family(dist.Logistic, "identity", 1, _of_residual(dist.Logistic)),
    "cloglog": Family(dist.Delta, "traced", 1, _cloglog),
    "gamma": Family(dist.Gamma, "traced", 1, _gamma),
}


class Problem(NamedTuple):
    """Rows to be bounded: anchors and radii (obs,), parameters by name."""

    family: Family
    anchor: np.ndarray
    radius: np.ndarray
    params: dict[str, np.ndarray]


def problem(name: str, num: int, seed: int = 0, radii=(0.02, 3.0), spread=2.0) -> Problem:
    """Rows with radii log-uniform in `radii` and anchors of standard deviation `spread`."""
    rng = np.random.default_rng(seed)
    anchor = spread * rng.normal(size=num)
    radius = np.exp(rng.uniform(*np.log(radii), num))
    ones = np.ones(num)
    if name in ("bernoulli", "probit", "cloglog"):
        params = {"value": (rng.random(num) < 0.5).astype(float)}
    elif name == "binomial":
        params = {"total_count": 10 * ones, "value": rng.binomial(10, 1 / (1 + np.exp(-anchor))).astype(float)}
    elif name == "poisson":
        params = {"value": rng.poisson(np.exp(anchor)).astype(float)}
    elif name == "negative binomial":
        params = {"value": rng.poisson(3, num).astype(float), "concentration": 2 * ones}
    elif name == "negative binomial logits":
        params = {"value": rng.poisson(3, num).astype(float), "total_count": 2 * ones}
    elif name == "gamma":
        params = {"value": rng.gamma(3, np.exp(anchor) / 3), "shape": 3 * ones}
    else:
        scale = np.exp(0.5 * rng.normal(size=num))
        params = {"value": anchor + scale * rng.standard_t(4, num), "scale": scale}
        params |= {"df": 4 * ones} if name == "student" else {}
    return Problem(FAMILIES[name], anchor, radius, params)


@partial(jax.jit, static_argnums=(0, 1))
def _attack(log_likelihood, points, anchor, radius, params, value, slope):
    """The offset of each row at which the chord is steepest: many points, then golden section around the best; and the chord there."""

    def likelihood(offset):
        return jax.vmap(log_likelihood, (0, 0, None))(anchor + offset, params, {})

    def chord(offset):
        return 2 * (value + slope * offset - likelihood(offset)) / offset**2

    places = np.linspace(-1, 1, points)
    places = np.sort(places[np.abs(places) > 0.02])  # nearer to 0 the quotient is all rounding
    chords = jax.lax.map(lambda s: chord(s * radius), jnp.asarray(places))
    best = jnp.argmax(chords, axis=0)
    low, high = jnp.asarray(places)[jnp.maximum(best - 1, 0)], jnp.asarray(places)[jnp.minimum(best + 1, len(places) - 1)]
    ratio = (np.sqrt(5) - 1) / 2

    def narrow(_, ends):
        low, high = ends
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        better = chord(left * radius) > chord(right * radius)
        return jnp.where(better, low, left), jnp.where(better, right, high)

    low, high = jax.lax.fori_loop(0, 30, narrow, (low, high))
    found = jnp.stack([jnp.asarray(places)[best] * radius, (low + high) / 2 * radius, radius, -radius])
    found = jnp.where(jnp.abs(found) < 1e-3 * radius, radius, found)
    steepness = jax.lax.map(chord, found)
    worst = jnp.argmax(steepness, axis=0)
    offset = jnp.take_along_axis(found, worst[None], axis=0)[0]
    return offset, likelihood(offset), jnp.max(steepness, axis=0)


class Attack(NamedTuple):
    """Each row's worst offset, the likelihood there, and the chord: no curvature below it will do."""

    offset: np.ndarray
    log_likelihood: np.ndarray
    chord: np.ndarray


def attack(tried: Problem, bound, points: int = 401) -> Attack:
    with jax.enable_x64(True):
        wide = {k: jnp.asarray(v, jnp.float64) for k, v in tried.params.items()}
        ends = jnp.asarray(tried.anchor, jnp.float64), jnp.asarray(tried.radius, jnp.float64)
        found = _attack(tried.family.log_likelihood, points, *ends, wide, bound.value, bound.slope)
    return Attack(*map(np.asarray, found))


@pytest.fixture(scope="session")
def bounding():
    return SimpleNamespace(Family=Family, FAMILIES=FAMILIES, Problem=Problem, problem=problem, attack=attack)


@pytest.fixture(scope="session")
def small_logistic():
    """A logistic regression with 60 rows and two coefficients: its set-up, at a softening and a radius."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(60, 2)).astype(np.float32)
    y = (rng.uniform(size=60) < 1 / (1 + np.exp(-x @ [1.0, -0.5]))).astype(np.float32)

    def model(x, y):
        w = lc.sample("w", dist.Normal(0, 2).expand([2]).to_event(1))
        with lc.plate("row", len(x)):
            lc.sample("y", dist.Bernoulli(logits=x @ w), obs=y)

    density = log_density(lc.model(model), x, y)
    factor = find_factor(density)
    return lambda **options: set_up(factor, density, **options)
