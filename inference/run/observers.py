"""Who hears of a run while it goes on, and where its draws go: the seams of the host loop.

An `Observer` is told after every call of the device and after every chunk; progress, the meetings of pooled adaptation and the checks of
Firefly Monte Carlo are observers. A `Sink` takes what was drawn; memory is one, a store is another.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from ..kernels.records import ChainState, Tuning
from .batching import Chunk
from .spec import Snapshot

__all__ = ["BeginAgain", "Meeting", "Observer", "Seen", "Sink"]


class Seen(NamedTuple):
    """What is known after a call of the device.

    Attributes:
        transitions: of a chain since the beginning of the run, the mean over the chains.
        warming: whether the mean chain is in warm-up.
    """

    transitions: float
    warming: bool


class Observer:
    """Hears of a run; what a subclass does not define does nothing.

    Attributes:
        stops: transitions before which all chains stop, and a chunk ends.
    """

    stops: tuple[int, ...] = ()

    def called(self, seen: Seen) -> None:
        """After every call of the device, some ten times a second."""

    def ended(self, chunk: Chunk, snapshot: Snapshot) -> Snapshot:
        """After every chunk, before its draws are kept.

        Args:
            chunk: its draws and counts.
            snapshot: where the run stands with it.

        Returns:
            Where it goes on from. It may raise: the chunk then counts for nothing.
        """
        return snapshot


class Sink(Protocol):
    """Where draws go.

    Attributes:
        seconds: how long a chunk may take, about; None if that does not matter.
    """

    @property
    def seconds(self) -> float | None: ...

    def append(self, chunk: Chunk, filled: Any, after: Snapshot) -> None:
        """Keeps a chunk's draws behind those of each chain, all of them or, if it raises, none.

        Args:
            chunk: the draws.
            filled: (chain,). Draws of each chain that there are.
            after: where the run stands with them.
        """
        ...


class BeginAgain(Exception):
    """The draws cannot stand, and the run has to begin again.

    Attributes:
        fitted: the kernel to begin again with.
    """

    def __init__(self, fitted: Any):
        super().__init__("the run has to begin again")
        self.fitted = fitted


class Meeting(Observer):
    """All chains meet before some transitions, and go on with what they have in common; see `kernels.pooling`.

    Args:
        stops: these transitions.
        meet: (chains, tuning) -> chains.
        tuning: the run's.
    """

    def __init__(self, stops: tuple[int, ...], meet: Callable[[ChainState, Tuning], ChainState], tuning: Tuning):
        self.stops, self._meet, self._tuning = stops, meet, tuning

    def ended(self, chunk: Chunk, snapshot: Snapshot) -> Snapshot:
        transitions = snapshot.counts.transitions
        if snapshot.done not in self.stops or (transitions != snapshot.done).any():
            return snapshot
        return snapshot._replace(chains=self._meet(snapshot.chains, self._tuning))
