"""Applying tactics one after another: which values they name, along which dimension, and what spreads from there."""

from collections.abc import Mapping
from typing import Any

from ..transforms.errors import PartitionError
from .graph import Graph
from .propagate import Conflict, Layouts, propagate
from .tactics import FIRST_DIVISIBLE, REPLICATED, ManualPartition, Names, Where, nearest

__all__ = ["apply_tactic", "check_axes"]


def check_axes(tactics: Any, mesh: Mapping[str, int]) -> None:
    """Whether every tactic is one, and names axes of the mesh.

    Raises:
        PartitionError: one is or does not.
    """
    for tactic in tactics:
        if not hasattr(tactic, "axes"):
            raise PartitionError(f"a tactic is a ManualPartition or an AutomaticPartition; found {type(tactic).__name__}: {tactic!r:.100}.")
        axes = (tactic.axes,) if isinstance(tactic.axes, str) else tactic.axes
        for axis in axes:
            if not isinstance(axis, str):
                raise PartitionError(
                    f"{tactic}: an axis is a name; found {axis!r}. Write one tactic for each axis, in the order in which they split."
                )
            if axis not in mesh:
                near = nearest(axis, dict.fromkeys(mesh), none="")
                raise PartitionError(f"{tactic}: the mesh has no axis {axis!r}; its axes are {', '.join(map(repr, mesh))}. {near}".rstrip())


def apply_tactic(
    graph: Graph, layouts: Layouts, names: Names, tactic: ManualPartition, *, strict: bool = False
) -> tuple[list[Conflict], list[str]]:
    """Split what a tactic names, and let it spread; changes `layouts`.

    Returns:
        The conflicts, and notes on what was left as it was.

    Raises:
        PartitionError: a name, a dimension or a size does not fit; or there is a conflict, where `strict`.
    """
    axis, notes = tactic.axis, []
    placed: dict[str, tuple[str, Where]] = {}
    for pattern, where in tactic.entries():
        for name in names.find(pattern):
            placed.pop(name, None)
            placed[name] = (pattern, where)
    layouts.uneven = frozenset({axis}) if tactic.pad else frozenset()
    split = []
    conflicts = []
    for name, (pattern, where) in placed.items():
        for value in names.named[name]:
            found = _place(graph, layouts, tactic, name, pattern, value, where)
            if isinstance(found, Conflict):
                conflicts.append(found)
            elif isinstance(found, str):
                notes.append(found)
            elif found is not None:
                layouts.split(value, axis, found)
                split.append(value)
    conflicts += propagate(graph, layouts, axis, split)
    layouts.uneven = frozenset()
    if strict and conflicts:
        raise PartitionError(
            f"{tactic}: {conflicts[0]}{f', and {len(conflicts) - 1} more' if len(conflicts) > 1 else ''}. Keep one of the values whole "
            "with REPLICATED, or name it in a tactic of its own before this one: the earlier tactic wins."
        )
    return conflicts, notes


def _place(
    graph: Graph, layouts: Layouts, tactic: ManualPartition, name: str, pattern: str, value: int, where: Where
) -> int | Conflict | str | None:
    """Along which dimension a named value is to be split; a conflict or a note if it is not; None if there is nothing to do."""
    axis, shape, size = tactic.axis, graph.shapes[value], layouts.mesh[tactic.axis]
    if callable(where):
        where = where(name, shape)
    if where is None:
        return None
    have = layouts.dim(value, axis)
    if where is REPLICATED:
        if have is not None:
            return _decided(axis, name, "REPLICATED", f"dimension {have}", graph, layouts, value)
        layouts.whole[value] |= {axis}
        return None
    if where is FIRST_DIVISIBLE:
        if have is not None or axis in layouts.whole[value]:
            return None
        free = (d for d in range(len(shape)) if not any(dim == d for _, dim in layouts.values[value]))
        dim = next((d for d in free if shape[d] % size == 0 and shape[d] > 0), None)
        if dim is None:
            return f"{name}, {list(shape)}, stays as it is over {axis!r}: no dimension that is not split already is a multiple of {size}"
        return dim
    if isinstance(where, bool) or not isinstance(where, int):
        raise PartitionError(
            f"{tactic}: {pattern!r} is to be split along {where!r}. Expected a dimension (an int), ls.REPLICATED, ls.FIRST_DIVISIBLE, or "
            "a function of name and shape that returns one of these."
        )
    dim = where + len(shape) if where < 0 else where
    if not 0 <= dim < len(shape):
        raise PartitionError(f"{tactic}: {name} has shape {list(shape)}, hence no dimension {where}.")
    if axis in layouts.whole[value]:
        return _decided(axis, name, f"dimension {dim}", "REPLICATED", graph, layouts, value)
    if have is not None:
        return None if have == dim else _decided(axis, name, f"dimension {dim}", f"dimension {have}", graph, layouts, value)
    if not layouts.can_split(graph, value, axis, dim):
        raise PartitionError(_indivisible(layouts, tactic, name, shape, value, dim, value not in graph.even))
    return dim


def _decided(axis: str, name: str, wanted: str, have: str, graph: Graph, layouts: Layouts, value: int) -> Conflict:
    cause = layouts.why.get((value, axis))
    place = "an earlier tactic" if cause is None else f"an earlier tactic, through {graph.nodes[cause[0]].place}"
    return Conflict(axis, name, (f"{have}, as decided before", wanted), place)


def _indivisible(layouts: Layouts, tactic: ManualPartition, name: str, shape: tuple[int, ...], value: int, dim: int, paddable: bool) -> str:
    have = [a for a, d in layouts.values[value] if d == dim]
    over = f" which is split over {' and '.join(map(repr, have))} already," if have else ""
    pad = "" if have else f" Write {'pad=True to pad it, ' if paddable else ''}another dimension, or ls.FIRST_DIVISIBLE."
    if not paddable:
        pad += " It cannot be padded: the padding would be coordinates that chains move. Add groups that no observation has."
    return (
        f"{tactic}: dimension {dim} of {name}, {list(shape)},{over} cannot be divided among the {layouts.mesh[tactic.axis]} devices "
        f"of {tactic.axis!r}.{pad}"
    )
