"""Runs whose arrays are committed to a device, or spread over a mesh: the same programs elsewhere, and the same draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from numpyro import distributions as dist

from luciole import ppl as lc
from luciole.inference import MCMC, RWM
from luciole.transforms import SamplerError

RNG = np.random.default_rng(0)
DESIGN = RNG.normal(size=(20, 2)).astype(np.float32)
RESPONSE = (DESIGN @ [1.0, 2.0] + RNG.normal(size=20)).astype(np.float32)


def model(x, y=None):
    b = lc.sample("b", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    lc.sample("y", dist.Normal(x @ b, 1.0), obs=y)


def run(data, warmup, **options):
    kernel = RWM(model, step_size=0.5)
    mcmc = MCMC(kernel, num_warmup=warmup, num_samples=5, num_chains=3, progress_bar=False, **options)
    x, y = data
    mcmc.run(jax.random.key(1), x, y=y)
    return np.asarray(mcmc.get_samples()["b"])


@pytest.mark.slow
def test_data_of_another_device_give_the_same_draws():
    """The first run leaves compiled programs behind, which do not fit the second; the third finds those of the first.

    Chains meet in the warm-up, by a program that sees no data.
    """
    first, second, *_ = jax.devices()
    here, there, again = (run(jax.device_put((DESIGN, RESPONSE), device), 60, pool_adaptation=True) for device in (first, second, first))
    np.testing.assert_array_equal(there, here)
    np.testing.assert_array_equal(again, here)


@pytest.mark.slow
def test_data_over_a_mesh():
    """Sums over two devices round otherwise."""
    rows = NamedSharding(jax.make_mesh((2,), ("rows",), axis_types=(AxisType.Auto,)), P("rows"))
    one, two = (run(jax.device_put((DESIGN, RESPONSE), place), warmup=0) for place in (jax.devices()[0], rows))
    np.testing.assert_allclose(two, one, rtol=1e-4)


def test_data_on_different_devices_are_refused():
    first, second, *_ = jax.devices()
    with pytest.raises(SamplerError, match=r"(?s)float32\[.*jax.device_put"):
        run((jax.device_put(DESIGN, first), jax.device_put(RESPONSE, second)), warmup=0)
