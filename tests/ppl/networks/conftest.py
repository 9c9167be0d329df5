"""Graphs that look like nothing in particular."""

import numpy as np
import pytest

import luciole as lc


def random_graph(draw, num_node_features=4, num_edge_features=3, most=9):
    """A graph with up to 5 neighbours to a node; it may have no edges, or several parts."""
    size = int(draw.integers(1, most + 1))
    edges, degree = [], np.zeros(size, int)
    pairs = [(i, j) for i in range(size) for j in range(i)]
    for a, b in draw.permutation(pairs) if pairs else []:
        if degree[a] < 5 and degree[b] < 5 and draw.random() < 0.35:
            edges.append((a, b) if draw.random() < 0.5 else (b, a))
            degree[[a, b]] += 1
    nodes = np.eye(num_node_features)[draw.integers(num_node_features, size=size)]
    features = np.eye(num_edge_features)[draw.integers(num_edge_features, size=len(edges))]
    return nodes, np.array(edges, int).reshape(-1, 2), features


@pytest.fixture(scope="session")
def parts():
    draw = np.random.default_rng(0)
    return [random_graph(draw) for _ in range(100)]


@pytest.fixture(scope="session")
def graphs(parts):
    return lc.Graphs.of(parts, max_degree=5)
