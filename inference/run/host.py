"""The host loop: advance the chains in chunks, take the draws off the device, report, hear an interrupt.

A chunk is as many transitions as fit into the device's buffer. It runs in short calls, so that the bar moves and an interrupt is heard;
interrupted chains end the transition that they are in, and what they have drawn is kept.
"""

import logging
from collections.abc import Callable
from time import perf_counter
from typing import NamedTuple

import numpy as np

from ...transforms.autobatch import gather, scatter, smaller
from ..kernels.kernel import Transition
from ..kernels.records import ChainState, Plan, Tuning
from ..kernels.target import Data
from .batching import Chunk
from .chain import Begin
from .compilation import Compiled
from .progress import Progress

__all__ = ["Counts", "Outcome", "drive"]

_log = logging.getLogger("luciole")
_CALL_SECONDS = 0.1  # an interrupt is heard, and the bar moves, about this often


class Counts(NamedTuple):
    """Running totals over all chains.

    Attributes:
        tries: (chain,). Starting points that were evaluated.
        evaluations: log densities, with gradient where the kernel uses it, that chains needed, the search for starts included.
        warmup_evaluations: those of them in warm-up.
        slots: the same, computed, idle chains included.
        divergences: (chain,). After warm-up.
        queries, warmup_queries: likelihoods of rows, of kernels that count them.
        transitions: of all chains.
    """

    tries: np.ndarray
    evaluations: int
    warmup_evaluations: int
    slots: int
    divergences: np.ndarray
    queries: int
    warmup_queries: int
    transitions: int


class Outcome(NamedTuple):
    """What the loop leaves.

    Attributes:
        state: of all chains after the last stored chunk; they differ in transitions if the user stopped the run.
        values: kept draws in the target's order, each (chain, draw, ...), warm-up first.
        stats: by name, (chain, draw).
        filled: (chain,). Draws present; the rest of the arrays is empty.
        counts: totals.
        ok: bool, (chain,). Which chains found a start; if one did not, there are no draws.
        interrupted: whether the user stopped the run.
        seconds: wall time of the loop.
        again: with which transition the run has to begin again; None if its draws stand. Those of the last chunk are not among them.
    """

    state: ChainState
    values: tuple[np.ndarray, ...]
    stats: dict[str, np.ndarray]
    filled: np.ndarray
    counts: Counts
    ok: np.ndarray
    interrupted: bool
    seconds: float
    again: Transition | None


def drive(
    compiled: Compiled,
    begin: Begin,
    state: ChainState,
    data: Data,
    plan: Plan,
    total: int,
    num_kept: int,
    capacity: int,
    compact: bool,
    progress: Progress,
    meetings: tuple[int, ...],
    meet: Callable[[ChainState, Tuning], ChainState] | None,
    inspect: Callable[[ChainState], Transition | None],
) -> Outcome:
    """Advances every chain by `total` transitions, or until the user interrupts.

    Args:
        compiled: the programs.
        begin, state: what `Sampler.begin` returned.
        data, plan: what the programs are given.
        total: transitions per chain, warm-up included.
        num_kept: draws per chain that these transitions leave.
        capacity: transitions of a chunk, at most what its buffer holds.
        compact: whether the last chains of a chunk go on in a smaller batch.
        progress: told after every call and every chunk.
        meetings: transitions before which all chains meet, and a chunk ends.
        meet: what the chains do there together.
        inspect: is shown the chains after every chunk; may raise, or return a transition to begin again with.
    """
    num_chains = state.log_density.shape[0]
    store = _empty_store(compiled.chunk, num_chains, num_kept)
    filled = np.zeros(num_chains, np.int64)
    counts = Counts(np.zeros(num_chains, np.int64), 0, 0, 0, np.zeros(num_chains, np.int64), 0, 0, 0)
    calls = _Calls(compiled, data, plan, compact, num_chains, int(plan.schedule.num_warmup), progress)
    done, ok, again = 0, np.ones(num_chains, bool), None
    start = perf_counter()
    try:
        while done < total and ok.all() and not calls.interrupted:
            until = min(done + capacity, total, *(meeting for meeting in meetings if meeting > done))
            machine = compiled.enter(data, plan, begin, state, np.bool_(done == 0), np.int32(until))
            machine, slots = calls.to_the_end(machine, until)
            chunk = compiled.leave(machine, data, plan)
            ok = np.asarray(chunk.kept.ok)
            chains = chunk.state
            again = inspect(chains)
            if again is not None:
                counts = _add(counts, chunk, slots)
                break
            if meet is not None and until in meetings and ok.all() and not calls.interrupted:
                chains = meet(chains, plan.tuning)
            stored, counted = _append(store, filled, chunk), _add(counts, chunk, slots)
            state, filled, counts, done = chains, stored, counted, until
            divergences = int(counts.divergences.sum()) if "diverging" in chunk.stats else None
            progress.statistics(*_recent(chunk), divergences)
    except KeyboardInterrupt:  # outside of a chunk, or twice within one
        calls.interrupted = True
    if calls.interrupted:
        _log.info("interrupted in transition %s of %d", np.asarray(state.stream.counter).min(), total)
    seconds = perf_counter() - start
    values, stats = store
    return Outcome(state, values, stats, filled, counts, ok, calls.interrupted, seconds, again)


class _Calls:
    """Calls of the device, each about as long as an interrupt may wait to be heard.

    Attributes:
        interrupted: whether the user has interrupted a call. The chains then end the transition that they are in, and with it the
            chunk.
    """

    def __init__(self, compiled: Compiled, data, plan: Plan, compact: bool, num_chains: int, num_warmup: int, progress: Progress):
        self._compiled, self._data, self._plan, self._compact = compiled, data, plan, compact
        self._num_chains, self._num_warmup, self._progress = num_chains, num_warmup, progress
        self._turns, self.interrupted = 64, False

    def to_the_end(self, machine, until: int, size: int | None = None):
        """Lets `size` chains, or all, run until they end the chunk before transition `until`.

        Returns:
            The machine's state, and how many gradients were computed, idle chains included.
        """
        size = self._num_chains if size is None else size
        left = smaller(size) if self._compact else 0
        before = int(np.asarray(machine[1]))
        machine, running = self._until_left(machine, until, size, left)
        slots = (int(np.asarray(machine[1])) - before) * size
        if not running:
            return machine, slots
        state, ticks = machine
        part, rows = gather(state, left)
        (part, ticks), more = self.to_the_end((part, ticks), until, left)
        return (scatter(state, part, rows), ticks), slots + more

    def _until_left(self, machine, until: int, size: int, left: int):
        """Lets chains run until no more than `left` do; returns the machine's state and how many do."""
        advance, running = self._compiled.advance(size), size
        while running > left:
            begun = perf_counter()
            try:
                machine, report = advance(machine, self._data, self._plan, np.int32(self._turns), np.int32(left))
                running, _, transitions = (np.asarray(value).item() for value in report)
            except KeyboardInterrupt:
                if self.interrupted:
                    raise
                self.interrupted = True
                machine = self._compiled.stop(machine)
                continue
            seen = (transitions * size + until * (self._num_chains - size)) / self._num_chains
            self._progress.reached("warm-up" if seen < self._num_warmup else "sampling", int(seen))
            if running > left and perf_counter() - begun < _CALL_SECONDS:
                self._turns = min(2 * self._turns, 2**20)
        return machine, running


def _recent(chunk: Chunk) -> tuple[float, float]:
    """Mean tree depth and mean number of gradients of the chunk's transitions."""
    tally = chunk.kept.tally
    transitions = max(1.0, float(np.asarray(tally.transitions).sum()))
    return float(np.asarray(tally.depth).sum()) / transitions, float(np.asarray(tally.n_steps).sum()) / transitions


def _empty_store(chunk: Chunk, num_chains, num_kept):
    def empty(array):
        return np.zeros((num_chains, num_kept, *array.shape[2:]), array.dtype)

    return tuple(empty(value) for value in chunk.values), {name: empty(stat) for name, stat in chunk.stats.items()}


def _append(store, filled, chunk: Chunk):
    """Copies the chunk's draws behind those of each chain; returns how many each chain has then."""
    count = np.asarray(chunk.kept.count)
    if not count.any():
        return filled
    values, stats = store
    pairs = list(zip(values, chunk.values, strict=True)) + [(stats[name], chunk.stats[name]) for name in stats]
    for kept, new in pairs:
        new = np.asarray(new)
        for chain, number in enumerate(count):
            kept[chain, filled[chain] : filled[chain] + number] = new[chain, :number]
    return filled + count


def _add(counts: Counts, chunk: Chunk, slots: int) -> Counts:
    tally = chunk.kept.tally
    tries = np.asarray(tally.tries, np.int64)
    evaluations = int(np.asarray(tally.n_steps, np.int64).sum() + tries.sum())
    return Counts(
        counts.tries + tries,
        counts.evaluations + evaluations,
        counts.warmup_evaluations + int(np.asarray(tally.warmup_steps, np.int64).sum()),
        counts.slots + slots,
        counts.divergences + np.asarray(tally.diverging),
        counts.queries + int(np.asarray(tally.queries, np.int64).sum()),
        counts.warmup_queries + int(np.asarray(tally.warmup_queries, np.int64).sum()),
        counts.transitions + int(np.asarray(tally.transitions, np.int64).sum()),
    )
