"""The multiple of Boehning's matrix holds in every direction, and is within a few hundredths of the least that does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import discrete

from luciole import BoundError, bounds


def family(bounding, predictors, link):
    return bounding.Family(discrete.CategoricalLogits, link, predictors, None)


def rows(num, predictors, spread, classes, seed=0):
    rng = np.random.default_rng(seed)
    return spread * rng.normal(size=(num, predictors)), {"value": rng.integers(0, classes, num)}


def ask(bounding, anchor, params, link):
    with jax.enable_x64(True):
        return bounds.Quadratic(*map(np.asarray, bounds.global_bound(family(bounding, anchor.shape[1], link), anchor, params)))


def least_multiple(logits, directions=180, radii=120):
    """By a search in the plane: a lower bound of the least multiple that holds; (rows,), with the offset that shows it."""
    basis = np.array([[1.0, -1.0, 0.0], [1.0 / np.sqrt(3), 1.0 / np.sqrt(3), -2.0 / np.sqrt(3)]])
    angle = np.linspace(0, 2 * np.pi, directions, endpoint=False)
    radius = np.exp(np.linspace(np.log(0.02), np.log(60), radii))
    t = (radius[:, None, None] * (np.stack([np.cos(angle), np.sin(angle)], -1) @ basis)).reshape(-1, 3)
    best, where = [], []
    for row in logits:
        p = np.exp(row - np.logaddexp.reduce(row))
        divergence = np.logaddexp.reduce(row + t, axis=-1) - np.logaddexp.reduce(row) - t @ p
        quotient = divergence / (0.25 * ((t - t.mean(-1, keepdims=True)) ** 2).sum(-1))
        best.append(quotient.max())
        where.append(t[quotient.argmax()])
    return np.array(best), np.array(where)


@pytest.mark.slow
@pytest.mark.parametrize("link", ["softmax", "reference softmax"])
@pytest.mark.parametrize("spread", [0.1, 2.0, 6.0])
def test_three_classes(bounding, link, spread):
    anchor, params = rows(60, 2 if link == "reference softmax" else 3, spread, 3)
    bound = ask(bounding, anchor, params, link)
    logits = np.concatenate([np.zeros((60, 1)), anchor], axis=1) if link == "reference softmax" else anchor
    least, where = least_multiple(logits)
    assert np.all(bound.curvature >= least - 1e-9)
    assert np.all(bound.curvature <= least + 0.05)
    assert bound.curvature.mean() <= least.mean() + 0.025
    offset = where[:, 1:] - where[:, :1] if link == "reference softmax" else where
    reference = link == "reference softmax"
    with jax.enable_x64(True):
        there = bounds.log_likelihood(family(bounding, anchor.shape[1], link), anchor + offset, params)
        assert not np.asarray(bounds.gap_of(there, bound, jnp.asarray(offset), reference).refuted).any()
        twin = bound._replace(curvature=0.99 * least)
        assert np.asarray(bounds.gap_of(there, twin, jnp.asarray(offset), reference).refuted).all()
        with pytest.raises(BoundError, match="row"):
            bounds.check(there, twin, offset, reference=reference)


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 4, 6])
def test_other_numbers_of_classes_have_boehnings_matrix(bounding, classes):
    anchor, params = rows(200, classes - 1, 2.0, classes)
    bound = ask(bounding, anchor, params, "reference softmax")
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        for size in (0.01, 0.3, 3.0, 30.0):
            offset = size * rng.normal(size=anchor.shape)
            there = bounds.log_likelihood(family(bounding, classes - 1, "reference softmax"), anchor + offset, params)
            assert not np.asarray(bounds.gap_of(there, bound, jnp.asarray(offset)).refuted).any()


@pytest.mark.exhaustive
def test_three_classes_many_rows(bounding):
    for seed, spread in enumerate([0.5, 1.5, 3.0, 8.0]):
        anchor, params = rows(2000, 2, spread, 3, seed)
        bound = ask(bounding, anchor, params, "reference softmax")
        least, _ = least_multiple(np.concatenate([np.zeros((2000, 1)), anchor], axis=1), 360, 240)
        assert np.all(bound.curvature >= least - 1e-9)


def test_two_classes_with_a_reference_are_the_logistic_bound_at_its_loosest(bounding):
    anchor, params = rows(20, 1, 2.0, 2)
    bound = ask(bounding, anchor, params, "reference softmax")
    matrix = bounds.boehning(1)
    np.testing.assert_allclose(bound.curvature * matrix[0, 0], 0.25)


def test_the_matrix_dominates_the_hessian():
    rng = np.random.default_rng(0)
    for reference in (True, False):
        for predictors in (2, 5):
            matrix = bounds.boehning(predictors, reference)
            for _ in range(50):
                eta = 3 * rng.normal(size=predictors)
                logits = np.concatenate([[0.0], eta]) if reference else eta
                p = np.exp(logits - np.logaddexp.reduce(logits))
                hessian = (np.diag(p) - np.outer(p, p))[int(reference) :, int(reference) :]
                assert np.linalg.eigvalsh(matrix - hessian).min() > -1e-12


@pytest.mark.slow
def test_value_and_slope_are_the_distributions_own(bounding):
    anchor, params = rows(30, 3, 2.0, 4)
    bound = ask(bounding, anchor, params, "reference softmax")
    with jax.enable_x64(True):

        def own(eta, value):
            return discrete.CategoricalLogits(jnp.concatenate([jnp.zeros(1), eta])).log_prob(value)

        value, slope = jax.vmap(jax.value_and_grad(own))(jnp.asarray(anchor), jnp.asarray(params["value"]))
    np.testing.assert_allclose(bound.value, value, rtol=1e-12)
    np.testing.assert_allclose(bound.slope, slope, atol=1e-12)
