"""Neural fingerprints: a circular fingerprint whose hash is a smooth function, and whose index is soft.

A circular fingerprint looks at every node's surroundings, one step further in each layer, hashes what it sees to an index and sets a bit
there. Here the hash is a layer with weights, a matrix for each number of neighbours, and the index a softmax: what a node sees becomes
something that can be learned. With large random weights both agree again.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...transforms import ModelError
from ..graphs import Graphs, PackedGraphs
from .layers import dense, weights

__all__ = ["as_packed", "graph_convolution", "neural_fingerprint"]


def neural_fingerprint(
    graphs: Any,
    depth: int = 4,
    width: int = 20,
    length: int = 50,
    *,
    name: str = "fingerprint",
    scale: Any = 1.0,
    bias_scale: Any = 1.0,
    activation: Callable[[Any], Any] = jax.nn.relu,
) -> Any:
    """A vector for each graph, that depends neither on the order of its nodes nor on the graphs beside it.

    With r_a the features of node a, d its number of neighbours, and e_ab those of its edges,

        f = sum over l = 0 .. depth and over nodes a of softmax(r_a W_l + c_l),
        r_a <- activation(r_a S_l + sum over neighbours b of [r_b, e_ab] H_l^d + b_l)   between one l and the next.

    Args:
        graphs: `Graphs`, handed to the model as an argument.
        depth: number of convolutions, how many steps away a node sees. width: of r after the first. length: of the fingerprint.
        name: path of the sites: `name.l.self.w` (S), `name.l.neighbours.w` (H, a matrix for each degree from 1), `name.l.b`,
            `name.l.write.w` (W), `name.l.write.b` (c), with l the layer.
        scale: of the priors, Normal(0, scale^2 / inputs): a number, a scalar that the model draws, or depth + 1 of them, one for each
            layer. bias_scale: likewise, of b and c.
        activation: applied to every element.

    Returns:
        (graphs, length); each node adds one at every layer, so a row sums to (depth + 1) times the number of nodes.

    Raises:
        ModelError: `graphs` are no graphs; depth is negative; sizes are no positive whole numbers; a scale is missing.

    Source:
        Duvenaud et al. (2015), Convolutional networks on graphs for learning molecular fingerprints, algorithm 2. As in the authors'
        code and not in the algorithm as printed: a matrix of its own for the node itself, biases, features of bonds, and a write of the
        features of layer 0. No batch normalisation: a fingerprint would depend on the molecules beside it.
    """
    graphs = as_packed(graphs, f"neural_fingerprint {name!r}")
    if not isinstance(depth, (int, np.integer)) or isinstance(depth, bool) or depth < 0:
        raise ModelError(f"neural_fingerprint {name!r}: depth is {depth!r}; a whole number from 0 expected.")
    scales, bias_scales = (_by_layer(s, depth + 1, f"neural_fingerprint {name!r}") for s in (scale, bias_scale))
    _check_layers(graphs, depth + 1, name)
    r, written = graphs.nodes, 0.0
    for layer in range(depth + 1):
        path, priors = f"{name}.{layer}", {"scale": scales[layer], "bias_scale": bias_scales[layer]}
        if layer:
            r = activation(graph_convolution(path, graphs, r, width, **priors))
        written += graphs.weighed(jax.nn.softmax(dense(f"{path}.write", r, length, **priors)), layer)
    return graphs.summed(written)


def graph_convolution(name: str, graphs: Any, x: Any, units: int, *, scale: Any = 1.0, bias_scale: Any = 1.0) -> Any:
    """x_a S + (sum over neighbours b of [x_b, e_ab]) H^d + b, with d the number of neighbours of node a; no activation.

    Args:
        name: path of the sites `name.self.w` (inputs, units), `name.neighbours.w` (max_degree, inputs + E, units) and `name.b` (units,).
        graphs: `Graphs`, handed to the model as an argument.
        x: (N, inputs), one row for each node, as `graphs.nodes`.
        units: number of outputs.
        scale, bias_scale: of the priors; `bias_scale=None`: no bias.

    Returns:
        (N, units).

    Raises:
        ModelError: as `neural_fingerprint`; x has not a row for each node.
    """
    graphs = as_packed(graphs, f"graph_convolution {name!r}")
    if jnp.ndim(x) != 2 or len(x) != len(graphs.nodes):
        raise ModelError(
            f"graph_convolution {name!r}: x has shape {jnp.shape(x)}; ({len(graphs.nodes)}, inputs) expected, as `graphs.nodes`."
        )
    own = dense(f"{name}.self", x, units, scale=scale, bias_scale=None)
    around = jnp.concatenate([graphs.over_neighbours(x), graphs.edge_sums], axis=1).astype(own.dtype)
    by_degree = weights(f"{name}.neighbours.w", (graphs.max_degree, around.shape[1], units), scale, around.shape[1])
    parts = [around[rows] @ by_degree[degree] for degree, rows in enumerate(graphs.slabs[1:])]
    out = own + jnp.concatenate([jnp.zeros((graphs.capacities[0], units), own.dtype), *parts])
    return out if bias_scale is None else out + weights(f"{name}.b", (units,), bias_scale)


def as_packed(graphs: Any, what: str) -> PackedGraphs:
    """The graphs that a model was given, in the layout of the device.

    Raises:
        ModelError: they are none.
    """
    if isinstance(graphs, PackedGraphs):
        return graphs
    if isinstance(graphs, Graphs):  # closed over: the gate packs arguments
        return graphs.packed()
    raise ModelError(f"{what}: graphs is a {type(graphs).__name__}; `lc.Graphs` expected, made by lc.graphs_from_smiles or lc.Graphs.of.")


def _by_layer(scale: Any, count: int, what: str) -> list[Any]:
    if not isinstance(scale, Sequence):
        return [scale] * count
    if len(scale) != count:
        raise ModelError(f"{what}: {len(scale)} scales given, and {count} layers want one each (layer 0 to depth {count - 1}).")
    return list(scale)


def _check_layers(graphs: PackedGraphs, count: int, name: str) -> None:
    if graphs.weight is not None and graphs.weight.shape[1] < count:
        raise ModelError(f"{name}: the graphs carry weights for {graphs.weight.shape[1]} layers, and {count} are written.")
