"""What the experiments with hypergradients share: images, models, losses with a weight for each example, training in plain JAX."""

import sys
import warnings
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from _common import mnist

import luciole as lc


def split():
    """(images, labels) that train, validate and test."""
    found = mnist()
    if found is None:
        sys.exit("This benchmark takes MNIST's test images from data/ in shared/ beside the checkout, and they are not there.")
    order = np.random.default_rng(0).permutation(len(found[1]))
    return [tuple(a[rows] for a in found) for rows in (order[:8000], order[8000:9000], order[9000:])]


def network(params, x):
    """Logits of a network with tanh between its layers."""
    *hidden, last = params
    for layer in hidden:
        x = jnp.tanh(x @ layer["w"] + layer["b"])
    return x @ last["w"] + last["b"]


def cross_entropy(logits, labels):
    """Of each example."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)[:, 0]


def mean_loss(model, x, y):
    """params -> the mean cross entropy of these examples."""

    def loss(params):
        return cross_entropy(model(params, x), y).mean()

    return loss


def layers(sizes, make):
    """make(shape) for each weight and bias."""
    return [{"w": make((a, b)), "b": make((b,))} for a, b in pairwise(sizes)]


def wide_start(sizes, seed, dtype=jnp.float32):
    """Params of a network: weights of variance 1 / (their number of inputs), no biases."""
    rng = np.random.default_rng(seed)
    return layers(sizes, lambda s: jnp.asarray(rng.normal(size=s) / np.sqrt(s[0]) if len(s) > 1 else np.zeros(s), dtype))


def size_of(tree):
    return float(jnp.sqrt(sum(jnp.vdot(x, x) for x in jax.tree.leaves(tree))))


def quietly(*args, **options):
    """`lc.hypergradient` without its warning of roughness, which the rows print as a number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lc.RoughHypergradientWarning)
        return lc.hypergradient(*args, **options)


def random_start(sizes):
    """hypers -> params: normal, of a scale for each weight matrix and bias, by the seed in hypers."""
    shapes = layers(sizes, lambda shape: shape)
    leaves, tree = jax.tree.flatten(shapes, is_leaf=lambda s: isinstance(s, tuple))

    def start(hypers):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), hypers["seed"]), len(leaves))
        return jax.tree.map(lambda k, s, a: a * jax.random.normal(k, s), jax.tree.unflatten(tree, list(keys)), shapes, hypers["scale"])

    return start


def softmax(params, x):
    return x @ params["w"] + params["b"]


def blank():
    return {"w": jnp.zeros((784, 10)), "b": jnp.zeros(10)}


def weighted(model, x, y, batch=None, penalty=0.0):
    """Training losses with a weight for each example: of all, with a penalty on squared params; or of `batch` at a time."""

    def train_loss(params, hypers, step):
        if batch is None:
            weights = hypers["weights"]
            squares = sum(jnp.vdot(p, p) for p in jax.tree.leaves(params)) / 2
            return weights @ cross_entropy(model(params, x), y) / weights.sum() + penalty * squares
        rows = jax.random.randint(jax.random.fold_in(jax.random.key(2), step), (batch,), 0, len(y))
        return hypers["weights"][rows] @ cross_entropy(model(params, x[rows]), y[rows]) / batch

    return train_loss


def again(train_loss, valid_loss, params, step_size, decay, steps):
    """weights -> the validation loss after training, in plain JAX; over a batch of weights."""

    def run(weights):
        def step(state, i):
            p, v = state
            g = jax.grad(train_loss)(p, {"weights": weights}, i)
            v = jax.tree.map(lambda v, g: decay * v - (1 - decay) * g, v, g)
            return (jax.tree.map(lambda p, v: p + step_size * v, p, v), v), None

        (end, _), _ = jax.lax.scan(step, (params, jax.tree.map(jnp.zeros_like, params)), jnp.arange(steps))
        return valid_loss(end)

    return jax.jit(lambda many: jax.lax.map(run, many))
