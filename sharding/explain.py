"""Why a value lies where it lies: from its layout back through the operations that it spread by, to the value that a tactic named."""

from collections.abc import Sequence
from typing import Any

from .planning import Planner
from .propagate import Layouts
from .tactics import ManualPartition, matcher

__all__ = ["explain"]


def explain(planner: Planner, layouts: Layouts, tactics: Sequence[ManualPartition], name: str) -> str:
    """See `Partitioned.explain`.

    Raises:
        PartitionError: there is no such name.
    """
    lines: list[str] = []
    label = {v: found for found, values in planner.names.named.items() for v in values}
    for found, values in planner.names.find(name).items():
        if not values:
            lines.append(f"{found}: the program does not use it")
        for value in values:
            lines += _of_value(planner, layouts, tactics, found, value, label)
    return "\n".join(lines)


def _of_value(
    planner: Planner, layouts: Layouts, tactics: Sequence[ManualPartition], name: str, value: int, label: dict[int, str]
) -> list[str]:
    graph = planner.graph
    shape, home = list(graph.shapes[value]), layouts.layout(value, len(graph.shapes[value]))
    split = ", ".join(f"dimension {d} over {' and '.join(map(repr, axes))}" for d, axes in enumerate(home) if axes)
    lines = [f"{name}, {graph.dtypes[value]}{shape}: {split or 'every device has all of it'}"]
    for axis in planner.mesh:
        if axis in layouts.whole[value]:
            lines.append(f"  {axis!r}: whole, as said by {_saying(planner, tactics, axis, name)}")
        elif layouts.dim(value, axis) is not None:
            lines.append(f"  {axis!r}: {_chain(planner, layouts, tactics, value, axis, label)}")
        else:
            lines.append(f"  {axis!r}: {_why_not(planner, layouts, value, axis)}")
    return lines


def _chain(planner: Planner, layouts: Layouts, tactics: Sequence[ManualPartition], value: int, axis: str, label: dict[int, str]) -> str:
    steps, most = [], 12
    while (value, axis) in layouts.why:
        number, value = layouts.why[value, axis]
        node = planner.graph.nodes[number]
        steps.append(f"{node.operation} at {node.place}")
    shown = steps if len(steps) <= most else [*steps[: most // 2], f"{len(steps) - most} more operations", *steps[-most // 2 :]]
    named = label.get(value, "a value")
    end = f"{named} is split along dimension {layouts.dim(value, axis)} by {_saying(planner, tactics, axis, named)}"
    return "; through ".join([end, *reversed(shown)]) if steps else end


def _saying(planner: Planner, tactics: Sequence[ManualPartition], axis: str, name: str) -> str:
    """The first tactic over an axis that names a value."""
    for tactic in tactics:
        if tactic.axis == axis and any(matcher(pattern)(name) for pattern, _ in tactic.entries()):
            return str(tactic) if len(str(tactic)) < 100 else str(tactic)[:97] + "..."
    return "a tactic"


def _why_not(planner: Planner, layouts: Layouts, value: int, axis: str) -> str:
    """Why nothing has split a value over an axis: the operations around it that are split, and along what."""
    graph: Any = planner.graph
    split = [graph.nodes[n] for n in graph.neighbours[value] if any(a == axis for a, _ in layouts.nodes[n])]
    if not split:
        return "not split, nothing that it meets is split over this axis"
    node = split[0]
    return f"not split, {node.operation} at {node.place} is split along a dimension that it does not have, or that cannot be divided"
