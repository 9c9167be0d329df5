"""The host loop by itself: it drives any sampler with the seams of a run, here one of ten lines, and knows no kernel."""

from dataclasses import dataclass
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import luciole as lc
from luciole.inference.kernels.adaptation import warmup_schedule
from luciole.inference.kernels.kernel import Transition, tuning_of
from luciole.inference.kernels.records import Draw, Plan
from luciole.inference.kernels.target import trace_target
from luciole.inference.run.chain import Begin
from luciole.inference.run.compilation import compiled_sampler
from luciole.inference.run.host import drive
from luciole.inference.run.memory import Memory
from luciole.inference.run.observers import BeginAgain, Observer
from luciole.inference.run.placement import Placement
from luciole.inference.run.spec import RunSpec, Settings, first_snapshot
from luciole.ppl import init_to_uniform
from luciole.transforms.autobatch import program
from luciole.transforms.streams import normal

CHAINS, WARMUP, DRAWS = 8, 5, 12
COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")


@dataclass(frozen=True)
class Walk(Transition):
    """x + z, accepted always: ten lines of a kernel."""

    stats, uses_gradient = {"lp": "float", "n_steps": "int32", "above": "bool"}, False

    def noise(self, stream, position):
        return normal(stream, 1, position.shape, dtype=position.dtype)

    def program(self, density, plan):
        @program
        def transition(state, noise):
            position = state.position + noise
            log_density, _, _ = density(position, state.auxiliary)
            stats = {"lp": log_density, "n_steps": jnp.int32(1), "above": position[0] > 0}
            stream = state.stream._replace(counter=state.stream.counter + 1)
            return state._replace(position=position, log_density=log_density, stream=stream), Draw(position, stats)

        return transition


WALK = Walk()


@pytest.fixture(scope="module")
def run(targets):
    """A function that drives a run of `Walk` and returns what it leaves."""
    target = trace_target(targets.gaussian(np.zeros(3), np.eye(3)), init_to_uniform(), CHAINS, False)
    settings = Settings(WARMUP, DRAWS, CHAINS)
    tuning = tuning_of(1.0, np.ones(3, np.float32), False)
    plan = Plan(warmup_schedule(WARMUP), tuning, np.int32(1), np.asarray(False))

    def drives(observers=(), capacity=4, placement=None, upto=(WARMUP + DRAWS,), seconds=None):
        begin = Begin(np.zeros(CHAINS, bool), {})
        place = placement or Placement.of(())
        spec = RunSpec(target, WALK, plan, CHAINS, WARMUP + DRAWS, capacity, begin, place)
        compiled = compiled_sampler(spec)
        snapshot = first_snapshot(spec, compiled.begin(np.arange(2, dtype=np.uint32), plan, np.zeros((CHAINS, 3), np.float32)))
        sink = Memory(settings)
        sink.seconds = seconds
        sink.allocate(target.names, compiled.chunk, snapshot, spec.placement)
        for total in upto:
            snapshot = drive(compiled, spec._replace(total=total), snapshot, sink, observers)
        return SimpleNamespace(snapshot=snapshot, draws=sink.draws(), spec=spec, compiled=compiled)

    return drives


@pytest.fixture(scope="module")
def whole(run):
    return run()


def same(one, other):
    rows = slice(0, DRAWS)
    np.testing.assert_array_equal(one.draws.values("x", rows), other.draws.values("x", rows))
    for name in WALK.stats:
        np.testing.assert_array_equal(one.draws.stats(name, rows), other.draws.stats(name, rows))
    chains = one.snapshot.chains, other.snapshot.chains
    assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, chains), strict=True))


def test_a_kernel_of_ten_lines_is_driven(whole):
    counts = whole.snapshot.counts
    x = whole.draws.values("x", slice(0, DRAWS))
    assert x.shape == (CHAINS, DRAWS, 3) and whole.snapshot.done == WARMUP + DRAWS
    np.testing.assert_allclose(whole.draws.stats("lp", slice(0, DRAWS)), -0.5 * (x**2).sum(-1), rtol=1e-5)
    np.testing.assert_array_equal(counts.sums["n_steps"], WARMUP + DRAWS)
    np.testing.assert_array_equal(counts.warmup_sums["n_steps"], WARMUP)
    np.testing.assert_array_equal(counts.sums["above"] - counts.warmup_sums["above"], (x[:, :, 0] > 0).sum(1))
    assert (whole.snapshot.filled == DRAWS).all() and (counts.tries == 1).all()


@pytest.mark.parametrize(
    "options", [{"upto": (3, 9, WARMUP + DRAWS)}, {"seconds": 1e-9}, {"seconds": 1e9}], ids=["in parts", "short chunks", "long chunks"]
)
def test_the_draws_are_those_of_one_run(run, whole, options):
    same(whole, run(**options))


class Stops(Observer):
    stops = (2, 11)

    def __init__(self):
        self.seen, self.calls = [], 0

    def called(self, seen):
        self.calls += 1

    def ended(self, chunk, snapshot):
        self.seen.append(snapshot.done)
        return snapshot


def test_observers_are_told_and_end_chunks(run, whole):
    observer = Stops()
    same(whole, run([observer]))
    assert observer.seen == [2, 6, 10, 11, 15, 17] and observer.calls >= 6


def test_an_observer_changes_what_the_run_goes_on_with(run, whole):
    class Moves(Observer):
        def ended(self, chunk, snapshot):
            return snapshot._replace(chains=snapshot.chains._replace(position=snapshot.chains.position + 100))

    assert run([Moves()]).draws.values("x", slice(0, DRAWS)).mean() > 100


def test_what_an_observer_refuses_counts_for_nothing(run):
    class Refuses(Observer):
        def ended(self, chunk, snapshot):
            if snapshot.done > 8:
                raise BeginAgain("larger")
            return snapshot

    with pytest.raises(BeginAgain) as caught:
        run([Refuses()])
    assert caught.value.fitted == "larger"


def test_a_snapshot_is_a_pytree_of_arrays(whole):
    leaves = jax.tree.leaves(whole.snapshot)
    assert len(leaves) > 15 and all(isinstance(leaf, (np.ndarray, np.generic, jax.Array)) for leaf in leaves)


@pytest.mark.slow
def test_chains_over_eight_devices(run, whole):
    """The same loop, a report for each device, no collective, the same draws."""
    mesh = jax.make_mesh((8,), ("chains",))
    spread = run(placement=Placement.over(mesh))
    same(whole, spread)
    assert len(spread.snapshot.chains.position.devices()) == 8
    for counts in ("sums", "warmup_sums"):
        for name, value in getattr(whole.snapshot.counts, counts).items():
            np.testing.assert_array_equal(getattr(spread.snapshot.counts, counts)[name], value)
    assert spread.snapshot.counts.slots >= whole.snapshot.counts.sums["n_steps"].sum()
    for compiled in (spread.compiled.enter, spread.compiled.advance(CHAINS), spread.compiled.leave):
        text = compiled.as_text()
        assert not [word for word in COLLECTIVES if word in text]


def test_chains_that_cannot_be_split():
    with pytest.raises(ValueError, match=r"num_chains is 9.*split evenly over 8 devices"):
        Placement.over(jax.make_mesh((8,), ("chains",))).local(9)


@pytest.mark.exhaustive
def test_nuts_over_eight_devices_goes_on_from_a_shared_adapted_state(targets):
    """Without any collective, each device counting for itself; five transitions take the same steps, and end within rounding."""
    with jax.enable_x64(True):
        scales = np.array([0.1, 1.0, 3.0, 10.0])
        kernel = lc.NUTS(targets.gaussian(np.zeros(4), np.diag(scales**2)))
        mcmc = lc.MCMC(kernel, num_warmup=150, num_samples=5, num_chains=16, progress_bar=False).run(jax.random.key(1))
        together = mcmc._running
        settings = Settings(150, 10, 16)
        ends = []
        for place in (Placement.of(()), Placement.over(jax.make_mesh((8,), ("chains",)))):
            spec = together.spec._replace(placement=place, total=160)
            compiled = compiled_sampler(spec)
            sink = Memory(settings)
            sink.allocate(together.target.names, compiled.chunk, together.snapshot, together.placement)
            started = together.snapshot._replace(chains=place.put_chains(together.snapshot.chains))
            ends.append((drive(compiled, spec, started, sink), sink.draws()))
    (one, drawn), (eight, spread) = ends
    rows = slice(5, 10)
    np.testing.assert_array_equal(drawn.stats("n_steps", rows), spread.stats("n_steps", rows))
    np.testing.assert_allclose(drawn.values("x", rows), spread.values("x", rows), rtol=1e-10, atol=1e-10)
    assert drawn.stats("n_steps", rows).max() > 3
    assert eight.counts.slots < one.counts.slots  # a device leaves when its own two chains have ended
    text = compiled.advance(16).as_text()
    assert not [word for word in COLLECTIVES if word in text]
