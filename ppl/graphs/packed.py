"""Graphs on the device: the nodes of all graphs in one array, those of one degree together.

A network that treats nodes by their number of neighbours then does one product per degree, and reads just that many columns of the
table of neighbours. Rows of padding stand at the end of each degree's rows; they point nowhere and belong to no graph, so that they
change nothing (not even a rounding).
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["PackedGraphs"]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("nodes", "neighbours", "ends", "edge_features", "incoming", "node_sums", "edge_sums", "graph", "node", "weight"),
    meta_fields=("capacities", "num_graphs"),
)
@dataclass(frozen=True)
class PackedGraphs:
    """What a model reads of `Graphs`. N rows of nodes, M rows of edges, G graphs, D the largest degree.

    Attributes:
        nodes: (N, F) features; rows sorted by degree, padding at the end of each degree.
        neighbours: (N, D) rows of the neighbours; N where there is none.
        ends: (M, 2) rows of the nodes of each edge; N for padding.
        edge_features: (M, E).
        incoming: (N, D) directed edges that end in the node, in the order of `neighbours`: 2 m leads from ends[m, 0] to ends[m, 1],
            2 m + 1 back; 2 M where there is none.
        node_sums, edge_sums: (N, F), (N, E) sums of the features of a node's neighbours and of its edges.
        graph: (N,) number of the node's graph; G for padding.
        node: (N,) number of the node among all nodes of the graphs packed; -1 for padding.
        weight: None, or (N, layers): factors on what a node adds to its graph's sum after each layer, for attribution.
        capacities: rows for nodes of degree 0, 1, ..., D.
        num_graphs: G.
    """

    nodes: Any
    neighbours: Any
    ends: Any
    edge_features: Any
    incoming: Any
    node_sums: Any
    edge_sums: Any
    graph: Any
    node: Any
    weight: Any
    capacities: tuple[int, ...] = ()
    num_graphs: int = 0

    def __len__(self) -> int:
        return self.num_graphs

    @property
    def max_degree(self) -> int:
        """The largest number of neighbours that a node may have."""
        return len(self.capacities) - 1

    @property
    def slabs(self) -> tuple[slice, ...]:
        """Rows of the nodes of degree 0, 1, ..., D."""
        stops = np.cumsum(self.capacities)
        return tuple(slice(int(stop - size), int(stop)) for stop, size in zip(stops, self.capacities, strict=True))

    def over_neighbours(self, x: Any) -> Any:
        """(N, ...) sums over the neighbours of each node of the rows of x, which may be `nodes`, whose sums are there already."""
        return self.node_sums if x is self.nodes else self._gathered(x, self.neighbours)

    def over_incoming(self, h: Any) -> Any:
        """(N, ...) sums over the directed edges that end in each node of the rows of h, (2 M, ...)."""
        return self._gathered(h, self.incoming)

    def _gathered(self, values: Any, table: Any) -> Any:
        padded = jnp.concatenate([values, jnp.zeros((1, *values.shape[1:]), values.dtype)])
        parts = [jnp.take(padded, table[rows, :degree], axis=0).sum(axis=1) for degree, rows in enumerate(self.slabs)]
        return jnp.concatenate(parts)

    def weighed(self, values: Any, layer: int) -> Any:
        """The rows of `values`, (N, ...), times the column of `weight` for a layer, where there are weights."""
        if self.weight is None:
            return values
        return values * self.weight[:, layer].reshape(-1, *(1,) * (values.ndim - 1)).astype(values.dtype)

    def summed(self, values: Any) -> Any:
        """(G, ...) sums over the nodes of each graph."""
        sums = jax.ops.segment_sum(values, self.graph, num_segments=self.num_graphs + 1)
        return sums[: self.num_graphs]
