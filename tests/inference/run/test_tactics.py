"""A run over devices is the run on one: the same steps, the same draws, whatever is split; and what cannot be split is said before."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import luciole as lc
from luciole import dist
from luciole import sharding as ls
from luciole.inference.kernels import trajectory
from luciole.inference.kernels.coordinates import Per
from luciole.inference.kernels.kernel import Transition, TunedKernel, tuning_of
from luciole.inference.kernels.layout import Layout
from luciole.inference.run.lockstep import check_replicas
from luciole.inference.run.parts import Parts
from luciole.inference.run.placement import Placement

GROUPS, ROWS, CHAINS = 16, 48, 8


def model(x, group, y=None):
    mu = lc.sample("mu", dist.Normal(0, 1))
    tau = lc.sample("tau", dist.LogNormal(0, 0.3))
    beta = lc.sample("beta", dist.Normal(0, 1).expand([2]).to_event(1))
    with lc.plate("group", GROUPS):
        alpha = lc.sample("alpha", dist.Normal(mu, tau))
    lc.deterministic("spread", alpha.std())
    with lc.plate("row", ROWS):
        lc.sample("y", dist.Normal(alpha[group] + x @ beta, 1.0), obs=y)


def gaussian(x, group, y=None):
    beta = lc.sample("beta", dist.Normal(0, 1).expand([2]).to_event(1))
    with lc.plate("group", GROUPS):
        alpha = lc.sample("alpha", dist.Normal(0.3, 0.7))
    with lc.plate("row", ROWS):
        lc.sample("y", dist.Normal(alpha[group] + x @ beta, 1.0), obs=y)


def split(name, axis, **options):
    return ls.ManualPartition({name: 0}, axis=axis, **options)


WAYS = {
    "chains": ({"c": 8}, [split("chains", "c")]),
    "data": ({"d": 8}, [split("plate:row", "d")]),
    "sites": ({"s": 8}, [split("plate:group", "s")]),
    "all": ({"c": 2, "d": 2, "s": 2}, [split("chains", "c"), split("plate:row", "d"), split("sites.alpha", "s")]),
    "padded": ({"d": 5}, [split("data.*", "d", pad=True)]),
    "one axis": ({"d": 4}, [split("plate:row", "d"), split("sites.alpha", "d")]),
}
KERNELS = {
    "NUTS": lc.NUTS(model),
    "HMC": lc.HMC(model, num_steps=7),
    "Slice": lc.Slice(model),
    "RWM": lc.RWM(model),
    "EllipticalSlice": lc.EllipticalSlice(gaussian),
}


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(ROWS, 2)), rng.integers(0, GROUPS, ROWS).astype(np.int32), rng.normal(size=ROWS)


def sampler(kernel, way=None, **options):
    mesh, tactics = WAYS[way] if way else (None, None)
    options = {"num_warmup": 0, "num_samples": 5, "num_chains": CHAINS, "progress_bar": False} | options
    return lc.MCMC(kernel, mesh=mesh, tactics=tactics, **options)


_adapted = {}


def adapted(name, data, wide):
    """A run that has warmed up, and five transitions from its end on one device."""
    if (name, wide) not in _adapted:
        first = sampler(KERNELS[name], num_warmup=30 if name == "Slice" else 100).run(jax.random.key(0), *data)
        _adapted[name, wide] = first, sampler(KERNELS[name]).run(jax.random.key(1), *data, start=first)
    return _adapted[name, wide]


def same_draws(one, other, tolerance):
    np.testing.assert_array_equal(one.sample_stats["n_steps"], other.sample_stats["n_steps"])
    for name, value in one.get_samples().items():
        np.testing.assert_allclose(value, other.get_samples()[name], rtol=tolerance, atol=tolerance, err_msg=name)
    np.testing.assert_allclose(one.state.position, other.state.position, rtol=tolerance, atol=tolerance)


def cases():
    for name in KERNELS:
        for way in WAYS:
            usual = way == "all" and name in ("NUTS", "Slice")
            for wide in (True, False):
                mark = pytest.mark.slow if usual and wide else pytest.mark.exhaustive
                yield pytest.param(name, way, wide, marks=mark, id=f"{name}, {way}, {'float64' if wide else 'float32'}")


@pytest.mark.parametrize(("name", "way", "wide"), list(cases()))
def test_the_same_draws_from_one_adapted_state(data, name, way, wide):
    with jax.enable_x64(wide):
        first, one = adapted(name, data, wide)
        many = sampler(KERNELS[name], way).run(jax.random.key(1), *data, start=first)
        same_draws(one, many, 1e-10 if wide else 1e-5)
        assert one.sample_stats["n_steps"].max() > 1 or name == "RWM"


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore:.*diverged")
def test_warm_up_from_scratch_over_chains(data):
    with jax.enable_x64(True):
        options = {"num_warmup": 40, "num_samples": 20, "keep_warmup": True}
        one, many = (sampler(KERNELS["NUTS"], way, **options).run(jax.random.key(2), *data) for way in (None, "chains"))
        for group in ("sample_stats", "warmup_sample_stats"):
            np.testing.assert_array_equal(one.to_arviz()[group]["n_steps"], many.to_arviz()[group]["n_steps"])
    assert many.cost["gradient_slots"] < one.cost["gradient_slots"]  # a device leaves when its own chain has ended


@pytest.mark.slow
def test_pooled_adaptation_meets_over_devices(data):
    with jax.enable_x64(True):
        options = {"num_warmup": 30, "pool_adaptation": True}
        one, many = (sampler(KERNELS["HMC"], way, **options).run(jax.random.key(2), *data) for way in (None, "all"))
    for state in (one.state, many.state):
        assert np.ptp(state.step_size) == 0 and np.ptp(state.metric.inverse_mass, axis=0).max() == 0
    np.testing.assert_allclose(one.state.step_size, many.state.step_size, rtol=1e-6)
    np.testing.assert_allclose(one.state.metric.inverse_mass, many.state.metric.inverse_mass, rtol=1e-6)


@dataclass(frozen=True)
class OwnTransition(Transition):
    """A kernel of one's own, which knows nothing of vectors in parts."""

    stats, uses_gradient = {"lp": "float", "n_steps": "int32"}, False


@dataclass(frozen=True)
class Own(TunedKernel):
    model: object
    init_strategy: object = lc.init_to_uniform()

    def transition(self):
        return OwnTransition()

    def tuning(self, dim, dtype, density=None):
        return tuning_of(1.0, np.ones(dim, dtype), False)


REFUSED = {
    "own kernel": (lambda: sampler(Own(model), "sites"), lc.PartitionError, r"'alpha'.*Own is not written for vectors that lie in parts"),
    "dense metric": (lambda: sampler(lc.NUTS(model, dense_mass=True), "sites"), lc.SamplerError, "'alpha'.*dense inverse mass"),
    "compact": (lambda: sampler(lc.NUTS(model), "chains", compact=True), lc.SamplerError, "compact is True.*split over devices"),
    "chains": (lambda: sampler(lc.NUTS(model), "chains", num_chains=6), lc.SamplerError, r"num_chains is 6.*8 devices.*num_chains=8"),
    "FlyMC": (lambda: sampler(lc.FlyMC(model), "data"), lc.SamplerError, "FlyMC cannot be split over them"),
    "site": (lambda: lc.MCMC(lc.NUTS(model), mesh={"s": 8}, tactics=[split("sites.alhpa", "s")]), lc.PartitionError, "mean 'sites.alpha'"),
    "plate": (lambda: lc.MCMC(lc.NUTS(model), mesh={"s": 8}, tactics=[split("plate:grup", "s")]), lc.PartitionError, "mean 'plate:group'"),
    "devices": (
        lambda: lc.MCMC(lc.NUTS(model), mesh={"s": 16}, tactics=[split("plate:group", "s")]),
        lc.PartitionError,
        "needs 16 devices",
    ),
    "axis": (lambda: lc.MCMC(lc.NUTS(model), mesh={"s": 8}, tactics=[split("chains", "t")]), lc.PartitionError, "no axis 't'"),
    "axis twice": (
        lambda: lc.MCMC(lc.NUTS(model), num_chains=8, mesh={"s": 8}, tactics=[split("chains", "s"), split("plate:group", "s")]),
        lc.PartitionError,
        "chains are split over 's' already",
    ),
    "groups": (
        lambda: lc.MCMC(lc.NUTS(model), mesh={"s": 7}, tactics=[split("plate:group", "s")]),
        lc.PartitionError,
        "divided among the 7",
    ),
    "padded site": (
        lambda: lc.MCMC(lc.NUTS(model), mesh={"s": 7}, tactics=[split("plate:group", "s", pad=True)]),
        lc.PartitionError,
        r"sites.alpha, \[16\].*cannot be padded",
    ),
    "no tactic": (lambda: lc.MCMC(lc.NUTS(model), mesh={"c": 8}, tactics=[]), lc.SamplerError, r"tactics is \[\], which splits nothing"),
    "no mesh": (lambda: lc.MCMC(lc.NUTS(model), tactics=[split("chains", "c")]), lc.SamplerError, "mesh is None"),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_what_cannot_be_split_is_said_before_anything_compiles(data, mistake, monkeypatch):
    make, error, words = REFUSED[mistake]
    monkeypatch.setattr("luciole.inference.run.running.compiled_sampler", lambda spec: pytest.fail("compiled"))
    with pytest.raises(error, match=words):
        make().run(jax.random.key(0), *data)


@pytest.mark.slow
def test_a_kernel_that_forgets_to_sum_is_found(data, monkeypatch):
    """The broken twin: its turn checks see a device's own coordinates only, so that the devices' trajectories end at different leaves."""
    dots = trajectory.dots
    monkeypatch.setattr(trajectory, "dots", lambda layout, *pairs, per: dots(None, *pairs))
    with pytest.raises(lc.SamplerError, match=r"chain \d+ stands at different places.*'s'"):
        sampler(KERNELS["NUTS"], "sites", num_warmup=20, debug=True).run(jax.random.key(0), *data)


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore:.*diverged")
def test_the_debug_mode_changes_nothing(data):
    plain, debug = (sampler(KERNELS["NUTS"], "all", num_warmup=20, debug=d).run(jax.random.key(0), *data) for d in (False, True))
    same_draws(plain, debug, 0)


def test_devices_that_differ_after_a_chunk_are_found():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("d",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    shards = [jax.device_put(np.float32([1.0, value]), device) for device, value in zip(jax.devices(), (2.0, 2.0 + 1e-6), strict=False)]
    place = Placement.over(mesh, parts=Parts(Layout((), "float32")))
    check_replicas(jax.device_put(np.float32([1.0, np.nan]), sharding), place)
    with pytest.raises(lc.SamplerError, match="share chains and have different log densities"):
        check_replicas(jax.make_array_from_single_device_arrays((2,), sharding, shards), place)


PLANNED = [(name, way) for name in ("NUTS", "HMC", "Slice") for way in ("chains", "data", "sites", "all")]


@pytest.mark.parametrize(
    ("name", "way"), [pytest.param(*case, marks=pytest.mark.slow if case == ("HMC", "all") else pytest.mark.exhaustive) for case in PLANNED]
)
def test_the_plan_says_what_is_lowered(data, name, way):
    plan = sampler(KERNELS[name], way).plan(*data)
    found = plan.check()
    assert bool(found["advance"]) == (way != "chains")
    if way == "chains":
        assert not any(found.values()) and not plan.collectives
    if (name, way) == ("HMC", "all"):
        assert plan.collectives[Per.TRANSITION] == {"all_reduce": 2}  # kinetic energies at the start and at the end
        assert plan.collectives[Per.GRADIENT]["all_gather"] == 1  # alpha, for a[group] with rows in any order
        assert "per gradient" in str(plan) and plan.chains == CHAINS // 2


@pytest.mark.slow
def test_a_plan_that_is_wrong_is_noticed(data):
    plan = sampler(KERNELS["RWM"], "data").plan(*data)
    wrong = replace(plan, static={**plan.static, "advance": {}})
    with pytest.raises(lc.PartitionError, match="the plan said"):
        wrong.check()


def test_a_plan_needs_no_devices(data):
    mcmc = lc.MCMC(lc.RWM(model), num_chains=64, mesh={"c": 32, "s": 16}, tactics=[split("chains", "c"), split("plate:group", "s")])
    plan = mcmc.plan(*data)
    assert plan.chains == 2 and plan.memory["state"] > 0
    with pytest.raises(lc.PartitionError, match="needs 512 devices"):
        plan.check()
    with pytest.raises(lc.SamplerError, match="mesh is None"):
        lc.MCMC(lc.NUTS(model)).plan(*data)


def test_a_multivariate_prior_cannot_be_split(data):
    def curve(x, group, y=None):
        f = lc.sample("f", dist.MultivariateNormal(jnp.zeros(GROUPS), jnp.eye(GROUPS)))
        lc.sample("y", dist.Normal(f[group], 1.0), obs=y)

    mcmc = lc.MCMC(lc.EllipticalSlice(curve), mesh={"s": 4}, tactics=[split("sites.f", "s")])
    with pytest.raises(lc.SamplerError, match=r"'f' is split.*MultivariateNormal"):
        mcmc.run(jax.random.key(0), *data)
