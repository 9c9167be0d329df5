"""Runs that are taken up again: from wherever they ended, to the bit; and not with anything else than what they began with."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import luciole as lc
from luciole import dist
from luciole.inference.flymc import kernel as flymc_kernel
from luciole.inference.run import host, recipe, resume, running
from luciole.ppl import InitStrategy
from luciole.transforms import LucioleError, SamplerError, StoreError


@dataclass(frozen=True, eq=False)
class Own(lc.RWM):
    """A kernel of the user's own; what it runs is compiled already."""


class Plain:
    """One that is not made of fields."""

    def __init__(self, model):
        self.model, self.init_strategy = model, lc.init_to_uniform()
        self.fit = lc.RWM(model).fit


def written(store):
    return json.loads(Path(store, "zarr.json").read_text())["attributes"]["luciole"]


@pytest.mark.parametrize("chunks", [pytest.param(1, marks=pytest.mark.slow), 5])
def test_a_run_goes_on_from_the_middle(small, whole, tmp_path, chunks):
    """In the warm-up and after it, twice; with more draws asked for; and further when it is over."""
    path = tmp_path / "run.zarr"
    small.part_of(path, lambda store: small.run(store=store), chunks)
    small.part_of(path, small.resume, 1)
    assert written(path)["commit"]["chunks"] == chunks + 1
    small.same(small.resume(path, small.model, args=(Y,), kwargs={"x": X}), whole)
    longer = small.resume(path, num_samples=27)
    small.same(longer, small.run(num_samples=27))
    small.same(longer.extend(3), small.resume(path, num_samples=30))
    assert written(path)["settings"]["num_samples"] == 30


@pytest.mark.parametrize(
    "options",
    [{}, {"init_params": np.arange(8, dtype=np.float32).reshape(2, 4) / 7}, pytest.param({"start": "earlier"}, marks=pytest.mark.slow)],
    ids=["searched for", "given", "an earlier run's"],
)
def test_a_run_begins_from_its_store(small, whole, tmp_path, monkeypatch, options):
    """The process ended while it compiled: the key and the places where chains start are all in the store."""
    options = {n: whole if isinstance(v, str) else v for n, v in options.items()} | {"extra_fields": ["accept_prob"]}
    path = tmp_path / "run.zarr"

    def broken(spec):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(running, "compiled_sampler", broken)
        with pytest.warns(lc.InterruptWarning, match=r"Call MCMC.resume"):
            small.mcmc(store=path).run(jax.random.key(3), small.Y, small.X, **options)
    assert written(path)["commit"] is None
    found, expected = small.resume(path), small.mcmc().run(jax.random.key(3), small.Y, small.X, **options)
    small.same(found, expected)
    np.testing.assert_array_equal(*(run.get_extra_fields()["accept_prob"] for run in (found, expected)))


@pytest.mark.slow
@pytest.mark.parametrize("own", [False, True], ids=["kernel's", "run's"])
@pytest.mark.parametrize("name", ["value", "median"])
def test_start_strategies_are_restored(small, tmp_path, monkeypatch, name, own):
    strategy = {"value": lc.init_to_value({"a/level": 0.3, "effect": np.full((3, 1), 0.1)}), "median": lc.init_to_median(num_samples=7)}[
        name
    ]
    options = {"init_params": strategy} if own else {}

    def start(**more):
        kernel = lc.RWM(small.model) if own else lc.RWM(small.model, init_strategy=strategy)
        return small.mcmc(kernel, **more).run(jax.random.key(0), small.Y, small.X, **options)

    small.part_of(tmp_path / "run.zarr", lambda store: start(store=store), 0)
    found = small.resume(tmp_path / "run.zarr")
    small.same(found, start())
    assert not np.array_equal(found.get_samples()["effect"], small.run().get_samples()["effect"])


MASS = np.array([0.5, 1.0, 1.5, 2.0])


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"inverse_mass_matrix": MASS}, marks=pytest.mark.slow),
        {"inverse_mass_matrix": {"effect": np.array([[0.1], [0.2], [1 / 3]]), "a/level": np.float32(0.7), "empty": np.ones(0)}},
        pytest.param({"step_size": 1 / 3, "adapt_step_size": True, "target_accept_prob": 0.4}, marks=pytest.mark.slow),
    ],
    ids=["array", "by site", "numbers"],
)
def test_settings_of_the_kernel_are_restored(small, whole, tmp_path, options):
    path = tmp_path / "run.zarr"
    small.part_of(path, lambda store: small.run(lc.RWM(small.model, **options), store=store), 2)
    with pytest.raises(StoreError, match=r"the run's kernel has (?s:.*)kernel= has .*a run goes on with the settings.*Leave kernel= out"):
        small.resume(path, kernel=lc.RWM(small.model))
    found = small.resume(path)
    small.same(found, small.run(lc.RWM(small.model, **options)))
    for name, value in options.items():
        kept = getattr(found.kernel, name)
        assert type(kept) is type(value)
        jax.tree.map(np.testing.assert_array_equal, kept, value)
    assert not np.array_equal(found.get_samples()["effect"], whole.get_samples()["effect"])
    small.same(small.resume(path, kernel=lc.RWM(small.model, **options)), found)


@pytest.mark.parametrize("kind", [Own, pytest.param(Plain, marks=pytest.mark.slow)])
def test_a_kernel_of_ones_own_is_given_again(small, whole, tmp_path, kind):
    path = tmp_path / "run.zarr"
    small.part_of(path, lambda store: small.run(kind(small.model), store=store), 4)
    with pytest.raises(
        StoreError, match=rf"kernel {kind.__name__} is not one that Luciole has; give it.*kernel={kind.__name__}\(model, \.\.\.\)"
    ):
        small.resume(path)
    with pytest.raises(StoreError, match=rf"the run's kernel is {kind.__name__}, kernel= is NUTS"):
        small.resume(path, kernel=lc.NUTS(small.model))
    if kind is Own:
        with pytest.raises(StoreError, match=r"kernel has target_accept_prob=0.234, kernel= has 0.5"):
            small.resume(path, kernel=Own(small.model, target_accept_prob=0.5))
    small.same(small.resume(path, kernel=kind(small.model)), whole)
    small.same(small.resume(path, small.model, kernel=kind(small.model)), whole)


@pytest.mark.slow
def test_settings_that_cannot_be_written_are_named(small, tmp_path):
    """The others are compared all the same."""

    class Half(type(lc.init_to_uniform())):
        pass

    path = tmp_path / "run.zarr"
    with pytest.raises(StoreError, match=r"init_params is a strategy of a class of your own.*give it to the kernel, init_strategy="):
        small.mcmc(store=path).run(jax.random.key(0), small.Y, small.X, init_params=Half())
    assert not path.exists()
    kernel = lc.RWM(small.model, init_strategy=Half(), target_accept_prob=0.3)
    small.part_of(path, lambda store: small.run(kernel, store=store), 4)
    with pytest.raises(StoreError, match=r"RWM has settings that cannot be written down, \['init_strategy'\]; give it as the run had it"):
        small.resume(path)
    with pytest.raises(StoreError, match=r"kernel has target_accept_prob=0.3, kernel= has 0.234"):
        small.resume(path, kernel=replace(kernel, target_accept_prob=0.234))
    small.same(small.resume(path, kernel=kernel), small.run(kernel))


VALUES = [
    None, True, np.bool_(False), 3, np.int64(-4), 1 / 3, float("inf"), -np.inf, "words", (1, (2.5, "a")), [("a", "b"), "c"], [], (),
    {("a", "b"): {"b": np.eye(2)}, ("c",): None}, {3: 1},
    np.array([[1, 2]], np.uint8), np.array(1 / 3), np.zeros((0, 2), np.float32),
    jnp.arange(3.0), lc.init_to_uniform(0.5), lc.init_to_mean(), lc.init_to_sample(), lc.init_to_feasible(), lc.init_to_median(3),
    lc.init_to_value({"a/b": np.arange(2.0), "c": 0.1}),
]  # fmt: skip


def test_what_is_written_is_read_again():
    arrays = {}
    content = json.dumps([recipe.write(value, arrays) for value in VALUES])
    for value, found in zip(VALUES, (recipe.read(item, arrays) for item in json.loads(content)), strict=True):
        if isinstance(value, InitStrategy):
            assert type(found) is type(value)
            value, found = vars(value), vars(found)
        assert jax.tree.structure(value) == jax.tree.structure(found)
        for one, other in zip(jax.tree.leaves(value), jax.tree.leaves(found), strict=True):
            assert np.asarray(one).dtype == np.asarray(other).dtype
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "value",
    [object(), 1j, {1, 2}, np.array(["a"]), np.array([object()]), jnp.zeros(2, jnp.bfloat16), len],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_written(value):
    for held in (value, [value], {"a": (value,)}):
        with pytest.raises(recipe.Unwritable):
            recipe.write(held, {})


def test_a_random_key_cannot_be_written():
    with pytest.raises(recipe.Unwritable):
        recipe.write(jax.random.key(0), {})


def renamed(y, x):
    lc.sample("b/level", dist.Normal(0, 1))


def rescaled(y, x):
    """The same sites, another density."""
    level = lc.sample("a/level", dist.Normal(0, 1))
    lc.sample("empty", dist.Normal(0, 1).expand([x.shape[1]]).to_event(1))
    with lc.plate("team", 3, dim=-2, coords=["red", "green", "blue"]):
        effect = lc.sample("effect", dist.Normal(level, 1))
        lc.deterministic("positive", effect > 0)
        with lc.plate("day", 2, dim=-1):
            lc.deterministic("spread", effect * jnp.arange(2.0))
            lc.sample("y", dist.Normal(effect, 1).mask(jnp.array([[True], [True], [False]])), obs=y)
    lc.deterministic("rounded", jnp.round(10 * level).astype(int))


Y = (np.arange(6, dtype=np.float32).reshape(3, 2) - 2) / 3
X = np.zeros((2, 0), np.float32)
BAD = {
    "no model": ({"kernel": None}, r"the model is missing; write MCMC.resume\('.*', model=model, args="),
    "another model": ({"model": renamed}, r"site 'a/level' was sample, shape \(\), float32 and is not there"),
    "another density": ({"model": rescaled}, r"the model has changed: .*run anew"),
    "no data": ({"args": ()}, r"model\(y, x\): missing a required argument: 'y'"),
    "other values": ({"args": (Y + 1, X)}, r"the data have changed: the values of the argument 'y' are others"),
    "other shapes": ({"args": (Y, np.zeros((2, 1), np.float32))}, r"site 'empty' was sample, shape \(0,\).* and is sample, shape \(1,\)"),
    "the last bit": ({"args": (np.nextafter(Y, 9), X)}, "the values of the argument 'y' are others"),
    "another kernel": ({"kernel": lc.NUTS}, r"the run's kernel is RWM, kernel= is NUTS; leave kernel= out"),
    "other settings": ({"kernel": lambda m: lc.RWM(m, dense_mass=True)}, "kernel has dense_mass=False, kernel= has True"),
    "chains": ({"num_chains": 4}, r"num_chains is 4, and the run in '.*' has 2: .*Leave it out"),
    "fewer draws": ({"num_samples": 19}, r"num_samples is 19, and the run in '.*' was asked for 20 already; write at least"),
    "no number": ({"num_samples": 2.5}, r"num_samples is 2.5.*write num_samples=2000"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_run_goes_on_with_nothing_else(small, store, case):
    options, words = BAD[case]
    options = {"args": (Y, X), "model": small.model, "progress_bar": False, **options}
    if "kernel" in options:
        model, make = options.pop("model"), options.pop("kernel")
        options["kernel"] = make and make(model)
    before = small.contents(store)
    with pytest.raises(LucioleError, match=words) as caught:
        lc.MCMC.resume(store, **options)
    assert isinstance(caught.value, StoreError) or case in ("no data", "no number")
    assert small.contents(store) == before


def test_the_float_type_is_the_runs(small, store):
    before = small.contents(store)
    with jax.enable_x64(True), pytest.raises(StoreError, match=r"run is in float32, this process in float64; write jax.config.*False"):
        small.resume(store)
    assert small.contents(store) == before


def test_another_order_of_the_coordinates(small, store, monkeypatch):
    monkeypatch.setattr(resume, "layout_of", lambda density: [["effect", [3, 1], "float32"], ["a/level", [], "float32"]])
    with pytest.raises(
        StoreError, match=r"in this order, a/level \(\), empty \(0,\), effect \(3, 1\), and are effect \(3, 1\), a/level \(\)"
    ):
        small.resume(store)


def test_another_kernel_in_the_recipe(small, store):
    """Of a newer Luciole, say."""
    file = Path(store, "luciole", "zarr.json")
    for news, words in (
        ({"name": "Hovering"}, r"kernel Hovering is not one that Luciole has; give it as the run had it"),
        ({"module": "luciole.nowhere"}, "kernel RWM is not one that Luciole has"),
        ({"settings": {"mapping": [["wings", 2]]}}, r"RWM does not take the run's settings \{'wings': 2\}.*the version of Luciole"),
    ):
        content = json.loads(file.read_text())
        before = dict(content["attributes"]["kernel"])
        content["attributes"]["kernel"] |= news
        file.write_text(json.dumps(content))
        with pytest.raises(StoreError, match=words):
            small.resume(store)
        content["attributes"]["kernel"] = before
        file.write_text(json.dumps(content))


@pytest.mark.parametrize("change", ["jax", pytest.param("machine", marks=pytest.mark.slow)])
def test_other_versions_and_machines_are_a_warning(small, whole, store, monkeypatch, change):
    now = resume.versions()
    if change == "jax":
        monkeypatch.setattr(resume, "versions", lambda: {**now, "jax": "0.99"})
        words = rf"written with jax {now['jax']} \(now 0.99\): the draws continue the same chains.*see to it that its code is the same"
    else:
        monkeypatch.setattr(resume.platform, "machine", lambda: "abacus")
        words = r"and goes on on cpu of \w+ abacus: the draws may differ in the last bits"
    with pytest.warns(lc.StoreWarning, match=words):
        found = small.resume(store)
    small.same(found, whole)


def test_two_runs_in_one_store(small, whole, chunks_of, tmp_path):
    """The second is refused at once, whatever it wants; the first goes on undisturbed."""
    chunks_of(4)
    path, refused, lengths = tmp_path / "new.zarr", [], set()

    def meanwhile(report):
        if path.exists() and (written(path)["commit"] or {}).get("draws"):
            posterior = lc.open_store(path).posterior
            lengths.add(posterior.sizes["draw"])
            np.testing.assert_array_equal(posterior["effect"], whole.get_samples(True)["effect"][:, : posterior.sizes["draw"]])
        if report.phase in ("warm-up", "sampling") and not refused:
            with pytest.raises(StoreError) as caught:
                small.resume(path)
            refused.append(str(caught.value))

    found = small.run(store=path, progress_bar=meanwhile)
    small.same(found, whole)
    assert lengths == {2, 6, 10, 14, 18, 20}
    assert "is being written by another run, here or in another process; wait for it" in refused[0]
    small.same(small.resume(path), whole)


def test_two_processes_in_one_store(small, whole, store):
    code = "import filelock, sys; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print('has it', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, f"{store}/.lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline().strip() == b"has it"
        before = small.contents(store)
        with pytest.raises(StoreError, match="is being written by another run"):
            small.resume(store)
        assert small.contents(store) == before
        assert lc.open_store(store).posterior.sizes["draw"] == 6
        other.communicate()
    small.same(small.resume(store), whole)


def test_a_run_whose_store_another_one_has_gone_on_with(small, tmp_path):
    path = tmp_path / "run.zarr"
    first = small.part_of(path, lambda store: small.run(store=store))
    draws = first.get_samples(True)["effect"]
    second = small.resume(path)
    with pytest.raises(StoreError, match=r"another run has gone on with it since.*write MCMC.resume\('.*run.zarr', model=\.\.\.\)"):
        first.extend(0)
    assert first.get_samples(True)["effect"].shape[1] == 6
    np.testing.assert_array_equal(first.get_samples(True)["effect"], draws)
    small.same(second, small.resume(path))


@pytest.mark.slow
def test_a_store_that_was_removed_is_not_made_anew(small, tmp_path):
    run = small.run(store=tmp_path / "run.zarr")
    (tmp_path / "run.zarr").rename(tmp_path / "other.zarr")
    with pytest.raises(StoreError, match="no run of Luciole found, there is nothing"):
        run.extend(3)
    assert not (tmp_path / "run.zarr").exists()
    small.same(small.resume(tmp_path / "other.zarr", num_samples=23), small.run(num_samples=23))


CHILD = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
import conftest
import luciole as lc
from luciole.inference.run.store import Store
Store.seconds = 0.05

def tell(report):
    print(report.phase, flush=True)
    time.sleep(0.1 if report.phase == sys.argv[3] else 0)

store = sys.argv[2]
if os.path.exists(store):
    conftest.resume(store, progress_bar=tell)
else:
    conftest.run(lc.NUTS(conftest.model), num_warmup=150, num_samples=300, store=store, progress_bar=tell)
"""


@pytest.mark.slow
def test_killed_three_times(small, tmp_path):
    """While it compiles, in the warm-up and after it."""
    path = tmp_path / "run.zarr"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "LUCIOLE_CACHE_DIR": str(tmp_path / "programs")}
    for phase in ("compiling", "warm-up", "sampling"):
        command = [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(path), phase]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as child:
            for _ in range(1 if phase == "compiling" else 6):
                assert any(line.strip() == phase for line in child.stdout), "it ended by itself"
            child.kill()
        commit = written(path)["commit"]
        assert (commit is None) == (phase == "compiling")
        assert commit is None or (commit["draws"] > 0) == (phase == "sampling")
        assert commit is None or commit["draws"] < 300
    small.same(small.resume(path), small.run(lc.NUTS(small.model), num_warmup=150, num_samples=300))


def gaussian_prior(y, x):
    w = lc.sample("w", dist.Normal(0, 1).expand([3]).to_event(1))
    with lc.plate("row", len(y)):
        lc.sample("y", dist.Normal(w[0], 1).expand([2]).to_event(1), obs=y)


KERNELS = {
    "HMC": lambda model: lc.HMC(model, num_steps=3),
    "Slice": lc.Slice,
    "EllipticalSlice": lambda model: lc.EllipticalSlice(gaussian_prior),
    "dense": lambda model: lc.RWM(model, dense_mass=True),
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_go_on_from_their_warm_up(small, tmp_path, name):
    kernel, path = KERNELS[name](small.model), tmp_path / "run.zarr"
    options = {"num_warmup": 40, "num_samples": 20}
    small.part_of(path, lambda store: small.run(kernel, **options, store=store), 3, of=7)
    assert written(path)["commit"]["draws"] == 0
    small.part_of(path, lambda store: small.resume(store, kernel.model), 3, of=7)
    assert written(path)["commit"]["draws"] == 2
    small.same(small.resume(path, kernel.model), small.run(kernel, **options))


@pytest.mark.exhaustive
def test_an_interrupt_inside_a_chunk_leaves_chains_of_several_lengths(small, tmp_path, monkeypatch):
    path, kernel = tmp_path / "run.zarr", lc.Slice(small.model)
    options = {"num_samples": 400, "num_chains": 3, "num_warmup": 5}
    sums, calls = host._sum, []

    def interrupting(counts):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return sums(counts)

    with monkeypatch.context() as patch:
        patch.setattr(host, "_FIRST_CHUNK", 512)
        patch.setattr(host, "_sum", interrupting)
        with pytest.warns(lc.InterruptWarning):
            part = small.run(kernel, **options, store=path)
    filled = part._running.snapshot.filled
    assert 0 < filled.min() < filled.max()
    assert lc.open_store(path).posterior.sizes["draw"] == filled.min()
    small.same(small.resume(path), small.run(kernel, **options))


@pytest.mark.slow
def test_chains_that_adapt_together(small, tmp_path):
    kernel, path = lc.HMC(small.model, num_steps=3), tmp_path / "run.zarr"
    options = {"num_warmup": 60, "num_samples": 10, "num_chains": 4, "pool_adaptation": True}
    small.part_of(path, lambda store: small.run(kernel, **options, store=store), 5, of=9)
    found = small.resume(path)
    small.same(found, small.run(kernel, **options))
    assert len(set(found.state.step_size.tolist())) == 1


@pytest.mark.exhaustive
def test_in_double_precision(small, tmp_path):
    path = tmp_path / "run.zarr"
    with jax.enable_x64(True):
        small.part_of(path, lambda store: small.run(store=store), 5)
        assert written(path)["commit"]["draws"] == 10
        found = small.resume(path)
        assert found.get_samples()["effect"].dtype == np.float64
        small.same(found, small.run())
    with pytest.raises(StoreError, match=r"run is in float64, this process in float32; write jax.config.*True"):
        small.resume(path)


@pytest.mark.slow
def test_a_log_density_without_a_model(small, targets, tmp_path):
    density, path = targets.log_gammas([1.0, 2.0]), tmp_path / "run.zarr"

    def run(**options):
        return small.mcmc(lc.RWM(density), **options).run(jax.random.key(0))

    small.part_of(path, lambda store: run(store=store), 5)
    with pytest.raises(StoreError, match=r"the data have changed: an array of shape \(2,\) \(float32\) has other values"):
        small.resume(path, targets.log_gammas([1.0, 2.5]), args=())
    with pytest.raises(SamplerError, match="give no further arguments"):
        small.resume(path, density)
    found = small.resume(path, density, args=())
    small.same(found, run())
    assert set(lc.open_store(path).posterior.data_vars) == {"x", "gamma"}


ROWS = np.random.default_rng(3).normal(size=(60, 2)).astype(np.float32)
WON = (ROWS[:, 0] > 0.3 * ROWS[:, 1]).astype(np.float32)


def logistic(x, y):
    w = lc.sample("w", dist.Normal(0, 2).expand([2]).to_event(1))
    with lc.plate("row", len(x)):
        lc.sample("y", dist.Bernoulli(logits=x @ w), obs=y)


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore::luciole.inference.flymc.kernel.BreakEvenWarning")
@pytest.mark.parametrize("cramped", [False, True], ids=["", "after its buffer had overflowed"])
def test_firefly_monte_carlo(small, tmp_path, monkeypatch, caplog, cramped):
    kernel, path = lc.FlyMC(logistic, kernel="rotation_hmc", kernel_options={"softening": 200.0}), tmp_path / "run.zarr"
    set_up = flymc_kernel.set_up

    def with_small_buffer(*args, **options):
        found = set_up(*args, **options)
        return replace(found, conditional=replace(found.conditional, capacity=32)) if cramped else found

    def run(**options):
        mcmc = small.mcmc(kernel, num_warmup=100, num_samples=100, **options)
        return mcmc.run(jax.random.key(0), ROWS, WON)

    monkeypatch.setattr(flymc_kernel, "set_up", with_small_buffer)
    begun = []
    small.part_of(path, lambda store: begun.append(run(store=store)) or begun[0], 7, of=25 if cramped else 20)
    assert ("begins again" in caplog.text) == cramped == bool(written(path)["found"])
    assert 0 < written(path)["commit"]["draws"] < 100
    caplog.clear()
    found, expected = small.resume(path, logistic, args=(ROWS, WON)), run()
    small.same(found, expected)
    assert "begins again" not in caplog.text.partition("MCMC")[0] or cramped
    for name in ("likelihood_queries", "likelihood_queries_setup"):
        assert found.cost[name] > 0
