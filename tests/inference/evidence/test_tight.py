"""A bound that is the evidence where the posterior is Gaussian, and ranks models as the evidence does; what stands beside it."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm

import luciole as lc
from luciole import dist
from luciole.inference.evidence import Evidence
from luciole.inference.evidence.doubts import NOTHING
from luciole.inference.evidence.remarks import warn

DIM, ROWS = 8, 60
WIDTHS = (2, 4, 6, 8)
QUICK = {"num_restarts": 32}


def correlated(conjugate, rho, seed):
    """Columns that share a factor; the first two matter, the next two a little."""
    rng = np.random.default_rng(seed)
    plain = conjugate.random(ROWS, DIM)
    x = np.sqrt(1 - rho) * rng.normal(size=(ROWS, DIM)) + np.sqrt(rho) * rng.normal(size=(ROWS, 1))
    little = 0.25 / np.sqrt(1 - rho)
    b = np.array([1.0, -1.0, little, -little, 0, 0, 0, 0])
    return plain._replace(x=x, y=x @ b + rng.normal(size=ROWS))


def narrower(problem, width):
    """Without the last columns, which stay as zeros: their coefficients keep the prior, and the evidence does not know them."""
    return problem._replace(x=problem.x * (np.arange(DIM) < width))


@pytest.mark.slow
@pytest.mark.parametrize("order", ["exact", "reference"])
def test_a_gaussian_posterior_is_exact(conjugate, quiet, order):
    problem = correlated(conjugate, 0.99, 0)
    for start in ("fit", "laplace"):
        found = quiet(conjugate.model, jax.random.key(0), *problem, order=order, start=start, **QUICK)
        assert abs(found.bound - problem.log_evidence) < 1e-3
        assert abs(found.laplace - problem.log_evidence) < 1e-3
        assert found.certified and found.bound_stderr < 1e-3
        assert found.start_importance < problem.log_evidence + 4 * 0.3
    if order == "exact":
        assert abs(found.importance_weighted - problem.log_evidence) < 1e-3
    else:
        assert np.isnan(found.importance_weighted) and np.isnan(found.importance_stderr)


@pytest.mark.exhaustive
@pytest.mark.parametrize("order", ["exact", "reference", 2, 4])
@pytest.mark.parametrize("size", [(100, 12), (40, 50)])
def test_a_gaussian_posterior_of_any_size(conjugate, quiet, size, order):
    """Orders 2 and 4 are below by what their polynomials lack, which is known."""
    problem = conjugate.random(*size)
    found = quiet(conjugate.model, jax.random.key(0), *problem, order=order, num_restarts=256)
    dim, shrunk = size[1], -np.expm1(-np.log(1.25) / found.num_steps)
    short = 0.0 if isinstance(order, str) else np.log(1 - shrunk) - conjugate.expected_log_det([shrunk], order)
    assert abs(found.bound - problem.log_evidence + found.num_steps * dim * short) < 4 * found.bound_stderr + 2e-3
    assert found.certified


def ranked(estimate, problems):
    """Of all pairs of models whose evidence differs by more than a nat, those that the estimate ranks wrongly; and how many there are."""
    exact = np.array([p.log_evidence for p in problems])
    bound = np.array([estimate(p) for p in problems])
    pairs = [(i, j) for i in range(len(exact)) for j in range(i) if abs(exact[i] - exact[j]) > 1]
    return sum((bound[i] - bound[j]) * (exact[i] - exact[j]) < 0 for i, j in pairs), len(pairs)


@pytest.mark.slow
def test_nested_regressions_are_ranked_right_where_plain_descent_is_wrong(conjugate, quiet):
    """Plain descent, from the prior with one step size, loses most where columns are correlated, and prefers the models without them."""
    problems = [narrower(correlated(conjugate, 0.9, 0), width) for width in WIDTHS]

    def plain(problem):
        run = {"start": "prior", "preconditioner": None, "num_steps": 250, "step_size": 0.1 / problem.curvature}
        return quiet(conjugate.model, jax.random.key(0), *problem, **run, **QUICK).bound

    wrong, of = ranked(lambda p: quiet(conjugate.model, jax.random.key(0), *p, order="exact", **QUICK).bound, problems)
    assert wrong == 0 and of >= 4
    assert ranked(plain, problems)[0] >= 1


@pytest.mark.exhaustive
@pytest.mark.parametrize("rho", [0.5, 0.9, 0.99])
def test_nested_regressions_of_many_seeds(conjugate, quiet, rho):
    wrong = {"exact": 0, "plain": 0}
    for seed in range(10):
        problems = [narrower(correlated(conjugate, rho, seed), width) for width in WIDTHS]
        wrong["exact"] += ranked(lambda p: quiet(conjugate.model, jax.random.key(0), *p, order="exact", **QUICK).bound, problems)[0]
        wrong["plain"] += ranked(lambda p: p.bound(0.1 / p.curvature, 400, 2).max(), problems)[0]
    assert wrong["exact"] == 0 and wrong["plain"] >= 3, wrong


def counts(y):
    rate = lc.sample("log_rate", dist.Normal(0, 1))
    lc.sample("y", dist.Poisson(np.e**rate).expand([3]).to_event(1), obs=y)


@pytest.mark.slow
def test_weights_are_tighter_and_unbiased(quiet):
    """One parameter and skewed: the mean of exp(log_evidence), and that of the start alone, against quadrature."""
    y = np.array([0.0, 1.0, 0.0])
    grid = np.linspace(-10, 8, 20_001)
    joint = norm.logpdf(grid) + y.sum() * grid - 3 * np.exp(grid)
    exact = logsumexp(joint) + np.log(grid[1] - grid[0])
    found = quiet(counts, jax.random.key(0), y, num_restarts=2000)
    assert found.certified
    assert found.bound < exact + 3 * found.bound_stderr
    assert found.bound - 1e-6 < found.importance_weighted < exact + 4 * found.importance_stderr
    assert abs(found.importance_weighted - exact) < max(4 * found.importance_stderr, 1e-3)
    start = found.log_evidence[:, 0]
    np.testing.assert_allclose(found.start_importance, logsumexp(start) - np.log(2000), rtol=1e-12)
    weights = np.exp(start - exact)
    assert abs(weights.mean() - 1) < 4 * weights.std() / np.sqrt(2000)
    assert abs(start.mean() - exact) > 4 * start.std() / np.sqrt(2000)  # the start's own bound, which is not that mean
    mode = joint.argmax()
    curved = 1 + 3 * np.exp(grid[mode])
    np.testing.assert_allclose(found.laplace, joint[mode] + 0.5 * np.log(2 * np.pi / curved), atol=1e-3)


def record(order, curvature):
    """Four restarts from a fit, two steps, log evidence -1 to -4."""
    values = np.arange(-1.0, -5.0, -1.0)[:, None] * np.ones(3)
    nothing = np.zeros((4, 3))
    seen = np.full((4, 2), 0.1)
    seen[2, 1] = curvature
    return Evidence(
        steps=np.arange(3), log_likelihood=values, log_prior=nothing, entropy=nothing, training_loss=-values, test_log_likelihood=None,
        best_step=2, samples={}, curvature=seen, start="fit", preconditioner="full", num_steps=2, inflate=1.25, order=order, num_probes=1,
        step_size=np.ones(2), unseen_curvature=0.0, doubts=NOTHING, tried=(), key=np.zeros(2, np.uint32), num_observed=1, seconds=0.0,
        program=None,
    )  # fmt: skip


def test_weights_need_exact_determinants_and_a_guard_that_passed():
    values = np.arange(-1.0, -5.0, -1.0)
    good = record("exact", 0.9)
    assert good.certified and good.bound == -2.5
    np.testing.assert_allclose(good.importance_weighted, logsumexp(values) - np.log(4), rtol=1e-12)
    for bad in (record("exact", 1.1), record(2, 0.1), record(4, 0.1), record("reference", 0.1)):
        assert np.isnan(bad.importance_weighted) and np.isnan(bad.importance_stderr)
        assert np.isfinite(bad.start_importance)
    folded = record("exact", 1.1)
    assert not folded.certified and folded.num_counted == 3 and folded.first_invalid_step == 1 and folded.num_folds == 1
    np.testing.assert_allclose(folded.bound, np.mean([-1, -2, -4]) + np.log(3 / 4), rtol=1e-12)
    assert not record(2, 0.9).certified and record(4, 0.86).certified and not record(4, 0.9).certified


def test_a_bound_far_below_what_its_start_shows_is_told_of():
    """The start's own weights agree on -1; the path ends at -1.5, which is near enough, or at -4."""
    path = np.ones((4, 1)) * [-1.0, -2.0, -4.0]
    near = replace(record("exact", 0.1), log_likelihood=path * [1, 1, 0.375])
    far = replace(near, log_likelihood=path)
    warn(near)
    with pytest.warns(lc.EvidenceFitWarning, match=r"the bound, -4, is loose: .* has -1 .*lc.bridge_evidence"):
        warn(far)
    uncertain = replace(far, log_likelihood=path + np.outer([1, -9, -9, -9], [1, 0, 0]))
    warn(uncertain)  # one weight has it all
    warn(replace(far, preconditioner=None))  # plain descent is loose, and says so in its documentation


def test_the_closed_form_of_the_evidence_is_that_of_the_rows(conjugate):
    """The reference of this file, against the density of all rows."""
    problem = narrower(correlated(conjugate, 0.99, 0), 3)
    covariance = problem.noise**2 * np.eye(ROWS) + problem.x @ problem.x.T
    np.testing.assert_allclose(problem.log_evidence, multivariate_normal(np.zeros(ROWS), covariance).logpdf(problem.y), rtol=1e-10)
