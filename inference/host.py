"""The host loop: advance the chains in bounded chunks, take the draws off the device, report, hear an interrupt."""

import logging
from time import perf_counter
from typing import NamedTuple

import numpy as np

from .batching import Chunk
from .compilation import Compiled
from .progress import Progress
from .records import ChainState, Plan
from .target import Data

__all__ = ["Counts", "Outcome", "drive"]

_log = logging.getLogger("luciole")
_CALL_SECONDS = 0.2  # an interrupt is heard, and the bar moves, about this often


class Counts(NamedTuple):
    """Running totals over all chains.

    Attributes:
        gradient_evaluations: gradients that chains needed.
        warmup_evaluations: those of them in warm-up.
        gradient_slots: gradients computed, idle chains included.
        divergences: (chain,). After warm-up.
    """

    gradient_evaluations: int
    warmup_evaluations: int
    gradient_slots: int
    divergences: np.ndarray


class Outcome(NamedTuple):
    """What the loop leaves.

    Attributes:
        state: of all chains after the last stored chunk.
        values: kept draws in the target's order, each (chain, draw, ...), warm-up first.
        stats: by name, (chain, draw).
        filled: (chain,). Draws present; the rest of the arrays is empty.
        counts: totals.
        interrupted: whether the user stopped the run.
        seconds: wall time of the loop.
    """

    state: ChainState
    values: tuple[np.ndarray, ...]
    stats: dict[str, np.ndarray]
    filled: np.ndarray
    counts: Counts
    interrupted: bool
    seconds: float


def drive(compiled: Compiled, state: ChainState, data: Data, plan: Plan, total: int, num_kept: int, progress: Progress) -> Outcome:
    """Advances every chain by `total` transitions, or until the user interrupts.

    Args:
        compiled: the programs.
        state: chains at transition 0.
        data, plan: what the programs are given.
        total: transitions per chain, warm-up included.
        num_kept: draws per chain that these transitions leave.
        progress: told after every call.
    """
    num_chains = state.log_density.shape[0]
    num_warmup = int(plan.schedule.num_warmup)
    store = _empty_store(compiled.chunk, num_chains, num_kept)
    filled = np.zeros(num_chains, np.int64)
    counts = Counts(0, 0, 0, np.zeros(num_chains, np.int64))
    done, ticks, interrupted = 0, 1, False
    begin = perf_counter()
    try:
        while done < total:
            progress.phase("warm-up" if done < num_warmup else "sampling")
            # A chunk ends where warm-up ends, so that the bar can tell the two apart.
            until = num_warmup if done < num_warmup else total
            call = perf_counter()
            advanced, chunk = compiled.advance(state, data, plan, np.int32(min(ticks, until - done)))
            transitions = int(np.asarray(chunk.tally.transitions).min())
            seconds = max(perf_counter() - call, 1e-6)
            stored, counted = _append(store, filled, chunk), _add(counts, chunk, done < num_warmup)
            state, filled, counts, done = advanced, stored, counted, done + transitions
            # Grow gently: the first calls may belong to a slower part of warm-up.
            ticks = max(1, min(int(_CALL_SECONDS / seconds * transitions), 4 * ticks))
            depth = float(np.asarray(chunk.tally.depth).sum()) / (transitions * num_chains)
            steps = float(np.asarray(chunk.tally.n_steps).sum()) / (transitions * num_chains)
            progress.update(transitions, int(counts.divergences.sum()), depth, steps)
    except KeyboardInterrupt:
        interrupted = True
        _log.info("interrupted after %d of %d transitions", done, total)
    seconds = perf_counter() - begin
    values, stats = store
    return Outcome(state, values, stats, filled, counts, interrupted, seconds)


def _empty_store(chunk: Chunk, num_chains, num_kept):
    def empty(array):
        return np.zeros((num_chains, num_kept, *array.shape[2:]), array.dtype)

    return tuple(empty(value) for value in chunk.values), {name: empty(stat) for name, stat in chunk.stats.items()}


def _append(store, filled, chunk: Chunk):
    """Copies the chunk's draws behind those of each chain; returns how many each chain has then."""
    count = np.asarray(chunk.count)
    if not count.any():
        return filled
    values, stats = store
    pairs = list(zip(values, chunk.values, strict=True)) + [(stats[name], chunk.stats[name]) for name in stats]
    for kept, new in pairs:
        new = np.asarray(new)
        for chain, number in enumerate(count):
            kept[chain, filled[chain] : filled[chain] + number] = new[chain, :number]
    return filled + count


def _add(counts: Counts, chunk: Chunk, warming: bool) -> Counts:
    tally = chunk.tally
    evaluations = int(np.asarray(tally.n_steps, np.int64).sum())
    return Counts(
        counts.gradient_evaluations + evaluations,
        counts.warmup_evaluations + (evaluations if warming else 0),
        counts.gradient_slots + int(np.asarray(tally.slots)),
        counts.divergences + np.asarray(tally.diverging),
    )
