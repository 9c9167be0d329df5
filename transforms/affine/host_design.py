"""Design matrices that stay in host memory, or in a file: rows reach a compiled program by a callback, the few that it asks for.

Columns that a program takes from a NumPy array as they are stay there; others (an intercept's ones) are computed and kept on the device.
"""

import itertools
import weakref
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import register_pytree_node_class

from ..errors import ModelError

__all__ = ["HostDesign", "NotOnHostError", "block_of", "is_mapped", "on_host"]

_PASS = 2**16


class NotOnHostError(ModelError):
    """Rows that should stay in host memory cannot."""


class _Source:
    """Arrays in host memory, (obs, k) each, and which of their rows are the design's; None for all."""

    def __init__(self, arrays: Sequence[np.ndarray], which: np.ndarray | None) -> None:
        self.arrays, self.which = arrays, which

    def rows(self, index: Any, dtype: Any) -> np.ndarray:
        index = index if self.which is None else self.which[index]
        return np.concatenate([np.asarray(a[index], dtype) for a in self.arrays], -1)


_numbers = itertools.count(1)
_sources: "weakref.WeakValueDictionary[int, _Source]" = weakref.WeakValueDictionary()


class _Block(NamedTuple):
    """Some columns of a design, side by side."""

    on_host: bool
    width: int


@register_pytree_node_class
class HostDesign:
    """A design matrix (obs, d) of which some columns are in host memory; `design[index]` are rows.

    An argument of compiled programs. Its leaves are the columns on the device, and a number under which the host finds its arrays, so that
    other data find the same program. The arrays live as long as the object that `HostDesign.of` returned.

    Attributes:
        shape, dtype: of the matrix.
    """

    def __init__(self, columns: Sequence[Any], number: Any, blocks: tuple[_Block, ...], num_rows: int, dtype: str):
        self.columns, self.number, self.blocks = columns, number, blocks
        self.shape, self.dtype = (num_rows, sum(b.width for b in blocks)), np.dtype(dtype)
        self.source: _Source | None = None

    @classmethod
    def of(cls, parts: Sequence[Any], dtype: Any, which: np.ndarray | None = None) -> "HostDesign":
        """From blocks of columns, (obs, k) each, side by side, of which NumPy arrays stay on the host; `which` rows of them."""
        source = _Source([p for p in parts if isinstance(p, np.ndarray)], which)
        columns = [p if which is None else p[which] for p in parts if not isinstance(p, np.ndarray)]
        blocks = tuple(_Block(isinstance(p, np.ndarray), p.shape[1]) for p in parts)
        number = next(_numbers)
        _sources[number] = source
        made = cls(columns, np.int32(number), blocks, len(parts[0] if which is None else which), np.dtype(dtype).name)
        made.source = source
        return made

    def tree_flatten(self) -> tuple[Any, Any]:
        return (tuple(self.columns), self.number), (self.blocks, self.shape[0], self.dtype.name)

    @classmethod
    def tree_unflatten(cls, aux: Any, leaves: Any) -> "HostDesign":
        return cls(*leaves, *aux)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> jax.Array:
        """Rows, (*shape of index, d), by their numbers, which are in range."""
        index = jnp.asarray(index)
        width = sum(b.width for b in self.blocks if b.on_host)
        shape = jax.ShapeDtypeStruct((*index.shape, width), self.dtype)
        host = jax.pure_callback(_fetch(self.dtype.name), shape, self.number, index, vmap_method="expand_dims")
        device, at, parts = iter(self.columns), 0, []
        for block in self.blocks:
            if block.on_host:
                parts.append(host[..., at : at + block.width])
                at += block.width
            else:
                parts.append(next(device)[index])
        return jnp.concatenate(parts, -1)

    def finite(self) -> np.ndarray:
        """Which rows are finite, bool (obs,); one pass."""
        assert self.source is not None
        good = np.ones(len(self), bool)
        for first in range(0, len(self), _PASS):
            index = np.arange(first, min(first + _PASS, len(self)))
            good[index] = np.isfinite(self.source.rows(index, self.dtype)).all(1)
        for column in self.columns:
            good &= np.isfinite(np.asarray(column)).all(1)
        return good

    def take(self, which: np.ndarray) -> "HostDesign":
        """Some of its rows."""
        assert self.source is not None and self.source.which is None
        arrays, columns = iter(self.source.arrays), iter(self.columns)
        return HostDesign.of([next(arrays if b.on_host else columns) for b in self.blocks], self.dtype, which)


@lru_cache
def _fetch(dtype: str) -> Callable[[Any, Any], np.ndarray]:
    def rows(number: Any, index: Any) -> np.ndarray:
        return _sources[int(np.asarray(number).flat[0])].rows(np.asarray(index), dtype)

    return rows


def is_mapped(array: Any) -> bool:
    """Whether an array is a memory-mapped file, or a view of one."""
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            return True
        array = array.base
    return False


def on_host(design: Any) -> bool:
    return isinstance(design, HostDesign)


def block_of(design: Any, first: Any, size: int) -> Any:
    """`size` rows of a design in a row, (size, d)."""
    if on_host(design):
        return design[first + jnp.arange(size)]
    return lax.dynamic_slice_in_dim(design, first, size)
