"""Posteriors of three rows, whose moments are known by quadrature, and calibration over data sets drawn from a prior."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import luciole as lc
from luciole import dist
from luciole.inference.flymc.conditional import Conditional
from luciole.inference.flymc.setup import set_up
from luciole.ppl.factors import find_factor

pytestmark = pytest.mark.filterwarnings("ignore::luciole.inference.flymc.kernel.BreakEvenWarning")


def logistic(x, y):
    w = lc.sample("w", dist.Normal(0, 1.2).expand([2]).to_event(1))
    with lc.plate("row", 3):
        lc.sample("y", dist.Bernoulli(logits=x @ w), obs=y)


def robust(x, y):
    w = lc.sample("w", dist.Laplace(0, 2.2).expand([2]).to_event(1))
    with lc.plate("row", 3):
        lc.sample("y", dist.StudentT(4.0, x @ w, 1.0), obs=y)


def softmax(x, y):
    w = lc.sample("w", dist.Normal(0, 1.1).expand([1, 2]).to_event(2))
    with lc.plate("row", 3):
        lc.sample("y", dist.Categorical(logits=x @ w), obs=y)


TOYS = {
    "logistic": (logistic, [[2.2, 1.7], [-1.5, 2.9], [1.4, -1.2]], [1.0, 0.0, 1.0]),
    "robust": (robust, [[-0.7, -0.8], [-1.1, 1.5], [-0.2, -0.2]], [0.5, 1.6, -3.0]),
    "softmax": (softmax, [[0.4], [1.7], [-0.6]], [0, 0, 1]),
}
# Maclaurin & Adams's own reference values: means, E w1^2, E w1 w2, E w2^2.
PUBLISHED = {
    "logistic": (1.323, -0.374, 2.439, -0.460, 0.749),
    "robust": (-0.559, 0.474, 1.181, 0.010, 0.775),
    "softmax": (0.740, -0.740, 1.479, -0.269, 1.479),
}


def functions(w):
    return np.stack([w[..., 0], w[..., 1], w[..., 0] ** 2, w[..., 0] * w[..., 1], w[..., 1] ** 2], -1)


def quadrature(density, setup):
    """The moments, and the expected number of bright rows."""
    grid = np.linspace(-25, 25, 501)
    w = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)
    f, conditional = setup.bound_data, setup.conditional
    with jax.enable_x64(True):

        def one(w):
            log_prior, natural = conditional.natural(f, w)
            every = jnp.arange(3)
            seen = conditional.evaluate(f, every, f.rows.astype(jnp.float64), every >= 0, natural, finite=False)
            gap = conditional.effective_gap(f, every, seen.gap, conditional.holds(f, natural))
            return log_prior + conditional.whole(f, natural, False), -jnp.expm1(-gap).sum()

        log_p, bright = (np.asarray(v) for v in jax.jit(lambda w: jax.lax.map(one, w, batch_size=4096))(w))
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    return functions(w).T @ p, np.nansum(bright * p)


@pytest.mark.parametrize(
    ("name", "iterations"),
    [
        pytest.param("logistic", 100_000, marks=pytest.mark.exhaustive),
        *(pytest.param(name, 1_000_000, marks=pytest.mark.exhaustive) for name in TOYS),
    ],
)
def test_moments_of_the_toys(name, iterations):
    model, x, y = TOYS[name]
    x, y = np.asarray(x, np.float32), np.asarray(y, np.int32 if name == "softmax" else np.float32)
    options = {"softening": 2.0, "radius": 2.5}
    density = lc.log_density(lc.model(model), x, y)
    expected, bright = quadrature(density, set_up(find_factor(density), density, **options))
    np.testing.assert_allclose(expected, PUBLISHED[name], atol=2e-3)
    mcmc = lc.MCMC(
        lc.FlyMC(model, kernel_options=options), num_warmup=500, num_samples=iterations // 100, num_chains=100, progress_bar=False
    )
    mcmc.run(jax.random.key(0), x, y)
    chains = functions(mcmc.get_samples(group_by_chain=True)["w"].astype(float).reshape(100, -1, 2)).mean(1)
    chains = np.column_stack([chains, mcmc.sample_stats["n_bright"].mean(1)])
    z = (chains.mean(0) - [*expected, bright]) / (chains.std(0, ddof=1) / 10)
    assert np.abs(z).max() < 4, z


def small(x, y=None):
    w = lc.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    with lc.plate("row", len(x)):
        lc.sample("y", dist.Bernoulli(logits=x @ w), obs=y)


def ranks(simulations=120, chains=4, draws=25):
    """Of the true coefficients among draws, (simulations, 2)."""
    rng = np.random.default_rng(8)
    x = (1.5 * rng.normal(size=(40, 2))).astype(np.float32)
    found = []
    for number in range(simulations):
        truth = rng.normal(size=2)
        y = (rng.uniform(size=40) < 1 / (1 + np.exp(-x @ truth))).astype(np.float32)
        kernel = lc.FlyMC(small, kernel_options={"softening": 6.0, "radius": 1.5})
        mcmc = lc.MCMC(kernel, num_warmup=100, num_samples=12 * draws, thinning=12, num_chains=chains, progress_bar=False)
        found.append((mcmc.run(jax.random.key(number), x, y).get_samples()["w"] < truth).sum(0))
    return np.array(found), chains * draws


def uniformity(found, most):
    counts = np.histogram(found, bins=np.linspace(-0.5, most + 0.5, 9))[0]
    expected = np.diff(np.floor(np.linspace(-0.5, most + 0.5, 9) + 0.5).clip(0, most + 1))
    return stats.chisquare(counts, expected / expected.sum() * found.size).pvalue


@pytest.mark.exhaustive
def test_calibration_over_simulated_data():
    found, most = ranks()
    assert min(uniformity(found[:, 0], most), uniformity(found[:, 1], most)) > 1e-3


@pytest.mark.exhaustive
def test_calibration_sees_a_truncated_posterior(monkeypatch):
    def truncated(self, bound_data, natural, skip):
        return jnp.where(skip, jnp.float64(0), -jnp.inf)

    monkeypatch.setattr(Conditional, "whole", truncated)
    monkeypatch.setattr(Conditional, "__hash__", lambda self: hash((self.kind, self.rest, "truncated")), raising=False)
    start = lc.FlyMC.fit
    monkeypatch.setattr(
        lc.FlyMC, "fit", lambda *a: (f := start(*a))._replace(starts=0 * f.starts + np.asarray(f.tuning.options["bound_data"].centre))
    )
    found, most = ranks()
    assert min(uniformity(found[:, 0], most), uniformity(found[:, 1], most)) < 1e-4
