"""Bad arguments of what takes a model: positions, starting values, random keys, samples. Each message says so."""

import re

import jax
import numpy as np
import pytest
from numpyro import distributions as dist

from luciole import ppl as lc
from luciole.transforms import InitError, ModelError, SamplerError


def latent():
    return lc.sample("x", dist.Normal(0.0, 1.0))


@pytest.mark.parametrize(
    ("position", "words"),
    [
        ({}, "needs a value for the latent site 'x'"),
        ({"x": 0.0, "z": 1.0}, "no latent site 'z'"),
        ({"x": np.zeros(2)}, "site 'x': the position has shape (2,), expected ()"),
    ],
)
def test_bad_positions(position, words):
    density = lc.log_density(latent)
    for call in (density, density.constrain):
        with pytest.raises(ModelError, match=re.escape(words)):
            call(position)
    with pytest.raises(ModelError, match="no entry for the latent site 'x'"):
        density.unconstrain({})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: lc.init_to_value({"z": 0.0}), "no latent site 'z'"),
        (lambda: lc.init_to_value({"x": np.zeros(3)}), "shape (3,); expected ()"),
        (lambda: lc.init_to_value({"x": np.nan}), "'x' is not finite"),
        (lambda: lc.init_to_value([1.0]), "found a list"),
        (lambda: lc.init_to_uniform(-1.0), "radius is -1.0"),
        (lambda: lc.init_to_uniform(float("nan")), "radius is nan"),
        (lambda: lc.init_to_median(0), "num_samples is 0"),
    ],
)
def test_bad_strategies(make, words):
    with pytest.raises(InitError, match=re.escape(words)):
        lc.log_density(latent).init(jax.random.key(0), make())


@pytest.mark.parametrize("key", [0, "seed", np.zeros(3), np.zeros((2, 2), np.uint32), None])
def test_bad_keys(key):
    for call in (
        lambda: lc.prior_predictive(latent, key, 2),
        lambda: lc.posterior_predictive(latent, key, {"x": np.zeros(3)}),
    ):
        with pytest.raises(SamplerError, match=r"key: .* expected; write jax\.random\.key"):
            call()


@pytest.mark.parametrize("num_samples", [0, -1, 2.5, "3"])
def test_bad_numbers_of_samples(num_samples):
    with pytest.raises(ModelError, match="expected a positive integer"):
        lc.prior_predictive(latent, jax.random.key(0), num_samples)


@pytest.mark.parametrize(
    ("samples", "words"),
    [({"z": np.zeros(3)}, "is no site of the model"), ({"x": 0.0}, "site 'x': the samples have shape ()"), ({}, "none of")],
)
def test_bad_samples(samples, words):
    with pytest.raises(ModelError, match=re.escape(words)):
        lc.posterior_predictive(latent, jax.random.key(0), samples)
