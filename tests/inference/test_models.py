"""Chains on real models: what a model's density and a sampler agree on."""

import jax
import numpy as np
import numpyro.distributions as dist
import pytest

from luciole import ppl
from luciole.inference import MCMC, NUTS
from luciole.transforms import InitError, ModelError

Y = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], np.float32)
SIGMA = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0], np.float32)
pytestmark = pytest.mark.filterwarnings("ignore::luciole.inference.DivergenceWarning")


@pytest.fixture(autouse=True)
def promotion():
    """Models and NumPyro's distributions mix integers and floats."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def fresh_model():
    def eight_schools(J, sigma, y=None):
        mu = ppl.sample("mu", dist.Normal(0, 5))
        tau = ppl.sample("tau", dist.HalfCauchy(5))
        with ppl.plate("school", J):
            z = ppl.sample("z", dist.Normal(0, 1))
            theta = ppl.deterministic("theta", mu + tau * z)
            ppl.sample("y", dist.Normal(theta, sigma), obs=y)

    return eight_schools


def run(key, y=Y, init_params=None, num_warmup=300, num_samples=500, **options):
    mcmc = MCMC(NUTS(fresh_model(), **options), num_warmup=num_warmup, num_samples=num_samples, progress_bar=False)
    return mcmc.run(key, 8, SIGMA, y=y, init_params=init_params)


def test_eight_schools_and_a_second_run_that_compiles_nothing(backend_compiles):
    keys = [jax.random.key(seed) for seed in range(2)]
    samples = run(keys[0]).get_samples()
    assert list(samples) == ["mu", "tau", "z", "theta"]
    assert samples["theta"].shape == (2000, 8) and (samples["tau"] > 0).all()
    np.testing.assert_allclose(samples["theta"], samples["mu"][:, None] + samples["tau"][:, None] * samples["z"], rtol=1e-4, atol=1e-4)
    # Reference: 4.4 +- 3.3 and 3.6 +- 3.2, with at least 400 effective draws.
    assert abs(samples["mu"].mean() - 4.4) < 5 * 3.3 / 20
    assert abs(samples["tau"].mean() - 3.6) < 5 * 3.2 / 20
    before = len(backend_compiles)
    moved = run(keys[1], y=Y + 100, num_samples=700).get_samples()
    assert len(backend_compiles) == before
    assert moved["theta"].mean() > 30, "the new data were not used"


@pytest.mark.slow
def test_start_values_by_chain():
    tau = np.array([0.5, 1.0, 2.0, 4.0])
    strategy = ppl.init_to_value({"tau": tau})
    mcmc = run(jax.random.key(0), num_warmup=0, num_samples=1, step_size=1e-6, init_strategy=strategy)
    np.testing.assert_allclose(mcmc.get_samples()["tau"], tau, rtol=0.01)


@pytest.mark.slow
def test_median_start():
    mcmc = run(jax.random.key(0), num_warmup=0, num_samples=1, step_size=1e-6, init_strategy=ppl.init_to_median())
    assert (np.abs(mcmc.get_samples()["z"]) < 1.5).all()


def test_no_start_names_the_site():
    wrong = {"mu": np.inf, "tau": 0.0, "z": np.zeros(8)}
    with pytest.raises(InitError, match=r"(?s)'mu': log density -inf, value inf.*init_to_median"):
        run(jax.random.key(0), init_params=wrong)


def test_bad_data_are_refused_before_sampling():
    with pytest.raises(ModelError, match="NaN"):
        run(jax.random.key(0), y=Y * np.nan)
