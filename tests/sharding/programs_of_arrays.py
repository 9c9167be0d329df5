"""More programs: networks, reductions, random draws, shapes and types, and what stands at the edges of a program."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .programs import CONTROL, GRADIENT, INDEXING, LINEAR, Program, below, normal

# ---- networks and densities


def convolved(w: Any, x: Any) -> Any:
    def loss(w: Any) -> Any:
        y = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        y = lax.reduce_window(jax.nn.relu(y), -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        return jnp.sum(y**2)

    return jax.value_and_grad(loss)(w)


def attention(w: Any, x: Any) -> Any:
    def loss(w: Any) -> Any:
        q, k, v = (jnp.einsum("btd,dhe->bhte", x, w[n]) for n in "qkv")
        scores = jnp.where(jnp.tril(jnp.ones(x.shape[1:2] * 2, bool)), q @ k.swapaxes(2, 3) / 2, -jnp.inf)
        mixed = jnp.einsum("bhte->bteh", jax.nn.softmax(scores) @ v).reshape(*x.shape[:2], -1)
        return jnp.mean((mixed @ w["o"].reshape(mixed.shape[-1], -1)) ** 2)

    return jax.value_and_grad(loss)(w)


def normalised(x: Any, scale: Any) -> Any:
    def norm(x: Any, scale: Any) -> Any:
        mean = x.mean(-1, keepdims=True)
        return (x - mean) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-5) * scale

    return norm(x, scale), jax.grad(lambda x: jnp.sum(jnp.sin(norm(x, scale))))(x)


def mixture(x: Any, mean: Any, weight: Any) -> Any:
    def density(mean: Any, weight: Any) -> Any:
        each = jax.nn.log_softmax(weight) - 0.5 * jnp.sum((x[:, None] - mean) ** 2, -1)
        return jnp.sum(jax.nn.logsumexp(each, 1))

    return jax.value_and_grad(density, (0, 1))(mean, weight)


def hierarchical(theta: Any, x: Any, group: Any, y: Any) -> Any:
    """The negative log density of a logistic regression with an intercept for each group, which has a prior of its own."""

    def potential(theta: Any) -> Any:
        scale = jnp.exp(theta["log_scale"])
        logits = x @ theta["slopes"] + (theta["mean"] + scale * theta["offset"])[group]
        prior = 0.5 * (jnp.sum(theta["offset"] ** 2) + jnp.sum(theta["slopes"] ** 2) + theta["mean"] ** 2 + scale**2) - theta["log_scale"]
        return prior + jnp.sum(jnp.logaddexp(logits, 0.0) - y * logits)

    return jax.value_and_grad(potential)(theta)


THETA = {"log_scale": np.float32(0.1), "mean": np.float32(0.2), "offset": normal(16), "slopes": normal(4)}
HEADS = {**{n: normal(8, 4, 2, seed=i) * 0.4 for i, n in enumerate("qkv")}, "o": normal(4, 2, 8) * 0.4}
DATA = (normal(64, 4), below(16, 64), below(2, 64).astype(np.float32))
UNEVEN = (normal(30, 4), below(16, 30), below(2, 30).astype(np.float32))

NETWORKS = {
    "convolution": Program(convolved, (normal(3, 3, 4, 8), normal(8, 8, 8, 4)), ("x/0/a", "w/3/a", "x/0/a w/2/b", "x/1/b w/3/a"), GRADIENT),
    "attention": Program(
        attention,
        (HEADS, normal(8, 4, 8)),
        ("x/0/a", "w/1/b", "x/0/a w.q/1/b w.k/1/b w.v/1/b w.o/0/b", "w.q/0/a w.v/2/b", "x/1/a"),
        GRADIENT,
    ),
    "layer norm": Program(normalised, (normal(8, 16), normal(16)), ("x/0/a", "x/1/a", "scale/0/b x/0/a", "x/1/e"), GRADIENT),
    "mixture": Program(mixture, (normal(32, 2), normal(4, 2), normal(4)), ("x/0/a", "mean/0/a", "x/0/a weight/0/b", "x/1/b"), GRADIENT),
    "mixture, padded": Program(
        mixture, (normal(30, 2), normal(6, 2), normal(6)), ("x/0/a!", "mean/0/a!", "x/0/e!", "x/0/a! mean/0/b"), GRADIENT
    ),
    "hierarchical": Program(
        hierarchical, (THETA, *DATA), ("x/0/a", "y/0/a theta.offset/0/b", "theta.offset/0/a", "x/0/a x/0/b", "x/0/a x/1/b"), GRADIENT
    ),
    "hierarchical, padded": Program(hierarchical, (THETA, *UNEVEN), ("x/0/a!", "y/0/e!", "x/0/a! theta.offset/0/b"), GRADIENT),
}


# ---- reductions, orders, scans along an axis


def reduced(x: Any) -> Any:
    whole = [f(x) for f in (jnp.sum, jnp.max, jnp.min, jnp.prod, jnp.mean, jnp.var, jax.nn.logsumexp, jnp.std)]
    first = [f(x, 0) for f in (jnp.sum, jnp.max, jnp.min, jnp.prod, jnp.mean, jnp.var)]
    truths = [jnp.any(x > 2, 0), jnp.all(x > -2, 0), jnp.any(x > 9), jnp.all(x > -9), jnp.all(x > 0)]
    return whole, first, truths, jax.nn.softmax(x, 0), jax.nn.logsumexp(x, 0), jnp.linalg.norm(x)


def poles(x: Any) -> Any:
    """What is infinite or no number at 0, which is what the padding of an argument holds."""
    y, z = jnp.log(jnp.abs(x)), 1 / x
    grad = jax.grad(lambda x: jnp.sum(jnp.log(jnp.abs(x)) / x))(x)
    return (
        y.sum(0),
        z.max(0),
        (z - z.mean(0)).T @ y,
        jax.nn.softmax(y * z, 0),
        jnp.var(z),
        jnp.sqrt(x - 5).sum(),
        (x / x).sum(0),
        grad,
        z.prod(0),
    )


def ordered(x: Any) -> Any:
    ordered = jnp.sort(x, 0), jnp.argsort(x, 0), jnp.median(x, 0), lax.top_k(x, 3), lax.top_k(x.T, 3)
    return (
        ordered,
        jnp.argmax(x, 0),
        jnp.argmin(x, 1),
        jnp.argmax(x),
        jnp.cumsum(x, 0),
        jnp.cumprod(x, 1),
        lax.cummax(x, axis=0),
        jnp.quantile(x, 0.3, 0),
    )


def integers(n: Any) -> Any:
    bits = lax.reduce_and(n, (0,)), lax.reduce_or(n, (0,)), lax.reduce_xor(n, (0,))
    return (
        bits,
        n.sum(0),
        n.max(0),
        n.min(),
        jnp.bincount(n[:, 0], length=8),
        n % 3,
        n // 2,
        jnp.prod(n % 3 + 1, 0),
        (n > 3).sum(0),
        n @ n.T,
    )


def contracted(x: Any, y: Any) -> Any:
    return (
        x.T @ x,
        x @ y,
        jnp.einsum("ij,jk,ik->k", x, y, x @ y),
        jnp.tensordot(x, y, ((1,), (0,))),
        jnp.vdot(x, x),
        jnp.outer(x[:, 0], y[0]),
    )


def associative(x: Any, y: Any) -> Any:
    def step(a: Any, b: Any) -> Any:
        return a[0] * b[0], b[0] * a[1] + b[1]

    return lax.associative_scan(step, (jnp.tanh(x), y))


def mapped(x: Any, w: Any) -> Any:
    return lax.map(lambda v: jnp.tanh(w @ v), x), lax.map(lambda v: v.sum() * w, x, batch_size=2)


REDUCTIONS = {
    "reductions": Program(reduced, (normal(32, 4),), ("x/0/a", "x/1/a", "x/0/a x/1/b", "x/0/e", "x/0/a x/0/b")),
    "reductions, padded": Program(reduced, (normal(30, 4),), ("x/0/a!", "x/0/e!", "x/0/a! x/1/b")),
    "poles, padded": Program(poles, (normal(30, 4),), ("x/0/a!", "x/0/e!", "x/1/b x/0/a!")),
    "orders": Program(ordered, (normal(32, 4),), ("x/0/a", "x/1/a", "x/0/a x/1/b")),
    "orders, padded": Program(ordered, (normal(30, 6),), ("x/0/a!", "x/1/a!", "x/0/e! x/1/e!")),
    "integers": Program(integers, (below(8, 32, 4),), ("n/0/a", "n/1/a", "n/0/a n/1/b", "n/0/e")),
    "integers, padded": Program(integers, (below(8, 30, 4),), ("n/0/a!", "n/0/e!", "n/1/b n/0/a!")),
    "contractions": Program(contracted, (normal(32, 8), normal(8, 4)), ("x/0/a", "y/0/a", "y/1/b x/0/a", "x/1/e", "x/0/a x/0/b")),
    "contractions, padded": Program(contracted, (normal(30, 6), normal(6, 5)), ("x/0/a!", "y/0/a!", "y/1/b! x/0/a!", "x/1/e!")),
    "associative scan": Program(associative, (normal(16, 4), normal(16, 4, seed=1)), ("x/0/a", "x/1/a", "y/0/b x/1/a", "x/0/e")),
    "map": Program(mapped, (normal(8, 4), normal(4, 4)), ("x/0/a", "x/1/a", "w/0/b", "w/1/a x/0/b")),
}


# ---- random draws


def drawn(key: Any, x: Any) -> Any:
    a, b, c, d = jax.random.split(key, 4)
    coins = jax.random.bernoulli(b, jax.nn.sigmoid(x))
    order = jax.random.permutation(d, x.shape[0])
    return x + jax.random.normal(a, x.shape), coins, x * jax.random.uniform(c, x.shape[:1])[:, None], order


def drawn_by_row(key: Any, x: Any) -> Any:
    keys = jax.random.split(key, x.shape[0])
    rows = jax.vmap(lambda k, v: v + jax.random.normal(k, v.shape))(keys, x)
    return rows, jax.vmap(lambda k, v: jax.random.gamma(k, jnp.exp(v)))(keys, x), jax.random.categorical(jax.random.fold_in(key, 3), x)


def drawn_by_key(keys: Any, x: Any) -> Any:
    """Typed keys go in and come out."""
    later = jax.vmap(lambda key: jax.random.split(key, 2))(keys)
    rows = jax.vmap(jax.random.normal)(later[:, 0]) + x
    return (
        later,
        jnp.roll(keys, 1),
        rows,
        lax.cond(x[0] > 0, lambda k: k, lambda k: k[::-1], keys),
        lax.scan(lambda c, k: (c, k), x[0], keys),
    )


def walked(key: Any, x: Any) -> Any:
    def step(carry: Any, _: Any) -> Any:
        key, x = carry
        key, now = jax.random.split(key)
        return (key, x + jax.random.normal(now, x.shape)), x.mean()

    return lax.scan(step, (key, x), None, length=3)


KEY = np.array([0, 3], np.uint32)
DRAWS = {
    "draws": Program(drawn, (KEY, normal(16, 4)), ("x/0/a", "x/1/a", "x/0/a x/1/b", "x/0/e")),
    "draws, padded": Program(drawn, (KEY, normal(15, 4)), ("x/0/a!", "x/1/b x/0/a!", "x/0/e!")),
    "draws by row": Program(drawn_by_row, (KEY, normal(8, 4)), ("x/0/a", "x/1/a", "x/0/b x/1/a")),
    "typed keys": Program(
        drawn_by_key, (lambda: jax.random.split(jax.random.key(1), 16), normal(16)), ("x/0/a", "keys/0/a", "x/0/a x/0/b", "x/0/e")
    ),
    "typed keys, padded": Program(
        drawn_by_key, (lambda: jax.random.split(jax.random.key(1), 15), normal(15)), ("x/0/a!", "keys/0/b!", "keys/0/e!")
    ),
    "random walk": Program(walked, (KEY, normal(16, 4)), ("x/0/a", "x/1/a", "x/0/a x/1/b", "x/0/a x/0/b")),
}


# ---- shapes, types, edges


def reshaped(x: Any) -> Any:
    merged = x.reshape(-1, x.shape[2])
    split = jnp.sin(merged).reshape(2, -1, 4, 2)
    return (
        merged,
        split.sum(1),
        x.reshape(x.shape[0], -1) * 2,
        x.ravel().reshape(8, -1),
        x.transpose(2, 0, 1),
        x[:, None] + x[None, :, :1],
        x.reshape(-1)[::2],
    )


def summed_as(x: Any) -> Any:
    return jnp.einsum("bij->bji", x), jnp.einsum("bij,bkj->bik", x, x), jnp.einsum("bii->b", x[:, :4, :4]), jnp.einsum("bij,cij->bc", x, x)


def typed(h: Any, n: Any, t: Any, z: Any) -> Any:
    half = (h @ h.T).sum(0), jnp.sum(h, 0, dtype=jnp.float32), h.astype(jnp.float32) * n
    return (
        half,
        jnp.sum(n, 0),
        n.max(0),
        t & (n > 0),
        jnp.where(t, z, 1j),
        z @ z.conj().T,
        jnp.sum(z, 0),
        jnp.abs(z),
        lax.bitcast_convert_type(n, jnp.uint8),
    )


TABLE = normal(8, 4, seed=9)
RAMP = np.arange(8, dtype=np.float32)


def edges(x: Any, unused: Any, tree: Any) -> Any:
    """Constants closed over, outputs that are literals, inputs or one another, arrays of size 0, inputs that nothing reads."""
    y = x @ TABLE + x[:, :4] * RAMP[:, None]
    empty = jnp.zeros((0, 3)) + x[:0, :3]
    return x, 1.5, y, y, {"n": 3, "empty": (empty, empty.sum(0))}, tree["a"], jnp.zeros((2, 2)), x[:, :0].sum(1)


@jax.custom_jvp
def smooth(x: Any) -> Any:
    return jnp.log1p(jnp.exp(x))


@smooth.defjvp
def _(primals: Any, tangents: Any) -> Any:
    return smooth(primals[0]), jax.nn.sigmoid(primals[0]) * tangents[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def clipped(x: Any, limit: float) -> Any:
    return x * 1.0


clipped.defvjp(lambda x, limit: (x * 1.0, x.sum(0)), lambda limit, kept, g: (jnp.clip(g, -limit, limit) + 0 * kept,))


def own_derivatives(x: Any, w: Any) -> Any:
    def loss(w: Any) -> Any:
        return jnp.sum(clipped(smooth(x @ w), 0.5) ** 2)

    return loss(w), jax.grad(loss)(w), smooth(x), clipped(x, 1.0), jax.hessian(lambda b: jnp.sum(smooth(x * b)))(w[0])


def polynomials(c: Any, x: Any) -> Any:
    """A polynomial for all entries, and one for each row; JAX 0.12 has a primitive for them."""
    return jnp.polyval(c[:, 0], x), jax.grad(lambda c: jnp.sum(jax.vmap(jnp.polyval, (1, 0))(c, x)))(c)


TYPES = (
    normal(8, 8).astype(jnp.bfloat16),
    below(9, 8, 8).astype(np.int8),
    below(2, 8, 8) > 0,
    (normal(8, 8) + 1j * normal(8, 8, seed=1)).astype(np.complex64),
)
SHAPES = {
    "reshapes": Program(reshaped, (normal(8, 8, 8),), ("x/0/a", "x/1/a", "x/0/a x/1/b", "x/2/a", "x/0/a x/0/b", "x/2/b x/0/a")),
    "polynomials": Program(polynomials, (normal(3, 8), normal(8, 8)), ("x/0/a", "x/1/a", "c/1/b x/1/a")),
    "einsum": Program(summed_as, (normal(8, 8, 8),), ("x/0/a", "x/1/a", "x/2/b x/0/a", "x/0/e")),
    "types": Program(typed, TYPES, ("h/0/a n/0/a", "t/1/b z/0/a", "z/0/e", "n/1/a"), 5e-3),  # bfloat16
    "edges": Program(edges, (normal(8, 8), normal(3), {"a": below(5, 4)}), ("x/0/a", "x/1/a", "tree.a/0/b x/0/a", "x/0/e")),
    "own derivatives": Program(own_derivatives, (normal(8, 8), normal(8, 8)), ("x/0/a", "w/1/a", "w/0/b x/0/a", "x/1/e"), GRADIENT),
}

PROGRAMS = CONTROL | LINEAR | INDEXING | NETWORKS | REDUCTIONS | DRAWS | SHAPES
