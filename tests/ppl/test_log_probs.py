"""Log probabilities in a form of our own: against exact sums, against NumPyro, inside what is wrapped around them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro import distributions as dist

import luciole as lc
from luciole.ppl.log_probs import better
from luciole.transforms import check_linearization, grad

COUNTS = np.array([0, 1, 5, 9, 40, 1000])
CONCENTRATIONS = (0.01, 0.5, 3.0, 9.9, 10.1, 50.0, 1e3, 1e6, 1e9)


def exact(y, a, mean):
    """(value, derivative in a with the mean held) by sums of logarithms, rounded once."""
    y, a, mean = int(y), float(a), float(mean)
    terms = [math.log1p(i / a) for i in range(y)]  # Gamma(a + y) / Gamma(a) / a^y
    terms += [-math.log(i) for i in range(1, y + 1)]
    terms += [-a * math.log1p(mean / a), y * math.log(mean) if y else 0.0, -y * math.log1p(mean / a)]
    return math.fsum(terms), sum(map(abs, terms))


@pytest.mark.parametrize("wide", [True, False])
def test_negative_binomial_keeps_its_digits(wide):
    """Relative to the terms that it is the sum of; NumPyro's, the twin, loses them for large concentrations."""
    with jax.enable_x64(wide):
        dtype, digits = (np.float64, 2e-15) if wide else (np.float32, 2e-6)
        a, y, factor = (x.ravel() for x in np.meshgrid(np.array(CONCENTRATIONS, dtype), COUNTS, np.array([0.1, 1.3, 30.0], dtype)))
        mean = np.maximum(y, 1).astype(dtype) * factor
        values, sizes = np.transpose([exact(*each) for each in zip(y, a, mean, strict=True)])
        one = dist.NegativeBinomial2(mean, a)
        ours, theirs = (np.abs(np.asarray(d.log_prob(y), np.float64) - values) / (1 + sizes) for d in (better(one), one))
    assert ours.max() < digits, (a, y, mean)
    assert theirs.max() > 10 * digits


@pytest.mark.parametrize("a", [9.0, *(pytest.param(a, marks=pytest.mark.slow) for a in (0.3, 11.0, 400.0))])
def test_all_three_ways_to_write_it(a, x64, assert_close):
    mean, y = jnp.array([0.5, 3.0, 20.0])[:, None], jnp.asarray(COUNTS[:4])
    logits = jnp.log(mean) - jnp.log(a)
    ways = [
        dist.NegativeBinomial2(mean, a),
        dist.NegativeBinomialLogits(a, logits),
        dist.NegativeBinomialProbs(a, jax.nn.sigmoid(logits)),
        dist.GammaPoisson(a, a / mean),
    ]
    values = [better(way).log_prob(y) for way in ways]
    for value in values[1:]:
        np.testing.assert_allclose(value, values[0], rtol=1e-12)
    np.testing.assert_allclose(values[0], dist.NegativeBinomialLogits(a, logits).log_prob(y), rtol=1e-11)


@pytest.mark.slow
def test_derivatives_of_the_negative_binomial(x64):
    from luciole.ppl.log_probs import _rising

    check_linearization(_rising, jnp.array([0.2, 9.9, 10.1, 300.0])[:, None], jnp.arange(7.0))
    y = jnp.asarray(COUNTS[:5])
    a, step = jnp.array([0.5, 9.0, 11.0, 80.0]), 1e-6

    @jax.jit
    def totals(a):
        return better(dist.NegativeBinomial2(7.0, a[:, None])).log_prob(y).sum(1)

    slopes = grad(lambda a: totals(a).sum())(a)
    np.testing.assert_allclose(slopes, (totals(a + step) - totals(a - step)) / (2 * step), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("y", [0, 1, True, 0.0, 1.0, 0.3])
def test_bernoulli_is_numpyros(y, x64):
    """At infinite logits too, but for a label that is neither 0 nor 1; no gradient is NaN there."""
    x = jnp.array([-jnp.inf, -800.0, -2.0, 0.0, 3.0, 700.0, jnp.inf][slice(1, -1) if y == 0.3 else slice(None)])
    one = dist.BernoulliLogits(x, validate_args=False)
    np.testing.assert_allclose(better(one).log_prob(y), one.log_prob(y), rtol=1e-15, atol=1e-300)
    slope = grad(lambda x: better(dist.BernoulliLogits(x, validate_args=False)).log_prob(y).sum())(x)
    np.testing.assert_allclose(slope, y - jax.nn.sigmoid(x), atol=1e-15)


def test_what_is_wrapped_around_stays(x64):
    base = dist.BernoulliLogits(jnp.array([0.3, -1.2, 2.0]))
    wrapped = base.expand([2, 3]).mask(jnp.array([True, False, True])).to_event(1)
    y = jnp.array([[0, 1, 1], [1, 1, 0]])
    np.testing.assert_allclose(better(wrapped).log_prob(y), wrapped.log_prob(y), rtol=1e-14)
    assert type(wrapped.base_dist.base_dist.base_dist) is type(base), "the user's own is not touched"
    normal = dist.Normal(0, 1).expand([2])
    assert better(normal) is normal


def test_models_are_scored_by_it(x64):
    def model(y):
        a = lc.sample("a", dist.HalfNormal(1e9))
        lc.sample("y", dist.NegativeBinomial2(3.0, a), obs=y)

    value = lc.log_likelihood(model, {"a": np.array([1e9])}, COUNTS[:4])["y"][0]
    np.testing.assert_allclose(value, [exact(y, 1e9, 3.0)[0] for y in COUNTS[:4]], rtol=1e-14)
