"""Warm-up: the plan, the averages, the shrinkage, and that nothing moves afterwards."""

import jax
import numpy as np
import pytest
from numpyro.infer.hmc_util import build_adaptation_schedule, dual_averaging, welford_covariance

from luciole.inference import MCMC, NUTS
from luciole.inference.kernels import adaptation
from luciole.inference.kernels.metric import kinetic_energy, metric_of, momentum, velocity
from luciole.transforms import normal, stream_for


@pytest.mark.parametrize("num_warmup", [*range(160), 200, 500, 999, 1000, 1001, 2500, 10_000, 1_000_000])
def test_schedule_equals_numpyro(num_warmup):
    schedule = adaptation.warmup_schedule(num_warmup)
    theirs = build_adaptation_schedule(num_warmup)
    slow = theirs[1:-1] if num_warmup >= 20 else []
    ends = schedule.window_ends[schedule.window_ends >= 0]
    assert ends.tolist() == [window.end for window in slow]
    if slow:
        assert (schedule.slow_start, schedule.slow_end) == (slow[0].start, slow[-1].end + 1)
    else:
        assert schedule.slow_start == schedule.slow_end


@pytest.fixture
def promotion():
    """NumPyro mixes integers and floats."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def test_dual_averaging_equals_numpyro(dtype, promotion):
    init, update = dual_averaging()
    step_size = dtype(0.3)
    theirs, ours = init(np.log(10 * step_size)), adaptation.restart_dual_averaging(jax.numpy.asarray(step_size))
    for gap in np.random.default_rng(0).uniform(-0.2, 0.8, 40).astype(dtype):
        theirs = update(gap, theirs)
        ours, log_step = adaptation._update_dual_averaging(ours, gap)
    np.testing.assert_allclose([log_step, ours.log_average], theirs[:2], rtol=1e-4)
    assert ours.count == 40


@pytest.mark.parametrize("dense", [False, True])
def test_welford_equals_numpy_and_numpyro(dense, dtype, promotion):
    draws = (np.random.default_rng(1).normal(size=(30, 4)) * [1, 10, 0.1, 3] + 5).astype(dtype)
    state = adaptation.empty_welford(np.zeros((4, 4) if dense else 4, dtype))
    init, update, final = welford_covariance(diagonal=not dense)
    theirs = init(4)
    for draw in draws:
        state, theirs = adaptation._update_welford(state, draw), update(draw, theirs)
    covariance = np.cov(draws.T.astype(np.float64))
    expected = 30 / 35 * covariance + 1e-3 * 5 / 35 * np.eye(4)
    ours = adaptation.covariance_of(state)
    np.testing.assert_allclose(ours, expected if dense else np.diag(expected), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(ours, final(theirs, regularize=True)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dense", [False, True])
def test_metric(dense, dtype):
    root = np.random.default_rng(2).normal(size=(3, 3)).astype(dtype)
    inverse_mass = root @ root.T + np.eye(3, dtype=dtype) if dense else np.array([0.2, 1.0, 9.0], dtype)
    metric = metric_of(jax.numpy.asarray(inverse_mass))
    matrix = inverse_mass if dense else np.diag(inverse_mass)
    p = np.array([1.0, -2.0, 0.5], dtype)
    np.testing.assert_allclose(velocity(metric, p), matrix @ p, rtol=1e-5)
    np.testing.assert_allclose(kinetic_energy(metric, p), p @ matrix @ p / 2, rtol=1e-5)
    key = np.array([1, 2], np.uint32)
    draws = jax.vmap(lambda chain: momentum(metric, normal(stream_for(key, chain), 1, (3,), dtype=dtype)))(
        np.arange(100_000, dtype=np.uint32)
    )
    mass = np.linalg.inv(matrix)
    scale = np.sqrt(np.outer(np.diag(mass), np.diag(mass)))
    np.testing.assert_allclose(np.cov(np.asarray(draws).T) / scale, mass / scale, atol=5 * np.sqrt(2 / 100_000))


@pytest.mark.slow
@pytest.mark.parametrize("dense", [False, True])
def test_finds_scales_and_freezes(dense, targets):
    deviation = np.array([0.1, 1.0, 20.0])
    covariance = np.diag(deviation) @ (np.full((3, 3), 0.6) + 0.4 * np.eye(3)) @ np.diag(deviation)
    density = targets.gaussian([1.0, 2.0, 3.0], covariance)

    def run(num_samples):
        kernel = NUTS(density, dense_mass=dense)
        return MCMC(kernel, num_warmup=600, num_samples=num_samples, progress_bar=False).run(jax.random.key(1))

    short, long = run(1), run(1500)
    np.testing.assert_array_equal(short.step_size, long.step_size)
    np.testing.assert_array_equal(short.inverse_mass_matrix, long.inverse_mass_matrix)
    jax.tree.map(np.testing.assert_array_equal, short.state.adaptation, long.state.adaptation)
    used = long.sample_stats["step_size"]
    np.testing.assert_array_equal(used, np.broadcast_to(long.step_size[:, None], used.shape))
    expected = covariance if dense else np.diag(covariance)
    ratio = long.inverse_mass_matrix / expected
    assert 0.5 < ratio.min() and ratio.max() < 2
    assert abs(long.sample_stats["acceptance_rate"].mean() - 0.8) < 0.12


@pytest.mark.slow
def test_warmup_steps_do_move(targets):
    kernel = NUTS(targets.gaussian(np.zeros(3), np.diag([1.0, 100.0, 4.0])))
    mcmc = MCMC(kernel, num_warmup=100, num_samples=1, progress_bar=False, keep_warmup=True).run(jax.random.key(0))
    assert (np.diff(mcmc.warmup_stats["step_size"], axis=1) != 0).all()
    log_average = np.asarray(mcmc.state.adaptation.dual_averaging.log_average)
    np.testing.assert_allclose(mcmc.step_size, np.exp(log_average), rtol=1e-6)


@pytest.mark.slow
def test_what_the_user_fixes_stays(targets):
    density = targets.gaussian(np.zeros(3), np.diag([1.0, 4.0, 1.0]))
    kernel = NUTS(density, step_size=0.25, inverse_mass_matrix=[2.0, 3.0, 1.0])
    mcmc = MCMC(kernel, num_warmup=150, num_samples=5, progress_bar=False, keep_warmup=True).run(jax.random.key(0))
    assert (mcmc.warmup_stats["step_size"] == 0.25).all() and (mcmc.step_size == 0.25).all()
    np.testing.assert_array_equal(mcmc.inverse_mass_matrix, np.tile(np.float32([2.0, 3.0, 1.0]), (4, 1)))
