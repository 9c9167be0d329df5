"""The sixteen acceptance posteriors written in Luciole, with the site names of their Stan programs.

`POSTERIORS[name]` holds the model and `prepare`, from the data of `data.json` to the model's keyword arguments. Two traps of
these posteriors: a Stan parameter without a prior statement is flat on its support, and garch's `beta1` is flat on the joint triangle.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

import luciole as lc
from luciole import dist

__all__ = ["POSTERIORS", "Posterior"]


class Posterior(NamedTuple):
    """A model and how it gets its arguments: `model(**prepare(data))`."""

    model: Callable[..., Any]
    prepare: Callable[[dict[str, Any]], dict[str, Any]]


POSTERIORS: dict[str, Posterior] = {}


def _posterior(name, prepare):
    def register(model):
        POSTERIORS[name] = Posterior(lc.model(model), prepare)
        return model

    return register


def _float(data, *names):
    return {name: np.asarray(data[name], np.float64) for name in names}


def _flat(name, support=constraints.real, shape=()):
    return lc.sample(name, dist.ImproperUniform(support, (), shape))


# Regressions ----------------------------------------------------------------------------------------------------------------


def _flat_regression(X, y):
    with lc.plate("coefficient", X.shape[1]):
        beta = lc.sample("beta", dist.ImproperUniform(constraints.real, (), ()))
    sigma = _flat("sigma", constraints.positive)
    with lc.plate("observation", len(y)):
        lc.sample("y", dist.Normal(X @ beta, sigma), obs=y)


def _design(*columns):
    return np.column_stack([np.ones(len(columns[0])), *columns])


def _earnings(data):
    d = _float(data, "earn", "height", "male")
    height = (d["height"] - d["height"].mean()) / d["height"].std(ddof=1)
    return {"X": _design(height, d["male"], height * d["male"]), "y": np.log(d["earn"])}


def _mesquite(data):
    d = _float(data, "diam1", "diam2", "canopy_height", "total_height", "group", "weight")
    log = {name: np.log(value) for name, value in d.items() if name != "group"}
    area = log["diam1"] + log["diam2"]
    shape = log["diam1"] - log["diam2"]
    return {
        "X": _design(area + log["canopy_height"], area, shape, log["total_height"], d["group"]),
        "y": log["weight"],
    }


def _nes(data):
    d = _float(data, "real_ideo", "race_adj", "age_discrete", "educ1", "gender", "income", "partyid7")
    age = [(d["age_discrete"] == group).astype(float) for group in (2, 3, 4)]
    return {"X": _design(d["real_ideo"], d["race_adj"], *age, d["educ1"], d["gender"], d["income"]), "y": d["partyid7"]}


_posterior("earnings-logearn_interaction_z", _earnings)(_flat_regression)
_posterior("mesquite-logmesquite_logvash", _mesquite)(_flat_regression)
_posterior("nes1980-nes", _nes)(_flat_regression)


def _kidiq(data):
    d = _float(data, "mom_hs", "mom_iq", "kid_score")
    return {"X": _design(d["mom_hs"], d["mom_iq"]), "y": d["kid_score"]}


@_posterior("kidiq-kidscore_momhsiq", _kidiq)
def kidiq(X, y):
    beta = _flat("beta", shape=(X.shape[1],))
    sigma = lc.sample("sigma", dist.HalfCauchy(2.5))
    with lc.plate("child", len(y)):
        lc.sample("y", dist.Normal(X @ beta, sigma), obs=y)


@_posterior("sblri-blr", lambda data: _float(data, "X", "y"))
def sblri(X, y):
    with lc.plate("coefficient", X.shape[1]):
        beta = lc.sample("beta", dist.Normal(0, 10))
    sigma = lc.sample("sigma", dist.HalfNormal(10))
    with lc.plate("observation", len(y)):
        lc.sample("y", dist.Normal(X @ beta, sigma), obs=y)


def _wells(data):
    return {"X": np.asarray(data["dist"], float)[:, None] / 100, "y": np.asarray(data["switched"], np.int32)}


@_posterior("wells_data-wells_dist100_model", _wells)
def wells(X, y):
    alpha, beta = _flat("alpha"), _flat("beta", shape=(X.shape[1],))
    with lc.plate("household", len(y)):
        lc.sample("y", dist.Bernoulli(logits=alpha + X @ beta), obs=y)


def _dogs(data):
    y = np.asarray(data["y"], np.int32)
    shocks, avoided = np.cumsum(y, 1) - y, np.cumsum(1 - y, 1) - (1 - y)
    return {"shocks": shocks.astype(float), "avoided": avoided.astype(float), "y": y}


@_posterior("dogs-dogs", _dogs)
def dogs(shocks, avoided, y):
    beta = lc.sample("beta", dist.Normal(0, 100).expand([3]).to_event(1))
    with lc.plate("dog", y.shape[0], dim=-2), lc.plate("trial", y.shape[1], dim=-1):
        lc.sample("y", dist.Bernoulli(logits=beta[0] + beta[1] * avoided + beta[2] * shocks), obs=y)


# Hierarchies ----------------------------------------------------------------------------------------------------------------

_SCHOOLS = ["A", "B", "C", "D", "E", "F", "G", "H"]


@_posterior("eight_schools-eight_schools_centered", lambda data: _float(data, "y", "sigma"))
def eight_schools_centered(y, sigma):
    mu = lc.sample("mu", dist.Normal(0, 5))
    tau = lc.sample("tau", dist.HalfCauchy(5))
    with lc.plate("school", len(y), coords=_SCHOOLS):
        theta = lc.sample("theta", dist.Normal(mu, tau))
        lc.sample("y", dist.Normal(theta, sigma), obs=y)


@_posterior("eight_schools-eight_schools_noncentered", lambda data: _float(data, "y", "sigma"))
def eight_schools(y, sigma):
    mu = lc.sample("mu", dist.Normal(0, 5))
    tau = lc.sample("tau", dist.HalfCauchy(5))
    with lc.plate("school", len(y), coords=_SCHOOLS):
        theta_trans = lc.sample("theta_trans", dist.Normal(0, 1))
        theta = lc.deterministic("theta", mu + tau * theta_trans)
        lc.sample("y", dist.Normal(theta, sigma), obs=y)


def _radon(data):
    return {
        "num_counties": int(data["J"]), "county": np.asarray(data["county_idx"], np.int32) - 1,
        "uranium": np.asarray(data["log_uppm"], float), "floor": np.asarray(data["floor_measure"], float),
        "y": np.asarray(data["log_radon"], float),
    }  # fmt: skip


@_posterior("radon_mn-radon_hierarchical_intercept_noncentered", _radon)
def radon(num_counties, county, uranium, floor, y):
    sigma_y = lc.sample("sigma_y", dist.HalfNormal(1))
    beta = lc.sample("beta", dist.Normal(0, 10).expand([2]).to_event(1))
    mu_alpha = lc.sample("mu_alpha", dist.Normal(0, 10))
    sigma_alpha = lc.sample("sigma_alpha", dist.HalfNormal(1))
    with lc.plate("county", num_counties, coords=range(1, num_counties + 1)):
        alpha_raw = lc.sample("alpha_raw", dist.Normal(0, 1))
        alpha = lc.deterministic("alpha", mu_alpha + sigma_alpha * alpha_raw)
    with lc.plate("house", len(y)):
        lc.sample("y", dist.Normal(alpha[county] + uranium * beta[0] + floor * beta[1], sigma_y), obs=y)


# Time series ----------------------------------------------------------------------------------------------------------------


def _lags(data):
    y, order = np.asarray(data["y"], float), int(data["K"])
    lags = np.column_stack([y[order - lag : len(y) - lag] for lag in range(1, order + 1)])
    return {"lags": lags, "y": y[order:]}


@_posterior("arK-arK", _lags)
def autoregression(lags, y):
    alpha = lc.sample("alpha", dist.Normal(0, 10))
    with lc.plate("lag", lags.shape[1], coords=range(1, lags.shape[1] + 1)):
        beta = lc.sample("beta", dist.Normal(0, 10))
    sigma = lc.sample("sigma", dist.HalfCauchy(2.5))
    with lc.plate("time", len(y)):
        lc.sample("y", dist.Normal(alpha + lags @ beta, sigma), obs=y)


@_posterior("arma-arma11", lambda data: _float(data, "y"))
def arma(y):
    """Observations are sampled inside the scan that carries the last innovation."""
    mu = lc.sample("mu", dist.Normal(0, 10))
    phi = lc.sample("phi", dist.Normal(0, 2))
    theta = lc.sample("theta", dist.Normal(0, 2))
    sigma = lc.sample("sigma", dist.HalfCauchy(2.5))

    def step(error, values):
        before, now = values
        mean = mu + phi * before + theta * error
        lc.sample("y", dist.Normal(mean, sigma), obs=now)
        return now - mean, None

    first = mu + phi * mu
    lc.sample("y_0", dist.Normal(first, sigma), obs=y[0])
    jax.lax.scan(step, y[0] - first, (y[:-1], y[1:]))


def _garch(data):
    return {"y": np.asarray(data["y"], float), "sigma1": float(data["sigma1"])}


@_posterior("garch-garch11", _garch)
def garch(y, sigma1):
    mu = _flat("mu")
    alpha0 = _flat("alpha0", constraints.positive)
    alpha1 = lc.sample("alpha1", dist.Uniform(0, 1))
    beta1_u = lc.sample("beta1_u", dist.Uniform(0, 1))
    beta1 = lc.deterministic("beta1", beta1_u * (1 - alpha1))
    lc.factor("triangle", jnp.log1p(-alpha1))  # flat on alpha1 + beta1 < 1, not on beta1 given alpha1

    def step(variance, values):
        before, now = values
        variance = alpha0 + alpha1 * (before - mu) ** 2 + beta1 * variance
        lc.sample("y", dist.Normal(mu, jnp.sqrt(variance)), obs=now)
        return variance, None

    lc.sample("y_0", dist.Normal(mu, sigma1), obs=y[0])
    jax.lax.scan(step, jnp.asarray(sigma1**2, y.dtype), (y[:-1], y[1:]))


@_posterior("hmm_example-hmm_example", lambda data: _float(data, "y"))
def hidden_markov(y):
    """The forward algorithm; as in the Stan program the first state has no distribution."""
    theta1 = lc.sample("theta1", dist.Dirichlet(jnp.ones(2)))
    theta2 = lc.sample("theta2", dist.Dirichlet(jnp.ones(2)))
    mu = _flat("mu", constraints.positive_ordered_vector, (2,))
    lc.factor("prior_mu", dist.Normal(jnp.array([3.0, 10.0]), 1).log_prob(mu))
    transition = jnp.log(jnp.stack([theta1, theta2]))
    emission = dist.Normal(mu, 1.0).log_prob(y[:, None])

    def step(forward, emitted):
        return jax.nn.logsumexp(forward[:, None] + transition, axis=0) + emitted, None

    forward, _ = jax.lax.scan(step, emission[0], emission[1:])
    lc.factor("y", jax.nn.logsumexp(forward))


# A mixture and a Gaussian process -------------------------------------------------------------------------------------------


@_posterior("low_dim_gauss_mix-low_dim_gauss_mix", lambda data: _float(data, "y"))
def mixture(y):
    mu = _flat("mu", constraints.ordered_vector, (2,))
    lc.factor("prior_mu", dist.Normal(0, 2).log_prob(mu))
    with lc.plate("component", 2):
        sigma = lc.sample("sigma", dist.HalfNormal(2))
    theta = lc.sample("theta", dist.Beta(5, 5))
    weights = dist.Categorical(probs=jnp.stack([theta, 1 - theta]))
    with lc.plate("observation", len(y)):
        lc.sample("y", dist.MixtureSameFamily(weights, dist.Normal(mu, sigma)), obs=y)


@_posterior("gp_pois_regr-gp_regr", lambda data: _float(data, "x", "y"))
def gaussian_process(x, y):
    rho = lc.sample("rho", dist.Gamma(25, 4))
    alpha = lc.sample("alpha", dist.HalfNormal(2))
    sigma = lc.sample("sigma", dist.HalfNormal(1))
    covariance = alpha**2 * jnp.exp(-0.5 * ((x[:, None] - x) / rho) ** 2) + sigma * jnp.eye(
        len(x)
    )  # sigma, not its square
    lc.sample("y", dist.MultivariateNormal(jnp.zeros(len(x)), covariance), obs=y)
