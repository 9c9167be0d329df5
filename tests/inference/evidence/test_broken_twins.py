"""Estimates that are wrong on purpose, each beside the right one: what would be seen if a term of the bound were missing.

On a Gaussian posterior the right bound is the evidence, without noise if determinants are exact; a "bound" beyond it is caught.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import norm

import luciole as lc
from luciole import dist
from luciole.inference.evidence import descent, host, steps
from luciole.inference.evidence.estimators import LIMITS
from luciole.inference.evidence.roots import Full
from luciole.inference.evidence.steps import Rule
from luciole.transforms.bounded import bounded_jit

DIM, STEPS, INFLATE = 4, 16, 2.0
RUN = {"num_steps": STEPS, "inflate": INFLATE, "num_restarts": 512}


@pytest.fixture
def rebuilt(monkeypatch):
    """Sets an attribute, or what a dict has, and has the path's programs compiled anew with it; those of other tests stay as they are."""

    def rebuild(owner, name, value):
        (monkeypatch.setitem if isinstance(owner, dict) else monkeypatch.setattr)(owner, name, value)
        monkeypatch.setattr(host, "begin", bounded_jit((0, 1, 2, 3))(descent.begin.__wrapped__))
        monkeypatch.setattr(host, "advance", bounded_jit(0, 1)(descent.advance.__wrapped__))

    return rebuild


@pytest.fixture
def problem(conjugate):
    """Four columns correlated at .9."""
    rng = np.random.default_rng(3)
    plain = conjugate.random(40, DIM)
    x = np.sqrt(0.1) * plain.x + np.sqrt(0.9) * rng.normal(size=(40, 1))
    return plain._replace(x=x)


def beyond(estimate, exact):
    """Nats by which the bound exceeds the evidence, and the same in standard errors; float32 has an error of its own."""
    excess = estimate.bound - exact
    return excess, excess / np.hypot(estimate.bound_stderr, 1e-3)


def no_determinant(rebuilt, order):
    if order == "exact":
        rebuilt(steps, "eigenvalues", lambda product, dim, dtype: jnp.zeros(dim, dtype))
    elif order == "reference":
        split = Rule.split
        rebuilt(Rule, "split", lambda rule, size: (0.0, *split(rule, size)[1:]))
    else:
        rebuilt(steps, "log_det_estimate", lambda product, probes, order: jnp.zeros((), probes.dtype))


@pytest.mark.parametrize(
    "order", [pytest.param("exact", marks=pytest.mark.slow), *(pytest.param(k, marks=pytest.mark.exhaustive) for k in (2, 4, "reference"))]
)
def test_without_the_determinant(conjugate, quiet, problem, rebuilt, order):
    def run():
        return quiet(conjugate.model, jax.random.key(0), *problem, **RUN, order=order)

    right = run()
    excess, errors = beyond(right, problem.log_evidence)
    assert errors < 3 and excess > -0.3 and right.certified
    no_determinant(rebuilt, order)
    excess, errors = beyond(run(), problem.log_evidence)
    np.testing.assert_allclose(excess, DIM * np.log(INFLATE), atol=0.35)
    assert errors > 20


def wrong_beside_right(conjugate, quiet, problem, rebuilt, name, part):
    """The estimate with a part of the path replaced; the right one is the evidence."""

    def run():
        return quiet(conjugate.model, jax.random.key(0), *problem, **RUN, order="exact")

    assert abs(run().bound - problem.log_evidence) < 1e-3
    rebuilt(descent, name, part)
    return run()


@pytest.mark.exhaustive
def test_a_preconditioner_that_depends_on_where_the_path_is(conjugate, quiet, problem, rebuilt):
    """Steps that grow with the gradient, up to twice, whose Jacobian is taken for that of a step of fixed size."""
    known = -np.expm1(-np.log(INFLATE) / STEPS)

    def leaning(rule, loss, u, size):
        pull = rule.root.transposed(jax.grad(loss)(u))
        squared = pull @ pull / known  # of the distance from the mode, in the posterior's standard deviations
        return step(rule, loss, u, size * 2 * squared / (DIM + squared))

    step = descent.step
    wrong = wrong_beside_right(conjugate, quiet, problem, rebuilt, "step", leaning)
    excess, errors = beyond(wrong, problem.log_evidence)
    assert wrong.certified  # no guard can know
    assert excess > 0.1 and errors > 5


@pytest.mark.exhaustive
@pytest.mark.parametrize("part", ["density", "determinant"])
def test_a_start_whose_density_is_not_that_of_its_draws(conjugate, quiet, problem, rebuilt, part):
    """The inflation left out of log q_0. In its determinant alone it only makes the bound loose; even that a Gaussian posterior shows."""

    def narrow(start, normal):
        root = Full(start.root.matrix / INFLATE)
        return log_density(start._replace(root=root), INFLATE * normal if part == "density" else normal)

    log_density = descent.log_density
    wrong = wrong_beside_right(conjugate, quiet, problem, rebuilt, "log_density", narrow)
    excess, errors = beyond(wrong, problem.log_evidence)
    if part == "density":
        assert errors > 10
        np.testing.assert_allclose(excess, DIM * ((INFLATE**2 - 1) / 2 - np.log(INFLATE)), rtol=0.2)
    else:
        np.testing.assert_allclose(excess, -DIM * np.log(INFLATE), atol=1e-3)


BEND = 0.1


def bent(width):
    """The likelihood's slope turns from 1 to -1 within `width`."""
    x = lc.sample("x", dist.Normal(0, 1))
    lc.factor("bend", -width * (jnp.logaddexp(x / width, -x / width) - jnp.log(2.0)))


@pytest.mark.exhaustive
def test_paths_that_fold_are_not_counted(x64, quiet, rebuilt):
    """Eight steps that are one to one, and eight under which three places meet in one, wherever the slope turns."""
    grid = np.linspace(-12, 12, 100_001)
    joint = norm.logpdf(grid) - BEND * (np.logaddexp(grid / BEND, -grid / BEND) - np.log(2))
    exact = logsumexp(joint) + np.log(grid[1] - grid[0])
    sizes = np.repeat([0.5 * BEND, 2.0], 8)
    run = {"start": "prior", "preconditioner": None, "step_size": sizes, "num_steps": 16, "num_restarts": 1000, "order": "exact"}
    with pytest.warns(lc.EvidenceRangeWarning, match="first at step 8"):
        right = quiet(bent, jax.random.key(0), np.array(BEND), **run)
    assert right.best_step <= 8 and beyond(right, exact)[1] < 3 and right.num_folds > 0
    rebuilt(LIMITS, "exact", np.inf)
    excess, errors = beyond(quiet(bent, jax.random.key(0), np.array(BEND), **run), exact)
    assert excess > 0.3 and errors > 5
