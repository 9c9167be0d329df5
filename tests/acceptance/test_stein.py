"""Densities against exact draws by Stein's identity; no sampler plays a part. Each has a broken twin without its Jacobian.

The density of a model without observations is that of its prior, which NumPy draws from: a second implementation of every model.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from judge import WithoutJacobian, stein

import luciole as lc
from luciole import dist

pytestmark = pytest.mark.usefixtures("x64")
NUM_DRAWS = 20_000


def supports():
    """One site for each kind of support."""
    scale = lc.sample("scale", dist.Gamma(3.0, 2.0))
    lc.sample("real", dist.Normal(1.0, scale))
    lc.sample("interval", dist.Uniform(-1.0, 2.0))
    lc.sample("unit", dist.Beta(2.0, 3.0))
    lc.sample("simplex", dist.Dirichlet(jnp.array([2.0, 3.0, 4.0])))
    lc.sample(
        "above",
        dist.TransformedDistribution(dist.Exponential(1.0), dist.transforms.AffineTransform(0.5, 2.0, domain=dist.constraints.positive)),
    )


def draws_of_supports(rng, n):
    scale = rng.gamma(3.0, 1 / 2.0, n)
    return {
        "scale": scale, "real": rng.normal(1.0, scale), "interval": rng.uniform(-1.0, 2.0, n), "unit": rng.beta(2.0, 3.0, n),
        "simplex": rng.dirichlet([2.0, 3.0, 4.0], n), "above": 0.5 + 2.0 * rng.exponential(1.0, n),
    }  # fmt: skip


def hierarchy():
    """Nested plates, a scale for each group, and a bound that depends on another site."""
    mean = lc.sample("mean", dist.Normal(0.0, 1.0))
    with lc.plate("group", 3, dim=-2):
        scale = lc.sample("scale", dist.LogNormal(0.0, 0.5))
        with lc.plate("member", 2, dim=-1):
            effect = lc.sample("effect", dist.Normal(mean, scale))
    lc.sample("share", dist.Uniform(0.0, jnp.exp(0.5 * effect[0, 0])))


def draws_of_hierarchy(rng, n):
    mean = rng.normal(0.0, 1.0, n)
    scale = rng.lognormal(0.0, 0.5, (n, 3, 1))
    effect = rng.normal(mean[:, None, None], scale, (n, 3, 2))
    return {"mean": mean, "scale": scale, "effect": effect, "share": rng.uniform(0.0, np.exp(0.5 * effect[:, 0, 0]))}


def volatility():
    """Sites inside a scan, one of them positive."""
    persistence = lc.sample("persistence", dist.Uniform(0.0, 1.0))

    def step(log_variance, _):
        log_variance = persistence * log_variance + lc.sample("shock", dist.Normal(0.0, 0.5))
        lc.sample("variance", dist.Gamma(4.0, 4.0 * jnp.exp(-log_variance)))
        return log_variance, None

    jax.lax.scan(step, jnp.zeros(()), None, length=4)


def draws_of_volatility(rng, n):
    persistence, shock = rng.uniform(0.0, 1.0, n), rng.normal(0.0, 0.5, (n, 4))
    log_variance, variances = np.zeros(n), []
    for t in range(4):
        log_variance = persistence * log_variance + shock[:, t]
        variances.append(rng.gamma(4.0, np.exp(log_variance) / 4.0))
    return {"persistence": persistence, "shock": shock, "variance": np.stack(variances, 1)}


MODELS = {
    "supports": (supports, draws_of_supports),
    "hierarchy": (hierarchy, draws_of_hierarchy),
    "volatility": (volatility, draws_of_volatility),
}


@pytest.fixture(params=MODELS)
def exact(request, x64):
    """A density and exact draws from it."""
    model, draw = MODELS[request.param]
    return lc.log_density(model), draw(np.random.default_rng(1), NUM_DRAWS)


def test_the_density_is_that_of_its_exact_draws(exact):
    density, draws = exact
    verdict = stein(density, draws)
    assert verdict.passed, verdict


def test_a_density_without_its_jacobian_is_not(exact):
    density, draws = exact
    verdict = stein(WithoutJacobian.of(density), draws)
    assert not verdict.passed, verdict
