"""Messages along directed edges: what goes from a to b does not come straight back.

A convolution over nodes sends back to a node, two steps later, what it said itself. Messages that live on directed edges leave out the
edge that they came by.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...transforms import ModelError
from .fingerprint import as_packed
from .layers import dense, weights

__all__ = ["directed_messages"]


def directed_messages(
    graphs: Any,
    depth: int = 3,
    width: int = 100,
    *,
    name: str = "messages",
    scale: Any = 1.0,
    bias_scale: Any = 1.0,
    activation: Callable[[Any], Any] = jax.nn.relu,
) -> Any:
    """A vector for each graph from messages along its directed edges.

    With x_a the features of node a and e_ab those of its edges,

        i_ab = [x_a, e_ab] W_i + b_i,    h_ab = activation(i_ab),
        h_ab <- activation(i_ab + (sum over neighbours c of a but b of h_ca) W_h)       depth - 1 times,
        h_a = activation([x_a, sum over neighbours c of h_ca] W_o + b_o),    f = sum over nodes a of h_a.

    Args:
        graphs: `Graphs`, handed to the model as an argument.
        depth: how many steps a message goes. width: of a message.
        name: path of the sites `name.in.w`, `name.in.b`, `name.step.w`, `name.out.w`, `name.out.b`; the steps share their weights.
        scale, bias_scale: of the priors, Normal(0, scale^2 / inputs) and Normal(0, bias_scale^2).
        activation: applied to every element.

    Returns:
        (graphs, width).

    Raises:
        ModelError: `graphs` are no graphs; depth or width is no positive whole number.

    Source:
        Yang et al. (2019), Analyzing learned molecular representations for property prediction, equations 3 to 7. Sums where the
        authors' later code takes means; a bias at the first step.
    """
    g = as_packed(graphs, f"directed_messages {name!r}")
    if not isinstance(depth, (int, np.integer)) or isinstance(depth, bool) or depth < 1:
        raise ModelError(f"directed_messages {name!r}: depth is {depth!r}; a positive whole number expected.")
    x, edges = (v.astype(jnp.result_type(float)) for v in (g.nodes, g.edge_features))
    of_edges = jnp.concatenate([_both_ways(g, x), jnp.repeat(edges, 2, axis=0)], axis=1)
    start = dense(f"{name}.in", of_edges, width, scale=scale, bias_scale=bias_scale)
    step = weights(f"{name}.step.w", (width, width), scale, width) if depth > 1 else None
    h = activation(start)
    for _ in range(depth - 1):
        around = _both_ways(g, g.over_incoming(h)) - h.reshape(-1, 2, width)[:, ::-1].reshape(-1, width)
        h = activation(start + around @ step)
    nodes = jnp.concatenate([x, g.over_incoming(h)], axis=1)
    return g.summed(g.weighed(activation(dense(f"{name}.out", nodes, width, scale=scale, bias_scale=bias_scale)), 0))


def _both_ways(graphs: Any, values: Any) -> Any:
    """(2 M, ...) the rows of the nodes where directed edges start; zeros for padding."""
    padded = jnp.concatenate([values, jnp.zeros((1, *values.shape[1:]), values.dtype)])
    return jnp.take(padded, graphs.ends.reshape(-1), axis=0)
