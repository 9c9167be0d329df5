"""Draws in host memory."""

from typing import Any, NamedTuple

import numpy as np

from .batching import Chunk
from .spec import Settings, Snapshot

__all__ = ["Memory", "copy_rows"]


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

    def draws(self) -> "Arrays":
        """What is here now; it stays so when more draws come."""
        return Arrays(dict(self._values), dict(self._stats))

    def allocate(self, names: tuple[str, ...], chunk: Chunk) -> None:
        """Makes empty arrays for all draws of the run, from the shapes and dtypes of a chunk, whose values have these names."""

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
        count = np.asarray(chunk.kept.count)
        if count.any():
            pairs = list(zip(self._values.values(), chunk.values, strict=True))
            for kept, new in pairs + [(self._stats[name], stat) for name, stat in chunk.stats.items()]:
                copy_rows(kept, np.asarray(new), filled, count)
        self.snapshot = after


def copy_rows(kept: Any, new: np.ndarray, filled: np.ndarray, count: np.ndarray) -> None:
    """Copies the first `count` rows of each chain behind those that it has; at once, where all chains have as many."""
    if (filled == filled[0]).all() and (count == count[0]).all():
        kept[:, filled[0] : filled[0] + count[0]] = new[:, : count[0]]
        return
    for chain, number in enumerate(count):
        if number:
            kept[chain, filled[chain] : filled[chain] + number] = new[chain, :number]
