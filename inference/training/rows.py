"""Batches of a plate's rows, taken from a model's arguments on the host.

An array whose leading axis is as long as the plate has a row for each of its elements, and so have graphs of that number; everything else
is the same for every batch. That the likelihood is a sum over rows is checked with numbers and not assumed.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...ppl import Graphs, ModelProgram, PackedGraphs, Site, trace
from ...ppl.gate import as_array, is_series
from ...ppl.interpreters import constrain, pointwise
from ...ppl.plates import observed_plate
from ...transforms import LucioleError, TrainingError

__all__ = ["Rows", "plate_of"]

_ROUNDING = 1000  # units in the last place of the largest log likelihood that a row's may differ by


class Rows:
    """A model's arguments: arrays and graphs, of which some have rows, and the rest, which is part of the program.

    Args:
        args, kwargs: of the model. plate: whose rows; None if all rows are taken at once.
        num_rows, size: of the plate and of a batch.

    Raises:
        TrainingError: nothing has as many rows as the plate, or graphs that are packed already would have to be cut.
    """

    def __init__(self, args: tuple, kwargs: dict, plate: str | None, num_rows: int, size: int) -> None:
        leaves, self._tree = jax.tree.flatten((args, kwargs), is_leaf=lambda x: is_series(x) or isinstance(x, PackedGraphs))
        self._leaves = [as_array(leaf, "an argument") if is_series(leaf) else leaf for leaf in leaves]
        self._is_data = [isinstance(leaf, (np.ndarray, jax.Array, Graphs, PackedGraphs)) for leaf in self._leaves]
        self.plate, self.num_rows, self.size = plate, num_rows, size
        self._has_rows = [plate is not None and _has_rows(leaf, num_rows) for leaf in self._leaves]
        if plate is not None and not any(self._has_rows):
            found = [f"{type(x).__name__} {np.shape(x)}" for x in self._leaves if np.ndim(x)]
            raise TrainingError(
                f"train: plate {plate!r} has {num_rows} rows, and no argument has as many on its leading axis (found {found}); "
                "give the model its rows as arguments, or write batch_size=None."
            )
        self._packers = {
            i: leaf.packer(size)
            for i, (leaf, rows) in enumerate(zip(leaves, self._has_rows, strict=True))
            if rows and isinstance(leaf, Graphs)
        }
        self.whole = [
            jax.device_put(x.packed() if isinstance(x, Graphs) else x) if data and not rows else None
            for x, data, rows in zip(self._leaves, self._is_data, self._has_rows, strict=True)
        ]

    def arguments(self, data: list[Any]) -> tuple[tuple, dict]:
        """The model's arguments, from what `batch` returned."""
        leaves = [given if is_data else leaf for leaf, given, is_data in zip(self._leaves, data, self._is_data, strict=True)]
        return jax.tree.unflatten(self._tree, leaves)

    def batches(self, seed: np.random.Generator) -> Iterator[list[Any]]:
        """Data for one step after the other: every epoch in a new order, each row once, but for the last, that fill no batch."""
        while self.plate is None:
            yield self.whole
        while True:
            order = seed.permutation(self.num_rows)
            for begin in range(0, self.num_rows - self.size + 1, self.size):
                yield self.batch(order[begin : begin + self.size])

    def batch(self, rows: np.ndarray) -> list[Any]:
        """The data with these rows only."""
        return [
            whole if not has_rows else self._packers[i].pack(rows) if i in self._packers else np.asarray(leaf)[rows]
            for i, (leaf, whole, has_rows) in enumerate(zip(self._leaves, self.whole, self._has_rows, strict=True))
        ]

    @property
    def regrown(self) -> int:
        """How often a batch of graphs needed larger arrays than those before it, and so another compilation."""
        return sum(packer.regrown for packer in self._packers.values())

    def check(self, model: Callable[..., Any], position: dict[str, Any]) -> None:
        """A row's log likelihood is the same whatever rows stand beside it.

        Raises:
            TrainingError: it is not, or the model cannot be traced on some of the rows.
        """
        order = np.random.default_rng(0).permutation(self.num_rows)  # rows that are sorted must not look alike by accident
        size, shared = self.size, (self.size + 1) // 2
        batches = [order[:size], np.concatenate([order[:shared], order[self.num_rows - (size - shared) :]])]
        by_row = jax.jit(lambda u, data: self._log_likelihoods(model, u, data))
        one, other = (np.asarray(by_row(position, self.batch(rows)), float)[:shared] for rows in batches)
        scale = np.finfo(np.float32).eps * _ROUNDING * np.nanmax(np.abs(one), initial=1.0)
        if not np.allclose(one, other, rtol=0, atol=scale, equal_nan=True):
            at = int(np.nanargmax(np.abs(one - other)))
            raise _does_not_split(
                self.plate,
                f"at a draw from the prior row {order[at]} has {one[at]:.6g} nats beside some rows, and {other[at]:.6g} beside others. "
                "Rows must be independent given the latent sites; prepare before what the model computes over rows (means, sorting)",
            )

    def _log_likelihoods(self, model: Callable[..., Any], position: dict[str, Any], data: list[Any]) -> Any:
        """(size,), nats, over the observed sites in the plate."""
        args, kwargs = self.arguments(data)
        try:
            program = trace(model, *args, **kwargs)
        except LucioleError as e:
            raise _does_not_split(self.plate, f"on {self.size} rows the model cannot be traced ({e})") from e
        values = constrain(program, program.data, position)
        total = 0.0
        for name, score in pointwise(program, program.data, values).items():
            site = program.sites[name]
            names = [p.name for p in site.spec.plates]
            if self.plate in names:
                total += self._by_row(site, score)
        return total

    def _by_row(self, site: Site, score: Any) -> Any:
        """The sum over all axes but the plate's.

        Raises:
            TrainingError: the plate has not as many rows as the batch.
        """
        plate = next(p for p in site.spec.plates if p.name == self.plate)
        if plate.size != self.size:
            what = f'its size does not follow from the data; write `lc.plate("{self.plate}", len(y))` or len(graphs)'
            raise _does_not_split(self.plate, what)
        axis = score.ndim + plate.dim
        return jnp.nansum(score, axis=tuple(i for i in range(score.ndim) if i != axis))


def plate_of(program: ModelProgram, name: str | None) -> tuple[str, int]:
    """Name and size of the plate whose rows are cut: the one that was named, or the only one around observed sites.

    Raises:
        TrainingError: there is no such plate, or a latent site stands in it, which a batch has only in part.
    """
    name, size = observed_plate(program, name, "train", TrainingError)
    local = [s for s in program.latents.values() if name in [p.name for p in s.spec.plates]]
    if local:
        raise TrainingError(
            f"train: the latent site {local[0].name!r} ({local[0].line}) stands in the plate {name!r}, of which a batch has only some "
            "rows; write batch_size=None, or sample it outside of the plate."
        )
    return name, size


def _has_rows(leaf: Any, num_rows: int) -> bool:
    if isinstance(leaf, PackedGraphs):
        raise TrainingError("train: found packed graphs, which are not cut into batches; give the `lc.Graphs` themselves.")
    if isinstance(leaf, Graphs):
        return len(leaf) == num_rows
    return isinstance(leaf, (np.ndarray, jax.Array)) and leaf.shape[:1] == (num_rows,)


def _does_not_split(name: str | None, why: str) -> TrainingError:
    return TrainingError(f"train: the likelihood of the plate {name!r} does not split into batches: {why}. Or write batch_size=None.")
