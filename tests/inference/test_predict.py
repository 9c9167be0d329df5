"""`lc.predict` of a finished run, and runs on data with missing values: exact moments, and the page that explains them."""

import re
import warnings
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import luciole as lc
from luciole import dist
from luciole.transforms import SamplerError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "missing-data-and-forecasts.md"
KEY = jax.random.key(0)
GIVEN = np.ones(40, bool)
GIVEN[[3, 17]] = False
Y = np.where(GIVEN, 1.0 + np.random.default_rng(0).standard_normal(40), np.nan)


def means(y, given):
    m = lc.sample("m", dist.Normal(0.0, 1.0))
    with lc.plate("n", len(y)):
        lc.sample("y", dist.Normal(m, 1.0), obs=y, obs_mask=given)


def local_level(y):
    def step(level, y_t):
        level = lc.sample("level", dist.Normal(level, 0.5))
        lc.sample("y", dist.Normal(level, 1.0), obs=y_t, obs_mask=~jnp.isnan(y_t))
        return level, None

    jax.lax.scan(step, 0.0, y)


def run(model, *args, num_samples=2000, **options):
    options = {"num_warmup": 300, "num_chains": 2, "progress_bar": False, **options}
    return lc.MCMC(lc.NUTS(model), num_samples=num_samples, **options).run(KEY, *args)


def joint(size, given):
    """Mean and covariance of levels and observations of `local_level`, given those that are not NaN: a matrix inverse, no filter."""
    steps = np.arange(1.0, size + 1.0)
    levels = 0.25 * np.minimum.outer(steps, steps)
    prior = np.block([[levels, levels], [levels, levels + np.eye(size)]])
    seen = np.r_[np.zeros(size, bool), ~np.isnan(given)]
    gain = prior[:, seen] @ np.linalg.inv(prior[np.ix_(seen, seen)])
    return gain @ given[~np.isnan(given)], prior - gain @ prior[seen]


@pytest.mark.slow
def test_missing_values_cost_no_more_than_other_latent_sites():
    mcmc = run(means, Y, GIVEN, num_samples=500)
    assert mcmc.sample_stats["n_steps"].mean() < 10
    samples = mcmc.get_samples()
    assert {n: v.shape for n, v in samples.items()} == {"m": (1000,), "y_unobserved": (1000, 2), "y": (1000, 40)}
    posterior = np.nansum(Y) / 39
    assert abs(samples["m"].mean() - posterior) < 5 * 0.16 / np.sqrt(300)
    assert np.abs(samples["y_unobserved"].mean(0) - posterior).max() < 5 * 1.02 / np.sqrt(300)
    results = mcmc.to_arviz()
    likelihood = np.asarray(results["log_likelihood"]["y_observed"])
    assert np.isfinite(likelihood).sum() == 1000 * 38
    np.testing.assert_array_equal(np.isnan(np.asarray(results["observed_data"]["y_observed"])), ~GIVEN)
    assert results["posterior"]["y"].dims == ("chain", "draw", "n")
    assert mcmc.diagnose().ok
    with pytest.raises(SamplerError, match=r"the value of 'y' at \(3,\) was missing and has draws; now it is given"):
        lc.predict(mcmc, KEY, np.nan_to_num(Y), np.roll(GIVEN, 1))


@pytest.mark.slow
def test_a_forecast_has_the_moments_of_the_conditional_distribution():
    y = np.array([0.5, 1.5, np.nan, 2.0, 1.0])
    longer = np.r_[y, np.full(3, np.nan)]
    mcmc = run(local_level, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = lc.predict(mcmc, KEY, longer)
    mean, covariance = joint(8, longer)
    sd = np.sqrt(covariance.diagonal().clip(0))
    for name, part in (("level", slice(0, 8)), ("y", slice(8, 16))):
        found = drawn[name]
        assert found.shape == (4000, 8)
        error = 5 * sd[part] / np.sqrt(1000)  # an effective size that the run exceeds by far
        np.testing.assert_array_less(np.abs(found.mean(0) - mean[part]), error + 1e-6, err_msg=name)
        np.testing.assert_allclose(found.std(0), sd[part], rtol=0.12, atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(drawn["y_unobserved"], drawn["y"][:, np.isnan(longer)])


@pytest.mark.slow
def test_the_page():
    """Its blocks in one namespace, with few draws of the kernel that compiles soonest."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) >= 8
    few = partial(lc.MCMC, num_warmup=30, num_samples=10, num_chains=2, progress_bar=False)
    space: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lc, "MCMC", few)
        patch.setattr(lc, "NUTS", lc.RWM)
        for block in blocks:
            exec(compile(block, str(PAGE), "exec"), space)
    assert space["new"].shape == (20, 3)
    assert space["replicates"].shape == (20, 40)
    assert space["forecast"].shape == (20, 5)
    assert space["ahead"]["level"].shape == (20, 35)
    assert np.isfinite(space["ahead"]["y"]).all()
