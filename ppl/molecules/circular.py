"""Circular fingerprints: the baseline that neural ones have to beat.

Every node's surroundings are hashed, one step further each time, and each hash sets a bit, or adds to a count. Surroundings that consist
of the same edges are taken once.
"""

import numpy as np

from ...transforms import ModelError
from ..graphs import Graphs
from ..graphs.hashing import stable_hash

__all__ = ["circular_fingerprint", "surroundings"]


def circular_fingerprint(graphs: Graphs, radius: int = 2, length: int = 2048, counts: bool = False) -> np.ndarray:
    """Extended-connectivity fingerprints (ECFP; radius 2 is ECFP4).

    Args:
        graphs: of molecules or of anything; nodes are told apart by `graphs.node_kinds`, edges by `graphs.edge_kinds`.
        radius: how many steps the surroundings go. length: number of bits that hashes are folded to.
        counts: how often each was found, instead of whether.

    Returns:
        (graphs, length) float32.

    Raises:
        ModelError: `graphs` are no Graphs; radius is negative or length is no positive whole number.

    Source:
        Rogers and Hahn (2010), Extended-connectivity fingerprints, with the removal of duplicates by their bonds. The surroundings that
        are found are RDKit's (Morgan fingerprints without chirality); hashes are our own, so bits stand elsewhere.
    """
    if not isinstance(graphs, Graphs):
        raise ModelError(f"circular_fingerprint: graphs is a {type(graphs).__name__}; `lc.Graphs` expected.")
    for name, value, least in (("radius", radius, 0), ("length", length, 1)):
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
            raise ModelError(f"circular_fingerprint: {name} is {value!r}; a whole number from {least} expected.")
    out = np.zeros((len(graphs), length), np.float32)
    for row, hashes in enumerate(surroundings(graphs, radius)):
        np.add.at(out[row], np.array(hashes) % length, 1)
    return out if counts else np.minimum(out, 1)


def surroundings(graphs: Graphs, radius: int) -> list[list[int]]:
    """By graph, the hash of each node's surroundings of 0, 1, ..., radius steps; one for each set of edges."""
    nodes, edges = (np.cumsum(n)[:-1] for n in (graphs.num_nodes, graphs.num_edges))
    of_graphs = zip(np.split(graphs.node_kinds, nodes), np.split(graphs.edges, edges), np.split(graphs.edge_kinds, edges), strict=True)
    return [_of_one(kinds.tolist(), ends.tolist(), bonds.tolist(), radius) for kinds, ends, bonds in of_graphs]


def _of_one(kinds: list[int], ends: list[list[int]], bonds: list[int], radius: int) -> list[int]:
    around: list[list[tuple[int, int, int]]] = [[] for _ in kinds]  # of each node: edge, its kind, the neighbour
    for edge, ((a, b), kind) in enumerate(zip(ends, bonds, strict=True)):
        around[a].append((edge, kind, b))
        around[b].append((edge, kind, a))
    found, seen = list(kinds), set()
    within: list[frozenset[int]] = [frozenset() for _ in kinds]
    grows = [bool(a) for a in around]
    for step in range(radius):
        wider = list(within)
        hashes = [0] * len(kinds)  # what has stopped to grow counts as the same from here on, as it does in RDKit
        for node in np.flatnonzero(grows).tolist():
            wider[node] = within[node].union(*({edge} | within[b] for edge, _, b in around[node]))
            near = sorted((kind, kinds[b]) for _, kind, b in around[node])
            hashes[node] = stable_hash(np.array([step, kinds[node], *(x for pair in near for x in pair)], np.int64).tobytes())
        for _, _, node in sorted((sorted(wider[n]), hashes[n], n) for n in np.flatnonzero(grows).tolist()):
            if wider[node] in seen:
                grows[node] = False
            else:
                seen.add(wider[node])
                found.append(hashes[node])
        within, kinds = wider, hashes
    return found
