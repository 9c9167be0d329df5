"""What every kernel owes: records in and out, one program per shape, draws that do not depend on how they were asked for."""

from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import luciole as lc
from luciole import dist
from luciole.inference import HMC, MCMC, NUTS, EllipticalSlice, Slice
from luciole.inference.run import compilation, host


def gaussian_prior_model():
    x = lc.sample("x", dist.Normal(np.zeros(2, np.float32), 1.0))
    lc.factor("likelihood", -jnp.exp(x).sum())


KERNELS = {
    "nuts": lambda model, **o: NUTS(model, max_tree_depth=6, **o),
    "nuts_dense": lambda model, **o: NUTS(model, max_tree_depth=6, dense_mass=True, **o),
    "hmc": lambda model, **o: HMC(model, num_steps=5, **o),
    "hmc_length": lambda model, **o: HMC(model, trajectory_length=1.5, jitter=0.5, **o),
    "slice": lambda model, step_size=None, target_accept_prob=None, **o: Slice(model, width=step_size, **o),
    "elliptical": lambda model, **o: EllipticalSlice(gaussian_prior_model),  # it needs a model: a density has no prior
}


COSTS = {"nuts_dense": [pytest.mark.exhaustive], "hmc": [pytest.mark.exhaustive], "nuts": []}  # other kernels are slow


@pytest.fixture(params=[pytest.param(k, marks=COSTS.get(k, [pytest.mark.slow])) for k in KERNELS])
def kernel(request):
    return KERNELS[request.param]


def run(kernel, density, seed=0, num_warmup=60, num_samples=40, **options):
    mcmc = MCMC(kernel(density), num_warmup=num_warmup, num_samples=num_samples, num_chains=3, progress_bar=False, **options)
    return mcmc.run(jax.random.key(seed))


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.filterwarnings("ignore::luciole.inference.DivergenceWarning")
def test_draws_do_not_depend_on_how_they_are_asked_for(kernel, targets, monkeypatch, chunks_of):
    density = targets.log_gammas([0.7, 3.0])
    mcmc = run(kernel, density)
    samples, stats = mcmc.get_samples(group_by_chain=True), mcmc.sample_stats

    again = run(kernel, density)
    assert_same(samples, again.get_samples(group_by_chain=True))
    assert_same(mcmc.state, again.state)

    longer = run(kernel, density, num_samples=70).get_samples(group_by_chain=True)
    assert_same(samples, {name: value[:, :40] for name, value in longer.items()})

    thinned = run(kernel, density, thinning=3)
    assert_same({name: value[:, 2::3] for name, value in samples.items()}, thinned.get_samples(group_by_chain=True))
    assert_same({name: value[:, 2::3] for name, value in stats.items()}, thinned.sample_stats)

    kept = run(kernel, density, keep_warmup=True)
    assert_same(samples, kept.get_samples(group_by_chain=True))
    assert kept.warmup_samples["x"].shape == (3, 60, 2) and kept.warmup_stats["lp"].shape == (3, 60)
    assert kept.warmup_samples["x"].std() > 0 and mcmc.warmup_samples is None

    # Chunks of many calls that stop amid trajectories; then short chunks as well; and, which compiles another program and is asked
    # of one kernel, room for no more than that.
    monkeypatch.setattr(host, "_CALL_SECONDS", 0.0)
    cuts = [lambda: None, lambda: chunks_of(7)]
    if kernel is KERNELS["nuts_dense"]:
        cuts.append(lambda: monkeypatch.setattr("luciole.inference.run.running.capacity_of", lambda *_: 7))
    for cut in cuts:
        cut()
        short = run(kernel, density, keep_warmup=True)
        assert_same(samples, short.get_samples(group_by_chain=True))
        assert_same(kept.warmup_samples, short.warmup_samples)
        assert_same(mcmc.state, short.state)

    other = run(kernel, density, seed=1).get_samples()
    assert not np.array_equal(other["x"], mcmc.get_samples()["x"])
    chains = samples["x"]
    assert not np.array_equal(chains[0], chains[1])


@pytest.mark.filterwarnings("ignore::luciole.inference.DivergenceWarning")
@pytest.mark.parametrize("name", ["nuts", pytest.param("hmc", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_float_types_and_shapes(name, targets, dtype):
    mcmc = run(KERNELS[name], targets.log_gammas([0.7, 3.0]), num_warmup=30, num_samples=10)
    samples = mcmc.get_samples()
    assert list(samples) == ["x", "gamma"]
    assert samples["gamma"].shape == (30, 2) and samples["gamma"].dtype == dtype
    stats = mcmc.sample_stats
    wanted = {"diverging", "n_steps", "acceptance_rate", "energy", "lp", "step_size"}
    assert wanted <= set(stats) <= wanted | {"tree_depth"}
    assert all(stat.shape == (3, 10) for stat in stats.values())
    assert stats["lp"].dtype == dtype and stats["diverging"].dtype == bool
    for leaf in jax.tree.leaves(mcmc.state):
        assert leaf.shape[0] == 3 and leaf.dtype in (dtype, np.int32, np.uint32)
    lp = (np.array([0.7, 3.0]) * mcmc.get_samples(True)["x"] - mcmc.get_samples(True)["gamma"]).sum(-1)
    np.testing.assert_allclose(stats["lp"], lp, rtol=1e-4, atol=1e-4)
    assert (stats["energy"] >= stats["lp"] * -1 - 1e-4).all()


@pytest.mark.filterwarnings("ignore::luciole.inference.DivergenceWarning")
@pytest.mark.slow
@pytest.mark.parametrize("name", ["nuts", "nuts_dense", "hmc", "slice"])
def test_compiles_once_per_shape(name, targets, backend_compiles, monkeypatch):
    kernel = KERNELS[name]
    monkeypatch.setattr(compilation, "_cache", OrderedDict())  # another test may have left this program

    def fresh(shift):
        # Everything anew: functions, density, kernel, run. Only the structure is the same.
        def log_density(position, data):
            return -0.5 * ((position["loc"] - data) ** 2).sum() - jnp.tanh(data).sum()

        def constrain(position, data):
            return {"loc": position["loc"], "scaled": position["loc"] * data}

        data = np.arange(7, dtype=np.float32) + shift
        return targets.FakeDensity({"loc": (7,)}, log_density, data, constrain)

    keys = [jax.random.key(seed) for seed in range(3)]

    def go(density, key, num_warmup=25, num_samples=20, thinning=1, **options):
        mcmc = MCMC(
            kernel(density, **options), num_warmup=num_warmup, num_samples=num_samples, num_chains=2,
            thinning=thinning, progress_bar=False,
        )  # fmt: skip
        return mcmc.run(key).get_samples()["loc"].mean(0)

    go(fresh(0), keys[0])
    first = len(backend_compiles)
    assert first > 0
    moved = go(fresh(50), keys[1], num_warmup=120, num_samples=900, thinning=2, target_accept_prob=0.9)
    assert len(backend_compiles) == first, "new data of the same shapes, more draws or another seed compiled something"
    assert abs(moved.mean() - 53) < 1, "the new data were not used"
    go(fresh(0), keys[2], step_size=0.1)
    assert len(backend_compiles) == first


@pytest.mark.filterwarnings("ignore::luciole.inference.DivergenceWarning")
@pytest.mark.parametrize("name", ["nuts", pytest.param("hmc_length", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_the_density_is_never_asked_beyond_a_divergence(name, targets):
    seen = []

    def log_density(position, data):
        jax.debug.callback(lambda x: seen.append(float(np.max(np.abs(x)))), position["x"])
        return -0.5 * (position["x"] ** 4).sum()

    def initial(key):
        return {"x": jax.random.uniform(key, (2,))}

    density = targets.FakeDensity({"x": (2,)}, log_density, initial=initial)
    kernel = KERNELS[name](density, step_size=0.9)
    MCMC(kernel, num_warmup=0, num_samples=60, num_chains=3, progress_bar=False).run(jax.random.key(2))
    jax.effects_barrier()
    assert len(seen) > 100 and np.isfinite(seen).all()
