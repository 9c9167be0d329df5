"""How a value gets from one layout to another, and partial results become whole: the collectives of the device-local program."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from .graph import Graph
from .layout import Layout, Move, local_shape, moves
from .local import Collective, Keep, Slot, Slots, Step

__all__ = ["Held", "Writer"]


class Held(NamedTuple):
    """A value as it was last computed.

    Attributes:
        slot: where it is.
        layout: how it is split there.
        pending: the axes over which it is still to be combined.
        combine: by which reduction.
    """

    slot: int
    layout: Layout
    pending: tuple[str, ...] = ()
    combine: str | None = None


class Writer:
    """Writes steps one after another, and gives out slots.

    Attributes:
        slots: the local type of each slot so far.
        steps: those of the program that is being written.
    """

    def __init__(self, graph: Graph, mesh: Mapping[str, int]) -> None:
        self.graph, self.mesh = graph, mesh
        self.slots: Slots = []
        self.steps: list[Step] = []

    def slot(self, value: int, layout: Layout) -> int:
        return self.new_slot(local_shape(self.graph.shapes[value], layout, self.mesh), self.graph.dtypes[value])

    def new_slot(self, shape: tuple[int, ...], dtype: Any) -> int:
        self.slots.append(Slot(shape, dtype))
        return len(self.slots) - 1

    def size(self, axes: Iterable[str]) -> int:
        return math.prod(self.mesh[a] for a in axes)

    def move(self, value: int, slot: int, start: Layout, end: Layout) -> int:
        for step in moves(start, end):
            slot = self.one_move(value, slot, step)
        return slot

    def one_move(self, value: int, slot: int, step: Move) -> int:
        shape = self.graph.shapes[value]
        result = self.slot(value, step.layout)
        pad = None if step.target is None else self.padded(shape[step.target], step.layout[step.target])
        trim = None
        if step.source is not None and not step.layout[step.source]:
            trim = shape[step.source] if shape[step.source] % self.size(step.axes) else None
        if step.kind == "slice" and step.target is not None:
            self.steps.append(Keep(step.axes, slot, result, step.target, pad))
        else:
            self.steps.append(Collective(step.kind, step.axes, slot, result, step.source, step.target, trim=trim, pad=pad))
        return result

    def padded(self, size: int, axes: tuple[str, ...]) -> int | None:
        """The padded size of a dimension that is split over one axis which does not divide it."""
        shards = self.size(axes)
        return None if size % shards == 0 else -(-size // shards) * shards

    def reduce(self, value: int, held: Held, home: Layout) -> Held:
        """Combine a partial result: scattered where the home is split over the axis, else on every device."""
        slot, layout, pending, combine = held
        while combine == "sum":
            found = next(
                (
                    (dim, axes[len(layout[dim])])
                    for dim, axes in enumerate(home)
                    if len(axes) > len(layout[dim]) and axes[: len(layout[dim])] == layout[dim] and axes[len(layout[dim])] in pending
                ),
                None,
            )
            if found is None:
                break
            dim, axis = found
            layout = tuple((*axes, axis) if d == dim else axes for d, axes in enumerate(layout))
            result = self.slot(value, layout)
            pad = self.padded(self.graph.shapes[value][dim], layout[dim])
            self.steps.append(Collective("reduce_scatter", (axis,), slot, result, None, dim, combine, pad=pad))
            slot, pending = result, tuple(a for a in pending if a != axis)
        if pending:
            result = self.slot(value, layout)
            self.steps.append(Collective("all_reduce", pending, slot, result, combine=combine))
            slot = result
        return Held(slot, layout)
