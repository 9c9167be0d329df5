"""The estimates of log|det J|: against the paper's form, their means, and where they are bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from luciole.inference.evidence import steps
from luciole.inference.evidence.curvature import climb, start_direction
from luciole.inference.evidence.estimators import LIMITS, eigenvalues, log_det_estimate
from luciole.inference.evidence.roots import Identity


def symmetric(dim, low, high, seed=0):
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    return q @ np.diag(np.linspace(low, high, dim)) @ q.T


def of_paper(a, r):
    """Algorithm 2 of Duvenaud, Maclaurin & Adams (2016), two products."""
    r1 = r - a @ r
    r2 = r1 - a @ r1
    return r @ (-2 * r + 3 * r1 - r2)


@pytest.mark.parametrize("probes", ["signs", "normal"])
def test_one_product_is_the_papers_two_sample_by_sample(x64, probes):
    rng = np.random.default_rng(1)
    for dim, high in [(1, 0.5), (10, 0.68), (200, 0.3)]:
        a = symmetric(dim, -0.2, high)
        r = rng.choice([-1.0, 1.0], (20, dim)) if probes == "signs" else rng.normal(size=(20, dim))
        ours = jax.vmap(lambda r, a=a: log_det_estimate(lambda v: a @ v, r[None], 2))(r)
        np.testing.assert_allclose(ours, [of_paper(a, one) for one in r], rtol=0, atol=1e-10)


@pytest.mark.parametrize("order", [2, 4])
def test_the_mean_is_the_polynomial(x64, conjugate, order):
    a = symmetric(30, -0.3, 0.6)
    probes = jax.random.rademacher(jax.random.key(0), (4000, 30), float)
    samples = np.asarray(jax.vmap(lambda r: log_det_estimate(lambda v: a @ v, r[None], order))(probes))
    error = samples.std(ddof=1) / np.sqrt(samples.size)
    expected = {k: conjugate.expected_log_det(np.linalg.eigvalsh(a), k) for k in (2, 4)}
    assert abs(samples.mean() - expected[order]) < 4 * error
    assert abs(samples.mean() - expected[6 - order]) > 4 * error  # the other order's mean is told apart
    variance = 2 * np.sum((a + a @ a)[~np.eye(30, dtype=bool)] ** 2)  # random signs: the diagonal adds none
    if order == 2:
        assert abs(samples.var(ddof=1) / variance - 1) < 0.15


@pytest.mark.parametrize("order", [2, 4])
def test_a_lower_bound_up_to_the_limit_and_not_beyond(conjugate, order):
    inside = np.concatenate([-np.geomspace(1e-9, 1e3, 2000), np.linspace(0, LIMITS[order], 20001)])
    excess = [conjugate.expected_log_det([x], order) - np.log1p(-x) for x in inside]
    assert max(excess) <= 1e-15
    beyond = np.linspace(LIMITS[order] + 1e-3, 0.999, 1000)
    assert min(conjugate.expected_log_det([x], order) - np.log1p(-x) for x in beyond) > 0


@pytest.mark.parametrize("order", [2, 4])
def test_more_probes_are_their_mean(x64, order):
    a = symmetric(12, 0.0, 0.5)
    probes = jax.random.rademacher(jax.random.key(3), (5, 12), float)
    one_by_one = [log_det_estimate(lambda v: a @ v, r[None], order) for r in probes]
    np.testing.assert_allclose(log_det_estimate(lambda v: a @ v, probes, order), np.mean(one_by_one), rtol=1e-12)


def test_exact_is_the_log_determinant(x64):
    a = symmetric(12, -0.5, 0.9)
    found = eigenvalues(lambda v: a @ v, 12, float)
    np.testing.assert_allclose(found, np.linalg.eigvalsh(a), atol=1e-12)
    np.testing.assert_allclose(np.log1p(-found).sum(), np.linalg.slogdet(np.eye(12) - a)[1], rtol=1e-12)


def test_the_thresholded_step_has_the_determinant_of_its_symmetric_form(x64):
    rng = np.random.default_rng(0)
    b = symmetric(6, 0.1, 3.0)

    def loss(u):
        return 0.5 * u @ b @ u + jnp.sum(jnp.cos(u))

    u, a, width = jnp.asarray(rng.normal(size=6)), 0.1, 0.7

    def step(u):
        g = jax.grad(loss)(u)
        return u - a * (g - width * jnp.tanh(g / width))

    now = steps.step(steps.Rule(Identity(), jnp.asarray(width), None), loss, u, a)
    np.testing.assert_allclose(now.moved, step(u), rtol=1e-12)
    found = np.log(np.abs(1 - eigenvalues(now.product, 6, float))).sum()
    expected = np.linalg.slogdet(np.asarray(jax.jit(jax.jacobian(step))(u)))[1]
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    unthresholded = np.linalg.slogdet(np.eye(6) - a * np.asarray(jax.jit(jax.hessian(loss))(u)))[1]
    assert abs(unthresholded - expected) > 0.1


@pytest.mark.parametrize(("low", "high"), [(-0.1, 0.5), (-2.0, 0.5), (0.0, 0.0), (-1.0, -0.3)])
def test_the_guard_finds_the_largest_eigenvalue_not_the_largest_in_size(x64, low, high):
    a = symmetric(40, low, high)
    check = jax.jit(lambda guard, first: climb(guard, lambda v: a @ v, first))
    guard, seen = start_direction(jax.random.key(0), 40, float), -np.inf
    for t in range(30):
        before, (guard, seen) = seen, check(guard, t == 0)
        assert before - 1e-12 <= seen <= high + 1e-12
    assert seen > high - 0.01 * (high - low) - 1e-12
