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


@pytest.mark.parametrize("name", ROOTS)
def test_a_step_has_the_determinant_of_its_map(x64, name):
    make, matrix = ROOTS[name]
    u, size = jnp.asarray(RNG.normal(size=DIM)), 0.02
    now = step(Rule(make(), None, None), loss, u, size)
    hessian = np.asarray(jax.hessian(loss)(u))
    np.testing.assert_allclose(now.moved, u - size * matrix @ matrix.T @ jax.grad(loss)(u), rtol=1e-12)
    found = np.log(np.abs(1 - eigenvalues(now.product, DIM, float))).sum()
    np.testing.assert_allclose(found, np.linalg.slogdet(np.eye(DIM) - size * matrix @ matrix.T @ hessian)[1], rtol=1e-10)


@pytest.mark.parametrize("name", ROOTS)
def test_the_split_determinant_adds_up(x64, name):
    """log|I - A| = log|I - A*| + log|I - B|, whatever A*; and B = 0, without noise, where A* is A."""
    make, matrix = ROOTS[name]
    u, size, known = jnp.asarray(RNG.normal(size=DIM)), 0.02, RNG.uniform(0.0, 20.0, size=DIM)
    a = size * matrix.T @ np.asarray(jax.hessian(loss)(u)) @ matrix
    rule = Rule(make(), None, jnp.asarray(known))
    now = step(rule, loss, u, size)
    b = eigenvalues(now.product, DIM, float)
    np.testing.assert_allclose(now.log_det_known, np.log(1 - size * known).sum(), rtol=1e-12)
    np.testing.assert_allclose(now.log_det_known + np.log(np.abs(1 - b)).sum(), np.linalg.slogdet(np.eye(DIM) - a)[1], rtol=1e-10)
    assert (np.linalg.eigvalsh(a)[-1] < 1) == (b[-1] < 1)
    v = jnp.asarray(RNG.choice([-1.0, 1.0], DIM))
    once = one_product_step(rule, loss, u, size, v)
    np.testing.assert_allclose(once.product(v), now.product(v), rtol=1e-10)
    np.testing.assert_allclose(once.moved, now.moved, rtol=1e-12)


def test_what_is_known_of_a_gaussian_leaves_nothing_to_estimate(x64):
    hessian, matrix = MATRIX @ MATRIX.T, np.linalg.inv(MATRIX).T  # matrix' hessian matrix = I
    rule = Rule(Full(jnp.asarray(0.3 * matrix)), None, jnp.full(DIM, 0.09))
    now = step(rule, lambda u: 0.5 * u @ jnp.asarray(hessian) @ u, jnp.ones(DIM), 1.0)
    probes = jnp.asarray(RNG.choice([-1.0, 1.0], (3, DIM)))
    assert abs(log_det_estimate(now.product, probes, "reference")) < 1e-12
    np.testing.assert_allclose(now.log_det_known, DIM * np.log(1 - 0.09), rtol=1e-12)
    assert abs(log_det_estimate(step(rule._replace(known=None), loss, jnp.ones(DIM), 1.0).product, probes, 2)) > 0.1
