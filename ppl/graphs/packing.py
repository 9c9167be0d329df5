"""From graphs to their layout on the device, by way of tables that are made once.

A batch has room for so many nodes of each degree and so many edges. A batch that needs more grows that room, which costs one compilation
and is said in the log; nothing is ever left out.
"""

import logging
from dataclasses import dataclass

import numpy as np

from .packed import PackedGraphs

__all__ = ["Packer", "Tables", "capacities_of", "pack", "spans"]

_log = logging.getLogger("luciole")
_DEVIATIONS = 4  # that the sum over a random batch may be above its mean, with the largest graph on top, before arrays grow
_MARGIN = 1.2  # of what a batch needs, where arrays grow


@dataclass(frozen=True)
class Tables:
    """All nodes and edges of some graphs by number.

    Attributes:
        nodes, edge_features: (nodes, F), (edges, E).
        ends: (edges, 2) numbers of the nodes.
        neighbours: (nodes, D), -1 where there is none. incoming: (nodes, D) directed edges, -1 where there is none.
        node_sums, edge_sums: (nodes, F), (nodes, E) over neighbours and their edges. degrees: (nodes,).
        num_nodes, num_edges: (graphs,). by_degree: (graphs, D + 1) nodes of each degree.
    """

    nodes: np.ndarray
    edge_features: np.ndarray
    ends: np.ndarray
    neighbours: np.ndarray
    incoming: np.ndarray
    node_sums: np.ndarray
    edge_sums: np.ndarray
    degrees: np.ndarray
    num_nodes: np.ndarray
    num_edges: np.ndarray
    by_degree: np.ndarray

    @classmethod
    def of(cls, nodes, ends, edge_features, num_nodes, num_edges, max_degree: int) -> "Tables":
        """From edges whose ends are numbered through all graphs."""
        directed = ends.reshape(-1)  # directed edge 2 m starts in ends[m, 0], 2 m + 1 in ends[m, 1]
        target = ends[:, ::-1].reshape(-1)
        order = np.argsort(target, kind="stable")
        degrees = np.bincount(target, minlength=len(nodes))
        column = np.arange(len(target)) - np.repeat(np.cumsum(degrees) - degrees, degrees)
        neighbours = np.full((len(nodes), max_degree), -1, np.int32)
        incoming = neighbours.copy()
        neighbours[target[order], column] = directed[order]
        incoming[target[order], column] = order
        node_sums, edge_sums = (np.zeros((len(nodes), x.shape[1]), np.float32) for x in (nodes, edge_features))
        np.add.at(node_sums, target, nodes[directed])
        np.add.at(edge_sums, target, np.repeat(edge_features, 2, axis=0))
        graph = np.repeat(np.arange(len(num_nodes)), num_nodes)
        by_degree = np.zeros((len(num_nodes), max_degree + 1), np.int64)
        np.add.at(by_degree, (graph, degrees), 1)
        return cls(nodes, edge_features, ends, neighbours, incoming, node_sums, edge_sums, degrees, num_nodes, num_edges, by_degree)


class Packer:
    """Packs batches of one size into arrays of the same shapes.

    Attributes:
        capacities: rows for nodes of each degree. edge_capacity: rows for edges.
        regrown: how often a batch needed more, and the shapes grew.
    """

    def __init__(self, tables: Tables, size: int) -> None:
        self.tables, self.regrown = tables, 0
        counts = np.column_stack([tables.by_degree, tables.num_edges])  # of each graph
        likely = size * counts.mean(axis=0) + _DEVIATIONS * np.sqrt(size * counts.var(axis=0)) + counts.max(axis=0)
        most = np.minimum(np.ceil(likely).astype(int), counts.sum(axis=0))
        self.capacities, self.edge_capacity = tuple(int(n) for n in most[:-1]), int(most[-1])

    def pack(self, rows: np.ndarray) -> PackedGraphs:
        """Some graphs, (batch,) numbers; shapes are those of the batches before, unless these graphs need more."""
        needed, edges = capacities_of(self.tables, rows)
        if edges > self.edge_capacity or any(n > c for n, c in zip(needed, self.capacities, strict=True)):
            self.capacities = tuple(c if n <= c else _grown(n) for n, c in zip(needed, self.capacities, strict=True))
            self.edge_capacity = self.edge_capacity if edges <= self.edge_capacity else _grown(edges)
            self.regrown += 1
            _log.info(
                "a batch of graphs needs larger arrays than those before: %s nodes by degree, %s edges", self.capacities, self.edge_capacity
            )
        return pack(self.tables, rows, self.capacities, self.edge_capacity)


def capacities_of(tables: Tables, rows: np.ndarray) -> tuple[tuple[int, ...], int]:
    """Number of nodes of each degree, and of edges, that some graphs have."""
    return tuple(int(n) for n in tables.by_degree[rows].sum(axis=0)), int(tables.num_edges[rows].sum())


def pack(tables: Tables, rows: np.ndarray, capacities: tuple[int, ...], edge_capacity: int) -> PackedGraphs:
    """Some graphs, in the order of `rows`, with room for so many nodes of each degree and edges."""
    t = tables
    nodes, edges = spans(t.num_nodes, rows), spans(t.num_edges, rows)
    graph = np.repeat(np.arange(len(rows)), t.num_nodes[rows])
    copy = np.repeat(np.arange(len(rows)), t.num_edges[rows])  # a graph may stand in a batch twice
    total, first_node = sum(capacities), np.cumsum(t.num_nodes) - t.num_nodes
    position = _positions(t.degrees[nodes], capacities)
    start = np.cumsum(t.num_nodes[rows]) - t.num_nodes[rows]  # of each graph's nodes in the batch
    local = t.ends[edges] - first_node[rows][copy][:, None]
    ends = np.full((edge_capacity, 2), total, np.int32)
    ends[: len(edges)] = position[start[copy][:, None] + local]

    def laid(values, fill, dtype):
        out = np.full((total, *values.shape[1:]), fill, dtype)
        out[position] = values
        return out

    around = t.neighbours[nodes]
    near = np.append(position, total)[np.where(around < 0, len(nodes), around + (start - first_node[rows])[graph][:, None])]
    first_edge, edge_start = np.cumsum(t.num_edges) - t.num_edges, np.cumsum(t.num_edges[rows]) - t.num_edges[rows]
    shift = 2 * (edge_start - first_edge[rows])
    incoming = np.where(t.incoming[nodes] < 0, 2 * edge_capacity, t.incoming[nodes] + shift[graph][:, None])
    features = np.zeros((edge_capacity, t.edge_features.shape[1]), np.float32)
    features[: len(edges)] = t.edge_features[edges]
    return PackedGraphs(
        nodes=laid(t.nodes[nodes], 0, np.float32),
        neighbours=laid(near, total, np.int32),
        ends=ends,
        edge_features=features,
        incoming=laid(incoming, 2 * edge_capacity, np.int32),
        node_sums=laid(t.node_sums[nodes], 0, np.float32),
        edge_sums=laid(t.edge_sums[nodes], 0, np.float32),
        graph=laid(graph, len(rows), np.int32),
        node=laid(np.arange(len(nodes)), -1, np.int32),
        weight=None,
        capacities=tuple(capacities),
        num_graphs=len(rows),
    )


def spans(counts: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Numbers of the items of some rows, of which row r has counts[r], all stored one after another."""
    first, lengths = (np.cumsum(counts) - counts)[rows], counts[rows]
    return np.repeat(first - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())


def _positions(degrees: np.ndarray, capacities: tuple[int, ...]) -> np.ndarray:
    """The row of each node: its degree's first row, and its number among the nodes of that degree."""
    order = np.argsort(degrees, kind="stable")
    counts = np.bincount(degrees, minlength=len(capacities))
    first = np.cumsum(capacities) - capacities
    position = np.empty(len(degrees), np.int32)
    position[order] = np.arange(len(degrees)) + np.repeat(first - (np.cumsum(counts) - counts), counts)
    return position


def _grown(needed: int) -> int:
    return int(np.ceil(_MARGIN * int(needed))) if needed else 0
