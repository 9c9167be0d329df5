"""Graphs of any size and shape, as a user hands them in: arrays on the host, checked once.

    graphs = lc.Graphs.of([(nodes, edges, edge_features), ...])     # nodes (n, F), edges (m, 2), each edge once, features (m, E)
    graphs[rows]; len(graphs); graphs.save("graphs.npz"); lc.Graphs.load("graphs.npz")

Handed to a model, they arrive in it as `PackedGraphs`: all nodes of all graphs in one array, sorted by degree (`packed.py`). What grows
with a graph is its share of these arrays; nothing is padded to the largest.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ...transforms import ModelError
from .checks import check, check_shapes, degrees_of
from .hashing import stable_hash
from .packed import PackedGraphs
from .packing import Packer, Tables, capacities_of, pack, spans

__all__ = ["Graphs"]

_FIELDS = ("nodes", "edges", "edge_features", "num_nodes", "num_edges", "names", "node_kinds", "edge_kinds", "rows")


@dataclass(frozen=True, eq=False)
class Graphs:
    """Undirected graphs with features on nodes and edges; nodes and edges of all graphs one after another.

    Attributes:
        nodes: (all nodes, F) float32, features of the nodes.
        edges: (all edges, 2), the two nodes of each edge, counted within their graph; each edge once.
        edge_features: (all edges, E) float32; E may be 0.
        num_nodes, num_edges: (graphs,), of each graph.
        names: (graphs,) text, for messages and drawings; a molecule's is its SMILES.
        max_degree: the largest number of neighbours that a node may have. It is part of the shapes of a network's weights, so it does
            not follow from the data.
        node_kinds, edge_kinds: (all nodes,), (all edges,) integers: what `circular_fingerprint` takes for the same has the same number.
            By default rows of features are compared.
        rows: (graphs,) the row of each in what the graphs were made from; y[graphs.rows] belongs to graphs that are left.

    Raises:
        ModelError: a graph without nodes, an edge to a node that is not there, to its own node or listed twice, a node with more than
            max_degree neighbours, features that are not finite, arrays that do not fit together. Names the graph and its row.
    """

    nodes: np.ndarray
    edges: np.ndarray
    edge_features: np.ndarray
    num_nodes: np.ndarray
    num_edges: np.ndarray
    names: np.ndarray
    node_kinds: Any = None
    edge_kinds: Any = None
    rows: Any = None
    max_degree: int = 5

    def __post_init__(self) -> None:
        def set_to(name: str, dtype: Any, default: Callable[[], np.ndarray] | None = None) -> None:
            value = getattr(self, name)
            object.__setattr__(self, name, np.ascontiguousarray(default() if value is None and default else value, dtype))

        for name, dtype in (("nodes", np.float32), ("edge_features", np.float32), ("names", str)):
            set_to(name, dtype)
        for name in ("edges", "num_nodes", "num_edges"):
            set_to(name, np.int32)
        set_to("node_kinds", np.int64, lambda: _kinds(self.nodes))
        set_to("edge_kinds", np.int64, lambda: _kinds(self.edge_features))
        set_to("rows", np.int64, lambda: np.arange(len(self)))
        check(self)

    @classmethod
    def of(cls, graphs: Iterable[Sequence[Any]], *, names: Sequence[str] | None = None, max_degree: int | None = None) -> "Graphs":
        """From (nodes, edges) or (nodes, edges, edge_features) for each graph.

        Args:
            graphs: nodes (n, F); edges (m, 2), each undirected edge once; edge_features (m, E).
            names: one for each graph; by default "graph 0", "graph 1" and so on.
            max_degree: by default the largest number of neighbours found.

        Raises:
            ModelError: as the class; there is no graph; features of different lengths.
        """
        given = list(graphs)
        if not given:
            raise ModelError("Graphs.of: there is no graph; expected at least one (nodes, edges) or (nodes, edges, edge_features).")
        labels = [f"graph {i}" for i in range(len(given))] if names is None else list(names)
        if len(labels) != len(given):
            raise ModelError(f"Graphs.of: {len(labels)} names for {len(given)} graphs; one for each expected.")
        nodes, edges = [np.asarray(g[0], float) for g in given], [np.asarray(g[1], int).reshape(-1, 2) for g in given]
        features = [np.asarray(g[2], float) if len(g) > 2 else np.zeros((len(e), 0)) for g, e in zip(given, edges, strict=True)]
        for label, of_nodes, ends, of_edges in zip(labels, nodes, edges, features, strict=True):
            check_shapes(label, of_nodes, ends, of_edges, nodes[0].shape[-1], features[0].shape[-1])
        num_nodes, num_edges = (np.array([len(x) for x in part]) for part in (nodes, edges))
        all_edges = np.concatenate(edges)
        if max_degree is None:
            max_degree = max(1, int(degrees_of(all_edges, num_nodes, num_edges).max(initial=0)))
        arrays = (np.concatenate(nodes), all_edges, np.concatenate(features), num_nodes, num_edges, np.array(labels))
        return cls(*arrays, max_degree=max_degree)

    def __len__(self) -> int:
        return len(self.num_nodes)

    def __repr__(self) -> str:
        return (
            f"Graphs({len(self)} graphs, {len(self.nodes)} nodes with {self.nodes.shape[1]} features, {len(self.edges)} edges with "
            f"{self.edge_features.shape[1]}, max_degree={self.max_degree})"
        )

    def __getitem__(self, rows: Any) -> "Graphs":
        """Some of the graphs: a slice, numbers of rows in any order, repeated or not, or a mask of booleans."""
        chosen = np.atleast_1d(np.arange(len(self))[rows])
        of_nodes, of_edges = spans(self.num_nodes, chosen), spans(self.num_edges, chosen)
        return Graphs(
            self.nodes[of_nodes],
            self.edges[of_edges],
            self.edge_features[of_edges],
            self.num_nodes[chosen],
            self.num_edges[chosen],
            self.names[chosen],
            self.node_kinds[of_nodes],
            self.edge_kinds[of_edges],
            self.rows[chosen],
            self.max_degree,
        )

    @cached_property
    def degrees(self) -> np.ndarray:
        """(all nodes,), the number of neighbours of each node."""
        return degrees_of(self.edges, self.num_nodes, self.num_edges)

    @cached_property
    def tables(self) -> Tables:
        """Neighbours and edges of every node by number, computed once; what packing reads."""
        first = np.repeat(np.cumsum(self.num_nodes) - self.num_nodes, self.num_edges)
        return Tables.of(self.nodes, self.edges + first[:, None], self.edge_features, self.num_nodes, self.num_edges, self.max_degree)

    @cached_property
    def _packed(self) -> PackedGraphs:
        rows = np.arange(len(self))
        return pack(self.tables, rows, *capacities_of(self.tables, rows))

    def packed(self) -> PackedGraphs:
        """The graphs as a model reads them: nodes sorted by degree, no padding. A model that is given `Graphs` reads this."""
        return self._packed

    def packer(self, size: int) -> Packer:
        """Packs batches of `size` graphs into arrays of the same shapes, so that one compiled program serves them all."""
        return Packer(self.tables, size)

    def permuted(self, seed: int) -> "Graphs":
        """The same graphs with the nodes of each in another order, and its edges, too."""
        draw = np.random.default_rng(seed)
        graph, graph_of_edge = (np.repeat(np.arange(len(self)), n) for n in (self.num_nodes, self.num_edges))
        nodes = np.lexsort((draw.random(len(self.nodes)), graph))
        edges = np.lexsort((draw.random(len(self.edges)), graph_of_edge))
        first = np.cumsum(self.num_nodes) - self.num_nodes
        new = np.empty(len(nodes), np.int64)
        new[nodes] = np.arange(len(nodes)) - first[graph]
        ends = new[self.edges + first[graph_of_edge][:, None]][edges]
        features, kinds = self.edge_features[edges], self.edge_kinds[edges]
        return replace(
            self, nodes=self.nodes[nodes], edges=ends, edge_features=features, node_kinds=self.node_kinds[nodes], edge_kinds=kinds
        )

    def save(self, path: str | os.PathLike) -> None:
        """Writes an .npz file, which `Graphs.load` reads; molecules saved so need no RDKit to be read."""
        arrays = {name: getattr(self, name) for name in _FIELDS}
        np.savez_compressed(path, max_degree=self.max_degree, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Graphs":
        """Reads what `save` wrote.

        Raises:
            ModelError: the file is none that `save` wrote.
        """
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in (*_FIELDS, "max_degree") if name not in file]
            if missing:
                raise ModelError(f"Graphs.load: {os.fspath(path)!r} has no {missing}; a file that `Graphs.save` wrote expected.")
            return cls(*(file[name] for name in _FIELDS), max_degree=int(file["max_degree"]))


def _kinds(rows: np.ndarray) -> np.ndarray:
    """A number for each different row, that depends on nothing but the row."""
    different, which = np.unique(rows + 0.0, axis=0, return_inverse=True)  # + 0.0: -0.0 is 0.0
    return np.array([stable_hash(row.tobytes()) for row in different], np.int64)[which.reshape(-1)]
