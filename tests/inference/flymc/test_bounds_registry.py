"""What a user registers is used, is checked, and what cannot be bounded is refused by name."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions import discrete

import luciole as lc
from luciole import BoundError, bounds


class Mine(dist.Delta):
    """A distribution of the user's own."""


def likelihood(eta, row, shared):
    return -row["weight"] * jnp.log(jnp.cosh(eta - row["value"]))


def curvature(eta_anchor, radius, params):
    nearest = jnp.maximum(jnp.abs(eta_anchor - params["value"]) - radius, 0.0)
    return -params["weight"] * jnp.tanh(eta_anchor - params["value"]), params["weight"] / jnp.cosh(nearest) ** 2


@pytest.fixture
def mine(bounding):
    yield bounding.Family(Mine, "traced", 1, likelihood)
    lc.bounds.register(Mine, None)


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    return rng.normal(size=200), np.exp(rng.uniform(-3, 1, 200)), {"value": rng.normal(size=200), "weight": 0.5 + rng.random(200)}


def ask(family, anchor, radius, params, shared=None):
    with jax.enable_x64(True):
        return bounds.Quadratic(*map(np.asarray, bounds.local_bound(family, anchor, radius, params, shared)))


def likelihood_at(family, eta, params):
    with jax.enable_x64(True):
        return np.asarray(bounds.log_likelihood(family, eta, params))


def test_a_registered_bound_is_used_and_holds(bounding, mine, rows):
    anchor, radius, params = rows
    lc.bounds.register(Mine, curvature)
    bound = ask(mine, *rows)
    np.testing.assert_allclose(bound.slope, -params["weight"] * np.tanh(anchor - params["value"]), rtol=1e-12)
    nearest = np.maximum(np.abs(anchor - params["value"]) - radius, 0)
    np.testing.assert_allclose(bound.curvature, params["weight"] / np.cosh(nearest) ** 2, rtol=1e-12)
    found = bounding.attack(bounding.Problem(mine, *rows), bound)
    bounds.check(found.log_likelihood, bound, found.offset)


@pytest.mark.slow
def test_without_registration_the_trace_proves_nearly_as_much(mine, rows):
    anchor, _, params = rows
    traced = ask(mine, anchor, 0.3, params)
    lc.bounds.register(Mine, curvature)
    user = ask(mine, anchor, 0.3, params)
    assert np.all(traced.curvature <= user.curvature + 0.01)
    assert traced.curvature.mean() < user.curvature.mean()
    np.testing.assert_allclose(traced.slope, user.slope, atol=1e-12)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda a, r, p: (curvature(a, r, p)[0], 0.99 * p["weight"] / jnp.cosh(a - p["value"]) ** 2),
        lambda a, r, p: (1.01 * curvature(a, r, p)[0], curvature(a, r, p)[1]),
        lambda a, r, p: (curvature(a, r, p)[0], 0.0 * a),
    ],
)
def test_a_bound_that_exceeds_the_likelihood_is_reported_with_the_row(mine, rows, wrong):
    anchor, radius, params = rows
    lc.bounds.register(Mine, wrong)
    bound = ask(mine, anchor, radius, params)
    offset = 0.01 * np.where(np.arange(200) % 2, 1.0, -1.0)
    with pytest.raises(BoundError, match=r"does not hold at row \d+") as refused:
        bounds.check(likelihood_at(mine, anchor + offset, params), bound, offset, rows=np.arange(1000, 1200), what="the bound of Mine")
    message = str(refused.value)
    assert "the bound of Mine" in message
    assert 1000 <= int(message.split("at row ")[1].split(":")[0]) < 1200


def test_the_check_names_the_worst_row_and_clamps_nothing_else():
    bound = bounds.Quadratic(*np.zeros((5, 3)))
    with jax.enable_x64(True):
        gap = bounds.gap_of(jnp.array([1e-3, -1e-17, -1.0]), bound, jnp.ones(3))
        assert list(np.asarray(gap.refuted)) == [False, False, True]
        clamped = np.asarray(gap.clamped)
        assert clamped[0] == 1e-3
        assert clamped[1] == 0.0
        assert np.isnan(clamped[2])
        assert bool(bounds.gap_of(jnp.array([jnp.nan]), bound._replace(), jnp.ones(3)).refuted.all())
    with pytest.raises(BoundError, match="row 2"):
        bounds.check(np.array([1e-3, 0.0, -1.0]), bound, np.ones(3))


def test_a_registered_bound_may_hold_everywhere(mine, rows):
    anchor, _, params = rows
    lc.bounds.register(Mine, lambda a, r, p: (curvature(a, r, p)[0], p["weight"]))
    assert bounds.global_bound(mine, anchor, params) is None
    lc.bounds.register(Mine, lambda a, r, p: (curvature(a, r, p)[0], p["weight"]), everywhere=True)
    with jax.enable_x64(True):
        bound = bounds.global_bound(mine, anchor, params)
    np.testing.assert_allclose(bound.curvature, params["weight"])


def test_registration_goes_before_what_is_known_and_is_taken_back(bounding):
    tried = bounding.problem("bernoulli", 50)
    known = ask(tried.family, tried.anchor, tried.radius, tried.params)
    try:
        lc.bounds.register(discrete.BernoulliLogits, lambda a, r, p: (p["value"] - jax.nn.sigmoid(a), 0.25))
        loose = ask(tried.family, tried.anchor, tried.radius, tried.params)
    finally:
        lc.bounds.register(discrete.BernoulliLogits, None)
    np.testing.assert_array_equal(loose.curvature, 0.25)
    np.testing.assert_array_equal(ask(tried.family, tried.anchor, tried.radius, tried.params).curvature, known.curvature)


def test_a_user_bound_of_the_wrong_shape_is_refused(mine, rows):
    for wrong in (lambda a, r, p: p["weight"], lambda a, r, p: (a, a, a), lambda a, r, p: (jnp.ones(3), a)):
        lc.bounds.register(Mine, wrong)
        with pytest.raises(BoundError, match=r"must return \(slope, curvature\)"):
            ask(mine, *rows)


def test_registering_nonsense_is_refused():
    with pytest.raises(BoundError, match="is no class"):
        lc.bounds.register("StudentT", curvature)
    with pytest.raises(BoundError, match="a function expected"):
        lc.bounds.register(Mine, 3.0)


def test_what_cannot_be_proved_is_refused_with_the_primitive_and_the_line(bounding, rows):
    def rounded(eta, row, shared):
        return -jnp.square(jnp.floor(eta) - row["value"])

    family = bounding.Family(Mine, "traced", 1, rounded)
    with pytest.raises(BoundError, match=r"primitive `floor`.*test_bounds_registry\.py"):
        ask(family, *rows)


def test_a_registered_bound_needs_no_proof(bounding, rows):
    family = bounding.Family(Mine, "traced", 1, lambda eta, row, shared: -jnp.square(jnp.floor(eta) - row["value"]))
    try:
        lc.bounds.register(Mine, lambda a, r, p: (0.0, 1e6))
        assert np.all(ask(family, *rows).curvature == 1e6)
    finally:
        lc.bounds.register(Mine, None)


def test_several_predictors_are_refused_but_for_the_categorical(bounding, rows):
    with pytest.raises(BoundError, match="3 linear predictors"):
        bounds.local_bound(bounding.Family(Mine, "traced", 3, likelihood), rows[0], rows[1], rows[2])


def test_a_vector_of_likelihoods_is_refused(bounding, rows):
    family = bounding.Family(Mine, "traced", 1, lambda eta, row, shared: jnp.stack([eta, eta]))
    with pytest.raises(BoundError, match="one scalar"):
        ask(family, *rows)


def laplace(eta, row, shared):
    return -jnp.abs(eta - row["value"])


def test_rows_without_a_finite_bound_are_named(bounding):
    family = bounding.Family(dist.Laplace, "traced", 1, laplace)
    params = {"value": np.array([0.0, 5.0])}
    bound = ask(family, np.array([0.5, 0.5]), np.ones(2), params)
    assert np.isinf(bound.curvature[0])
    assert np.isfinite(bound.curvature[1])
    with pytest.raises(BoundError, match=r"row 7 has no finite curvature.*`abs`"):
        bounds.refuse_unbounded(family, bound, params, rows=np.array([7, 8]))
    poisson = bounding.FAMILIES["poisson"]
    spoilt = ask(poisson, np.zeros(2), np.ones(2), {"value": np.array([1.0, np.nan])})
    with pytest.raises(BoundError, match=r"row 1 has no finite log likelihood"):
        bounds.refuse_unbounded(poisson, spoilt, params)
    bounds.refuse_unbounded(family, bounds.Quadratic(*(x[1:] for x in bound)), params)


@pytest.mark.slow
def test_shared_parameters_enter_the_trace(bounding, rows):
    def noisy(eta, row, shared):
        return -0.5 * jnp.square((eta - row["value"]) / shared["noise"])

    family = bounding.Family(Mine, "traced", 1, noisy)
    bound = ask(family, *rows, {"noise": 0.5})
    np.testing.assert_allclose(bound.curvature, 4.0, rtol=1e-6)
    student = bounding.problem("student", 20)
    scale = {"scale": 0.7}
    params = {k: v for k, v in student.params.items() if k != "scale"}
    fixed = ask(student.family, student.anchor, student.radius, {**params, "scale": np.full(20, 0.7)})
    np.testing.assert_allclose(ask(student.family, student.anchor, student.radius, params, scale).curvature, fixed.curvature)


def test_equal_likelihoods_are_compiled_once(bounding, rows, backend_compiles):
    def make():
        return bounding.Family(Mine, "traced", 1, lambda eta, row, shared: -jnp.square(eta - row["value"]) * row["weight"])

    ask(make(), *rows)
    before = len(backend_compiles)
    ask(make(), *rows)
    assert len(backend_compiles) == before


@pytest.mark.slow
def test_a_run_in_single_precision_bounds_the_traced_function(mine, rows):
    """Constants of the user's as float32 has them, arithmetic in float64."""
    anchor, radius, params = rows
    params = {k: v.astype(np.float32) for k, v in params.items()}
    bound = bounds.local_bound(mine, anchor.astype(np.float32), radius, params)
    wide = ask(mine, anchor.astype(np.float32), radius, params)
    assert bound.curvature.dtype == np.float64
    np.testing.assert_allclose(bound.curvature, wide.curvature, rtol=1e-6)
    with jax.enable_x64(True):
        own = bounds.log_likelihood(mine, anchor, params)
    assert own.dtype == np.float64
