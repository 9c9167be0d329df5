"""Two models with places for sharding constraints: what `jit` needs inside of a program to reach the collectives that tactics give it.

A `Marks` says which of the places hold a constraint, and counts them. The places are those that guides name: activations, weights where
they are used, gradients; for each a constraint may hold forwards, or backwards on the gradient of that value.
"""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec


class Marks:
    """Constraints at chosen places.

    Args:
        mesh: of devices.
        chosen: place -> (spec forwards or None, spec backwards or None). A spec may be a function of the value's name.
    """

    def __init__(self, mesh, chosen):
        self.mesh, self.chosen, self.count = mesh, chosen, 0

    def __call__(self, place, x, name=""):
        if place not in self.chosen:
            return x
        forwards, backwards = (spec(name) if callable(spec) else spec for spec in self.chosen[place])
        self.count += (forwards is not None) + (backwards is not None)

        def hold(value, spec):
            return value if spec is None else jax.lax.with_sharding_constraint(value, NamedSharding(self.mesh, spec))

        marked = jax.custom_vjp(lambda x: hold(x, forwards))
        marked.defvjp(lambda x: (hold(x, forwards), None), lambda _, g: (hold(g, backwards),))
        return marked(x)


def transformer_step(model, mark):
    """The acceptance folder's step, with marks on weights where they are used, the residual stream, inside of blocks, and gradients."""

    def loss(p, tok, tgt):
        def use(w, name):
            return mark("weight", w, name)

        x = mark("stream", use(p["emb"], "emb")[tok])
        mask = jnp.tril(jnp.ones((tok.shape[1],) * 2, bool))
        for layer in p["layers"]:
            used = {name: use(w, name) if w.ndim > 1 else w for name, w in layer.items()}
            y = mark("inner", model.layer_norm(x, layer["ln1_s"], layer["ln1_b"]))
            x = mark("stream", x + model.attention(y, used, mask))
            y = mark("inner", model.layer_norm(x, layer["ln2_s"], layer["ln2_b"]))
            x = mark("stream", x + mark("inner", jax.nn.gelu(y @ used["up"])) @ used["down"])
        logits = mark("stream", x @ use(p["emb"], "emb").T)
        gold = jnp.sum(jnp.where(jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2) == tgt[..., None], logits, 0.0), -1)
        return jnp.mean(jax.nn.logsumexp(logits, -1) - gold)

    def step(p, opt, batch):
        value, g = jax.value_and_grad(loss)(p, batch["tok"], batch["tgt"])
        g = jax.tree_util.tree_map_with_path(lambda path, g: mark("gradient", g, path[-1].key) if g.ndim > 1 else g, g)
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, opt["m"], g)
        v = jax.tree.map(lambda v, g: 0.99 * v + 0.01 * g * g, opt["v"], g)
        p = jax.tree.map(lambda p, m, v: p - 1e-3 * m / (jnp.sqrt(v) + 1e-8), p, m, v)
        return {"p": p, "opt": {"m": m, "v": v}, "loss": value}

    return step


def graph_step(mark):
    """Gradient descent on a network of message passing: every edge hears its two nodes, every node the sum over its edges."""

    def loss(p, graph):
        nodes, edges = graph["nodes"], graph["edges"]
        for layer in p:
            sent = mark("gathered", nodes[graph["senders"]])
            received = mark("gathered", nodes[graph["receivers"]])
            hidden = mark("message", jnp.tanh(edges @ layer["edge"] + sent @ layer["sender"] + received @ layer["receiver"]))
            edges = mark("message", edges + hidden @ layer["message"])
            total = mark("sum", jax.ops.segment_sum(edges, graph["receivers"], nodes.shape[0]))
            nodes = mark("node", nodes + jnp.tanh(jnp.concatenate([nodes, total], -1) @ layer["node"]))
        return jnp.mean((nodes - graph["target"]) ** 2)

    def step(p, graph):
        value, g = jax.value_and_grad(loss)(p, graph)
        g = jax.tree.map(lambda g: mark("gradient", g), g)
        return {"p": jax.tree.map(lambda p, g: p - 0.01 * g, p, g), "loss": value}

    return step


def graph_arguments(layers=2, nodes=64, edges=256, width=32):
    """Abstract."""

    def array(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype)

    square = dict.fromkeys(("edge", "sender", "receiver", "message"), array(width, width))
    p = [{**square, "node": array(2 * width, width)} for _ in range(layers)]
    ends = array(edges, dtype=jnp.int32)
    return p, {
        "nodes": array(nodes, width), "edges": array(edges, width), "senders": ends, "receivers": ends, "target": array(nodes, width)
    }  # fmt: skip


WHOLE = PartitionSpec()


def transformer_choices(spec_of):
    """Sets of places for batch parallelism with parameters and state sharded; `spec_of`: name of a matrix -> its stored spec."""
    rows = PartitionSpec("batch")
    stream = {"stream": (rows, rows)}
    weight = {"weight": (WHOLE, None)}
    return {
        "none": {},
        "activations between blocks": stream,
        "and inside of them": {**stream, "inner": (rows, rows)},
        "weights whole where used": weight,
        "weights whole, gradients split": {**weight, "gradient": (spec_of, None)},
        "weights whole, cotangents split": {"weight": (WHOLE, spec_of)},
        "all of these": {**stream, "inner": (rows, rows), "weight": (WHOLE, spec_of), "gradient": (spec_of, None)},
    }


def graph_choices():
    rows = PartitionSpec("data")
    sums, messages, gathered = {"sum": (WHOLE, WHOLE)}, {"message": (rows, rows)}, {"gathered": (rows, rows)}
    return {
        "none": {},
        "sums whole": sums,
        "sums whole, messages split": {**sums, **messages},
        "and gathered nodes split": {**sums, **messages, **gathered},
        "and nodes and gradients whole": {**sums, **messages, **gathered, "node": (WHOLE, WHOLE), "gradient": (WHOLE, None)},
    }
