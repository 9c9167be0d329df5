"""The public call: what it promises of its random numbers, its records, its warnings, and what it refuses."""

from dataclasses import replace

import arviz as az
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy.stats import norm

import luciole as lc
from luciole import dist
from luciole.inference.evidence import host

RUN = {"step_size": 0.004, "num_steps": 20, "num_restarts": 8}


@pytest.fixture
def problem(conjugate):
    return conjugate.random(30, 3)


@pytest.mark.slow
def test_the_numbers_of_a_restart_do_not_depend_on_the_others(x64, conjugate, quiet, problem):
    few = quiet(conjugate.model, jax.random.key(0), *problem, **RUN)
    more = quiet(conjugate.model, jax.random.PRNGKey(0), *problem, **{**RUN, "num_restarts": 9})
    np.testing.assert_allclose(more.log_evidence[:8], few.log_evidence, rtol=1e-10)
    other = quiet(conjugate.model, jax.random.key(1), *problem, **RUN)
    assert np.all(other.log_evidence[:, 0] != few.log_evidence[:, 0])


@pytest.mark.slow
def test_chunks_leave_no_trace(x64, conjugate, quiet, problem, monkeypatch):
    once = quiet(conjugate.model, jax.random.key(0), *problem, **RUN)
    monkeypatch.setattr(host, "_FIRST_CALL", 21)
    again = quiet(conjugate.model, jax.random.key(0), *problem, **RUN)
    np.testing.assert_array_equal(once.log_evidence, again.log_evidence)
    np.testing.assert_array_equal(once.samples["w"], again.samples["w"])


@pytest.mark.slow
def test_new_data_of_the_same_shapes_compile_nothing(conjugate, quiet, problem, backend_compiles):
    quiet(conjugate.model, jax.random.key(0), *problem, **RUN)
    del backend_compiles[:]
    quiet(lambda x, y, noise: conjugate.model(x, y, noise), jax.random.key(3), *conjugate.random(30, 3, 1), **{**RUN, "num_steps": 12})
    assert backend_compiles == []


def test_float32_is_close_to_float64(conjugate, quiet, problem):
    single = quiet(conjugate.model, jax.random.key(0), *problem, **RUN)
    assert single.samples["w"].dtype == np.float32
    assert single.log_evidence.dtype == np.float64
    expected = problem.bound(RUN["step_size"], 20, 2)
    assert np.all(np.abs(single.mean - expected) < 5 * single.stderr + 1e-3)


def test_a_long_path_in_float32_keeps_its_digits():
    """The running sum that chooses the peak, against float64: 100,000 terms of 0.01 beside a plain float32 sum, which loses them."""
    from luciole.inference.evidence.descent import compensated

    def body(_, carry):
        total, lost, plain = carry
        total, lost = compensated(total, jnp.float32(0.01), lost)
        return total, lost, plain + jnp.float32(0.01)

    total, _, plain = jax.jit(lambda: jax.lax.fori_loop(0, 100_000, body, (jnp.float32(1e4), jnp.float32(0), jnp.float32(1e4))))()
    exact = 1e4 + 1e5 * float(np.float32(0.01))
    assert abs(float(total) - exact) < 1e-3
    assert abs(float(plain) - exact) > 1


def test_records_fit_together(x64, conjugate, quiet, problem):
    held_out = conjugate.random(12, 3, seed=4)
    estimate = quiet(conjugate.model, jax.random.key(0), *problem, **RUN, test=tuple(held_out), evaluate_every=3)
    np.testing.assert_array_equal(estimate.steps, [0, 3, 6, 9, 12, 15, 18, 20])
    assert estimate.log_evidence.shape == estimate.test_log_likelihood.shape == (8, 8)
    assert estimate.training_loss.shape == (8, 21)
    np.testing.assert_allclose(estimate.log_evidence, estimate.log_likelihood + estimate.log_prior + estimate.entropy)
    np.testing.assert_allclose(-estimate.training_loss[:, estimate.steps], estimate.log_likelihood)
    assert estimate.best_step == estimate.steps[np.argmax(estimate.mean)]
    by_site = lc.log_likelihood(conjugate.model, estimate.samples, *held_out)["y"]
    np.testing.assert_allclose(by_site.mean(axis=1), estimate.test_log_likelihood[:, estimate.best], rtol=1e-10)
    assert "lower bound" in repr(estimate)
    axes = estimate.plot()
    assert [line.get_label() for line in axes[1].lines] == ["training loss", "test loss", f"peak, step {estimate.best_step}"]
    after = replace(estimate, start="fit").plot()  # from a fit the bound is read after the last step, which need not be its peak
    assert after[1].lines[2].get_label() == f"read, step {estimate.best_step}"
    plt.close("all")


def test_arviz_takes_the_samples(conjugate, quiet, problem):
    estimate = quiet(conjugate.model, jax.random.key(0), *problem, **RUN)
    data = estimate.to_arviz()
    assert data["posterior"]["w"].shape == (1, 8, 3)
    np.testing.assert_allclose(data["sample_stats"]["log_evidence"][0], estimate.log_evidence[:, estimate.best], rtol=1e-4)
    assert int(az.__version__.partition(".")[0]) >= 1 or set(data.groups()) >= {"posterior", "log_likelihood", "observed_data"}


def test_step_sizes_may_change_along_the_path(x64, conjugate, quiet, problem):
    sizes = np.where(np.arange(20) < 10, 0.004, 1e-300)
    estimate = quiet(conjugate.model, jax.random.key(0), *problem, **{**RUN, "step_size": sizes})
    constant = quiet(conjugate.model, jax.random.key(0), *problem, **RUN)
    np.testing.assert_allclose(estimate.log_evidence[:, :11], constant.log_evidence[:, :11], rtol=1e-12)
    np.testing.assert_allclose(estimate.log_evidence[:, 11:], estimate.log_evidence[:, 10:11].repeat(10, axis=1), rtol=1e-12)


def climbing(wall):
    """Everyone climbs to 3; those that pass the wall become NaN."""
    x = lc.sample("x", dist.Normal())
    lc.factor("slope", jnp.where(x > wall, jnp.nan, -0.5 * (x - 3.0) ** 2 / 0.3))


def test_failed_restarts_are_reported_and_not_counted(x64, quiet):
    with pytest.warns(lc.FailedRestartWarning, match=r"of 64 restarts became infinite or NaN") as caught:
        estimate = quiet(climbing, jax.random.key(0), jnp.array(1.9), step_size=0.01, num_steps=15, num_restarts=64)
    assert 0 < estimate.num_failed < 64
    assert str(estimate.num_failed) in str(caught[0].message)
    assert np.isfinite(estimate.mean).all() and np.isfinite(estimate.stderr).all()
    assert np.isfinite(estimate.log_evidence).all(1).sum() == 64 - estimate.num_failed
    x = estimate.samples["x"]
    counted = estimate.counted[:, estimate.best]
    assert estimate.num_counted < len(x) == counted.sum() < 64
    np.testing.assert_allclose(-0.5 * (x - 3.0) ** 2 / 0.3, estimate.log_likelihood[counted, estimate.best], rtol=1e-10)
    assert not estimate.passed and not estimate.certified and np.isnan(estimate.importance_weighted)


def test_failed_restarts_cost_what_they_are_worth(x64, quiet):
    """The likelihood is one below a wall and NaN above it, so the evidence is the prior's mass below. A mean of those left would be 0."""

    def model(wall):
        x = lc.sample("x", dist.Normal())
        lc.factor("inside", jnp.where(x > wall, jnp.nan, 0 * x))

    with pytest.warns(lc.FailedRestartWarning):
        estimate = quiet(model, jax.random.key(0), jnp.array(0.5), step_size=0.1, num_steps=3, num_restarts=2000, order="exact")
    exact = norm.logcdf(0.5)
    assert np.all(np.abs(estimate.mean - exact) < 4 * estimate.stderr)
    left = estimate.log_evidence[estimate.counted[:, -1], -1]
    assert left.mean() > exact + 10 * estimate.stderr[-1]


def test_the_path_is_run_again_if_its_peak_was_missed(x64, conjugate, quiet, problem, monkeypatch):
    kept = quiet(conjugate.model, jax.random.key(0), *problem, **RUN)
    descend = host.descend

    def forgetful(*args):
        done = descend(*args)
        return done._replace(state=done.state._replace(best_step=done.state.best_step * 0))

    monkeypatch.setattr("luciole.inference.evidence.follow.descend", forgetful)
    again = quiet(conjugate.model, jax.random.key(0), *problem, **RUN)
    assert again.best_step == kept.best_step > 0
    np.testing.assert_array_equal(again.samples["w"], kept.samples["w"])


def test_an_interrupt_keeps_what_was_done(x64, conjugate, quiet, problem, monkeypatch):
    advance, calls = host.advance, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return advance(*args)

    monkeypatch.setattr(host, "advance", interrupted)
    monkeypatch.setattr(host, "_CALL_SECONDS", 0.0)
    with pytest.warns(lc.inference.InterruptWarning, match="7 of 20 steps were kept"):
        estimate = quiet(conjugate.model, jax.random.key(0), *problem, **RUN)
    assert estimate.log_evidence.shape == (8, 8)


def test_divergence_is_an_error_that_advises_a_step_size(x64, conjugate, quiet, problem):
    with pytest.raises(
        lc.EvidenceError, match=r"every restart has become infinite or NaN by step \d+.*curvature was.*step_size="
    ) as caught:
        quiet(conjugate.model, jax.random.key(0), *problem, **{**RUN, "num_steps": 2000, "step_size": 50.0})
    advised = float(str(caught.value).split("step_size=")[1].split(",")[0])
    assert 0 < advised * problem.curvature < 0.4


def test_a_likelihood_that_is_nowhere_finite_is_an_error(x64, quiet):
    with pytest.raises(lc.EvidenceError, match="at every draw from the start"):
        quiet(climbing, jax.random.key(0), jnp.array(-np.inf), step_size=0.01, num_steps=15, num_restarts=64)


BAD = {
    "step_size is 0": {"step_size": 0},
    "step_size is 'x'": {"step_size": "x"},
    "step_size is an array of shape \\(3,\\)": {"step_size": np.ones(3)},
    "step_size is nan": {"step_size": float("nan")},
    "num_steps is 0": {"num_steps": 0},
    "num_restarts is 2.5": {"num_restarts": 2.5},
    "num_probes is 0": {"num_probes": 0},
    "evaluate_every is -1": {"evaluate_every": -1},
    "order is 3": {"order": 3},
    "order is True": {"order": True},
    "gradient_threshold is 0": {"gradient_threshold": 0},
    "gradient_threshold is -1.0": {"gradient_threshold": -1.0},
    "minibatches is 'both'": {"minibatches": "both"},
    "write batch_size=": {"plate": "rows"},
    "test is a ndarray": {"test": np.ones(3)},
    "start is 'posterior'": {"start": "posterior"},
    "preconditioner is 'dense'": {"preconditioner": "dense"},
    "inflate is 1.0, a number above 1.*write inflate=1.25": {"inflate": 1.0},
    'inflate widens a start at a fit, and start="prior" has none': {"inflate": 1.5},
    "step_size is that of plain descent, and preconditioner='full'": {"preconditioner": "full"},
    "a step size needs a number of steps": {"num_steps": "auto"},
    'order="reference" splits off': {"order": "reference"},
    "preconditioner=None is plain descent, whose steps nothing can choose": {"preconditioner": None, "step_size": None},
}


@pytest.mark.parametrize("words", BAD)
def test_senseless_arguments_are_refused(conjugate, quiet, problem, words):
    with pytest.raises(lc.EvidenceError, match=words):
        quiet(conjugate.model, jax.random.key(0), *problem, **{**RUN, **BAD[words]})


def test_test_data_of_another_model_are_refused(conjugate, quiet, problem):
    with pytest.raises(lc.EvidenceError, match=r"on the test data the latent sites are \{'w': \(4,\)\}"):
        quiet(conjugate.model, jax.random.key(0), *problem, **RUN, test=tuple(conjugate.random(9, 4)))


def test_a_key_that_is_none_is_refused(conjugate, quiet, problem):
    with pytest.raises(lc.SamplerError, match="a random key expected"):
        quiet(conjugate.model, 0, *problem, **RUN)


def test_comparison_pairs_restarts(x64, conjugate, quiet, problem):
    x, y, noise = problem
    small = quiet(conjugate.model, jax.random.key(0), x * [1, 1, 0], y, noise, **RUN)
    large = quiet(conjugate.model, jax.random.key(0), *problem, **RUN)
    apart = quiet(conjugate.model, jax.random.key(9), *problem, **RUN)
    table = lc.compare_evidence({"two": small, "three": large, "other key": apart})
    assert table.best in ("three", "other key")
    assert [row.log_evidence for row in table.rows] == sorted((row.log_evidence for row in table.rows), reverse=True)
    pair = lc.compare_evidence({"two": small, "three": large})
    a, b = (e.log_evidence[e.reporting, e.best] for e in (small, large))
    np.testing.assert_allclose(pair["two"].difference, (a - b).mean())
    np.testing.assert_allclose(pair["two"].difference_stderr, (a - b).std(ddof=1) / np.sqrt(6))
    unpaired = lc.compare_evidence({"other key": apart, "two": small})
    worse = unpaired.rows[1]
    assert not worse.paired
    np.testing.assert_allclose(worse.difference_stderr, np.hypot(apart.stderr[apart.best], small.stderr[small.best]))
    assert "not paired" in str(unpaired) and "log evidence >=" in str(pair)


@pytest.mark.parametrize("wrong", [{}, None, {"a": 1.0}])
def test_comparison_refuses_what_is_no_estimate(wrong):
    with pytest.raises(lc.EvidenceError, match="compare_evidence"):
        lc.compare_evidence(wrong)


@pytest.mark.slow
def test_a_full_preconditioner_for_too_many_parameters_is_diagonal_and_says_so(conjugate, quiet):
    x, y, noise = conjugate.random(20, 129)
    problem, options = (0.02 * x, y, noise), {"num_restarts": 4, "num_steps": 8, "start": "laplace"}
    with pytest.warns(lc.PreconditionerWarning, match="holds up to 128 parameters, and the model has 129"):
        estimate = quiet(conjugate.model, jax.random.key(0), *problem, preconditioner="full", **options)
    assert estimate.preconditioner == "diagonal" and "preconditioner diagonal" in repr(estimate)
    said = quiet(conjugate.model, jax.random.key(0), *problem, preconditioner="diagonal", **options)
    np.testing.assert_array_equal(said.log_evidence, estimate.log_evidence)
