"""First and second moments against NUTS on all rows: huge counts, columns of any units, survey weights, hierarchies. In float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro import handlers

import luciole as lc
from luciole import dist

pytestmark = [
    pytest.mark.exhaustive,
    pytest.mark.filterwarnings("ignore::luciole.inference.flymc.kernel.BreakEvenWarning"),
    pytest.mark.usefixtures("x64"),
]
NUM, GROUPS = 300, 12
RNG = np.random.default_rng(11)
X = np.concatenate([np.ones((NUM, 1)), RNG.normal(size=(NUM, 2))], 1)
GROUP = RNG.integers(0, GROUPS, NUM)
EFFECT = 0.7 * RNG.normal(size=GROUPS)


def coefficients(x, scale):
    return lc.sample("w", dist.Normal(jnp.zeros(x.shape[1]), scale).to_event(1))


def poisson(x, y, scale):
    w = coefficients(x, scale)
    with lc.plate("row", len(x)):
        lc.sample("y", dist.Poisson(jnp.exp(x @ w)), obs=y)


def binomial(x, y, scale):
    w = coefficients(x, scale)
    with lc.plate("row", len(x)):
        lc.sample("y", dist.Binomial(10**6, logits=x @ w), obs=y)


def logistic(x, y, scale):
    w = coefficients(x, scale)
    with lc.plate("row", len(x)):
        lc.sample("y", dist.Bernoulli(logits=x @ w), obs=y)


def weighted(x, y, scale):
    w = coefficients(x, scale)
    with lc.plate("row", len(x)), handlers.scale(scale=jnp.asarray(WEIGHTS)):
        lc.sample("y", dist.Bernoulli(logits=x @ w), obs=y)


WEIGHTS = RNG.gamma(2.0, 0.5, NUM)
YEAR = np.stack([np.ones(NUM), 1990.0 + RNG.integers(0, 30, NUM), X[:, 1]], 1)
SECONDS = np.stack([np.ones(NUM), 1.7e9 + RNG.uniform(0, 3e7, NUM), X[:, 1]], 1)
ETA = X @ [0.0, 0.3, -0.2]
BINARY = (RNG.uniform(size=NUM) < 1 / (1 + np.exp(-ETA))) * 1.0
CASES = {
    "poisson 1e2": (poisson, X, RNG.poisson(1e2 * np.exp(ETA)) * 1.0),
    "poisson 1e4": (poisson, X, RNG.poisson(1e4 * np.exp(ETA)) * 1.0),
    "poisson 1e6": (poisson, X, RNG.poisson(1e6 * np.exp(ETA)) * 1.0),
    "binomial 1e6": (binomial, X, RNG.binomial(10**6, 1 / (1 + np.exp(-ETA))) * 1.0),
    "year": (logistic, YEAR, BINARY),
    "seconds": (logistic, SECONDS, BINARY),
    "weights": (weighted, X, BINARY),
}


def reference(density, centre, half):
    """The posterior in coordinates in which it is round: NUTS would not find its way in those of the columns."""
    v = lc.sample("v", dist.ImproperUniform(dist.constraints.real_vector, (), (len(centre),)))
    lc.factor("density", density({"w": centre + half @ v}))


def sampled(kernel, *data, draws=3000):
    mcmc = lc.MCMC(kernel, num_warmup=500, num_samples=draws, num_chains=8, progress_bar=False)
    return mcmc.run(jax.random.key(3), *data)


def z_scores(one, other, batches=10):
    """Of means and of mean squares about a common point, (chain, draw, k) each, by means of batches of both."""
    middle, size = other.mean((0, 1)), other.std((0, 1))
    found = []
    for power in (1, 2):
        parts = [(((x - middle) / size) ** power).reshape(8 * batches, -1, x.shape[-1]).mean(1) for x in (one, other)]
        error = np.sqrt(sum(p.var(0, ddof=1) / len(p) for p in parts))
        found.append((parts[0].mean(0) - parts[1].mean(0)) / error)
    return np.concatenate(found)


@pytest.mark.parametrize("name", CASES)
def test_coefficients(name):
    model, x, y = CASES[name]
    scale = 30 / np.abs(x).max(0)
    fly = sampled(lc.FlyMC(model, kernel_options={"softening": 16.0}), x, y, scale)
    ours = fly.get_samples(group_by_chain=True)["w"]
    flat = ours.reshape(-1, x.shape[1])
    centre, half = flat.mean(0), np.linalg.cholesky(np.cov(flat.T, dtype=np.longdouble).astype(float))
    density = lc.log_density(lc.model(model), x, y, scale)
    nuts = sampled(lc.NUTS(reference), density, centre, half)
    z = z_scores(np.linalg.solve(half, (ours - centre)[..., None])[..., 0], nuts.get_samples(group_by_chain=True)["v"])
    print(name, "z", np.abs(z).max(), "bright", fly.sample_stats["n_bright"].mean())
    assert np.abs(z).max() < 4


def hierarchy(x, group, y, centred):
    mu, tau = lc.sample("mu", dist.Normal(0, 2)), lc.sample("tau", dist.HalfNormal(1.0))
    w = lc.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    with lc.plate("group", GROUPS):
        if centred:
            effect = lc.sample("effect", dist.Normal(mu, tau))
        else:
            effect = lc.deterministic("effect", mu + tau * lc.sample("z", dist.Normal(0, 1)))
    with lc.plate("row", len(x)):
        lc.sample("y", dist.Bernoulli(logits=x @ w + effect[group]), obs=y)


@pytest.mark.parametrize("centred", [True, False])
def test_hierarchies(centred):
    y = (np.random.default_rng(2).uniform(size=NUM) < 1 / (1 + np.exp(-ETA - EFFECT[GROUP]))) * 1.0

    def model(x, group, y):
        hierarchy(x, group, y, centred)

    def reference(x, group, y):
        hierarchy(x, group, y, False)

    fly = sampled(lc.FlyMC(model, kernel_options={"softening": 2.0}), X[:, 1:], GROUP, y, draws=6000).get_samples(group_by_chain=True)
    nuts = sampled(lc.NUTS(reference, target_accept_prob=0.95), X[:, 1:], GROUP, y).get_samples(group_by_chain=True)
    names = ("mu", "tau", "w", "effect")
    one, other = (np.concatenate([d[n].reshape(*d[n].shape[:2], -1) for n in names], -1) for d in (fly, nuts))
    z = z_scores(one, other)
    print("centred" if centred else "non-centred", "z", np.abs(z).max())
    assert np.abs(z).max() < 4
