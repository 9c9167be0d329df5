"""A finished run stays as it is; a run goes on, begins where another ended, keeps what is asked for, and says how far it is."""

import warnings
from itertools import pairwise

import jax
import numpy as np
import pytest

import luciole as lc
from luciole import dist
from luciole.inference.run import running
from luciole.inference.run.store import Store

KEY = jax.random.key(0)
Y = np.array([0.3, -1.2, 0.8, 2.0], np.float32)


def model(y):
    mu = lc.sample("mu", dist.Normal(0.0, 2.0))
    with lc.plate("row", len(y)):
        z = lc.sample("z", dist.Normal(0.0, 1.0))
        lc.sample("y", dist.Normal(mu + z, 1.0), obs=y)
    lc.deterministic("twice", 2 * mu)


def mcmc(**options):
    return lc.MCMC(lc.NUTS(model), **{"num_warmup": 60, "num_samples": 40, "num_chains": 2, "progress_bar": False} | options)


@pytest.fixture(scope="module")
def whole():
    return mcmc(num_samples=100).run(KEY, Y)


def equal(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_settings_after_a_run_count_for_the_next(whole):
    run = mcmc().run(KEY, Y)
    before = run.get_samples(True), run.sample_stats, run.to_arviz().posterior.attrs
    run.thinning, run.num_warmup, run.keep_warmup, run.num_samples = 5, 7, True, 3
    equal(before[:2], (run.get_samples(True), run.sample_stats))
    assert run.warmup_samples is None
    after = run.to_arviz().posterior.attrs
    assert all(after[name] == before[2][name] for name in ("num_warmup", "thinning", "num_samples"))
    run.num_samples = 10
    assert run.run(KEY, Y).get_samples(True)["mu"].shape == (2, 2) and run.warmup_samples["mu"].shape == (2, 1)


def test_settings_that_make_no_sense_are_refused_at_the_next_run():
    run = mcmc()
    run.thinning = 100
    with pytest.raises(lc.SamplerError, match="thinning is 100"):
        run.run(KEY, Y)


@pytest.mark.parametrize("group_by_chain", [True, False])
def test_arrays_that_are_handed_out_do_not_change_the_run(whole, group_by_chain):
    for given in (whole.get_samples(group_by_chain), whole.sample_stats):
        for array in given.values():
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0
    copy = whole.get_samples()["mu"].copy()
    copy[:] = 0
    assert whole.get_samples()["mu"].any()


def test_results_stay_when_the_run_goes_on(whole):
    run = mcmc().run(KEY, Y)
    results, draws = run.results, run.get_samples(True)["mu"].copy()
    run.extend(60)
    np.testing.assert_array_equal(results.get_samples(True)["mu"], draws)
    assert run.get_samples(True)["mu"].shape == (2, 100) and results.cost["gradient_slots"] < run.cost["gradient_slots"]
    equal(run.get_samples(True), whole.get_samples(True))
    equal(run.sample_stats, whole.sample_stats)
    equal(run.state, whole.state)
    with pytest.raises(lc.NoAttributeError, match="does not change"):
        results.step_size = 1.0
    assert "2 chains of 40 draws" in repr(results)


@pytest.mark.filterwarnings("ignore::luciole.FewEffectiveDrawsWarning")
def test_results_are_read_as_a_run_is(whole, capsys):
    results = whole.results
    results.print_summary()
    assert "r_hat" in capsys.readouterr().out
    assert results.diagnose().num_draws == 100 and results.program is whole.program
    assert lc.bridge_evidence(results).num_kept == 200
    equal(results.to_arviz().posterior["mu"].to_numpy(), whole.get_samples(True)["mu"])


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("cut", [1, 33, 60, 71])
def test_an_interrupted_run_goes_on(cut, pooled, monkeypatch):
    """Wherever it was interrupted, `extend(0)` makes up for it, bit for bit."""
    options = {"pool_adaptation": pooled}
    expected = mcmc(**options).run(KEY, Y)
    driven = running.drive

    def interrupted(compiled, spec, snapshot, sink, observers):
        return driven(compiled, spec._replace(total=min(cut, spec.total)), snapshot, sink, observers)

    monkeypatch.setattr(running, "drive", interrupted)
    with pytest.warns(lc.InterruptWarning, match=r"extend\(0\)"):
        run = mcmc(**options).run(KEY, Y)
    monkeypatch.setattr(running, "drive", driven)
    run.extend(0)
    equal(run.get_samples(True), expected.get_samples(True))
    equal(run.state, expected.state)


def test_an_interrupt_while_it_is_compiled(monkeypatch):
    def interrupting(spec):
        raise KeyboardInterrupt

    run = mcmc()
    compiled = running.compiled_sampler
    monkeypatch.setattr(running, "compiled_sampler", interrupting)
    with pytest.warns(lc.InterruptWarning, match=r"before its chains went on.*Call mcmc\.run again"):
        run.run(KEY, Y)
    with pytest.raises(lc.SamplerError, match="no draws yet"):
        run.get_samples()
    with pytest.raises(lc.SamplerError, match="no run to go on with"):
        run.extend(3)
    monkeypatch.setattr(running, "compiled_sampler", compiled)
    assert run.run(KEY, Y).get_samples(True)["mu"].shape == (2, 40)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::luciole.DivergenceWarning")  # without a warm-up of its own, step size 1
def test_a_run_begins_with_what_an_earlier_one_learned(whole):
    run = mcmc(num_warmup=0).run(jax.random.key(7), Y, start=whole)
    np.testing.assert_array_equal(run.step_size, whole.step_size)
    np.testing.assert_array_equal(run.inverse_mass_matrix, whole.inverse_mass_matrix)
    np.testing.assert_array_equal(run.sample_stats["step_size"], np.broadcast_to(whole.step_size[:, None], (2, 40)))
    fixed = lc.MCMC(lc.NUTS(model, step_size=0.25), num_warmup=0, num_samples=3, num_chains=2, progress_bar=False)
    np.testing.assert_array_equal(fixed.run(KEY, Y, start=whole.state).step_size, 0.25)
    only = mcmc(num_warmup=0, num_samples=3).run(KEY, Y, init_params=whole)
    np.testing.assert_array_equal(only.step_size, 1.0)


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore::luciole.DivergenceWarning")
@pytest.mark.parametrize("dense", [False, True])
def test_a_metric_of_the_other_kind(whole, dense):
    start = whole if dense else mcmc_dense().run(KEY, Y)
    run = (mcmc_dense if dense else mcmc)(num_warmup=0, num_samples=3).run(KEY, Y, start=start)
    mine, theirs = run.inverse_mass_matrix, start.inverse_mass_matrix
    matrices, diagonals = (mine, theirs) if dense else (theirs, mine)
    np.testing.assert_array_equal(np.diagonal(matrices, axis1=1, axis2=2), diagonals)


def mcmc_dense(**options):
    return lc.MCMC(
        lc.NUTS(model, dense_mass=True), **{"num_warmup": 60, "num_samples": 3, "num_chains": 2, "progress_bar": False} | options
    )


@pytest.mark.slow
def test_collect_keeps_what_is_asked_for(whole):
    run = mcmc(num_samples=100, collect=["twice", "mu"]).run(KEY, Y)
    assert list(run.get_samples()) == ["mu", "twice"]
    np.testing.assert_array_equal(run.get_samples(True)["mu"], whole.get_samples(True)["mu"])
    assert list(run.to_arviz().posterior.data_vars) == ["mu", "twice"]
    for call in (lambda: lc.predict(run, KEY, Y), lambda: lc.bridge_evidence(run), lambda: run.to_arviz(log_likelihood=True)):
        with pytest.raises(lc.SamplerError, match=r"latent site 'z'.*collect= left it out"):
            call()
    with pytest.raises(lc.SamplerError, match=r"collect has 'twise'.*perhaps 'twice'"):
        mcmc(collect=["twise"]).run(KEY, Y)


def test_progress_by_callback():
    seen = []
    mcmc(progress_bar=seen.append).run(KEY, Y)
    phases = list(dict.fromkeys(report.phase for report in seen))
    assert phases[:2] == ["tracing", "compiling"] and phases[-1] == "done"
    assert seen[-1].transitions == seen[-1].total == 100 and seen[-1].divergences == 0 and seen[-1].mean_steps >= 1
    assert all(a.seconds <= b.seconds for a, b in pairwise(seen))


def test_a_store_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    run = mcmc(store=tmp_path / "run.zarr")
    append, calls = Store.append, []

    def failing(self, *chunk):
        calls.append(1)
        if len(calls) == 2:
            raise lc.StoreError("no space")
        return append(self, *chunk)

    monkeypatch.setattr(Store, "append", failing)
    with pytest.raises(lc.StoreError, match="no space"):
        run.run(KEY, Y)
    assert run.state.position.shape == (2, 5)
    run.extend(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        equal(run.get_samples(True), mcmc().run(KEY, Y).get_samples(True))
