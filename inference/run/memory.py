"""Draws in host memory."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np

from ...transforms.processes import whole
from .batching import Chunk
from .placement import Placement
from .spec import Settings, Snapshot

__all__ = ["Memory", "blocks"]


class Arrays(NamedTuple):
    """Draws in memory, as results read them; see `results.record.Draws`."""

    by_site: dict[str, np.ndarray]
    by_statistic: dict[str, np.ndarray]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.by_site)

    @property
    def stat_names(self) -> tuple[str, ...]:
        return tuple(self.by_statistic)

    def values(self, name: str, rows: slice) -> np.ndarray:
        return self.by_site[name][:, rows]

    def stats(self, name: str, rows: slice) -> np.ndarray:
        return self.by_statistic[name][:, rows]


class Memory:
    """Keeps draws in arrays; a `Sink`.

    Args:
        settings: of the run.

    Attributes:
        snapshot: where the run stands with the draws that are here; None before the first chunk.
    """

    seconds = None

    def __init__(self, settings: Settings):
        self._settings = settings
        self.snapshot: Snapshot | None = None
        self._values: dict[str, np.ndarray] = {}
        self._stats: dict[str, np.ndarray] = {}

    def locked(self) -> Any:
        """Nobody else can write here."""
        return nullcontext()

    def draws(self) -> "Arrays":
        """What is here now; it stays so when more draws come."""
        return Arrays(dict(self._values), dict(self._stats))

    def allocate(self, names: tuple[str, ...], chunk: Chunk, snapshot: Snapshot, placement: Placement) -> None:
        """Makes place for all draws of a run that has none yet.

        Args:
            names: of the sites, in the order of a chunk's values.
            chunk: shapes and dtypes.
            snapshot: before the first chunk.
            placement: where the run takes place.
        """

        def empty(like: Any) -> np.ndarray:
            return np.zeros((self._settings.num_chains, self._settings.num_kept, *like.shape[2:]), like.dtype)

        self._values = {name: empty(value) for name, value in zip(names, chunk.values, strict=True)}
        self._stats = {name: empty(stat) for name, stat in chunk.stats.items()}

    def grow(self, settings: Settings) -> None:
        """Makes place for more draws; results that were made before keep the arrays that they have."""
        self._settings = settings

        def longer(array: np.ndarray) -> np.ndarray:
            more = np.zeros((array.shape[0], settings.num_kept, *array.shape[2:]), array.dtype)
            more[:, : array.shape[1]] = array
            return more

        self._values = {name: longer(value) for name, value in self._values.items()}
        self._stats = {name: longer(stat) for name, stat in self._stats.items()}

    def restart(self, found: dict[str, Any]) -> None:
        """Forgets all draws."""
        self.snapshot = None

    def append(self, chunk: Chunk, filled: np.ndarray, after: Snapshot) -> None:
        count = whole(chunk.kept.count)
        if count.any():
            pairs = list(zip(self._values.values(), chunk.values, strict=True))
            for kept, new in pairs + [(self._stats[name], stat) for name, stat in chunk.stats.items()]:
                new = whole(new)
                for chains, first, number in blocks(filled, count):
                    kept[chains, first : first + number] = new[chains, :number]
        self.snapshot = after


def blocks(filled: np.ndarray, count: np.ndarray) -> Iterator[tuple[slice, int, int]]:
    """How a chunk's rows go behind those that are there: chains, their first new row, how many; all at once where chains are alike.

    Args:
        filled: (chain,). Rows that there are. count: (chain,). Rows that are new.
    """
    if (filled == filled[0]).all() and (count == count[0]).all():
        yield slice(None), int(filled[0]), int(count[0])
        return
    for chain, (first, number) in enumerate(zip(filled, count, strict=True)):
        if number:
            yield slice(chain, chain + 1), int(first), int(number)
