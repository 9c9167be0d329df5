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


class Case(NamedTuple):
    """A function of float64 arrays and points at which it is smooth. own: it must be differentiated without the fallback."""

    f: object
    args: tuple
    own: bool = True


def _normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def _positive(seed, n):
    a = _normal(seed, n, n)
    return a @ a.T + n * np.eye(n)


X, W, V = _normal(0, 5, 3), _normal(1, 3), _normal(2, 5)
M, K = _normal(3, 4, 4), _positive(4, 4)

CASES = {
    "polynomial": Case(lambda x: 3 * x**3 - x / (1 + x**2) + 2.0 - x, (W,)),
    "elementary": Case(
        lambda x: jnp.exp(x) + jnp.log(x**2 + 1) + jnp.sin(x) * jnp.cos(x) + jnp.tanh(x) + jnp.log1p(x**2) * jnp.expm1(x), (W,)
    ),
    "roots": Case(lambda x: jnp.sqrt(x**2 + 1) + lax.rsqrt(x**2 + 1) + jnp.abs(x) + jax.nn.sigmoid(x) + (x**2 + 1) ** 1.5, (W,)),
    "power": Case(lambda x, y: (x**2 + 0.5) ** y, (W, V[:3])),
    "special": Case(lambda x: lax.lgamma(x**2 + 1) + lax.digamma(x**2 + 1) + lax.erf(x) + lax.erfc(x) + lax.erf_inv(jnp.tanh(x)), (W,)),
    "broadcast": Case(lambda x, y: (x[:, None] * y + x[:, None] / (1 + y**2)) - y, (W, V)),
    "matmul": Case(lambda x, w: jnp.tanh(x @ w), (X, W)),
    "einsum": Case(lambda a, b: jnp.einsum("bij,bjk->bki", a, b), (_normal(5, 2, 3, 4), _normal(6, 2, 4, 5))),
    "contract two": Case(lambda a, b: jnp.einsum("abc,dca->bd", a, b), (_normal(7, 2, 3, 4), _normal(8, 5, 4, 2))),
    "jit": Case(lambda x: jax.jit(lambda u: jnp.sin(u) * x.sum())(x), (W,)),
    "slices": Case(lambda x: x[1:4:2] * x[::-1][:2] + jnp.concatenate([x[:1], x[2:3] ** 2]), (V,)),
    "shapes": Case(lambda x: jnp.pad(x.reshape(3, 5).T, ((1, 2), (0, 1))) * jnp.ravel(x, order="F").sum(), (X,)),
    "dynamic": Case(lambda x: lax.dynamic_update_slice(x, lax.dynamic_slice(x, (1,), (2,)) ** 2, (3,)), (V,)),
    "cumsum": Case(lambda x: jnp.cumsum(x**2) * x, (V,)),
    "where": Case(lambda x: jnp.where(x > 0, x**2, jnp.sin(x)) + jnp.maximum(x, 0.1) + jnp.minimum(x, x**3) + jnp.clip(x, -0.5, 0.5), (V,)),
    "split": Case(lambda x: jnp.split(x, [2], axis=0)[1] ** 2, (X,)),
}


def pytest_generate_tests(metafunc):
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", [pytest.param(c, id=n) for n, c in CASES.items()])


@pytest.fixture
def directions():
    """A function: random arrays like the given pytree, the same in every run."""

    def draw(tree, salt=""):
        leaves, structure = jax.tree.flatten(tree)
        rng = np.random.default_rng(zlib.crc32(f"{salt}{[np.shape(v) for v in leaves]}".encode()))
        return jax.tree.unflatten(structure, [rng.normal(size=np.shape(v)) for v in leaves])

    return draw
