"""Gaps are small differences of large numbers: rounding is not taken for a wrong bound, nor the other way round, whatever the counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import discrete

from luciole import bounds, dist
from luciole.inference.flymc.bounds import shortfalls
from luciole.inference.flymc.bounds.running import running_error
from luciole.ppl.factors import Family, families
from luciole.transforms.jax_compat import open_jaxpr

RNG = np.random.default_rng(0)
long = np.longdouble


@pytest.fixture(autouse=True)
def _double(x64):
    pass


def offsets(num=400, least=1e-5, largest=20.0):
    return np.exp(RNG.uniform(np.log(least), np.log(largest), num)) * RNG.choice([-1.0, 1.0], num)


@pytest.mark.slow
def test_shortfalls_keep_their_digits():
    """In long doubles the written forms lose 2^-64 / t of their digits."""
    t = offsets()
    wide = long(t)
    np.testing.assert_allclose(jax.jit(shortfalls.exponential)(t), (np.expm1(wide) - wide).astype(float), rtol=2e-13)
    u = t[t > -1]
    np.testing.assert_allclose(jax.jit(shortfalls.log1p)(u), (long(u) - np.log1p(long(u))).astype(float), rtol=2e-13)
    x = RNG.normal(size=t.size) * 5
    p, mirrored = 1 / (1 + np.exp(np.abs(long(x)))), np.where(x > 0, -wide, wide)  # an even function
    exact = np.log1p(p * np.expm1(mirrored)) - p * mirrored
    np.testing.assert_allclose(jax.jit(shortfalls.softplus)(x, t), exact.astype(float), rtol=2e-12)
    pairs = np.stack([np.zeros_like(x), x], 1), np.stack([np.zeros_like(t), t], 1)
    np.testing.assert_allclose(jax.jit(shortfalls.categorical)(*pairs), exact.astype(float), rtol=2e-12)


@pytest.mark.slow
def test_shortfalls_have_no_steps_between_their_forms():
    for function, at in ((shortfalls.exponential, 0.5), (shortfalls.log1p, 0.2), (lambda t: shortfalls.softplus(0.3, t), 0.01)):
        slope, bend = jax.grad(function), jax.grad(jax.grad(function))
        found = jax.jit(jax.vmap(lambda t, f=function, slope=slope, bend=bend: (f(t), slope(t), bend(t))))
        for values, rtol in zip(found(at * jnp.array([1 - 1e-13, 1 + 1e-13, -1 + 1e-13, -1 - 1e-13])), (1e-12, 1e-11, 1e-9), strict=True):
            np.testing.assert_allclose(values[::2], values[1::2], rtol=rtol)


def known(distribution, link, rng, size):
    """Rows whose likelihood has terms of all sizes up to `size`."""
    ones, share = np.ones(200), np.exp(rng.uniform(0, np.log(size), 200))
    noise = rng.normal(size=200)
    family = Family(distribution, link, 1, families.KNOWN[distribution].links[link])
    if distribution is dist.Poisson:
        return family, np.log(share), {"value": rng.poisson(share).astype(float)}, 3 / np.sqrt(share)
    if distribution is discrete.BinomialLogits:
        n = np.ceil(share)
        return family, noise, {"value": rng.binomial(n.astype(int), 1 / (1 + np.exp(-noise))) * 1.0, "total_count": n}, 3 / np.sqrt(n)
    if distribution is dist.NegativeBinomial2:
        mean = share[::-1]
        y = rng.poisson(mean * rng.gamma(share, 1 / share)) * 1.0
        return family, np.log(mean), {"value": y, "concentration": share}, 3 / np.sqrt(np.minimum(share, mean))
    params = {"value": share + noise, "scale": np.exp(0.3 * noise)}
    if distribution is dist.StudentT:
        params["df"] = share[::-1] + 1
    return family, share, params, 0.3 * ones


FAMILIES = [
    (dist.Poisson, "log"),
    pytest.param(discrete.BinomialLogits, "identity", marks=pytest.mark.slow),
    pytest.param(dist.NegativeBinomial2, "log", marks=pytest.mark.slow),
    (dist.Normal, "identity"),
    pytest.param(dist.StudentT, "identity", marks=pytest.mark.slow),
    pytest.param(dist.Logistic, "identity", marks=pytest.mark.slow),
]


@pytest.mark.slow
@pytest.mark.parametrize(("distribution", "link"), FAMILIES)
def test_rounding_is_not_taken_for_a_refuted_bound_nor_a_wrong_bound_for_rounding(distribution, link):
    """At counts from 1 to 1e8; the twins are curvatures that are too small, and values that are raised by a hundredth."""
    family, anchor, params, radius = known(distribution, link, np.random.default_rng(1), 1e8)
    anchor, radius = jnp.asarray(anchor), jnp.asarray(radius)
    bound = bounds.local_bound(family, anchor, radius, params)
    bent = bounds.local_bound(family, anchor, 0 * radius, params).curvature
    for part in (-1.0, -0.3, 1e-3, 0.5, 1.0):
        gap = jax.jit(lambda b, part=part: bounds.gap(family, b, anchor, part * radius, params))
        assert not np.asarray(gap(bound).refuted).any()
        if abs(part) < 0.1:  # where the likelihood is the parabola
            assert np.asarray(gap(bound._replace(curvature=bent * (1 - 1e-2 * jnp.sign(bent)))).refuted).all()
            assert np.asarray(gap(bound._replace(value=bound.value + 0.01 * jnp.abs(bound.value))).refuted).all()
    assert np.asarray(bounds.touches(family, bound, anchor, params)).all()
    for name in ("value", "slope"):
        number = np.asarray(getattr(bound, name))
        raised = bound._replace(**{name: jnp.asarray(number + 0.01 * np.maximum(np.abs(number), 1e-3 * bent * radius))})
        assert not np.asarray(bounds.touches(family, raised, anchor, params)).any()
        by_value = bounds.gap_of(bounds.log_likelihood(family, anchor, params), raised, jnp.zeros_like(anchor))
        assert name == "slope" or np.asarray(by_value.refuted).all()


@pytest.mark.slow
def test_large_terms_of_a_trace_are_seen():
    """The running error is that of the largest terms, wherever they stand, and no more where nothing cancels."""

    def error(function, at):
        jaxpr, consts = open_jaxpr(jax.make_jaxpr(function)(0.0))
        return float(running_error(jaxpr, consts, [jnp.asarray(at)])) * 2**-53

    assert error(lambda x: 1e8 * x - jnp.exp(x) - 1.8e9, np.log(1e8)) == pytest.approx(1e9 * 2**-51, rel=3)
    assert error(lambda x: jnp.log((1e8 + x) - 1e8), 1.0) > 5e-9
    assert error(lambda x: jnp.where(x > 0, x, jnp.log(-1e9 * x) * 1e9), 1.0) < 1e-14
    assert error(jax.nn.log_sigmoid, 3.0) < 1e-14
    assert error(lambda x: jax.scipy.special.gammaln(1e8 + jnp.exp(x)), 0.0) > 1e-8
