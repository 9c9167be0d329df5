"""A sum over many rows, tile by tile: value and gradient of a tile are computed while it lies in the cache.

The plain program makes an array of a number for each row and chain after every equation, and reads the data twice, for the value and for
the gradient. Here a loop goes over the tiles once and gives both. What is left over of the rows is a tile of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..affine.rules import aval
from ..autodiff import defines_linearization, vjp
from .row_slices import OverRows, RowSlice

__all__ = ["Tiled", "tiled"]

_TALL = 50_000  # rows from which a loop pays
_TILE = 4000  # rows, about


@dataclass(frozen=True)
class Tiled(OverRows):
    """sum_n f(x_n, shared). arrays: the data of the rows in tiles, (tile, ..., row), then of those that are left over, (..., row)."""

    def __call__(self, arrays: Sequence[Any], read: Callable[[Any], Any], scalar: Any = None) -> Any:
        shared, number = self.rows.shared, len(self.rows.inputs)
        moving = [v for v in shared if self.rows.elements.moves(v) and jnp.issubdtype(aval(v).dtype, jnp.floating)]
        fixed = {v: read(v) for v in shared if v not in moving}
        tiles, left = tuple(arrays[:number]), tuple(arrays[number:])

        def of_tile(tile: Sequence[Any], values: Sequence[Any]) -> Any:
            return jnp.sum(self.rows(tile, fixed | dict(zip(moving, values, strict=True))))

        def body(*values: Any) -> Any:
            return lax.scan(lambda total, tile: (total + of_tile(tile, values), None), zero, tiles)[0]

        @defines_linearization(body)
        def over_tiles(*values: Any) -> Any:
            def step(sums: Any, tile: Any) -> Any:
                value, pull = vjp(lambda *xs: of_tile(tile, xs), *values)
                return jax.tree.map(jnp.add, sums, (value, pull(jnp.ones_like(value)))), None

            (value, slopes), _ = lax.scan(step, (zero, tuple(map(jnp.zeros_like, values))), tiles)
            return value, lambda *ts: sum(jnp.vdot(s, t) for s, t in zip(slopes, ts, strict=True))

        zero, values = jnp.zeros((), aval(self.rows.out).dtype), [read(v) for v in moving]
        return over_tiles(*values) + (of_tile(left, values) if left else 0)


def tiled(rows: RowSlice) -> Tiled | None:
    """The sum in tiles, or None where there are too few rows."""
    if rows.rows < _TALL:
        return None
    number = round(rows.rows / _TILE)
    size = rows.rows // number
    data, there = rows.data(), number * size

    def in_tiles(x: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.moveaxis(x[..., :there].reshape(*x.shape[:-1], number, size), -2, 0))

    left = [x[..., there:] for x in data] if there < rows.rows else []
    return Tiled(rows, (*map(in_tiles, data), *left))
