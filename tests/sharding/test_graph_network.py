"""Edge sharding of a graph network (PartIR's GNS): nodes on every device, edges split. The counts follow from the structure.

S message-passing steps, each with a perceptron of M layers on edges and one on nodes. In the forward pass each step sums messages per node
over devices: S all_reduce. In the backward pass each layer of an edge perceptron has two gradients that sum over edges, weights and
biases: 2 M S; and each step sends cotangents of nodes from edges, once for senders and once for receivers: 2 S, but 2 less, as the
first step's nodes are data. What nodes do, and the loss, is computed whole everywhere.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from luciole import sharding as ls


def expected_all_reduces(steps, layers):
    return steps + 2 * layers * steps + 2 * (steps - 1)


def parameters(make, steps, layers, latent):
    def perceptron(width):
        return [{"w": make(width if i == 0 else latent, latent), "b": make(latent)} for i in range(layers)]

    return [{"edge": perceptron(3 * latent), "node": perceptron(2 * latent)} for _ in range(steps)]


def perceptron(layers, x):
    for layer in layers[:-1]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return x @ layers[-1]["w"] + layers[-1]["b"]


def loss(params, graph, target):
    nodes, edges, senders, receivers = (graph[k] for k in ("nodes", "edges", "senders", "receivers"))
    for step in params:
        messages = perceptron(step["edge"], jnp.concatenate([nodes[senders], nodes[receivers], edges], -1))
        edges = edges + messages
        received = jax.ops.segment_sum(messages, receivers, num_segments=nodes.shape[0])
        nodes = nodes + perceptron(step["node"], jnp.concatenate([nodes, received], -1))
    return jnp.mean((nodes - target) ** 2)


def inputs(make, integers, num_nodes, num_edges, latent):
    graph = {"nodes": make(num_nodes, latent), "edges": make(num_edges, latent), "senders": integers, "receivers": integers}
    return graph, make(num_nodes, latent)


EDGES = ls.ManualPartition({"graph.edges": 0, "graph.senders": 0, "graph.receivers": 0}, axis="edges")


def partitioned(args, devices=8):
    return ls.partition(jax.value_and_grad(loss), args, {"edges": devices}, [EDGES])


@pytest.mark.parametrize(("steps", "layers"), [(3, 2), (2, 5), pytest.param(24, 5, marks=pytest.mark.slow)])
@pytest.mark.parametrize("latent", [16, 512])
def test_counts_follow_from_the_structure(steps, layers, latent):
    def make(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    graph, target = inputs(make, jax.ShapeDtypeStruct((8192,), jnp.int32), 2048, 8192, latent)
    report = partitioned((parameters(make, steps, layers, latent), graph, target)).reports[-1]
    assert dict(report.collectives) == {
        "all_gather": 0,
        "all_reduce": expected_all_reduces(steps, layers),
        "reduce_scatter": 0,
        "all_to_all": 0,
    }
    assert not report.conflicts


def test_it_equals_the_whole():
    rng = np.random.default_rng(0)

    def make(*shape):
        return rng.normal(size=shape).astype(np.float32) / np.sqrt(shape[0])

    graph, target = inputs(make, rng.integers(0, 12, 32).astype(np.int32), 12, 32, 8)
    args = parameters(make, 2, 2, 8), graph, target
    part = partitioned(args, 4)
    compiled = part.check(compiled=True).compiled
    assert compiled is not None
    assert compiled["all_reduce"] == expected_all_reduces(2, 2)
    (value, gradient), (value_of_whole, gradient_of_whole) = part(*args), jax.jit(jax.value_and_grad(loss))(*args)
    np.testing.assert_allclose(value, value_of_whole, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5 * abs(b).max()), gradient, gradient_of_whole)
