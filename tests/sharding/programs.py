"""Programs of many kinds, each with ways to split it: what the tests of `partition` run against `jax.jit`.

A way is a string of tactics in their order, each `name/dimension/axis`, with "!" behind it where padding is allowed. The mesh is 4 devices
along "a" times 2 along "b", or 8 along "e".
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from luciole import sharding as ls

MESHES = ({"a": 4, "b": 2}, {"e": 8})
VALUE, GRADIENT = 1e-6, 2e-5  # largest errors, relative to the largest entry


class Program(NamedTuple):
    """A function, its arguments (or what makes them), the ways to split it, and how far results may lie from those of the whole."""

    function: Callable[..., Any]
    args: Sequence[Any]
    ways: tuple[str, ...]
    error: float = VALUE

    def arguments(self) -> list[Any]:
        return [x() if callable(x) else x for x in self.args]


def tactics(way: str) -> list[ls.ManualPartition]:
    found = []
    for word in way.split():
        name, dim, axis = word.rstrip("!").split("/")
        found.append(ls.ManualPartition({name: int(dim)}, axis=axis, pad=word.endswith("!")))
    return found


def mesh(way: str) -> dict[str, int]:
    return MESHES["/e" in way]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def below(n: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, n, *shape]).integers(0, n, shape).astype(np.int32)


def definite(batch: int, n: int) -> np.ndarray:
    a = normal(batch, n, n)
    return a @ a.swapaxes(1, 2) / n + np.eye(n, dtype=np.float32)


# ---- control flow


def layers(ws: Any, x: Any) -> Any:
    def loss(ws: Any) -> Any:
        return jnp.mean(lax.scan(lambda h, w: (jnp.tanh(h @ w), jnp.sum(h)), x, ws)[0] ** 2)

    return jax.value_and_grad(loss)(ws)


def nested_scan(x: Any, w: Any) -> Any:
    def outer(h: Any, s: Any) -> Any:
        h, ys = lax.scan(lambda h, t: (jnp.sin(h @ w) + t, h[:, 0]), h, jnp.arange(3.0) * s)
        return h, ys.sum(0)

    return lax.scan(outer, x, jnp.arange(2.0), reverse=True)


def until(x: Any, w: Any) -> Any:
    return lax.while_loop(lambda c: (jnp.sum(c[0] ** 2) > 1.0) & (c[1] < 20), lambda c: (jnp.tanh(c[0] @ w), c[1] + 1), (x, 0))


def members_apart(x: Any) -> Any:
    return jax.vmap(lambda v: lax.while_loop(lambda c: jnp.sum(c**2) > 1.0, lambda c: c * 0.7, v))(x)


def members_with_data(x: Any, data: Any) -> Any:
    """Each member looks at all data in every turn."""

    def one(v: Any) -> Any:
        return lax.while_loop(
            lambda c: (c[1] < 9) & (jnp.abs(c[0]).max() > 0.3), lambda c: (c[0] - 0.2 * jnp.mean(c[0] - data, 0), c[1] + 1), (v, 0)
        )

    return jax.vmap(one)(x)


def repeated(x: Any, w: Any) -> Any:
    return lax.fori_loop(0, 4, lambda i, h: h + i * jnp.cos(h @ w), x)


def repeated_until(x: Any, n: Any) -> Any:
    return lax.fori_loop(0, n, lambda i, h: lax.dynamic_update_slice(h, jnp.sum(h, 0, keepdims=True), (i, 0)), x)


def chosen(x: Any, i: Any) -> Any:
    y = lax.cond(i > 0, lambda x: x.T @ x, lambda x: jnp.max(x, 0)[:, None] * x.sum(0), x)
    return y, lax.switch(i, [jnp.sin, lambda x: x * 2, lambda x: x - x.mean(0)], x)


def chosen_by_member(x: Any, i: Any) -> Any:
    return jax.vmap(lambda v, j: lax.switch(j, [jnp.sin, jnp.cumsum, lambda v: v / jnp.sum(v)], v))(x, i)


def recomputed(ws: Any, x: Any) -> Any:
    def loss(ws: Any) -> Any:
        h = x
        for w in ws:
            h = jax.checkpoint(lambda h, w: jnp.tanh(h @ w))(h, w)
        return jnp.sum(h**2)

    return jax.value_and_grad(loss)(ws)


def recomputed_scan(ws: Any, x: Any) -> Any:
    policy = jax.checkpoint_policies.dots_saveable
    return jax.grad(lambda ws: jnp.sum(lax.scan(jax.checkpoint(lambda h, w: (jnp.sin(h @ w), None), policy=policy), x, ws)[0]))(ws)


CONTROL = {
    "layers": Program(
        layers, (normal(3, 8, 8) * 0.4, normal(16, 8)), ("x/0/a", "x/0/a ws/2/b", "ws/1/b", "x/0/a x/0/b", "ws/0/e!"), GRADIENT
    ),
    "nested scan": Program(nested_scan, (normal(8, 8), normal(8, 8) * 0.2), ("x/0/a", "w/1/b x/0/a", "x/1/e", "w/0/a")),
    "while": Program(until, (normal(8, 8), normal(8, 8) * 0.3), ("x/0/a", "x/1/a", "w/0/b x/0/a", "w/1/e")),
    "members apart": Program(members_apart, (normal(16, 8),), ("x/0/a", "x/0/a x/0/b", "x/1/b", "x/0/a x/1/b", "x/0/e")),
    "members, padded": Program(members_apart, (normal(30, 8),), ("x/0/a!", "x/0/e!", "x/0/a! x/1/b")),
    "members with data": Program(
        members_with_data, (normal(8, 4), normal(16, 4)), ("x/0/a", "data/0/a", "x/0/b data/0/a", "x/0/a data/0/a", "x/1/b")
    ),
    "fori": Program(repeated, (normal(8, 8), normal(8, 8) * 0.2), ("x/0/a", "w/1/b", "x/0/a w/0/b", "x/0/e")),
    "fori until": Program(repeated_until, (normal(8, 8) * 0.1, 5), ("x/0/a", "x/1/a", "x/0/b x/1/a")),
    "cond and switch": Program(chosen, (normal(8, 8), 1), ("x/0/a", "x/1/a", "x/0/a x/1/b", "x/0/a x/0/b")),
    "cond and switch, others": Program(chosen, (normal(8, 8), 0), ("x/0/a", "x/1/a", "x/1/e")),
    "switch by member": Program(chosen_by_member, (normal(8, 8), below(3, 8)), ("x/0/a", "x/1/a", "i/0/b x/1/a")),
    "remat": Program(
        recomputed, ([normal(8, 8, seed=i) * 0.4 for i in range(3)], normal(16, 8)), ("x/0/a", "ws/1/b x/0/a", "ws/0/e"), GRADIENT
    ),
    "remat of a scan": Program(recomputed_scan, (normal(3, 8, 8) * 0.4, normal(16, 8)), ("x/0/a", "x/0/a ws/1/b", "ws/2/e"), GRADIENT),
}


# ---- linear algebra


def log_normal(a: Any, b: Any) -> Any:
    chol = jnp.linalg.cholesky(a)
    z = lax.linalg.triangular_solve(chol, b[..., None], left_side=True, lower=True)[..., 0]
    return -0.5 * jnp.sum(z**2, -1) - jnp.sum(jnp.log(jnp.diagonal(chol, axis1=-2, axis2=-1)), -1)


def log_normal_gradient(a: Any, b: Any) -> Any:
    return jax.grad(lambda a, b: jnp.sum(log_normal(a, b)), (0, 1))(a, b)


def spectra(a: Any) -> Any:
    return jnp.linalg.eigvalsh(a), jnp.abs(jnp.linalg.qr(a)[1]), jnp.linalg.svd(a, compute_uv=False)


def restored(a: Any) -> Any:
    """From its parts each matrix again."""
    w, v = jnp.linalg.eigh(a)
    u, s, vt = jnp.linalg.svd(a)
    return jnp.einsum("bij,bj,bkj->bik", v, w, v), jnp.einsum("bij,bj,bjk->bik", u, s, vt)


def solved(a: Any, b: Any) -> Any:
    return jnp.linalg.solve(a, b), jnp.linalg.slogdet(a), jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(a), b)


def solved_gradient(a: Any, b: Any) -> Any:
    return jax.grad(lambda a, b: jnp.sum(jnp.linalg.solve(a, b) ** 2), (0, 1))(a, b)


def least_squares(x: Any, y: Any) -> Any:
    return jnp.linalg.solve(x.T @ x + jnp.eye(x.shape[1]), x.T @ y), jnp.linalg.inv(x.T @ x)


def conjugate(a: Any, b: Any) -> Any:
    return jax.scipy.sparse.linalg.cg(lambda v: a @ v, b, maxiter=20)[0]


def spectrum(x: Any) -> Any:
    f = jnp.fft.fft(x, axis=0)
    return jnp.abs(jnp.fft.rfft(x)), jnp.real(jnp.fft.ifft(f * f.conj(), axis=0))


LINEAR = {
    "cholesky": Program(log_normal, (definite(8, 4), normal(8, 4)), ("a/0/a", "b/0/a b/0/b", "a/1/a", "a/2/b b/0/a")),
    "cholesky, gradient": Program(log_normal_gradient, (definite(8, 4), normal(8, 4)), ("a/0/a", "b/0/e", "a/1/a b/0/b"), GRADIENT),
    "cholesky, padded": Program(log_normal, (definite(6, 4), normal(6, 4)), ("a/0/a!", "b/0/e!", "b/0/a! a/1/b")),
    "eigh, qr, svd": Program(spectra, (definite(8, 4),), ("a/0/a", "a/1/a", "a/0/a a/2/b", "a/0/e")),
    "eigh, svd, restored": Program(restored, (definite(8, 4),), ("a/0/a", "a/2/a", "a/0/a a/0/b")),
    "solve": Program(solved, (definite(8, 4), normal(8, 4, 6)), ("a/0/a", "b/2/b a/0/a", "b/1/a", "b/0/e")),
    "solve, gradient": Program(solved_gradient, (definite(8, 4), normal(8, 4, 6)), ("a/0/a", "b/2/b", "a/1/b"), GRADIENT),
    "least squares": Program(least_squares, (normal(64, 4), normal(64, 3)), ("x/0/a", "x/1/a", "x/0/a x/1/b", "y/0/e")),
    "conjugate gradients": Program(conjugate, (definite(1, 8)[0], normal(8)), ("a/0/a", "b/0/a", "a/1/e", "a/0/a a/1/b")),
    "fft": Program(spectrum, (normal(16, 8),), ("x/0/a", "x/1/a", "x/0/a x/1/b")),
}


# ---- indexing


def groups(a: Any, g: Any, y: Any) -> Any:
    return jax.value_and_grad(lambda a: jnp.sum((a[g] - y) ** 2))(a)


def group_sums(x: Any, g: Any) -> Any:
    return jax.ops.segment_sum(x, g, num_segments=16), jax.ops.segment_max(x, g, num_segments=4)


def updated(x: Any, g: Any, v: Any) -> Any:
    return x.at[g].set(v), x.at[g].add(v), x.at[2:5, 1].set(7.0), x.at[:, g[0]].multiply(2.0)


def picked(x: Any, g: Any) -> Any:
    return jnp.take_along_axis(x, g[:, None], 1)[:, 0], jnp.take(x, g, axis=0), x[jnp.arange(x.shape[0]), g], x[g, 1:3]


def embedded(table: Any, tokens: Any, head: Any) -> Any:
    def loss(table: Any, head: Any) -> Any:
        logits = jnp.tanh(table[tokens]).mean(1) @ head
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, :1], 1))

    return jax.value_and_grad(loss, (0, 1))(table, head)


def slices(x: Any, i: Any) -> Any:
    row = lax.dynamic_slice(x, (i, 0), (2, 8))
    moved = lax.dynamic_update_slice(x, row * 2, (0, i))
    return row, moved, x[1:7:2], x[::-1], x[:, -3:], jnp.roll(x, 3, 0), lax.dynamic_index_in_dim(x, i, 1), jnp.diff(x, axis=0)


def joined(x: Any, y: Any) -> Any:
    both = jnp.concatenate([x, y, x], 0)
    return (
        both.sum(0),
        both,
        jnp.concatenate([x, y], 1),
        jnp.stack([x, y], 1),
        jnp.pad(x, ((1, 2), (0, 1))),
        jnp.tile(x, (2, 1)),
        jnp.split(both, 3, 0),
    )


def searched(x: Any, edges: Any) -> Any:
    return jnp.searchsorted(jnp.sort(edges), x), jnp.interp(x, jnp.sort(edges), edges), jnp.histogram(x, bins=5)[0]


INDEXING = {
    "searches": Program(searched, (normal(30), normal(8)), ("x/0/a!", "edges/0/b", "edges/0/b x/0/a!")),
    "groups": Program(groups, (normal(16), below(16, 32), normal(32)), ("g/0/a", "a/0/a", "a/0/b g/0/a", "y/0/a y/0/b"), GRADIENT),
    "many groups": Program(groups, (normal(128), below(128, 32), normal(32)), ("a/0/a", "a/0/a g/0/b", "a/0/a a/0/b", "y/0/e"), GRADIENT),
    "groups, padded": Program(groups, (normal(15), below(15, 30), normal(30)), ("g/0/a!", "a/0/a!", "a/0/b! g/0/a!", "y/0/e!"), GRADIENT),
    "group sums": Program(group_sums, (normal(32, 4), below(4, 32)), ("x/0/a", "g/0/a", "x/1/b x/0/a", "x/1/a")),
    "group sums, padded": Program(group_sums, (normal(30, 4), below(4, 30)), ("x/0/a!", "g/0/e!", "x/1/b g/0/a!")),
    "updates": Program(updated, (normal(8, 8), np.array([1, 6, 3], np.int32), normal(3, 8)), ("x/0/a", "x/1/a", "v/1/b x/0/a", "x/0/e")),
    "picks": Program(picked, (normal(8, 8), below(8, 8)), ("x/0/a", "g/0/a", "x/1/a", "x/0/a g/0/b", "x/0/a x/1/b")),
    "embedding": Program(
        embedded,
        (normal(64, 8), below(16, 8, 5), normal(8, 16)),
        ("table/0/a", "tokens/0/a", "table/1/b tokens/0/a", "head/1/a table/0/b"),
        GRADIENT,
    ),
    "slices": Program(slices, (normal(8, 8), 3), ("x/0/a", "x/1/a", "x/0/b x/1/a", "x/0/e")),
    "concatenation": Program(joined, (normal(8, 8), normal(8, 8, seed=1)), ("x/0/a", "x/1/a", "y/0/b x/1/a", "x/0/a y/1/b", "y/0/e")),
    "concatenation, padded": Program(joined, (normal(6, 5), normal(6, 5, seed=1)), ("x/0/a!", "x/1/a!", "y/0/b x/1/a!", "y/0/e!")),
}
