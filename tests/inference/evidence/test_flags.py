"""Posteriors that one normal distribution does not fit: what is said of them, and that the bound is one all the same."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import halfnorm, laplace, norm

import luciole as lc
from luciole import dist

EFFECTS = np.array([28.0, 8, -3, 7, -1, 1, 18, 12])
ERRORS = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])


def trapezoid(log_joint, *axes):
    """log of the integral over a grid; log_joint takes one array per axis."""
    values = log_joint(*np.meshgrid(*axes, indexing="ij", sparse=True))
    return float(logsumexp(values) + sum(np.log(a[1] - a[0]) for a in axes))


def run(model, *args, **options):
    """The estimate and the names of what it warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = lc.sgd_evidence(model, jax.random.key(0), *(np.asarray(a) for a in args), progress_bar=False, **options)
    return found, {w.category for w in caught}


def schools(y, errors):
    """Centred: the density rises without end as tau goes to zero, so that there is no mode."""
    mu = lc.sample("mu", dist.Normal(0, 5))
    tau = lc.sample("tau", dist.HalfNormal(5))
    with lc.plate("school", 8):
        theta = lc.sample("theta", dist.Normal(mu, tau))
        lc.sample("y", dist.Normal(theta, errors), obs=y)


@pytest.mark.exhaustive
def test_centred_schools_have_a_fit_and_no_mode():
    def joint(mu, log_tau):
        tau = np.exp(log_tau)
        rows = sum(norm.logpdf(y, mu, np.hypot(s, tau)) for y, s in zip(EFFECTS, ERRORS, strict=True))
        return norm.logpdf(mu, 0, 5) + halfnorm.logpdf(tau, 0, 5) + log_tau + rows

    exact = trapezoid(joint, np.linspace(-30, 40, 300), np.linspace(-16, 5, 300))
    found, said = run(schools, EFFECTS, ERRORS)
    assert found.certified and said == {lc.NonNormalPosteriorWarning} and np.isnan(found.laplace)
    assert exact - 2 < found.bound < exact + 3 * found.bound_stderr
    with pytest.raises(lc.EvidenceError, match=r'has no mode .*Write start="fit"'):
        run(schools, EFFECTS, ERRORS, start="laplace")


def funnel(y, width):
    v = lc.sample("v", dist.Normal(0, width))
    with lc.plate("rows", len(y)):
        x = lc.sample("x", dist.Normal(0, jnp.exp(v / 2)))
        lc.sample("y", dist.Normal(x, 10.0), obs=y)


@pytest.mark.exhaustive
def test_a_funnel_is_bounded_from_below_and_steps_into_its_neck_are_seen():
    """By default the fit keeps out of the neck, and the bound is loose by a nat; a start that is far too wide meets it."""
    v = np.linspace(-30, 30, 20_001)
    exact = trapezoid(lambda v: norm.logpdf(v, 0, 3) + 9 * norm.logpdf(0, 0, np.sqrt(100 + np.exp(v))), v)
    found, said = run(funnel, np.zeros(9), 3.0)
    assert said == {lc.NonNormalPosteriorWarning}
    assert exact - 2 < found.bound < exact + 3 * found.bound_stderr
    wide, said = run(funnel, np.zeros(9), 3.0, inflate=4.0, num_steps=16)
    assert not wide.certified and lc.EvidenceRangeWarning in said
    assert np.isnan(wide.importance_weighted)


def two_modes(y):
    """One observation of |x|, nearly."""
    x = lc.sample("x", dist.Normal(0, 3))
    lc.factor("y", jnp.logaddexp(-0.5 * ((x - y) / 0.3) ** 2, -0.5 * ((x + y) / 0.3) ** 2))


def trapezoid_of_modes(y):
    x = np.linspace(-20, 20, 40_001)
    return trapezoid(lambda x: norm.logpdf(x, 0, 3) + np.logaddexp(-0.5 * ((x - y) / 0.3) ** 2, -0.5 * ((x + y) / 0.3) ** 2), x)


@pytest.mark.exhaustive
def test_another_mode_is_told_of_with_its_evidence():
    """A start at a mode covers that mode alone."""
    with pytest.warns(lc.OtherModeWarning, match="has another mode") as caught:
        found = lc.sgd_evidence(two_modes, jax.random.key(0), np.array(3.0), start="laplace", progress_bar=False)
    one = trapezoid_of_modes(3.0) - np.log(2)
    assert abs(found.bound - one) < 1e-2
    told = [str(w.message) for w in caught if w.category is lc.OtherModeWarning]
    assert abs(float(told[0].split("is about ")[1].split(" nats")[0]) - one) < 1e-2


@pytest.mark.exhaustive
def test_a_fit_across_two_modes_is_told_of():
    """The widest fit has both modes in its tails; its paths end in both, and never cross the gap. One mode in the middle is silent."""
    found, said = run(two_modes, 3.0)
    assert found.bound < trapezoid_of_modes(3.0) - 10
    assert lc.EvidenceFitWarning in said
    alone, said = run(two_modes, 0.0)
    assert not said and alone.certified and abs(alone.bound - trapezoid_of_modes(0.0)) < 1e-2


def product(y, noise):
    a, b = lc.sample("a", dist.Normal(0, 1)), lc.sample("b", dist.Normal(0, 1))
    lc.sample("y", dist.Normal(a * b, noise), obs=y)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("y", "noise"), [(3.0, 0.1), (2.0, 0.1), (1.0, 0.1)])
def test_a_product_is_flagged(y, noise):
    """Two curved ridges, a b = y: another mode is told of, or the guard fails, or the fit lies across both. The bound is one."""
    exact = trapezoid(lambda a: norm.logpdf(a) + norm.logpdf(y, 0, np.hypot(noise, a)), np.linspace(-9, 9, 90_001))
    found, said = run(product, y, noise)
    assert found.bound < exact + 3 * found.bound_stderr
    assert said & {lc.OtherModeWarning, lc.EvidenceRangeWarning, lc.EvidenceFitWarning, lc.NonNormalPosteriorWarning}


def kinks(y, scale):
    """The density has a kink at zero in every direction: its second derivative is zero on both sides, and the gradient jumps."""
    with lc.plate("rows", len(y)):
        x = lc.sample("x", dist.Laplace(0, scale))
        lc.sample("y", dist.Normal(x, 1.0), obs=y)


@pytest.mark.exhaustive
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_a_kink_is_not_certified_beyond_the_evidence(scale):
    y = 0.3 * np.random.default_rng(0).normal(size=20)
    x = np.linspace(-30, 30, 60_001)
    exact = sum(trapezoid(lambda x, one=one: laplace.logpdf(x, 0, scale) + norm.logpdf(one, x, 1), x) for one in y)
    found, said = run(kinks, y, scale)
    assert found.bound > exact + 10 * found.bound_stderr  # it would mislead
    assert not found.certified and lc.KinkWarning in said and np.isnan(found.importance_weighted)
