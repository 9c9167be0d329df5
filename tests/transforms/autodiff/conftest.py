"""The programs that every derivative is tried on, in float64."""

import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy as jsp
import numpy as np
import pytest
from jax import lax


@pytest.fixture(autouse=True)
def float64():
    """Derivatives are compared to 1e-10."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def quick_compile():
    """Hundreds of small programs, each run once: XLA's optimizations would take longer than they save."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


class Case(NamedTuple):
    """A function of float64 arrays and points at which it is smooth.

    own: it must be differentiated without the fallback.
    reference: the same function written so that JAX can reverse it.
    second: whether second derivatives in reverse over reverse exist (a loop of unknown length may have none).
    """

    f: object
    args: tuple
    own: bool = True
    reference: object = None
    second: bool = True


def _normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def _positive(seed, n):
    a = _normal(seed, n, n)
    return a @ a.T + n * np.eye(n)


@jax.custom_vjp
def scaled(x, y):
    return jnp.sin(x) * y


scaled.defvjp(lambda x, y: (jnp.sin(x) * y, (x, y)), lambda kept, g: (g * jnp.cos(kept[0]) * kept[1], g * jnp.sin(kept[0])))


def gaussian_process(scales, y):
    t = jnp.linspace(0.0, 1.0, y.shape[0])
    k = jnp.exp(scales[0] - (t[:, None] - t) ** 2 * jnp.exp(scales[1])) + 0.1 * jnp.eye(y.shape[0])
    factor = jnp.linalg.cholesky(k)
    return jnp.sum(jsp.linalg.solve_triangular(factor, y, lower=True) ** 2) + 2 * jnp.sum(jnp.log(jnp.diag(factor)))


X, W, V = _normal(0, 5, 3), _normal(1, 3), _normal(2, 5)
M, K = _normal(3, 4, 4), _positive(4, 4)

CASES = {
    "polynomial": Case(lambda x: 3 * x**3 - x / (1 + x**2) + 2.0 - x, (W,)),
    "elementary": Case(
        lambda x: jnp.exp(x) + jnp.log(x**2 + 1) + jnp.sin(x) * jnp.cos(x) + jnp.tanh(x) + jnp.log1p(x**2) * jnp.expm1(x),
        (W,),
    ),
    "roots": Case(lambda x: jnp.sqrt(x**2 + 1) + lax.rsqrt(x**2 + 1) + jnp.abs(x) + jax.nn.sigmoid(x) + (x**2 + 1) ** 1.5, (W,)),
    "power": Case(lambda x, y: (x**2 + 0.5) ** y, (W, V[:3])),
    "special": Case(
        lambda x: lax.lgamma(x**2 + 1) + lax.digamma(x**2 + 1) + lax.erf(x) + lax.erfc(x) + lax.erf_inv(jnp.tanh(x)),
        (W,),
    ),
    "broadcast": Case(lambda x, y: (x[:, None] * y + x[:, None] / (1 + y**2)) - y, (W, V)),
    "matmul": Case(lambda x, w: jnp.tanh(x @ w), (X, W)),
    "einsum": Case(lambda a, b: jnp.einsum("bij,bjk->bki", a, b), (_normal(5, 2, 3, 4), _normal(6, 2, 4, 5))),
    "contract two": Case(lambda a, b: jnp.einsum("abc,dca->bd", a, b), (_normal(7, 2, 3, 4), _normal(8, 5, 4, 2))),
    "jit": Case(lambda x: jax.jit(lambda u: jnp.sin(u) * x.sum())(x), (W,)),
    "stack": Case(lambda x: jnp.stack([x, x**2], 1) * jnp.stack(list(jnp.unstack(jnp.outer(x, x)))).sum(), (W,)),
    "slices": Case(lambda x: x[1:4:2] * x[::-1][:2] + jnp.concatenate([x[:1], x[2:3] ** 2]), (V,)),
    "shapes": Case(lambda x: jnp.pad(x.reshape(3, 5).T, ((1, 2), (0, 1))) * jnp.ravel(x, order="F").sum(), (X,)),
    "dynamic": Case(lambda x: lax.dynamic_update_slice(x, lax.dynamic_slice(x, (1,), (2,)) ** 2, (3,)), (V,)),
    "dynamic, clamped": Case(lambda x: lax.dynamic_slice(x, (-9,), (2,)) * lax.dynamic_update_slice(x, x[:2] ** 2, (-9,)).sum(), (V,)),
    "cumsum": Case(lambda x: jnp.cumsum(x**2) * x, (V,)),
    "where": Case(
        lambda x: jnp.where(x > 0, x**2, jnp.sin(x)) + jnp.maximum(x, 0.1) + jnp.minimum(x, x**3) + jnp.clip(x, -0.5, 0.5),
        (V,),
    ),
    "extremes": Case(lambda x: jnp.max(x, axis=0) + jnp.min(x) * jnp.prod(x, axis=0), (X,)),
    "product with zeros": Case(lambda x: jnp.prod(x * jnp.array([1.0, 0.0, 1.0]), axis=1), (X,)),
    "logsumexp": Case(lambda x: jsp.special.logsumexp(x, axis=1) + jax.nn.softmax(x)[:, 0], (X,)),
    "gather": Case(lambda x: x[jnp.array([3, 1, 1])] * x.at[jnp.array([0, 7])].get(mode="fill", fill_value=2.0).sum(), (V,)),
    "scatter-add": Case(lambda x, w: x.at[jnp.array([0, 2, 0])].add(w**2) * 2, (V, W)),
    "sort": Case(lambda x: jnp.sort(x, axis=1)[:, 1] * jnp.median(x), (X,)),
    "sort two": Case(lambda x, y: lax.sort((x, y), num_keys=1)[1] * lax.sort((y, x))[0], (V, V[::-1] ** 2)),
    "cholesky": Case(lambda k: jnp.linalg.cholesky(k + k.T), (K,)),
    "cholesky raw": Case(
        lambda k: lax.linalg.cholesky(k, symmetrize_input=False),
        (K,),
        reference=lambda k: lax.linalg.cholesky(jnp.tril(k) + jnp.tril(k, -1).T, symmetrize_input=False),
        second=False,
    ),
    "triangular": Case(lambda a, b: jsp.linalg.solve_triangular(a, b, lower=True) + jsp.linalg.solve_triangular(a, b, trans=1), (K, M)),
    "triangular right": Case(lambda a, b: lax.linalg.triangular_solve(a, b, unit_diagonal=True, lower=True, transpose_a=True), (K, M)),
    "eigh": Case(lambda k: (lambda w, v: w * jnp.abs(v[0]))(*jnp.linalg.eigh(k + k.T)), (K + np.diag([0.0, 3.0, 7.0, 12.0]),)),
    "scan": Case(lambda x, c: lax.scan(lambda s, u: (jnp.sin(s * c) + u, s * u), x[0], x), (X, W)),
    "scan reverse": Case(lambda x, c: lax.scan(lambda s, u: (s * c + u**2, jnp.exp(s)), x[0], x, reverse=True)[1], (X, W)),
    "scan with counter": Case(lambda x: lax.scan(lambda s, u: ((s[0] + 1, s[1] * jnp.cos(u * s[0])), s[1]), (0, 1.0), x), (V,)),
    "scan constants": Case(lambda c, x: lax.scan(lambda s, u: (s + jnp.sin(jnp.exp(c) * u).sum(), u), 0.0, x)[0], (W, X)),
    "fori static": Case(lambda x: lax.fori_loop(0, 4, lambda i, s: jnp.sin(s * x) + i, x), (W,)),
    "fori additive": Case(lambda x: lax.fori_loop(0, 4, lambda i, s: s + jnp.sin(i * x), jnp.zeros(3)), (W,)),
    "scan of cond": Case(lambda x: lax.scan(lambda s, u: (lax.cond(u > 0, jnp.sin, lambda v: v * u, s), s), 1.0, x), (V,)),
    "scan of jit": Case(lambda x: lax.scan(lambda s, u: (jax.jit(lambda a: jnp.tanh(a * x[0]))(s + u), s), 1.0, x), (V,)),
    "cond": Case(lambda x: lax.cond(x[0] > 0, lambda v: jnp.sin(v) * v, lambda v: v**3, x), (W,)),
    "switch": Case(
        lambda x, y: lax.switch(1, [lambda a, b: a * b.sum(), lambda a, b: jnp.exp(a) * b[0], lambda a, b: a], x, y),
        (W, V),
    ),
    "while additive": Case(
        lambda x: lax.fori_loop(0, jnp.int32(x.shape[0]), lambda i, s: s + jnp.sin(i * x), jnp.ones(3)),
        (W,),
        reference=lambda x: 1.0 + sum(jnp.sin(i * x) for i in range(3)),
    ),
    "while linear": Case(
        lambda x: lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] * 0.5 + jnp.sin(x)), (0, x)),
        (W,),
        reference=lambda x: (jnp.array(3), x / 8 + 1.75 * jnp.sin(x)),
        second=False,
    ),
    "while polynomial": Case(
        lambda x: lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] * 0.5 + x[0]), (0, x))[1],
        (W,),
        reference=lambda x: x / 8 + 1.75 * x[0],
    ),
    "custom_jvp": Case(lambda x: jax.nn.relu(x) + jax.nn.softplus(x) * jax.nn.silu(x) + jax.nn.log_sigmoid(x), (V,)),
    "custom_jvp of two": Case(lambda x, y: jnp.logaddexp(x, y[:3]) * jax.nn.relu6(x), (W, V)),
    "custom_vjp": Case(lambda x, y: scaled(x, y[:3]) * x, (W, V), reference=lambda x, y: jnp.sin(x) * y[:3] * x),
    "remat": Case(jax.checkpoint(lambda x: jnp.sin(jnp.sin(x) @ x.T)), (X,)),
    "remat policy": Case(jax.checkpoint(lambda x: jnp.sin(jnp.sin(x) @ x.T).sum(0), policy=jax.checkpoint_policies.dots_saveable), (X,)),
    "scan of remat": Case(lambda x: lax.scan(jax.checkpoint(lambda s, u: (jnp.sin(s * u), jnp.exp(s))), x[0], x), (X,)),
    "solve": Case(lambda k, b: jnp.linalg.solve(k, b) + jnp.linalg.solve(k.T, b**2), (K, M)),
    "slogdet": Case(lambda k: jnp.linalg.slogdet(k)[1], (K,), own=False),
    "cg": Case(lambda k, b: jsp.sparse.linalg.cg(lambda v: (k + k.T) @ v, b, tol=1e-14)[0], (K, M[0]), own=False, second=False),
    "gp": Case(lambda s, y: gaussian_process(s, y), (W[:2], V)),
    "fft": Case(lambda x: jnp.abs(jnp.fft.rfft(x)) ** 2, (V,), own=False),
    "convolve": Case(lambda x, y: jnp.convolve(x, y), (V, W), own=False),
    "qr": Case(lambda k: jnp.linalg.qr(k)[1], (K,), own=False),
    "cumprod": Case(lambda x: jnp.cumprod(x) * jnp.cumprod(x.at[2].set(0.0), 0)[::-1], (V,), own=False),
    "betainc": Case(lambda x: jsp.special.betainc(1.5, 2.5, jax.nn.sigmoid(x)), (W,), own=False, second=False),
    "norm and det": Case(lambda k: jnp.linalg.norm(k, axis=0) * jnp.linalg.det(k), (K,), own=False),
    "vmapped": Case(lambda x, c: jax.vmap(lambda u: lax.scan(lambda s, v: (jnp.tanh(s * v) + c[0], s), u[0], u)[1])(x), (X, W)),
    "split": Case(lambda x: jnp.split(x, [2], axis=0)[1] ** 2, (X,)),
}


# What the quick run tries: one case for each family of rules, and fewer where a test is dear. The slow run tries all.
CORE = {
    "polynomial",  # pointwise
    "where",
    "matmul",  # linear algebra
    "triangular",
    "cholesky",
    "shapes",  # structural
    "gather",  # indexing
    "scatter-add",
    "extremes",  # reductions
    "sort",
    "jit",  # calls
    "scan",
    "fori additive",
    "cond",
    "while additive",
    "custom_vjp",  # derivatives of the user's own
    "custom_jvp",
    "solve",
    "remat policy",
    "fft",  # the long tail
}
QUICK = {
    "test_dot_product": CORE,
    "test_first_order": CORE - {"custom_jvp", "extremes", "gather", "solve", "where"},
    "test_second_order": {"polynomial", "scan", "cond", "custom_vjp"},
    "test_concrete_values_run_compiled": {"jit", "cond"},
    "test_no_fallback": CORE,
}


def pytest_generate_tests(metafunc):
    if "case" in metafunc.fixturenames:
        quick = QUICK[metafunc.function.__name__]
        metafunc.parametrize("case", [pytest.param(c, id=n, marks=[] if n in quick else [pytest.mark.slow]) for n, c in CASES.items()])


@pytest.fixture
def directions():
    """A function: random arrays like the given pytree, the same in every run."""

    def draw(tree, salt=""):
        leaves, structure = jax.tree.flatten(tree)
        rng = np.random.default_rng(zlib.crc32(f"{salt}{[np.shape(v) for v in leaves]}".encode()))

        def one(leaf):
            integer = not np.issubdtype(getattr(leaf, "dtype", np.float64), np.floating)
            return np.zeros(np.shape(leaf), jax.dtypes.float0) if integer else jnp.asarray(rng.normal(size=np.shape(leaf)))

        return jax.tree.unflatten(structure, [one(v) for v in leaves])

    return draw
