"""Which index goes into which axis of which array, and whether it lies inside: read off the program, before it runs.

XLA clamps what reads out of range and drops what writes out of range, in silence. Indices are mostly data and known while a program
is traced; `index_uses` looks at those of every gather, scatter and dynamic slice.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jax.lax import GatherScatterMode

from .jax_compat import made_by
from .known import Known, Unknown, Value, Where
from .source_lines import source_line

__all__ = ["IndexUse", "index_uses"]

# Functions of JAX's own that reach outside on purpose; `nonzero`, `unique` and `tril_indices` are made of `bincount`.
_LEAVES_OUT = {"_map_coordinates", "bincount", "repeat"}
_DYNAMIC = {"dynamic_slice": 1, "dynamic_update_slice": 2}  # number of operands before the starts


@dataclass(frozen=True)
class IndexUse:
    """One index into one axis.

    Attributes:
        into: what is indexed, in the visitor's words; "" if that is not one thing.
        line: the user's line.
        axis, size: the axis of it, and its length.
        known: whether the index is data; the fields below are None if not.
        smallest, largest: over all elements and turns of the loops around. Negative indices are counted from the front already.
        window: how many elements are taken from the index on; 1 for an index proper.
        num_outside, num: how many indices lie outside [0, size - window], of how many.
        first: the place of the first one outside, among the indices; loops lead. None if all are inside.
    """

    into: str
    line: str
    axis: int
    size: int
    known: bool
    window: int = 1
    smallest: int | None = None
    largest: int | None = None
    num: int = 0
    num_outside: int = 0
    first: tuple[int, ...] | None = None


def index_uses(eqn: Any, operands: Sequence[Value], at: Where) -> list[IndexUse]:
    """What an equation indexes, axis by axis; empty for equations that index nothing, or whose author says what becomes of the rest.

    Args:
        eqn: an equation of a jaxpr.
        operands, at: what is known of its operands, and where it stands, as `known.visit` gives them.
    """
    name = eqn.primitive.name
    if name in _DYNAMIC:
        return list(_starts(eqn, operands, at, _DYNAMIC[name]))
    if name == "gather" and not _is_deliberate(eqn):
        numbers = eqn.params["dimension_numbers"]
        return list(_columns(eqn, operands, at, numbers.start_index_map, eqn.params["slice_sizes"]))
    if name.startswith("scatter") and not _is_deliberate(eqn):
        numbers = eqn.params["dimension_numbers"]
        return list(_columns(eqn, operands, at, numbers.scatter_dims_to_operand_dims, _windows(eqn)))
    return []


def _is_deliberate(eqn: Any) -> bool:
    """Whether what lies outside was said to be clipped, or to have a value, or is the business of a function of JAX's own.

    (A mapped dynamic slice clips, too, but keeps its axes.)
    """
    mode, fill, numbers = eqn.params["mode"], eqn.params.get("fill_value"), eqn.params["dimension_numbers"]
    if mode == GatherScatterMode.CLIP:
        return bool(numbers.collapsed_slice_dims if eqn.primitive.name == "gather" else numbers.inserted_window_dims)
    if mode == GatherScatterMode.FILL_OR_DROP and fill is not None and not np.isnan(fill):
        return True
    return not _LEAVES_OUT.isdisjoint(made_by(eqn))


def _windows(eqn: Any) -> tuple[int, ...]:
    """How many elements of each axis of the operand one index of a scatter covers."""
    numbers, operand, updates = eqn.params["dimension_numbers"], eqn.invars[0].aval, eqn.invars[2].aval
    single = {*numbers.inserted_window_dims, *numbers.operand_batching_dims}
    sizes = iter(updates.shape[axis] for axis in numbers.update_window_dims)
    return tuple(1 if axis in single else next(sizes) for axis in range(operand.ndim))


def _columns(eqn: Any, operands: Sequence[Value], at: Where, axes: Sequence[int], windows: Sequence[int]) -> Iterator[IndexUse]:
    """The last axis of a gather's or scatter's indices has one column for each axis that is indexed."""
    indices = _computed(operands[1])
    for column, axis in enumerate(axes):
        yield _use(eqn, operands[0], at, axis, windows[axis], None if indices is None else indices[..., column])


def _starts(eqn: Any, operands: Sequence[Value], at: Where, first: int) -> Iterator[IndexUse]:
    """One start for each axis; an axis that is taken whole has only one that is right."""
    windows = eqn.params.get("slice_sizes") or eqn.invars[1].aval.shape
    for axis, start in enumerate(operands[first:]):
        use = _use(eqn, operands[0], at, axis, windows[axis], _computed(start))
        if use.window < use.size or use.num_outside:
            yield use


def _computed(value: Value) -> np.ndarray | None:
    return value.compute(compile=True) if isinstance(value, Known) else None


def _use(eqn: Any, operand: Value, at: Where, axis: int, window: int, indices: np.ndarray | None) -> IndexUse:
    size, into = eqn.invars[0].aval.shape[axis], operand.origin if isinstance(operand, Unknown) else ""
    use = IndexUse(into, source_line(eqn, at.around), axis, size, indices is not None, window)
    if indices is None or indices.size == 0:
        return use
    smallest, largest = int(indices.min()), int(indices.max())
    use = replace(use, smallest=smallest, largest=largest, num=indices.size)
    if 0 <= smallest and largest <= size - window:
        return use
    outside = (indices < 0) | (indices > size - window)
    return replace(use, num_outside=int(outside.sum()), first=tuple(int(i) for i in np.argwhere(outside)[0]))
