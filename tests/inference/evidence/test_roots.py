"""Square roots of preconditioners and starts, and the split of a step's determinant."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from luciole.inference.evidence.estimators import eigenvalues, log_det_estimate
from luciole.inference.evidence.roots import Diagonal, Full, Identity
from luciole.inference.evidence.starts import Normal, draw, log_density
from luciole.inference.evidence.steps import Rule, one_product_step, step

DIM = 5
RNG = np.random.default_rng(0)
MATRIX, SCALE = RNG.normal(size=(DIM, DIM)), RNG.uniform(0.3, 3.0, size=DIM)
ROOTS = {"full": (lambda: Full(jnp.asarray(MATRIX)), MATRIX), "diagonal": (lambda: Diagonal(jnp.asarray(SCALE)), np.diag(SCALE))}
ROOTS["identity"] = (Identity, np.eye(DIM))


@pytest.mark.parametrize("name", ROOTS)
def test_a_root_is_its_matrix(x64, name):
    make, matrix = ROOTS[name]
    root, v = make(), RNG.normal(size=DIM)
    np.testing.assert_allclose(root.apply(jnp.asarray(v)), matrix @ v, rtol=1e-12)
    np.testing.assert_allclose(root.transposed(jnp.asarray(v)), matrix.T @ v, rtol=1e-12)
    np.testing.assert_allclose(root.log_det(), np.linalg.slogdet(matrix)[1], atol=1e-12)


@pytest.mark.parametrize("name", ROOTS)
def test_the_density_of_a_start_is_that_of_its_draws(x64, name):
    make, matrix = ROOTS[name]
    start, z = Normal(jnp.asarray(RNG.normal(size=DIM)), make()), RNG.normal(size=DIM)
    u = np.asarray(draw(start, jnp.asarray(z))) - np.asarray(start.mean)
    covariance = matrix @ matrix.T
    expected = -0.5 * (u @ np.linalg.solve(covariance, u) + np.linalg.slogdet(2 * np.pi * covariance)[1])
    np.testing.assert_allclose(log_density(start, jnp.asarray(z)), expected, rtol=1e-10)


def loss(u):
    return 0.5 * u @ jnp.asarray(MATRIX @ MATRIX.T) @ u + jnp.sum(jnp.cos(u))


def gradient(u):
    return MATRIX @ MATRIX.T @ u - np.sin(u)


def hessian(u):
    return MATRIX @ MATRIX.T - np.diag(np.cos(u))


@jax.jit
def taken(rule, u, size, v):
    """A step: where it ends, the eigenvalues of what is estimated, the part that is known, and one product."""
    now = step(rule, loss, u, size)
    return now.moved, eigenvalues(now.product, DIM, float), now.log_det_known, now.product(v)


@jax.jit
def taken_with_one_product(rule, u, size, v):
    now = one_product_step(rule, loss, u, size, v)
    return now.moved, now.product(v), log_det_estimate(now.product, v[None], "reference")


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("name", ROOTS)
def test_a_step_has_the_determinant_of_its_map(x64, name, split):
    """log|I - A| = log|I - A*| + log|I - B|, whatever A*; without, B is A."""
    make, matrix = ROOTS[name]
    u, v, size = RNG.normal(size=DIM), RNG.choice([-1.0, 1.0], DIM), 0.02
    known = RNG.uniform(1.0, 20.0, size=DIM) if split else np.zeros(DIM)
    rule = Rule(make(), None, jnp.asarray(known) if split else None)
    a = size * matrix.T @ hessian(u) @ matrix
    moved, b, log_det_known, image = taken(rule, u, size, v)
    np.testing.assert_allclose(moved, u - size * matrix @ matrix.T @ gradient(u), rtol=1e-10)
    np.testing.assert_allclose(log_det_known, np.log(1 - size * known).sum(), atol=1e-12)
    np.testing.assert_allclose(log_det_known + np.log(np.abs(1 - b)).sum(), np.linalg.slogdet(np.eye(DIM) - a)[1], rtol=1e-10)
    assert (np.linalg.eigvalsh(a)[-1] < 1) == (b[-1] < 1)
    assert not split or abs(log_det_known) > 0.1
    again, once, _ = taken_with_one_product(rule, u, size, v)
    np.testing.assert_allclose(again, moved, rtol=1e-10)
    np.testing.assert_allclose(once, image, rtol=1e-10)


def test_what_is_known_leaves_nothing_to_estimate(x64):
    """A* = A: B = 0, and the estimate is zero for every probe; for the part that is not known it is not."""
    u, v = RNG.normal(size=DIM), RNG.choice([-1.0, 1.0], DIM)
    values, vectors = np.linalg.eigh(hessian(u))
    rule = Rule(Full(jnp.asarray(vectors)), None, jnp.asarray(values))
    assert abs(taken_with_one_product(rule, u, 0.02, v)[2]) < 1e-12
    assert abs(taken_with_one_product(rule._replace(known=0.9 * rule.known), u, 0.02, v)[2]) > 1e-3
