"""What is wrong with graphs, by name and row, before anything is computed with them."""

from typing import Any

import numpy as np

from ...transforms import ModelError

__all__ = ["check", "check_shapes", "degrees_of"]


def degrees_of(edges: np.ndarray, num_nodes: np.ndarray, num_edges: np.ndarray) -> np.ndarray:
    first = np.repeat(np.cumsum(num_nodes) - num_nodes, num_edges)
    return np.bincount((edges + first[:, None]).ravel(), minlength=int(num_nodes.sum()))


def check_shapes(label: str, nodes: np.ndarray, edges: np.ndarray, features: np.ndarray, node_width: int, edge_width: int) -> None:
    """Arrays of one graph, before they are laid end to end."""
    if nodes.ndim != 2 or nodes.shape[1] != node_width:
        raise ModelError(f"{label}: nodes has shape {nodes.shape}; (nodes, {node_width}) expected, as many features in every graph.")
    if features.shape != (len(edges), edge_width):
        raise ModelError(f"{label}: edge_features has shape {features.shape}; {(len(edges), edge_width)} expected, a row for each edge.")


def check(graphs: Any) -> None:
    g = graphs
    if not isinstance(g.max_degree, (int, np.integer)) or g.max_degree < 1:
        raise ModelError(f"Graphs: max_degree is {g.max_degree!r}; a positive whole number expected.")
    sums = {"nodes": int(g.num_nodes.sum()), "edges": int(g.num_edges.sum()), "edge_features": int(g.num_edges.sum())}
    wrong = {name: len(getattr(g, name)) for name, size in sums.items() if len(getattr(g, name)) != size}
    if wrong or not len(g.num_nodes) == len(g.num_edges) == len(g.names):
        raise ModelError(f"Graphs: num_nodes and num_edges sum to {sums}, and the arrays have {wrong or 'other numbers of graphs'}.")
    if (g.num_nodes < 1).any():
        raise _named(g, np.flatnonzero(g.num_nodes < 1), "has no nodes: leave it out, or give it one node of zeros")
    graph_of = np.repeat(np.arange(len(g)), g.num_edges)
    outside = ((g.edges < 0) | (g.edges >= g.num_nodes[graph_of][:, None])).any(1)
    if outside.any():
        raise _named(g, graph_of[outside], "has an edge to a node that is not there; nodes count from 0 within their graph")
    if (g.edges[:, 0] == g.edges[:, 1]).any():
        raise _named(g, graph_of[g.edges[:, 0] == g.edges[:, 1]], "has an edge from a node to itself; make it a feature of the node")
    _check_repeated(g, graph_of)
    over = g.degrees > g.max_degree
    if over.any():
        where = np.repeat(np.arange(len(g)), g.num_nodes)[over]
        raise _named(g, where, f"has a node with {int(g.degrees.max())} neighbours, more than max_degree={g.max_degree}; give a larger one")
    for name, of in (("nodes", np.repeat(np.arange(len(g)), g.num_nodes)), ("edge_features", graph_of)):
        lost = ~np.isfinite(getattr(g, name)).all(1)
        if lost.any():
            raise _named(g, of[lost], f"has features in {name} that are not finite")


def _check_repeated(g: Any, graph_of: np.ndarray) -> None:
    ends = np.column_stack([graph_of, np.sort(g.edges, axis=1)])
    found, first, counts = np.unique(ends, axis=0, return_index=True, return_counts=True)
    if len(found) != len(ends):
        raise _named(g, graph_of[first[counts > 1]], "has an edge listed twice; edges have no direction, and each is listed once")


def _named(graphs: Any, rows: np.ndarray, what: str) -> ModelError:
    rows = np.unique(rows)
    row = rows[0]
    more = f" ({len(rows) - 1} more: rows {', '.join(map(str, rows[1:6]))}{' ...' if len(rows) > 6 else ''})" if len(rows) > 1 else ""
    return ModelError(f"graph {str(graphs.names[row])!r} (row {row}) {what}{more}.")
