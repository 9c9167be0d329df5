"""A sum over rows of which many are the same, as a weighted sum over those that differ.

    sum_n f(x_n, shared)  =  sum_u w_u f(x_u, shared)

x_n is all that row n reads of the data: covariates, response, indices. f is whatever the program computes, no family of likelihoods.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..affine.rules import aval
from .elements import Elements, Refused
from .least_squares import rounded
from .row_slices import OverRows, RowSlice, row_slice

__all__ = ["Repeated", "compressed_repeats", "row_slices"]

_LEAST = 20


@dataclass(frozen=True)
class Repeated(OverRows):
    """See the module. arrays: how often each row occurs, zero for padding; then the data of the rows."""

    @property
    def after(self) -> int:
        return int(np.count_nonzero(self.arrays[0]))

    def __call__(self, arrays: Sequence[Any], read: Callable[[Any], Any], scalar: Any = None) -> Any:
        weight, *data = arrays
        value = self.rows(data, {v: read(v) for v in self.rows.shared})
        return jnp.vdot(weight, jnp.where(weight > 0, value, 0))


def row_slices(elements: Elements, out: Any) -> list[RowSlice]:
    """The ways to read a value row by row: all its axes together, or the longest of those that can.

    Raises:
        Refused: there is none.
    """
    out = _summed(elements, out)
    shape = aval(out).shape
    single = sorted(range(len(shape)), key=lambda i: -shape[i])
    blocks = ([(0, len(shape))] if len(shape) > 1 else []) + [(i, 1) for i in single if shape[i] >= _LEAST]
    reason, found = "it has few rows", []
    for first, length in blocks:
        try:
            found.append(row_slice(elements, out, first, length))
        except Refused as e:
            reason = str(e)
    if not found:
        raise Refused(reason)
    return found


def _summed(elements: Elements, out: Any) -> Any:
    """What has the same sum over all elements, before it was given another shape or partly summed."""
    while (eqn := elements.equation(out)) is not None:
        operand = eqn.invars[0]
        moves = eqn.primitive.name in ("reshape", "squeeze", "transpose", "broadcast_in_dim") and aval(operand).size == aval(out).size
        if not (moves or eqn.primitive.name == "reduce_sum"):
            break
        out = operand
    return out


def compressed_repeats(slices: Sequence[RowSlice], dtype: Any) -> Repeated:
    """The sum over the rows that differ, in the way that leaves fewest numbers.

    Raises:
        Refused: fewer than half of the rows are repeated.
    """
    best = None
    for rows in slices:
        data = rows.data()
        first, counts = _distinct(data, rows.rows)
        size = rounded(len(first))
        if size <= rows.rows // 2 and (best is None or size * best[0].rows < len(best[2]) * rows.rows):
            best = rows, size, first, counts, data
    if best is None:
        raise Refused("hardly any of its rows are repeated")
    rows, size, first, counts, data = best
    places = np.concatenate([first, np.full(size - len(first), first[0])])
    weight = np.concatenate([counts, np.zeros(size - len(first))]).astype(dtype)
    return Repeated(rows, (weight, *(x[..., places] for x in data)))


def _distinct(data: Sequence[np.ndarray], number: int) -> tuple[np.ndarray, np.ndarray]:
    """The first of each kind of row, and how many there are."""
    columns = [np.ascontiguousarray(x.reshape(-1, number).T).view(np.uint8).reshape(number, -1) for x in data]
    width = sum(c.shape[1] for c in columns)
    table = np.concatenate([*columns, np.zeros((number, -width % 8), np.uint8)], 1)
    words = table.view(np.uint64)
    with np.errstate(over="ignore"):
        odd = np.random.default_rng(0).integers(0, 2**63, words.shape[1], np.uint64) * np.uint64(2) + np.uint64(1)
        key = ((words ^ (words >> np.uint64(29))) * odd).sum(1, dtype=np.uint64)
    _, first, kind, counts = np.unique(key, return_index=True, return_inverse=True, return_counts=True)
    if not (words == words[first[kind.reshape(-1)]]).all():  # two kinds of rows have one key
        keys = table.view(np.dtype((np.void, table.shape[1]))).reshape(-1)
        _, first, counts = np.unique(keys, return_index=True, return_counts=True)
    order = np.argsort(first)
    return first[order], counts[order]
