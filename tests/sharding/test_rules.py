"""Every factor of every rule: the operation on the parts, put together, is the operation on the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from luciole.sharding.rules import RULES, factors_of, linear_operands, rule_of
from .shards import check, check_all, equation, filled, values_of


X = filled((4, 6))
Y = filled((4, 6), seed=1)
T = filled((4, 2, 6), seed=2)
I = filled((4, 6), np.int32)
B = X > 0
SPD = np.eye(4, dtype=np.float32) * 4 + np.einsum("bij,bkj->bik", filled((2, 4, 4)), filled((2, 4, 4)))

# primitive, number of factors, function, operands
CASES = [
    ("sin", 2, jnp.sin, X),
    ("mul", 2, lambda x, y: x * y, X, Y),
    ("mul", 2, lambda x, y: lax.mul_p.bind(x, y), X, X[:1]),
    ("add", 1, lambda x: x + 1.0, X[0]),
    ("select_n", 2, lambda b, x, y: lax.select(b, x, y), np.True_, X, Y),
    ("clamp", 2, lambda x: lax.clamp(-0.5, x, 0.5), X),
    ("integer_pow", 2, lambda x: lax.integer_pow(x, 3), X),
    ("optimization_barrier", 3, lambda x, y: lax.optimization_barrier((x, y)), X, Y[0]),
    ("convert_element_type", 2, lambda x: x.astype(jnp.int32), jnp.asarray(X)),
    ("dot_general", 3, lambda x, y: x @ y.T, X, Y),
    ("dot_general", 4, lambda x, y: jnp.einsum("bij,bjk->bik", x, y), T, filled((4, 6, 2))),
    ("dot_general", 1, lambda x, y: x @ y, X[0], Y[0]),
    ("conv_general_dilated", 3, lambda x, k: lax.conv(x, k, (1, 1), "SAME"), filled((2, 4, 5, 5)), filled((6, 4, 3, 3))),
    ("conv_general_dilated", 5, lambda x, k: lax.conv(x, k, (1, 1), "VALID"), filled((2, 4, 4, 4)), filled((6, 4, 1, 1))),
    ("conv_general_dilated", 1, lambda x, k: lax.conv_general_dilated(x, k, (1,), "SAME", feature_group_count=2), filled((2, 4, 5)), filled((6, 2, 3))),
    ("transpose", 3, lambda x: x.transpose(2, 0, 1), jnp.asarray(T)),
    ("reshape", 1, lambda x: x.reshape(24), jnp.asarray(X)),
    ("reshape", 2, lambda x: x.reshape(8, 1, 6), jnp.asarray(T)),
    ("reshape", 1, lambda x: x.reshape(6, 2, 4), jnp.asarray(T.transpose(0, 2, 1))),
    ("broadcast_in_dim", 3, lambda x: lax.broadcast_in_dim(x, (2, 4, 6), (1, 2)), X[:, :1]),
    ("squeeze", 1, lambda x: lax.squeeze(x, (1,)), X[:, :1]),
    ("iota", 2, lambda: lax.broadcasted_iota(jnp.float32, (4, 6), 1)),
    ("slice", 1, lambda x: x[:, 1:4], jnp.asarray(X)),
    ("pad", 1, lambda x: lax.pad(x, 0.5, ((0, 0, 0), (1, 2, 1))), X),
    ("rev", 1, lambda x: lax.rev(x, (1,)), X),
    ("concatenate", 1, lambda x, y: jnp.concatenate([x, y], 1), X, Y[:, :3]),
    ("dynamic_slice", 1, lambda x, i: lax.dynamic_slice(x, (0, i), (4, 3)), X, np.int32(2)),
    ("dynamic_update_slice", 1, lambda x, y, i: lax.dynamic_update_slice(x, y, (i, i)), X, Y[:, :3], np.int32(2)),
    ("split", 1, lambda x: jnp.split(x, 2, 1), X),
    ("reduce_sum", 2, lambda x: x.sum(1), jnp.asarray(X)),
    ("reduce_max", 2, lambda x: x.max(1), jnp.asarray(X)),
    ("reduce_min", 2, lambda x: x.min(), jnp.asarray(I)),
    ("reduce_and", 2, lambda x: x.all(1), jnp.asarray(B)),
    ("reduce_or", 2, lambda x: x.any(0), jnp.asarray(B)),
    ("reduce_max", 2, lambda x: lax.reduce_max_p.bind(x, axes=(0,), **OUT), B),
    ("reduce_prod", 1, lambda x: x.prod(1), jnp.asarray(X)),
    ("argmax", 1, lambda x: jnp.argmax(x, 0), X),
    ("reduce", 1, lambda x, y: lax.reduce((x, y), (0.0, 0.0), lambda a, b: (a[0] + 2 * b[0], a[1] * b[1]), (0,)), X, Y),
    ("cumsum", 1, lambda x: lax.cumsum(x, 1), X),
    ("cumlogsumexp", 1, lambda x: lax.cumlogsumexp(x, 0), X),
    ("sort", 1, lambda x, y: lax.sort((x, y), dimension=0), X, Y),
    ("top_k", 1, lambda x: lax.top_k(x, 3), X),
    ("reduce_window_sum", 1, lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 3), (1, 2), "SAME"), X),
    ("select_and_scatter_add", 1, jax.grad(lambda x: lax.reduce_window(x, -np.inf, lax.max, (1, 2), (1, 2), "VALID").sum()), X),
]  # fmt: skip
OUT = {"out_sharding": None} if jax.__version_info__ >= (0, 11) else {}


def run_cases(cases):
    for name, number, function, *operands in cases:
        eqn = equation(name, function, *operands)
        assert len(factors_of(eqn)) == number, (name, factors_of(eqn))
        try:
            check_all(eqn, values_of(eqn, operands))
        except Exception as problem:
            raise AssertionError(eqn) from problem


def test_every_factor_of_every_rule():
    run_cases(CASES)
