"""The run: what it returns and counts, how it is stopped, and what it refuses."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from luciole.inference import HMC, MCMC, NUTS, DivergenceWarning, InterruptWarning
from luciole.inference.run import host
from luciole.inference.run.mcmc import _by_chain
from luciole.transforms import InitError, LucioleWarning, SamplerError

KEY = jax.random.key(0)


@pytest.fixture
def density(targets):
    return targets.gaussian([1.0, -2.0], np.array([[1.0, 0.5], [0.5, 2.0]]))


def small(kernel, **options):
    return MCMC(kernel, **{"num_warmup": 50, "num_samples": 30, "num_chains": 2, "progress_bar": False, **options})


def test_run_returns_itself_and_counts(density):
    mcmc = small(NUTS(density))
    assert mcmc.run(KEY) is mcmc
    assert mcmc.get_samples()["x"].shape == (60, 2)
    grouped = mcmc.get_samples(group_by_chain=True)["x"]
    np.testing.assert_array_equal(grouped.reshape(-1, 2), mcmc.get_samples()["x"])
    cost = mcmc.cost
    assert cost["gradient_evaluations"] > mcmc.sample_stats["n_steps"].sum()
    assert 0 < cost["utilisation"] == cost["gradient_evaluations"] / cost["gradient_slots"] <= 1
    assert cost["compile_seconds"] > 0 and cost["sampling_seconds"] > 0
    depth, steps = mcmc.sample_stats["tree_depth"], mcmc.sample_stats["n_steps"]
    assert (steps >= 2 ** (depth - 1)).all() and (steps < 2**depth).all()
    everything = small(NUTS(density), keep_warmup=True).run(KEY)
    total = everything.sample_stats["n_steps"].sum() + everything.warmup_stats["n_steps"].sum()
    assert cost["gradient_evaluations"] - total == mcmc.num_chains  # one start each, found at the first try


def test_no_warmup(density):
    mcmc = small(NUTS(density, step_size=0.5), num_warmup=0).run(KEY)
    assert mcmc.get_samples()["x"].shape == (60, 2) and (mcmc.sample_stats["step_size"] == 0.5).all()


def test_legacy_key_is_the_same_key(density):
    one = small(NUTS(density)).run(jax.random.PRNGKey(3)).get_samples()["x"]
    np.testing.assert_array_equal(one, small(NUTS(density)).run(jax.random.key(3)).get_samples()["x"])


@pytest.mark.slow
def test_interrupt_between_chunks_keeps_what_was_drawn(density, monkeypatch, chunks_of):
    chunks_of(10)
    calls = []

    def interrupting(*args):
        calls.append(1)
        if len(calls) == 7:  # the second chunk after the warm-up
            raise KeyboardInterrupt
        return original(*args)

    whole = small(NUTS(density)).run(KEY).get_samples(True)["x"]
    assert whole.shape == (2, 30, 2)
    original = host._with_chunk
    monkeypatch.setattr(host, "_with_chunk", interrupting)
    with pytest.warns(InterruptWarning, match="10 of 30 draws per chain were kept"):
        mcmc = small(NUTS(density)).run(KEY)
    np.testing.assert_array_equal(mcmc.get_samples(True)["x"], whole[:, :10])
    assert mcmc.sample_stats["lp"].shape == (2, 10)
    np.testing.assert_array_equal(mcmc.state.stream.counter, 60)
    np.testing.assert_allclose(mcmc.state.position, whole[:, 9])


@pytest.mark.slow
@pytest.mark.parametrize("compact", [False, True])
def test_interrupt_inside_a_chunk_keeps_what_each_chain_has_drawn(density, monkeypatch, compact):
    options = {"num_chains": 9, "compact": compact}
    whole = small(NUTS(density), **options).run(KEY).get_samples(True)["x"]
    seen = [0]

    def interrupted_drive(compiled, *args):
        def advance(size):
            def call(machine, data, plan, turns, leave):
                if 65 < seen[0] < np.inf:
                    seen[0] = np.inf
                    raise KeyboardInterrupt
                machine, report = program(machine, data, plan, np.int32(1), leave)
                seen[0] = max(seen[0], float(report.transitions))
                return machine, report

            program = compiled.advance(size)
            return call

        return original(compiled._replace(advance=advance), *args)

    original = host.drive
    monkeypatch.setattr("luciole.inference.run.running.drive", interrupted_drive)
    with pytest.warns(InterruptWarning):
        mcmc = small(NUTS(density), **options).run(KEY)
    kept = mcmc.get_samples(True)["x"]
    counters = np.asarray(mcmc.state.stream.counter).astype(int)
    assert 0 < kept.shape[1] == counters.min() - 50 < 30 and len(set(counters)) > 1
    np.testing.assert_allclose(kept, whole[:, : kept.shape[1]], rtol=1e-4, atol=1e-5)
    slowest = int(np.argmin(counters))
    np.testing.assert_allclose(mcmc.state.position[slowest], kept[slowest, -1], rtol=1e-4, atol=1e-5)
    assert mcmc.cost["gradient_evaluations"] <= mcmc.cost["gradient_slots"]


def test_interrupted_twice_the_chunk_is_given_up(density, monkeypatch):
    def interrupted_drive(compiled, *args):
        def advance(size):
            def call(*_):
                raise KeyboardInterrupt

            return call

        return original(compiled._replace(advance=advance), *args)

    original = host.drive
    monkeypatch.setattr("luciole.inference.run.running.drive", interrupted_drive)
    with pytest.warns(InterruptWarning, match="0 of 30"):
        small(NUTS(density)).run(KEY)


def test_interrupt_in_warmup_leaves_nothing(density, monkeypatch):
    def interrupting(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(host, "_with_chunk", interrupting)
    with pytest.warns(InterruptWarning, match="0 of 30 .* the warm-up was not over"):
        mcmc = small(NUTS(density), keep_warmup=True).run(KEY)
    assert mcmc.get_samples(True)["x"].shape == (2, 0, 2)
    assert mcmc.warmup_samples["x"].shape == (2, 0, 2)


@pytest.mark.slow
def test_divergences_are_counted_and_warned_of(targets):
    funnel = targets.FakeDensity(
        {"v": (), "x": (6,)},
        lambda p, _: -(p["v"] ** 2) / 18 - 0.5 * (p["x"] ** 2).sum() * jnp.exp(-p["v"]) - 3 * p["v"],
    )
    with pytest.warns(DivergenceWarning, match="diverged") as caught:
        mcmc = small(HMC(funnel, num_steps=8, step_size=0.5), num_samples=300).run(KEY)
    assert issubclass(DivergenceWarning, LucioleWarning)
    assert mcmc.sample_stats["diverging"].sum() > 0
    diverging = mcmc.sample_stats["diverging"].sum(1)
    assert f"{diverging.sum()} transitions after warm-up diverged (by chain: {diverging.tolist()})" in str(caught[0].message)
    assert caught[0].filename == __file__


def test_the_warning_about_many_chains_stays_short():
    counts = np.arange(17) % 3
    assert _by_chain(counts[:16]) == f"by chain: {counts[:16].tolist()}"
    assert _by_chain(counts) == "in 11 of 17 chains"


@pytest.mark.filterwarnings("ignore::luciole.inference.DivergenceWarning")
@pytest.mark.slow
def test_a_wall_counts_as_divergence_and_is_not_crossed(targets):
    half = targets.FakeDensity({"x": ()}, lambda p, _: jnp.where(p["x"] > 0, -p["x"], jnp.nan), initial=lambda key: {"x": 1.0})
    mcmc = small(NUTS(half, step_size=0.5), num_warmup=0, num_samples=500).run(KEY)
    assert (mcmc.get_samples()["x"] > 0).all() and mcmc.sample_stats["diverging"].any()


@pytest.mark.slow
def test_progress_bar(density, capfd, monkeypatch):
    monkeypatch.setattr(host, "_CALL_SECONDS", 0.0)
    small(NUTS(density)).run(KEY)
    assert capfd.readouterr() == ("", "")
    small(NUTS(density), progress_bar=True).run(KEY)
    out, err = capfd.readouterr()
    assert out == ""
    for part in ("compiling", "warm-up", "sampling", "2 chains", "mean depth", "divergences", "80/80"):
        assert part in err
    small(HMC(density, num_steps=3), progress_bar=True).run(KEY)
    assert "mean steps 3" in capfd.readouterr().err


def test_large_chunks_are_cut(density, monkeypatch, caplog):
    mcmc = small(NUTS(density), num_samples=1300, num_warmup=700, keep_warmup=True).run(KEY)
    assert mcmc.get_samples(True)["x"].shape == (2, 1300, 2) and mcmc.warmup_samples["x"].shape == (2, 700, 2)
    assert (np.abs(np.diff(mcmc.get_samples(True)["x"], axis=1)).sum(-1) > 0).mean() > 0.9


class TestStarts:
    def run(self, density, **options):
        kernel = HMC(density, num_steps=1, step_size=1e-6)
        return small(kernel, num_warmup=0, num_samples=1).run(KEY, **options).get_samples(True)["x"]

    def test_given_to_all(self, density):
        np.testing.assert_allclose(self.run(density, init_params={"x": [3.0, 4.0]}), [[[3, 4]]] * 2, atol=0.01)

    def test_given_by_chain(self, density):
        start = np.array([[3.0, 4.0], [5.0, 6.0]])
        np.testing.assert_allclose(self.run(density, init_params={"x": start})[:, 0], start, atol=0.01)

    @pytest.mark.slow
    def test_search_goes_on_until_finite(self, targets):
        picky = targets.FakeDensity({"x": (1,)}, lambda p, _: jnp.log(p["x"] - 1.7).sum() - p["x"].sum())
        assert (self.run(picky) > 1.7).all()

    @pytest.mark.slow
    def test_failure_names_what_is_wrong(self, targets):
        never = targets.FakeDensity({"x": (1,)}, lambda p, _: jnp.log(-1 - p["x"] ** 2).sum())
        with pytest.raises(InitError, match=r"(?s)chain 0 .*100 starting points.*site x: value.*init_to_median"):
            self.run(never)
        with pytest.raises(InitError, match="given init_params"):
            self.run(never, init_params={"x": [1.0]})

    @pytest.mark.parametrize(
        ("init_params", "match"),
        [
            ({"y": [1.0, 2.0]}, r"unknown sites \['y'\], missing sites \['x'\]"),
            ({}, r"missing sites \['x'\]"),
            ({"x": [1.0]}, r"init_params\['x'\]: shape \(1,\) found, \(2,\) or.*\(2, 2\)"),
            ([1.0, 2.0], "list found, a dict"),
        ],
    )
    def test_bad_init_params(self, density, init_params, match):
        with pytest.raises(SamplerError, match=match):
            self.run(density, init_params=init_params)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_chains": 0}, "num_chains is 0, .*at least 1 expected; write num_chains=4"),
        ({"num_samples": -5}, "num_samples is -5, .*at least 1"),
        ({"num_samples": 0}, "num_samples is 0"),
        ({"num_samples": 10.0}, "num_samples is 10.0, a whole number"),
        ({"num_warmup": -1}, "num_warmup is -1, .*at least 0"),
        ({"thinning": 0}, "thinning is 0, .*at least 1"),
        ({"thinning": 31}, "thinning is 31 and num_samples 30: no draw"),
    ],
)
def test_bad_settings_of_a_run(density, options, match):
    with pytest.raises(SamplerError, match=match):
        small(NUTS(density), **options)


@pytest.mark.parametrize(
    ("kernel", "options", "match"),
    [
        (NUTS, {"target_accept_prob": 1.0}, "NUTS: target_accept_prob is 1.0, .*between 0 and 1"),
        (NUTS, {"target_accept_prob": "high"}, "target_accept_prob is 'high'"),
        (HMC, {"target_accept_prob": 0}, "HMC: target_accept_prob is 0"),
        (NUTS, {"max_tree_depth": 0}, "max_tree_depth is 0, .*1 to 22"),
        (NUTS, {"step_size": -1.0}, "step_size is -1.0, a positive number"),
        (NUTS, {"step_size": np.nan}, "step_size is nan"),
        (NUTS, {"dense_mass": "yes"}, "dense_mass is 'yes'"),
        (HMC, {"num_steps": 0}, "num_steps is 0"),
        (HMC, {"num_steps": 3, "trajectory_length": 1.0}, "both given"),
        (HMC, {"trajectory_length": -1.0}, "trajectory_length is -1.0"),
        (HMC, {"jitter": 1.0}, "jitter is 1.0"),
    ],
)
def test_bad_settings_of_a_kernel(kernel, options, match):
    with pytest.raises(SamplerError, match=match):
        kernel(None, **options)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"inverse_mass_matrix": np.ones(3)}, r"has shape \(3,\), \(2,\) expected with dense_mass=False"),
        ({"inverse_mass_matrix": np.eye(2)}, r"has shape \(2, 2\), \(2,\) expected"),
        ({"inverse_mass_matrix": np.ones(3), "dense_mass": True}, r"\(2, 2\) expected with dense_mass=True"),
        ({"inverse_mass_matrix": [1.0, -1.0]}, "not positive definite"),
        ({"inverse_mass_matrix": [[1.0, 2.0], [2.0, 1.0]], "dense_mass": True}, "not positive definite"),
    ],
)
def test_bad_metric(density, options, match, backend_compiles):
    with pytest.raises(SamplerError, match=match):
        small(NUTS(density, **options)).run(KEY)
    assert not backend_compiles


def test_bad_key_is_refused_before_anything_runs(density, backend_compiles):
    with pytest.raises(SamplerError, match=r"key: int 0 found, a random key expected; write jax.random.key\(0\)"):
        small(NUTS(density)).run(0)
    assert not backend_compiles


def test_what_is_no_kernel(density):
    for wrong in (density, NUTS, lambda: None):
        with pytest.raises(SamplerError, match=r"a kernel expected; write MCMC\(NUTS\(model\), ...\)"):
            MCMC(wrong)


def test_asking_too_early(density):
    with pytest.raises(SamplerError, match=r"no draws yet; call mcmc\.run"):
        small(NUTS(density)).get_samples()


def test_logging_is_under_our_name(density, monkeypatch, caplog):
    def interrupting(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(host, "_with_chunk", interrupting)
    with caplog.at_level(logging.INFO, logger="luciole"), pytest.warns(InterruptWarning):
        small(NUTS(density)).run(KEY)
    assert "interrupted" in caplog.text
