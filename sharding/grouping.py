"""Indices whose values are known: whether each device's stay within its own part of what they index, and how to sort rows so that they do.

With `alpha[group]` split over devices, rows by row and `alpha` by group, nothing need be communicated where the groups of a device's rows
are the groups that it has.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from ..transforms.errors import PartitionError
from ..transforms.jax_compat import Literal, bind
from .factors import Factor
from .graph import Graph, Node

__all__ = ["GroupedRows", "falls_within", "known_value", "sort_by_group"]


def known_value(graph: Graph, value: Any) -> np.ndarray | None:
    """The numbers that a value holds, if they follow from `Graph.known` alone."""
    if isinstance(value, Literal):
        return np.asarray(value.val)
    if value not in graph.known:
        graph.known[value] = _computed(graph, value)
    return graph.known[value]


def _computed(graph: Graph, value: int) -> np.ndarray | None:
    node = graph.definition.get(value)
    if node is None or getattr(graph.dtypes[value], "kind", "") not in "biu":
        return None
    operands = [known_value(graph, x) for x in node.operands]
    if any(x is None for x in operands) or node.equation.effects:
        return None
    with jax.ensure_compile_time_eval():
        results = bind(node.equation, operands)
    return np.asarray(results[tuple(node.results).index(value)])


def falls_within(graph: Graph, node: Node, factor: Factor, shards: int) -> bool:
    """Whether the indices of each shard, all known, fall within the shard's part of the dimension that they index."""
    dim, along = factor.operands[0], factor.operands[1]
    if dim is None or along is None or shards == 1:
        return False
    indices = known_value(graph, node.operands[1])
    if indices is None:
        return False
    numbers = node.equation.params["dimension_numbers"]
    columns: list[int] = list(getattr(numbers, "start_index_map", None) or numbers.scatter_dims_to_operand_dims)
    places = np.moveaxis(indices[..., columns.index(dim)], along, 0)
    part = graph.shapes[node.operands[0]][dim] // shards
    return bool(np.all(places.reshape(shards, -1) // part == np.arange(shards)[:, None]))


class GroupedRows(NamedTuple):
    """Rows in an order in which each device's rows belong to its own groups.

    Attributes:
        order: int, shape (shards * rows of the fullest shard,): which row stands where; a shard with fewer rows repeats one of them.
        weight: float32, the same shape: 1 for a row, 0 for a repeated one; multiply the rows' log likelihoods by it, in a
            model by `numpyro.handlers.mask(mask=weight > 0)`.
    """

    order: np.ndarray
    weight: np.ndarray


def sort_by_group(group: Any, num_groups: int, shards: int) -> GroupedRows:
    """An order of rows in which an index into groups that are split over devices needs no communication.

    Args:
        group: int, shape (rows,): the group of each row.
        num_groups: how many there are; a multiple of `shards`.
        shards: the number of devices that groups and rows are split over.

    Returns:
        `GroupedRows`: take `x[order]` of everything that has a row, `group` included.

    Raises:
        PartitionError: `num_groups` cannot be divided, a group is out of range, or a shard of groups has no row.
    """
    group = np.asarray(group)
    if group.ndim != 1 or not np.issubdtype(group.dtype, np.integer):
        raise PartitionError(f"sort_by_group: group holds one integer for each row; found {group.dtype}{list(group.shape)}.")
    if num_groups % shards:
        raise PartitionError(f"sort_by_group: {num_groups} groups cannot be divided among {shards} shards; add groups without rows.")
    if group.size and not 0 <= group.min() <= group.max() < num_groups:
        raise PartitionError(f"sort_by_group: groups run from {group.min()} to {group.max()}, expected 0 to {num_groups - 1}.")
    home = group // (num_groups // shards)
    rows = [np.flatnonzero(home == k) for k in range(shards)]
    empty = [k for k, some in enumerate(rows) if not some.size]
    if empty:
        raise PartitionError(f"sort_by_group: the groups of shard {empty[0]} have no row; number the groups in another order.")
    most = max(some.size for some in rows)
    rows = [some[np.argsort(group[some], kind="stable")] for some in rows]
    order = np.concatenate([np.resize(some, most) if some.size < most else some for some in rows])
    weight = np.concatenate([np.arange(most) < some.size for some in rows]).astype(np.float32)
    return GroupedRows(order, weight)
