"""The host loop: advance the chains in bounded chunks, take the draws off the device, report, hear an interrupt."""

import logging
from time import perf_counter
from typing import NamedTuple

import numpy as np

from .batching import Chunk
from .chain import Begin
from .compilation import Compiled
from .progress import Progress
from .records import ChainState, Plan
from .target import Data

__all__ = ["Counts", "Outcome", "drive"]

_log = logging.getLogger("luciole")
_CALL_SECONDS = 0.1  # an interrupt is heard about this often
_CHUNK_SECONDS = 1.0  # the bar moves about this often
_FIRST_CHUNK = 64  # transitions


class Counts(NamedTuple):
    """Running totals over all chains.

    Attributes:
        tries: (chain,). Starting points that were evaluated.
        evaluations: log densities, with gradient where the kernel uses it, that chains needed, the search for starts included.
        warmup_evaluations: those of them in warm-up.
        slots: the same, computed, idle chains included.
        divergences: (chain,). After warm-up.
    """

    tries: np.ndarray
    evaluations: int
    warmup_evaluations: int
    slots: int
    divergences: np.ndarray


class Outcome(NamedTuple):
    """What the loop leaves.

    Attributes:
        state: of all chains after the last stored chunk.
        values: kept draws in the target's order, each (chain, draw, ...), warm-up first.
        stats: by name, (chain, draw).
        filled: (chain,). Draws present; the rest of the arrays is empty.
        counts: totals.
        ok: bool, (chain,). Which chains found a start; if one did not, there are no draws.
        interrupted: whether the user stopped the run.
        seconds: wall time of the loop.
    """

    state: ChainState
    values: tuple[np.ndarray, ...]
    stats: dict[str, np.ndarray]
    filled: np.ndarray
    counts: Counts
    ok: np.ndarray
    interrupted: bool
    seconds: float


def drive(
    compiled: Compiled,
    begin: Begin,
    state: ChainState,
    data: Data,
    plan: Plan,
    total: int,
    num_kept: int,
    capacity: int,
    progress: Progress,
) -> Outcome:
    """Advances every chain by `total` transitions, or until the user interrupts.

    Args:
        compiled: the programs.
        begin, state: what `Sampler.begin` returned.
        data, plan: what the programs are given.
        total: transitions per chain, warm-up included.
        num_kept: draws per chain that these transitions leave.
        capacity: draws that a chunk holds per chain.
        progress: told after every chunk.
    """
    num_chains = state.log_density.shape[0]
    num_warmup = int(plan.schedule.num_warmup)
    store = _empty_store(compiled.chunk, num_chains, num_kept)
    filled = np.zeros(num_chains, np.int64)
    counts = Counts(np.zeros(num_chains, np.int64), 0, 0, 0, np.zeros(num_chains, np.int64))
    done, size, ticks, interrupted, ok = 0, min(_FIRST_CHUNK, capacity), 64, False, np.ones(num_chains, bool)
    start = perf_counter()
    try:
        while done < total and ok.all():
            progress.phase("warm-up" if done < num_warmup else "sampling")
            # A chunk ends where warm-up ends, so that the bar can tell the two apart.
            until = min(done + size, num_warmup if done < num_warmup else total)
            begun = perf_counter()
            machine = compiled.enter(data, plan, begin, state, np.bool_(done == 0), np.int32(until))
            slots, running = 0, num_chains
            while running:
                call = perf_counter()
                machine, report = compiled.advance(machine, data, plan, np.int32(ticks))
                running, computed = (int(np.asarray(v)) for v in report)
                slots += computed
                if running and perf_counter() - call < _CALL_SECONDS:
                    ticks = min(2 * ticks, 2**20)
            chunk = compiled.leave(machine, data, plan)
            ok = np.asarray(chunk.kept.ok)
            stored, counted = _append(store, filled, chunk), _add(counts, chunk, slots)
            seconds = max(perf_counter() - begun, 1e-6)
            transitions, done = until - done, until
            state, filled, counts = chunk.state, stored, counted
            # Grow gently: the first chunks may belong to a slower part of warm-up.
            size = max(1, min(int(_CHUNK_SECONDS / seconds * transitions), 4 * size, capacity))
            tally = chunk.kept.tally
            depth = float(np.asarray(tally.depth).sum()) / (transitions * num_chains)
            steps = float(np.asarray(tally.n_steps).sum()) / (transitions * num_chains)
            divergences = int(counts.divergences.sum()) if "diverging" in chunk.kept.draws.stats else None
            progress.update(transitions, divergences, depth, steps)
    except KeyboardInterrupt:
        interrupted = True
        _log.info("interrupted after %d of %d transitions", done, total)
    seconds = perf_counter() - start
    values, stats = store
    return Outcome(state, values, stats, filled, counts, ok, interrupted, seconds)


def _empty_store(chunk: Chunk, num_chains, num_kept):
    def empty(array):
        return np.zeros((num_chains, num_kept, *array.shape[2:]), array.dtype)

    return tuple(empty(value) for value in chunk.values), {name: empty(stat) for name, stat in chunk.kept.draws.stats.items()}


def _append(store, filled, chunk: Chunk):
    """Copies the chunk's draws behind those of each chain; returns how many each chain has then."""
    count = np.asarray(chunk.kept.count)
    if not count.any():
        return filled
    values, stats = store
    pairs = list(zip(values, chunk.values, strict=True)) + [(stats[name], chunk.kept.draws.stats[name]) for name in stats]
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
    )
