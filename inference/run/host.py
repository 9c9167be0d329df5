"""The host loop: advance the chains in chunks, take the draws off the device, tell observers, handle Ctrl-C.

A chunk is as many transitions as fit into the device's buffer, or fewer where the sink wants to keep them soon. It runs in short calls, so
that the bar moves and an interrupt is handled; interrupted chains end the transition that they are in, and what they have drawn is kept.
The loop knows no kernel, no model and no file.

Several processes run it in step: whatever decides about the next call of the device is the same on all, or agreed upon.
"""

import logging
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from time import perf_counter
from typing import Any

import numpy as np

from ...transforms.autobatch import gather, scatter, smaller
from ...transforms.processes import agreed, whole
from .batching import Chunk
from .chain import counted
from .compilation import Compiled
from .lockstep import check_counters, check_replicas
from .observers import BeginAgain, Observer, Seen, Sink
from .spec import Counts, RunSpec, Snapshot

__all__ = ["drive"]

_log = logging.getLogger("luciole")
_CALL_SECONDS = 0.1  # an interrupt is handled, and the bar moves, about this often
_FIRST_CHUNK = 32  # transitions of the first chunk, where chunks are to be short: how fast the chains are is not known yet


def drive(compiled: Compiled, spec: RunSpec, snapshot: Snapshot, sink: Sink, observers: Sequence[Observer] = ()) -> Snapshot:
    """Advances every chain to `spec.total` transitions, or until the user interrupts.

    Args:
        compiled: the programs of `spec`.
        spec: what is to be run.
        snapshot: where the run stands.
        sink: takes the draws.
        observers: hear of it, in this order.

    Returns:
        Where the run stands then: after the last chunk that was kept. If `ok` is not true of all chains some found no start, and there are
        no draws.
    """
    with _interrupts_noted(spec.placement.shared) as asked:
        return _drive(_Calls(compiled, spec, observers, asked), spec, snapshot, sink, observers)


def _drive(calls: "_Calls", spec: RunSpec, snapshot: Snapshot, sink: Sink, observers: Sequence[Observer]) -> Snapshot:
    """See `drive`."""
    length = _Length(spec.capacity, sink.seconds)
    stops = sorted({stop for observer in observers for stop in observer.stops})
    try:
        while snapshot.done < spec.total and snapshot.ok.all() and not calls.interrupted:
            until = min(snapshot.done + length.next, spec.total, *(stop for stop in stops if stop > snapshot.done))
            begun = perf_counter()
            chunk, slots = calls.chunk(snapshot, until)
            after = _with_chunk(snapshot, spec, chunk, slots, calls.agreed(perf_counter() - begun))
            if after.ok.all():
                for observer in observers:
                    after = observer.ended(chunk, after)
                with _interrupts_deferred():
                    sink.append(chunk, snapshot.filled, after)
                    snapshot, before = after, snapshot
                if sink.seconds is not None:
                    length.measured(snapshot.done - before.done, calls.agreed(perf_counter() - begun))
            else:
                snapshot = after
    except KeyboardInterrupt:  # outside of a chunk, or twice within one
        calls.interrupted = True
    except BeginAgain:
        if not calls.interrupted:
            raise
    if calls.interrupted:
        _log.info("interrupted in transition %s of %d", snapshot.done, spec.total)
    return snapshot


def _with_chunk(snapshot: Snapshot, spec: RunSpec, chunk: Chunk, slots: int, seconds: float) -> Snapshot:
    """Where the run stands after a chunk."""
    tally, counts = chunk.kept.tally, snapshot.counts
    sums = np.asarray(whole(tally.sums), np.int64)
    names = counted(spec.transition.stats)
    counts = Counts(
        transitions=counts.transitions + np.asarray(whole(tally.transitions), np.int64),
        tries=counts.tries + np.asarray(whole(tally.tries), np.int64),
        slots=counts.slots + np.int64(slots),
        sums={name: counts.sums[name] + sums[:, 0, n] for n, name in enumerate(names)},
        warmup_sums={name: counts.warmup_sums[name] + sums[:, 1, n] for n, name in enumerate(names)},
        seconds=np.float64(counts.seconds + seconds),
    )
    ok = snapshot.ok & whole(chunk.kept.ok)
    return Snapshot(chunk.state, counts, snapshot.filled + np.asarray(whole(chunk.kept.count), np.int64), ok)


class _Length:
    """How many transitions a chunk has: what fits, or as many as take the given time."""

    def __init__(self, capacity: int, seconds: float | None):
        self._capacity, self._seconds = capacity, seconds
        self.next = capacity if seconds is None else min(capacity, _FIRST_CHUNK)

    def measured(self, transitions: int, seconds: float) -> None:
        """Learns from a chunk."""
        if self._seconds is not None:
            wanted = int(max(transitions, 1) * self._seconds / max(seconds, 1e-9))
            self.next = max(1, min(self._capacity, wanted, 4 * self.next))


class _Calls:
    """Calls of the device, each about as long as an interrupt may wait to be handled.

    Args:
        asked: grows when the user interrupts one of several processes.

    Attributes:
        interrupted: whether the user has interrupted a call. The chains then end the transition that they are in, and with it the
            chunk.
    """

    def __init__(self, compiled: Compiled, spec: RunSpec, observers: Sequence[Observer], asked: Sequence[Any]):
        self._compiled, self._spec, self._observers, self._asked = compiled, spec, observers, asked
        self._shared = spec.placement.shared
        self._data = spec.placement.put_data(spec.target.data)
        self._plan, self._begin = spec.placement.put_plan(spec.plan), spec.placement.put_begin(spec.begin)
        self._num_warmup = int(spec.plan.schedule.num_warmup)
        self._turns, self.interrupted = 1 if spec.debug else 64, False

    def agreed(self, number: float) -> float:
        """The largest of those of all processes that take part."""
        return agreed(number) if self._shared else number

    def chunk(self, snapshot: Snapshot, until: int) -> tuple[Chunk, int]:
        """Lets all chains go on until they have made `until` transitions; also how many evaluations were computed, of idle chains too."""
        spec, compiled = self._spec, self._compiled
        machine = compiled.enter(self._data, self._plan, self._begin, snapshot.chains, np.bool_(not snapshot.started), np.int32(until))
        machine, slots = self._to_the_end(machine, until, spec.num_chains)
        chunk = compiled.leave(machine, self._data, self._plan)
        if spec.placement.in_common:
            check_replicas(chunk.state.log_density, spec.placement)
        return chunk, slots

    def _to_the_end(self, machine: Any, until: int, size: int) -> tuple[Any, int]:
        """Lets `size` chains run until they end the chunk before transition `until`."""
        left = smaller(size) if self._spec.compact else 0
        before = _sum(machine[1])
        machine, running = self._until_left(machine, until, size, left)
        slots = (_sum(machine[1]) - before) * self._spec.placement.local(size)
        if not running:
            return machine, slots
        state, ticks = machine
        part, rows = gather(state, left)
        (part, ticks), more = self._to_the_end((part, ticks), until, left)
        return (scatter(state, part, rows), ticks), slots + more

    def _until_left(self, machine: Any, until: int, size: int, left: int) -> tuple[Any, int]:
        """Lets chains run until no more than `left` do; returns the machine's state and how many do."""
        advance, running = self._compiled.advance(size), size
        while running > left:
            begun = perf_counter()
            try:
                machine, report = advance(machine, self._data, self._plan, np.int32(self._turns), np.int32(left))
                running, transitions = _sum(report.running), float(np.mean(whole(report.transitions)))
                if self._spec.debug:
                    check_counters(machine[0], self._spec.placement, _sum(machine[1]))
                asked, seconds = self.agreed(len(self._asked)), self.agreed(perf_counter() - begun)
                if asked and not self.interrupted:
                    raise KeyboardInterrupt
            except KeyboardInterrupt:
                if self.interrupted:
                    raise
                self.interrupted = True
                machine = self._compiled.stop(machine)
                continue
            seen = (transitions * size + until * (self._spec.num_chains - size)) / self._spec.num_chains
            for observer in self._observers:
                observer.called(Seen(seen, seen < self._num_warmup))
            if running > left and seconds < _CALL_SECONDS and not self._spec.debug:
                self._turns = min(2 * self._turns, 2**20)
        return machine, running


def _sum(counts: Any) -> int:
    """Of a count, or of one for each device."""
    return int(np.sum(whole(counts)))


@contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """Ctrl-C waits until the block has ended."""
    caught: list[Any] = []
    with _interrupts_into(caught) as usual:
        yield
    if caught and callable(usual):
        usual(*caught[0])


@contextmanager
def _interrupts_noted(shared: bool) -> Iterator[list[Any]]:
    """With several processes Ctrl-C only adds to a list while the block runs: one that left the loop alone would be waited for by all."""
    caught: list[Any] = []
    with _interrupts_into(caught) if shared else nullcontext():
        yield caught


@contextmanager
def _interrupts_into(caught: list[Any]) -> Iterator[Any]:
    """Ctrl-C adds to a list while the block runs, which gets what it does else; in other threads than the main one there is none."""
    usual = signal.getsignal(signal.SIGINT) if threading.current_thread() is threading.main_thread() else None
    if usual is None:  # also where it is not set from Python
        yield None
        return
    signal.signal(signal.SIGINT, lambda *seen: caught.append(seen))
    try:
        yield usual
    finally:
        signal.signal(signal.SIGINT, usual)
