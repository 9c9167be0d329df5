"""How a tactic spreads: from the values that it names, through every operation that leaves no choice.

An operation that has one value split over an axis, and that value along a dimension of one of its factors, is split along this factor,
and so are its other operands and its results. Where two factors could explain what is there, nothing is chosen and the conflict is
reported. What is split once stays as it is, so of two tactics the earlier wins.

Source: Alabed et al. (2025), section 5.2: propagation of tiling actions, forwards, backwards and sideways.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .factors import Factor
from .graph import Graph, Node
from .grouping import falls_within
from .layout import Layout

__all__ = ["Conflict", "Layouts", "propagate"]


class Conflict(NamedTuple):
    """An operation that two layouts ask to be split in two ways over one axis; it was left whole.

    Attributes:
        axis: the mesh axis.
        operation: the primitive.
        factors: both, in words.
        place: the user's line.
    """

    axis: str
    operation: str
    factors: tuple[str, ...]
    place: str

    def __str__(self) -> str:
        return f"{self.operation} over {self.axis!r} could be split along {' or along '.join(self.factors)} ({self.place})"


@dataclass
class Layouts:
    """What is split, at one point of a schedule.

    Attributes:
        values: for each value (axis, dimension) in the order in which they were applied, major to minor.
        nodes: for each node (axis, number of the factor), likewise.
        whole: for each value the axes over which it stays whole.
        mesh: axis -> size.
        uneven: axes over which a dimension that is no multiple of their size may be split, and is then padded.
        why: (value, axis) -> the node that it was split by, and the value that this node was split for; absent of what a tactic named.
    """

    values: list[tuple[tuple[str, int], ...]]
    nodes: list[tuple[tuple[str, int], ...]]
    whole: list[frozenset[str]]
    mesh: Mapping[str, int]
    uneven: frozenset[str] = frozenset()
    why: dict[tuple[int, str], tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: Graph, mesh: Mapping[str, int]) -> "Layouts":
        num_values, num_nodes = len(graph.shapes), len(graph.nodes)
        return cls([()] * num_values, [()] * num_nodes, [frozenset()] * num_values, mesh)

    def copy(self) -> "Layouts":
        return Layouts(list(self.values), list(self.nodes), list(self.whole), self.mesh, self.uneven, dict(self.why))

    def dim(self, value: int, axis: str) -> int | None:
        """The dimension along which a value is split over an axis."""
        for a, d in self.values[value]:
            if a == axis:
                return d
        return None

    def layout(self, value: int, rank: int) -> Layout:
        """The home of a value: where its parts are stored."""
        tiles = self.values[value]
        return tuple([tuple([a for a, d in tiles if d == dim]) for dim in range(rank)]) if tiles else ((),) * rank

    def divides(self, size: int, have: Iterable[str], axis: str, *, padded: bool) -> bool:
        """Whether a size that is split over some axes can also be split over `axis`; a padded size over that one alone."""
        split = list(have)
        shards = math.prod(self.mesh[a] for a in split) * self.mesh[axis]
        return size % shards == 0 or (padded and axis in self.uneven and not split)

    def can_split(self, graph: Graph, value: int, axis: str, dim: int) -> bool:
        if axis in self.whole[value] or self.dim(value, axis) is not None:
            return False
        have = [a for a, d in self.values[value] if d == dim]
        return self.divides(graph.shapes[value][dim], have, axis, padded=value not in graph.even)

    def split(self, value: int, axis: str, dim: int) -> None:
        self.values[value] += ((axis, dim),)

    def shards(self, node: Node) -> dict[int, tuple[str, ...]]:
        """Number of a factor -> the axes over which a node splits it."""
        found: dict[int, tuple[str, ...]] = {}
        for axis, number in self.nodes[node.number]:
            found[number] = (*found.get(number, ()), axis)
        return found


def propagate(graph: Graph, layouts: Layouts, axis: str, values: Iterable[int]) -> list[Conflict]:
    """Spread the split of `values` over `axis` through the program; changes `layouts`."""
    waiting = deque(dict.fromkeys(n for v in values for n in graph.neighbours[v]))
    queued = set(waiting)
    conflicts: dict[int, Conflict] = {}
    while waiting:
        number = waiting.popleft()
        queued.discard(number)
        node = graph.nodes[number]
        if any(a == axis for a, _ in layouts.nodes[number]):
            continue
        chosen = _explain(graph, layouts, node, axis)
        if isinstance(chosen, list):
            words = tuple(_in_words(graph, node, node.factors[i]) for i in chosen)
            conflicts[number] = Conflict(axis, node.operation, words, node.place)
        elif chosen is not None:
            conflicts.pop(number, None)
            layouts.nodes[number] += ((axis, chosen),)
            cause = _first_split(layouts, node, axis, node.factors[chosen])
            for value in _split_values(graph, layouts, node, axis, node.factors[chosen]):
                layouts.why[value, axis] = (number, cause)
                for n in graph.neighbours[value]:
                    if n not in queued:
                        queued.add(n)
                        waiting.append(n)
    return list(conflicts.values())


def _first_split(layouts: Layouts, node: Node, axis: str, factor: Factor) -> int:
    """The first value of a node that is split along a factor."""
    places = [*zip(node.operands, factor.operands, strict=True), *zip(node.results, factor.results, strict=True)]
    return next(v for v, dim in places if dim is not None and isinstance(v, int) and layouts.dim(v, axis) == dim)


def _split_values(graph: Graph, layouts: Layouts, node: Node, axis: str, factor: Factor) -> list[int]:
    """Split the values of a node along its factor wherever they can be; which were."""
    found = []
    for atoms, dims in ((node.operands, factor.operands), (node.results, factor.results)):
        for value, dim in zip(atoms, dims, strict=True):
            if dim is not None and isinstance(value, int) and layouts.can_split(graph, value, axis, dim):
                layouts.split(value, axis, dim)
                found.append(value)
    return found


def _explain(graph: Graph, layouts: Layouts, node: Node, axis: str) -> int | list[int] | None:
    """The factor that the layouts of a node's values over an axis speak for; several in a conflict; None if there is none."""
    hit: set[int] = set()
    num_hits = 0
    for atoms, of_operands in ((node.operands, True), (node.results, False)):
        for position, value in enumerate(atoms):
            dim = layouts.dim(value, axis) if isinstance(value, int) else None
            if dim is not None:
                num_hits += 1
                for i, factor in enumerate(node.factors):
                    if (factor.operands if of_operands else factor.results)[position] == dim:
                        hit.add(i)
    possible = [i for i in sorted(hit) if _can_be_split(layouts, node, i, axis)]
    aligned = next((i for i in possible if _aligned(graph, layouts, node, i, axis, num_hits)), None)
    if aligned is not None:
        return aligned
    strong = [i for i in possible if not node.factors[i].weak]
    if len(strong) == 1:
        return strong[0]
    if strong:
        return strong
    return next((i for i in possible if node.factors[i].how != "aligned" and _worth_it(graph, node, node.factors[i])), None)


def _aligned(graph: Graph, layouts: Layouts, node: Node, number: int, axis: str, num_hits: int) -> bool:
    """Whether an index into a dimension stays within each shard, as is known of its values, and nothing speaks for another factor."""
    factor = node.factors[number]
    if factor.how != "aligned":
        return False
    explained = sum(
        layouts.dim(value, axis) is not None and layouts.dim(value, axis) == dim
        for atoms, dims in ((node.operands, factor.operands), (node.results, factor.results))
        for value, dim in zip(atoms, dims, strict=True)
        if isinstance(value, int)
    )
    have = [a for a, n in layouts.nodes[node.number] if n == number]
    shards = math.prod(layouts.mesh[a] for a in [*have, axis])
    return explained == num_hits and falls_within(graph, node, factor, shards)


def _can_be_split(layouts: Layouts, node: Node, number: int, axis: str) -> bool:
    factor = node.factors[number]
    have = [a for a, n in layouts.nodes[node.number] if n == number]
    return layouts.divides(factor.size, have, axis, padded=factor.padding != "never")


def _worth_it(graph: Graph, node: Node, factor: Factor) -> bool:
    """Of an indexed dimension: whether to take locally and sum the results moves less than to gather what is indexed."""
    if factor.combine is None:
        return True
    summed = 2 * sum(math.prod(graph.shapes[v]) for v in node.results)
    gathered = sum(math.prod(graph.shapes[v]) for v, d in zip(node.operands, factor.operands, strict=True) if d is not None)
    return summed < gathered


def _in_words(graph: Graph, node: Node, factor: Factor) -> str:
    """Where a factor runs: "dimension 1 of operand 0, f32[4,8]"."""
    parts = []
    for kind, atoms, dims in (("operand", node.operands, factor.operands), ("result", node.results, factor.results)):
        for i, (value, dim) in enumerate(zip(atoms, dims, strict=True)):
            if dim is not None and isinstance(value, int):
                parts.append(f"dimension {dim} of {kind} {i}, {_type(graph, value)}")
    return " and ".join(parts)


def _type(graph: Graph, value: int) -> str:
    dtype: Any = graph.dtypes[value]
    return f"{dtype}[{','.join(map(str, graph.shapes[value]))}]"
