"""A log density that loses more than a nat to rounding is announced, with its site, while the model is traced."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import luciole as lc
from luciole import dist

COUNTS = np.array([3, 5, 6, 4, 7, 8, 2])
LIMIT = {
    "negative binomial": (lambda c: dist.NegativeBinomial2(5.0, c), "concentration of NegativeBinomial2"),
    "gamma-Poisson": (lambda c: dist.GammaPoisson(c, c / 5.0), "concentration of GammaPoisson"),
    "beta-binomial": (lambda c: dist.BetaBinomial(c, c, 10), "concentration0 of BetaBinomial"),
    "Student-t": (lambda c: dist.StudentT(c, 5.0, 2.0), "df of StudentT"),
    "one of several": (lambda c: dist.NegativeBinomial2(5.0, np.where(np.arange(7) == 3, c, 2.0)), "concentration of NegativeBinomial2"),
    "within wrappers": (lambda c: dist.StudentT(c, 5.0, 2.0).expand([7]).mask(True).to_event(1), "df of StudentT"),
}


def model(distribution):
    level = lc.sample("level", dist.Normal(0.0, 1.0))
    lc.deterministic("shown", level)
    observed = COUNTS if distribution.support.is_discrete else COUNTS.astype(float)
    lc.sample("y", distribution, obs=observed)


@pytest.mark.parametrize("name", LIMIT)
def test_a_large_parameter_is_announced(name):
    make, words = LIMIT[name]
    with pytest.warns(lc.PrecisionWarning, match=rf"site 'y': the {words} is 1e.08\. .*jax_enable_x64"):
        lc.trace(model, make(1e8))


@pytest.mark.slow
@pytest.mark.parametrize("name", LIMIT)
def test_what_is_computed_well_is_not(name, x64):
    make, _ = LIMIT[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lc.trace(model, make(1e8))
    with jax.enable_x64(False), warnings.catch_warnings():
        warnings.simplefilter("error")
        lc.trace(model, make(1e5))


@pytest.mark.slow
def test_the_fault_is_numpyros():
    """If this fails, NumPyro computes it well, and the warning and the page's paragraph can go."""
    single = float(jnp.sum(dist.NegativeBinomial2(5.0, 1e8).log_prob(COUNTS)))
    with jax.enable_x64(True):
        double = float(jnp.sum(dist.NegativeBinomial2(np.float64(5.0), np.float64(1e8)).log_prob(COUNTS)))
    assert abs(single - double) > 1
