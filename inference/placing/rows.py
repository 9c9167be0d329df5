"""Data split by name alone: where XLA splits the program that reads them, and nothing need be planned."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax

from ...sharding.graph import Graph
from ...sharding.propagate import Layouts
from ...sharding.schedule import apply_tactic
from ...sharding.tactics import ManualPartition, Names
from ...transforms.errors import PartitionError
from ..kernels.layout import Home

__all__ = ["split_rows"]


def split_rows(tactics: Sequence[ManualPartition], names: Sequence[str], leaves: Sequence[Any], sizes: Mapping[str, int]) -> list[Home]:
    """How each array lies on the mesh. What a tactic does not name stays whole: no program is looked at through which a split could spread.

    Args:
        tactics: for data, plates written out, see `names`.
        names, leaves: of the data.
        sizes: of the mesh, axis -> size.

    Raises:
        PartitionError: a name or a dimension does not exist, or the axis does not divide it.
    """
    graph = Graph()
    values = [graph.value(jax.ShapeDtypeStruct(x.shape, x.dtype)) for x in leaves]
    layouts, known = Layouts.of(graph, sizes), Names({name: (value,) for name, value in zip(names, values, strict=True)})
    for tactic in tactics:
        apply_tactic(graph, layouts, known, replace(tactic, pad=True), strict=True)  # so that the error below is this file's
        for name, value in zip(names, values, strict=True):
            _check_even(tactic, name, graph.shapes[value], layouts.layout(value, len(graph.shapes[value])), sizes)
    return [layouts.layout(value, len(x.shape)) for value, x in zip(values, leaves, strict=True)]


def _check_even(tactic: ManualPartition, name: str, shape: tuple[int, ...], home: Home, sizes: Mapping[str, int]) -> None:
    for dim, (size, axes) in enumerate(zip(shape, home, strict=True)):
        count = math.prod(sizes[axis] for axis in axes)
        if size % count:
            fewer = f"Leave out {size % count} of its {size} rows, or write" if size > count else "Name arrays with more rows, or write"
            raise PartitionError(
                f"{tactic}: dimension {dim} of {name}, {list(shape)}, cannot be divided among the {count} devices of "
                f"{' and '.join(map(repr, axes))}. {fewer} a mesh whose axis divides {size}."
            )
