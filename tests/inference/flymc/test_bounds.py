"""Every bound lies below its likelihood wherever an adversary looks, is nearly as tight as can be, and its broken twin is caught."""

import jax
import numpy as np
import pytest

import luciole as lc
from luciole import BoundError, bounds

KNOWN = [
    "bernoulli",
    "binomial",
    "probit",
    "poisson",
    "negative binomial",
    "negative binomial logits",
    "gaussian",
    "student",
    "cauchy",
    "logistic",
]
TRACED = ["cloglog", "gamma"]
EVERYWHERE = [name for name in KNOWN if name != "poisson"]
# Arithmetic of the chord itself: l differs between our form and the distribution's by rounding, which the quotient divides by T^2 / 2.
ROUNDING = 1e-9


def local(tried):
    with jax.enable_x64(True):
        return bounds.Quadratic(*map(np.asarray, bounds.local_bound(tried.family, tried.anchor, tried.radius, tried.params)))


def everywhere(tried):
    with jax.enable_x64(True):
        bound = bounds.global_bound(tried.family, tried.anchor, tried.params)
    return None if bound is None else bounds.Quadratic(*map(np.asarray, bound))


def refuted(found, bound):
    """Which rows the run-time check refutes at the adversary's offsets."""
    with jax.enable_x64(True):
        return np.asarray(bounds.gap_of(found.log_likelihood, bound, found.offset).refuted)


def lowered(bound):
    return bound._replace(curvature=0.99 * bound.curvature)


def quickly(names, quick):
    """The other names are slow tests."""
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in names]


def raised(bound):
    return bound._replace(value=bound.value + 0.01 * abs(bound.value))


@pytest.mark.parametrize("name", quickly(KNOWN + TRACED, {"bernoulli", "student"}))
def test_no_offset_refutes_the_local_bound(bounding, name):
    tried = bounding.problem(name, 500)
    bound = local(tried)
    found = bounding.attack(tried, bound)
    assert all(x.dtype == np.float64 for x in bound)
    assert np.isfinite(bound.curvature).all()
    assert not refuted(found, bound).any()
    bounds.check(found.log_likelihood, bound, found.offset)


@pytest.mark.parametrize("twin", [lowered, raised])
@pytest.mark.parametrize("name", quickly(KNOWN + TRACED, {"bernoulli", "student"}))
def test_a_broken_twin_is_refuted(bounding, name, twin):
    tried = bounding.problem(name, 500)
    bound = local(tried)
    found = bounding.attack(tried, bound)
    broken = twin(bound)
    assert refuted(found, broken).any()
    with pytest.raises(BoundError, match="row"):
        bounds.check(found.log_likelihood, broken, found.offset)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", KNOWN + TRACED)
def test_no_offset_refutes_the_local_bound_of_many_rows(bounding, name):
    for seed in range(10):
        tried = bounding.problem(name, 10_000, seed=1 + seed, radii=(0.001, 10.0) if name != "poisson" else (0.001, 3.0))
        bound = local(tried)
        found = bounding.attack(tried, bound)
        assert not refuted(found, bound).any()


@pytest.mark.parametrize("name", EVERYWHERE)
def test_no_offset_refutes_the_global_bound(bounding, name):
    tried = bounding.problem(name, 500)
    bound = everywhere(tried)
    for radius in (0.3, 3.0, 30.0):
        found = bounding.attack(tried._replace(radius=np.full(500, radius)), bound)
        assert not refuted(found, bound).any()
    if name != "gaussian":
        found = bounding.attack(tried._replace(radius=np.full(500, 30.0)), bound)
        twin = refuted(found, lowered(bound))
        assert twin.any() if name == "probit" else twin.mean() > 0.5  # probit's, 1, is met at minus infinity only


def test_poisson_has_no_global_bound(bounding):
    assert everywhere(bounding.problem("poisson", 3)) is None


@pytest.mark.parametrize("name", ["bernoulli", "binomial", "probit", "poisson", "negative binomial", "gaussian", "logistic"])
def test_closed_forms_are_the_best_chord(bounding, name):
    """Nothing below the chord is possible, so closed forms are compared with what the adversary finds."""
    tried = bounding.problem(name, 500, radii=(0.3, 3.0))
    bound = local(tried)
    best = bounding.attack(tried, bound).chord
    np.testing.assert_allclose(bound.curvature, best, rtol=1e-5, atol=ROUNDING)


# (c - chord) / (chord - h), h = -l''(a), averaged over rows: what a trial reached with 8 and 16 pieces, and a quarter more.
EXCESS = {
    ("student", 0.05): 0.15,
    ("student", 0.5): 0.15,
    ("student", 3.0): 0.3,
    ("gamma", 0.05): 0.2,
    ("gamma", 0.5): 0.25,
    ("cloglog", 0.05): 0.2,
    ("cloglog", 0.5): 0.2,
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "radius"), EXCESS)
def test_what_the_pieces_cost(bounding, name, radius):
    tried = bounding.problem(name, 500, radii=(radius, radius), spread=1.0)
    bound = local(tried)
    best = bounding.attack(tried, bound).chord
    least = np.asarray(local(tried._replace(radius=np.zeros(500))).curvature)
    assert (bound.curvature - best).mean() / (best - least).mean() < EXCESS[name, radius]


def quick_are(*quick):
    """All known families, those that are not named here marked slow: each costs a compilation."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in KNOWN]


@pytest.mark.slow
@pytest.mark.parametrize("name", quick_are("bernoulli", "gaussian"))
def test_traces_agree_with_what_is_known(bounding, name):
    """Two independent proofs of one likelihood: both hold, and the trace's is never the smaller by more than it can be."""
    tried = bounding.problem(name, 500, radii=(0.02, 0.3), spread=1.0)
    known = local(tried)
    traced = local(tried._replace(family=tried.family._replace(link="traced")))
    np.testing.assert_allclose(traced.value, known.value, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(traced.slope, known.slope, rtol=1e-10, atol=1e-10)
    found = bounding.attack(tried, traced)
    proved = np.isfinite(traced.curvature)  # a row may straddle a kink of the form that the distribution is written in
    assert proved.mean() > 0.8
    assert not refuted(found, traced)[proved].any()
    if name not in ("student", "cauchy"):  # what is known is the least that holds
        assert np.all((traced.curvature >= known.curvature - 1e-10 * (1 + known.curvature))[proved])


@pytest.mark.parametrize("name", quick_are("bernoulli", "student"))
def test_tiny_radii_lose_nothing(bounding, name):
    """At radii from nought the curvature is finite and between that of the point and that of a larger ball."""
    tried = bounding.problem(name, 500, spread=5.0)
    larger = local(tried._replace(radius=np.full(500, 1e-3))).curvature
    for radius in (0.0, 1e-12, 1e-7, 1e-4):
        curvature = local(tried._replace(radius=np.full(500, radius))).curvature
        assert np.isfinite(curvature).all()
        assert np.all(curvature <= larger + 1e-8 * (1 + np.abs(larger)))


def test_huge_radii_and_anchors_far_out(bounding):
    far = bounding.problem("bernoulli", 500, radii=(500.0, 500.0), spread=300.0)
    bound = local(far)
    assert not refuted(bounding.attack(far, bound), bound).any()


def test_the_run_may_be_in_single_precision(bounding):
    tried = bounding.problem("student", 100)
    wide = local(tried)
    narrow = bounds.local_bound(tried.family, tried.anchor, tried.radius, tried.params)
    assert not jax.config.jax_enable_x64
    for a, b in zip(narrow, wide, strict=True):
        assert a.dtype == np.float64
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)  # numpy's doubles are float32 in such a run


def test_bounds_may_be_asked_for_inside_a_program(bounding):
    tried = bounding.problem("bernoulli", 100)
    inside = jax.jit(lambda a, r, p: bounds.local_bound(tried.family, a, r, p))(tried.anchor, tried.radius, tried.params)
    np.testing.assert_allclose(inside.curvature, local(tried).curvature, rtol=1e-5)


@pytest.mark.slow
def test_tiles_make_no_difference(bounding):
    tried = bounding.problem("student", 2 * 4096 + 17)
    first = bounding.Problem(tried.family, tried.anchor[:100], tried.radius[:100], {k: v[:100] for k, v in tried.params.items()})
    last = bounding.Problem(tried.family, tried.anchor[-10:], tried.radius[-10:], {k: v[-10:] for k, v in tried.params.items()})
    whole = local(tried)
    np.testing.assert_allclose(whole.curvature[:100], local(first).curvature, rtol=1e-13)
    np.testing.assert_allclose(whole.curvature[-10:], local(last).curvature, rtol=1e-13)


# The bound for every predictor and every scale.


@pytest.mark.slow
@pytest.mark.parametrize("name", ["student", "cauchy", "logistic", "gaussian"])
def test_the_tangent_in_the_squared_residual_holds_for_every_scale(bounding, name):
    tried = bounding.problem(name, 500)
    scale = 0.8
    params = {k: v for k, v in tried.params.items() if k != "scale"}
    with jax.enable_x64(True):
        tangent = bounds.scale_bound(tried.family, tried.anchor, scale, params)

        def gap(eta, sigma, tangent):
            row = {**params, "scale": np.full(500, sigma)}
            likelihood = bounds.log_likelihood(tried.family, eta, row)
            residual = (params["value"] - eta) / sigma
            return np.asarray(likelihood - (tangent.constant - tangent.weight * residual**2 - np.log(sigma)))

        np.testing.assert_allclose(gap(tried.anchor, scale, tangent), 0, atol=1e-12)
        twin = tangent._replace(weight=0.99 * np.asarray(tangent.weight))
        worst, worst_twin = np.inf, np.inf
        for offset in np.linspace(-5, 5, 41):
            for sigma in np.exp(np.linspace(-2, 2, 17)):
                size = 1 + ((params["value"] - tried.anchor - offset) / sigma) ** 2
                worst = min(worst, (gap(tried.anchor + offset, sigma, tangent) / size).min())
                worst_twin = min(worst_twin, (gap(tried.anchor + offset, sigma, twin) / size).min())
    assert worst > -1e-13
    assert worst_twin < -1e-5


def test_no_scale_bound_without_a_residual(bounding):
    tried = bounding.problem("poisson", 3)
    assert bounds.scale_bound(tried.family, tried.anchor, 1.0, tried.params) is None


def test_the_front_door_leads_here():
    assert lc.bounds is bounds
