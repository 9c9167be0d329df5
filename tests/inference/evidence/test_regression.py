"""Bayesian linear regression, where everything is known: exact evidence, closed form of the path, polynomial degree by evidence.

Failure rate: a test of the mean against its closed form looks at fewer than 100 strongly correlated steps at 4 standard errors of 512
restarts; by simulation of the closed form it fails for fewer than one seed in 500.
"""

import jax
import numpy as np
import pytest

import luciole as lc

SIZES = [(40, 5), (100, 20), (400, 50)]
RUN = {"num_steps": 60, "num_restarts": 512}


def largest_z(estimate, expected):
    return np.max(np.abs(estimate.mean - expected) / estimate.stderr)


def agrees_with_closed_form(conjugate, quiet, order, size, fraction, **options):
    problem = conjugate.random(*size)
    step_size = fraction / problem.curvature
    estimate = quiet(conjugate.model, jax.random.key(1), *problem, step_size=step_size, order=order, **{**RUN, **options})
    expected = problem.bound(step_size, estimate.steps[-1], order)
    assert largest_z(estimate, expected) < 4
    wrong = estimate.log_evidence - 2 * (estimate.entropy - estimate.entropy[:, :1])  # the change of entropy with its sign flipped
    assert np.max(np.abs(wrong.mean(0) - expected) / (wrong.std(0, ddof=1) / np.sqrt(len(wrong)))) > 4
    assert np.all(expected < problem.log_evidence)
    assert np.all(estimate.mean - 4 * estimate.stderr < problem.log_evidence)
    assert 0 < estimate.best_step < estimate.steps[-1]
    assert estimate.valid and estimate.num_failed == 0
    np.testing.assert_allclose(estimate.max_curvature[1:], fraction, rtol=0.02)
    return estimate


@pytest.mark.parametrize("order", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_follows_the_closed_form_at_every_step(x64, conjugate, quiet, order):
    agrees_with_closed_form(conjugate, quiet, order, (100, 20), 0.3)


@pytest.mark.exhaustive
@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.6])
@pytest.mark.parametrize("size", SIZES)
def test_follows_the_closed_form_for_every_size_and_step(x64, conjugate, quiet, size, fraction):
    agrees_with_closed_form(conjugate, quiet, 2, size, fraction, num_steps={0.1: 90, 0.3: 60, 0.6: 40}[fraction])


@pytest.mark.slow
def test_follows_the_closed_form_exactly(x64, conjugate, quiet):
    agrees_with_closed_form(conjugate, quiet, "exact", (40, 5), 0.6)


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.6])
@pytest.mark.parametrize("size", SIZES)
def test_below_the_evidence_everywhere_and_peaks_inside(conjugate, size, fraction):
    problem = conjugate.random(*size)
    for order in (2, 4, "exact"):
        bound = problem.bound(fraction / problem.curvature, 400, order)
        assert np.all(bound < problem.log_evidence)
        assert 0 < np.argmax(bound) < 400


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.3])
@pytest.mark.parametrize("size", SIZES)
def test_the_quartics_excess_is_under_a_fifth_of_the_parabolas(conjugate, size, fraction):
    problem = conjugate.random(*size)
    exact, quartic, parabola = (problem.bound(fraction / problem.curvature, 400, order).max() for order in ("exact", 4, 2))
    assert 0 < exact - quartic < (exact - parabola) / 5


@pytest.mark.parametrize(("order", "fraction"), [(2, 0.9), pytest.param(4, 1.1, marks=pytest.mark.slow)])
def test_a_step_that_is_too_long_gives_no_bound_and_says_so(x64, conjugate, quiet, order, fraction):
    problem = conjugate.random(100, 20)
    step_size = fraction / problem.curvature
    with pytest.raises(lc.EvidenceError, match=rf"beyond .*order={order} .*At step 0 .* was [01].*step_size="):
        quiet(conjugate.model, jax.random.key(0), *problem, step_size=step_size, **RUN, order=order)
    sizes = np.where(np.arange(RUN["num_steps"]) < 10, 0.3 / problem.curvature, step_size)
    with pytest.warns(lc.EvidenceRangeWarning, match=rf"on {RUN['num_restarts']} of .* first at step 10, .*step_size="):
        estimate = quiet(conjugate.model, jax.random.key(0), *problem, step_size=sizes, **RUN, order=order)
    assert not estimate.valid and estimate.first_invalid_step == 10 and estimate.best_step <= 10
    assert np.isfinite(estimate.mean[:11]).all() and np.isneginf(estimate.mean[11:]).all()


def chosen_degrees(problem):
    """By the exact evidence, and by the closed form of the bound at its peak."""
    exact = np.argmax([p.log_evidence for p in problem])
    step_size = 0.1 / problem[-1].curvature
    return exact, np.argmax([p.bound(step_size, 300, 2).max() for p in problem])


def test_polynomial_degree_is_that_of_the_exact_evidence(conjugate):
    chosen = [chosen_degrees(conjugate.polynomials(i)) for i in range(50)]
    assert sum(exact == bound for exact, bound in chosen) >= 45


@pytest.mark.parametrize(
    ("number", "least"), [pytest.param(10, 8, marks=pytest.mark.slow), pytest.param(50, 40, marks=pytest.mark.exhaustive)]
)
def test_polynomial_degree_by_monte_carlo(x64, conjugate, quiet, number, least):
    """Higher coefficients meet columns of zeros: they stay as drawn and add nothing to the bound. One program serves all."""
    agreed = 0
    for i in range(number):
        problem = conjugate.polynomials(i)
        full, y, noise = problem[-1]
        options = {"step_size": 0.1 / problem[-1].curvature, "num_steps": 250, "num_restarts": 256}
        columns = [full * (np.arange(9) <= k) for k in range(9)]
        estimates = {str(k): quiet(conjugate.model, jax.random.key(i), x, y, noise, **options) for k, x in enumerate(columns)}
        agreed += lc.compare_evidence(estimates).best == str(np.argmax([p.log_evidence for p in problem]))
    assert agreed >= least
