"""Pooled adaptation: what the chains share, that it is nearer to the truth, and that nothing changes without it."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.diagnostics import effective_sample_size

import luciole as lc
from luciole import dist
from luciole.inference import HMC, MCMC, NUTS, EllipticalSlice, Slice
from luciole.inference.kernels.adaptation import Adaptation, DualAveraging, Welford, covariance_of, warmup_schedule
from luciole.inference.kernels.inverse_mass import inverse_mass_of
from luciole.inference.kernels.kernel import tuning_of
from luciole.inference.kernels.metric import metric_of
from luciole.inference.kernels.pooling import merge, pool_chains, pooled
from luciole.inference.kernels.records import ChainState, Plan
from luciole.transforms import SamplerError

VARIANCES = np.array([1e-2, 1.0, 4e2])
NUM_CHAINS, NUM_WARMUP, FIRST_MEETING = 16, 100, 20


def tuning(dim=3, dense=False, step_size=None, inverse_mass_matrix=None):
    inverse_mass = inverse_mass_of("NUTS", inverse_mass_matrix, dense, dim, np.float32)
    return tuning_of(step_size, inverse_mass, inverse_mass_matrix is None, 0.8)


def welford(positions, dense):
    """What each chain has taken of its positions, a list of (draw, dim)."""
    centred = [x - x.mean(0) for x in positions]
    scatter = [c.T @ c if dense else (c**2).sum(0) for c in centred]
    mean, count = [x.mean(0) for x in positions], [len(x) for x in positions]
    return Welford(*(jnp.asarray(np.stack(v), np.float32) for v in (mean, scatter)), jnp.asarray(count, np.int32))


def chains(moments, log_averages):
    """Chains that have nothing in common."""
    dense = moments.scatter.ndim == 3
    inverse_mass = jnp.tile(jnp.eye(3), (3, 1, 1)) if dense else jnp.ones((3, 3))
    log_average = jnp.asarray(log_averages, jnp.float32)
    averages = DualAveraging(log_average, log_average, log_average, jnp.arange(3, dtype=jnp.int32))
    metric = jax.vmap(metric_of)(inverse_mass)
    return ChainState(moments.mean, log_average, moments.mean, jnp.exp(2 * log_average), metric, Adaptation(averages, moments), None)


@pytest.fixture
def positions():
    """Of three chains: other lengths, other centres."""
    rng = np.random.default_rng(0)
    return [rng.normal(size=(n, 3)) @ rng.normal(size=(3, 3)) + 3 * rng.normal(size=3) for n in (5, 40, 17)]


@pytest.mark.parametrize("dense", [False, True])
def test_merged_moments_are_those_of_all_positions(dense, positions):
    found, everything = merge(welford(positions, dense)), np.concatenate(positions)
    scatter = (len(everything) - 1) * np.cov(everything.T)
    np.testing.assert_allclose(found.mean, everything.mean(0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.scatter, scatter if dense else np.diag(scatter), rtol=1e-4, atol=1e-3)
    assert found.count == 62
    within = sum((len(x) - 1) * np.cov(x.T) for x in positions)  # the twin: what chains know of themselves
    assert np.abs(np.diag(within) / np.diag(scatter) - 1).max() > 0.1


@pytest.mark.parametrize("dense", [False, True])
def test_after_a_window_all_chains_have_one_metric_and_start_anew(dense, positions):
    moments = welford(positions, dense)
    state = pool_chains(chains(moments, np.log([0.1, 0.4, 0.2])), tuning(dense=dense))
    expected = metric_of(covariance_of(merge(moments)))
    for chain in range(3):
        np.testing.assert_allclose(state.metric.inverse_mass[chain], expected.inverse_mass, rtol=1e-6)
        np.testing.assert_allclose(state.metric.factor[chain], expected.factor, rtol=1e-6)
    np.testing.assert_allclose(state.step_size, 0.2, rtol=1e-6)
    averages = state.adaptation.dual_averaging
    np.testing.assert_allclose(averages.centre, np.log(2.0), rtol=1e-6)
    assert not any(np.any(leaf) for leaf in (averages.gap, averages.count, *state.adaptation.welford))


def test_after_the_warmup_all_chains_have_one_step_size(positions):
    empty = jax.tree.map(jnp.zeros_like, welford(positions, False))
    before = chains(empty, np.log([0.1, 0.4, 0.2]))
    after = pool_chains(before, tuning())
    np.testing.assert_allclose(after.step_size, 0.2, rtol=1e-6)
    np.testing.assert_allclose(after.adaptation.dual_averaging.log_average, np.log(0.2), rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, before.metric, after.metric)
    fixed = before._replace(step_size=jnp.full(3, 0.7))
    np.testing.assert_array_equal(pool_chains(fixed, tuning(step_size=0.7)).step_size, np.full(3, 0.7, np.float32))


@pytest.mark.parametrize(
    ("num_warmup", "num_chains", "options", "expected"),
    [
        (0, 4, {}, ()),
        (10, 4, {}, (10,)),
        (30, 4, {}, (11, 27, 30)),
        (100, 4, {}, (22, 36, 90, 100)),
        (100, 10_000, {}, (20, 30, 50, 90, 100)),
        (1000, 1, {}, (45, 95, 195, 395, 950, 1000)),
        (1000, 10_000, {}, (25, 35, 55, 95, 175, 335, 950, 1000)),
        (1000, 4, {"inverse_mass_matrix": np.ones(3)}, (1000,)),
    ],
)
def test_where_chains_meet(num_warmup, num_chains, options, expected):
    alone = Plan(warmup_schedule(num_warmup), tuning(**options), np.int32(1), np.asarray(False))
    plan, meetings = pooled(alone, num_chains, "NUTS")
    assert meetings == expected
    assert (plan.schedule.window_ends == -1).all()
    assert (plan.schedule.num_warmup, plan.schedule.slow_end) == (alone.schedule.num_warmup, alone.schedule.slow_end)


def gaussian_prior():
    lc.sample("x", dist.Normal(np.zeros(2, np.float32), 1.0))


@pytest.mark.parametrize(
    "kernel",
    [EllipticalSlice(gaussian_prior), NUTS(gaussian_prior, step_size=0.1, inverse_mass_matrix=np.ones(2)), Slice(gaussian_prior, 1.0)],
)
def test_a_kernel_that_adapts_nothing_is_refused(kernel, backend_compiles):
    words = f"pool_adaptation is True, and {type(kernel).__name__} adapts nothing here.*write pool_adaptation=False"
    with pytest.raises(SamplerError, match=words):
        MCMC(kernel, pool_adaptation=True, progress_bar=False).run(jax.random.key(0))
    with pytest.raises(SamplerError, match="pool_adaptation is 'yes', True or False expected"):
        MCMC(kernel, pool_adaptation="yes")


KERNELS = {"nuts": NUTS, "hmc": lambda density: HMC(density, trajectory_length=1.5, jitter=0.5), "slice": Slice}


@pytest.fixture(scope="module", params=KERNELS)
def runs(request, targets):
    """A kernel on a Gaussian of very different scales, with and without pooling; `run` makes another."""
    density = targets.gaussian([1.0, -2.0, 3.0], np.diag(VARIANCES))

    def run(**options):
        options = {"num_warmup": NUM_WARMUP, "num_samples": 250, "num_chains": NUM_CHAINS, "keep_warmup": True, **options}
        return MCMC(KERNELS[request.param](density), progress_bar=False, **options).run(jax.random.key(4))

    return SimpleNamespace(run=run, alone=run(), pooled=run(pool_adaptation=True))


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::luciole.inference.DivergenceWarning")
class TestRuns:
    def test_all_chains_share_what_they_sample_with(self, runs):
        for shared, own in (
            (runs.pooled.inverse_mass_matrix, runs.alone.inverse_mass_matrix),
            (runs.pooled.step_size, runs.alone.step_size),
        ):
            assert (shared == shared[0]).all()
            assert "step_size" not in runs.alone.sample_stats or (own != own[0]).any()
        if "step_size" in runs.pooled.sample_stats:
            assert (runs.pooled.sample_stats["step_size"] == runs.pooled.step_size[0]).all()

    def test_the_metric_is_nearer_to_the_truth(self, runs):
        def distance(mcmc):
            return np.abs(np.log(mcmc.inverse_mass_matrix / VARIANCES)).max(1)

        assert distance(runs.pooled).max() < 0.75 * np.median(distance(runs.alone))

    def test_moments(self, runs):
        draws = runs.pooled.get_samples(group_by_chain=True)["x"].astype(np.float64)

        def worst_z(values, expected):
            error = values.std((0, 1)) / np.sqrt(effective_sample_size(values))
            return np.abs((values.mean((0, 1)) - expected) / error).max()

        mean = np.array([1.0, -2.0, 3.0])
        assert worst_z(draws, mean) < 5
        assert worst_z((draws - mean) ** 2, VARIANCES) < 5
        assert worst_z(draws, mean + 0.5 * np.sqrt(VARIANCES)) > 10  # the twin

    def test_chains_are_as_without_pooling_until_they_meet(self, runs):
        pooled, alone = runs.pooled.warmup_samples["x"], runs.alone.warmup_samples["x"]
        assert_same(pooled[:, :FIRST_MEETING], alone[:, :FIRST_MEETING])
        assert (pooled[:, FIRST_MEETING:] != alone[:, FIRST_MEETING:]).any((1, 2)).all()

    def test_draws_do_not_depend_on_chunks_and_more_draws(self, runs, chunks_of):
        fewer = runs.run(pool_adaptation=True, num_samples=20, keep_warmup=False)
        assert_same(runs.pooled.get_samples(True)["x"][:, :20], fewer.get_samples(True)["x"])
        chunks_of(37)
        again = runs.run(pool_adaptation=True)
        assert_same(runs.pooled.state, again.state)
        assert_same(runs.pooled.get_samples(), again.get_samples())

    def test_nothing_more_is_compiled(self, runs, backend_compiles):
        runs.run(pool_adaptation=True, num_warmup=200)
        runs.run()
        assert not backend_compiles

    def test_without_it_nothing_changes(self, runs):
        assert_same(runs.alone.state, runs.run(pool_adaptation=False).state)

    def test_the_statistics_say_so(self, runs, capsys):
        for mcmc, expected in ((runs.pooled, 1), (runs.alone, 0)):
            exported = mcmc.to_arviz()
            assert exported["sample_stats"].attrs["pool_adaptation"] == expected
            assert exported["posterior"].attrs["pool_adaptation"] == expected
            mcmc.print_summary()
            assert ("Adaptation: pooled" in capsys.readouterr().out) == bool(expected)
