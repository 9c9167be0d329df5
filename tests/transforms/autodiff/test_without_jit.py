"""`jax.disable_jit()`, under which loops are Python's, around derivatives and batched programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from luciole import transforms as lt

X = np.array([0.1, 0.4, 0.7])

PROGRAMS = {
    "jit": jax.jit(lambda x: jnp.sum(jnp.sin(x))),
    "scan": lambda x: lax.scan(lambda c, v: (c * v + 1, c), 1.0, x)[0],
    "cond": lambda x: lax.cond(x[0] > 0, lambda v: v.sum(), lambda v: (v**2).sum(), x),
    "while": lambda x: lax.fori_loop(0, jnp.int32(3), lambda i, c: c + jnp.sin(x[0] * i), 0.0),
    "custom_jvp": lambda x: jax.nn.softplus(x).sum(),
    "remat": jax.checkpoint(lambda x: jnp.sin(x).sum()),
    "rule": lt.defines_linearization(lambda x: jnp.sin(x).sum())(lambda x: (jnp.sin(x).sum(), lambda t: jnp.vdot(jnp.cos(x), t))),
    "dynamic loop": lambda x: lt.dynamic_loop(2, lambda i, c, t: c * t[1] + 1, x, jnp.ones(()), max_trips=3),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in {"jit", "cond"} else [pytest.mark.slow]) for n in PROGRAMS])
def test_derivatives(name):
    f = PROGRAMS[name]
    expected = lt.grad(f)(X), lt.jvp(f, (X,), (X,))
    with jax.disable_jit():
        found = lt.grad(f)(X), lt.jvp(f, (X,), (X,))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, expected)


@lt.program
def doubled(x):
    while x < 10.0:
        x = 2.0 * x
    return x


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["program_counter", "local_static"])
def test_batched_programs(strategy):
    with jax.disable_jit():
        np.testing.assert_array_equal(lt.autobatch(doubled, strategy=strategy)(jnp.array([1.0, 3.0])), [16.0, 12.0])
