"""Values known before a program runs: NumPy's evaluation of a primitive is JAX's, in loops as well."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from luciole.transforms.jax_compat import open_jaxpr
from luciole.transforms.known import Known, visit
from luciole.transforms.numpy_rules import NUMPY_RULES

R = np.random.default_rng(0)
X = R.normal(size=(3, 4)).astype(np.float32)
SOME = R.integers(-5, 6, (3, 4)).astype(np.int32)
DIVISORS = np.array([[1, -2, 3, 4], [-3, 2, 5, 6], [2, 2, -2, 1]], np.int32)


def integers(i, j):
    return [i + j, i * j, lax.div(i, j), lax.rem(i, j), i // 3, i % 3, i & j, i | j, i ^ j, ~i]


def truth(b):
    return [~b, b & ~b, b | b, jnp.any(b, 0), jnp.all(b, 1), jnp.logical_xor(b, ~b)]


PROGRAMS = {
    "arithmetic": lambda x: [x + 1, x - x, x * 2, x / 3, -x, abs(x), jnp.sign(x), jnp.square(x), x**3],
    "transcendental": lambda x: [jnp.exp(x), jnp.expm1(x), jnp.log(abs(x) + 1), jnp.log1p(abs(x)), jnp.sqrt(abs(x)), abs(x) ** 0.7],
    "rounding": lambda x: [jnp.floor(x), jnp.ceil(x), jnp.isfinite(x), jnp.clip(x, -0.5, 0.5)],
    "comparison": lambda x: [x < 0, x <= 0, x > 0, x >= 0, x == 0, x != 0, jnp.maximum(x, 0), jnp.minimum(x, 0)],
    "shapes": lambda x: [x.T, x.reshape(4, 3), x[None], x[1:, ::2], x[::-1], jnp.concatenate([x, x], 1), jnp.broadcast_to(x, (2, 3, 4))],
    "scalars": lambda x: [x[0, 0], x[0, 0].reshape(()), jnp.broadcast_to(x[1, 1], ()), x[2, 3] + 1],
    "sums": lambda x: [x.sum(), x.sum(0), x.max(1), x.min(), jnp.cumsum(x, 1), lax.cumsum(x, 0, reverse=True)],
    "conversions": lambda x: [
        x.astype(jnp.int32),
        (x > 0).astype(jnp.float32),
        lax.iota(jnp.int32, 4),
        lax.broadcasted_iota(jnp.int32, (2, 3), 1),
    ],
    "choices": lambda x: [jnp.where(x > 0, x, -x), lax.select_n(jnp.asarray(2), x, -x, 2 * x)],
    "integers": lambda x: integers(jnp.asarray(SOME), jnp.asarray(DIVISORS)),
    "truth": lambda x: truth(x > 0),
    "by JAX": lambda x: [jnp.sort(x, 1), x @ x.T, jnp.tanh(x), lax.top_k(x, 2)[1]],
}


def known(function, *operands):
    """What `visit` knows of the results of a function of constants: it is asked for by an equation that nobody has a rule for."""
    found = []
    jaxpr, consts = open_jaxpr(jax.make_jaxpr(lambda: function(*map(jnp.asarray, operands)))())

    def look(eqn, values, at):
        if eqn.primitive.name == "copy_p" or eqn.primitive.name == "copy":
            found.append(values[0])
        return ""

    visit(jaxpr, consts, look)
    return found


@pytest.mark.parametrize("name", PROGRAMS)
def test_numpy_gives_what_jax_gives(name):
    program = PROGRAMS[name]
    found = known(lambda x: [jnp.copy(y) for y in program(x)], X)
    right = jax.jit(lambda x: program(x))(X)
    assert len(found) == len(right)
    for value, expected in zip(found, right, strict=True):
        assert isinstance(value, Known)
        array = value.compute(compile=name == "by JAX")
        assert array.shape == expected.shape and array.dtype == expected.dtype
        np.testing.assert_allclose(array, expected, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("reverse", [False, True])
def test_in_loops(name, reverse):
    """One look at a value is a look at every turn: turns in the order of the inputs, beside what does not change."""
    program = PROGRAMS[name]

    def loop(x, y):
        def step(i, now):
            return i + 2, [jnp.copy(v) + 0 * i for v in program(now + x)]

        return lax.scan(step, 5, y, reverse=reverse)[1]

    inputs = np.stack([X, 2 * X, -X])
    found = known(loop, X, inputs)
    right = jax.jit(lambda x, y: jax.vmap(lambda now: program(now + x))(y))(X, inputs)
    for value, expected in zip(found, right, strict=True):
        array = np.broadcast_to(value.compute(compile=name == "by JAX"), expected.shape)
        np.testing.assert_allclose(array, expected, rtol=1e-5)


@pytest.mark.parametrize("reverse", [False, True])
def test_counters_and_what_never_changes(reverse):
    def loop(y):
        def step(carry, now):
            i, same = carry
            return (i + 3, same), jnp.copy(10 * i + same + now)

        return lax.scan(step, (jnp.int32(7), jnp.int32(1000)), y, reverse=reverse)[1]

    y = np.arange(4, dtype=np.int32)
    np.testing.assert_array_equal(known(loop, y)[0].compute(), jax.jit(loop)(y))


def test_nested_loops():
    def loop(x, y):
        def inner(j, b):
            return j + 1, jnp.copy(x * 100 + b * 10 + j)

        return lax.scan(lambda c, a: (c, lax.scan(inner, 0, a)[1]), 0.0, y)[1]

    x, y = np.int32(3), np.arange(6, dtype=np.int32).reshape(2, 3)
    np.testing.assert_array_equal(known(loop, x, y)[0].compute(), jax.jit(loop)(x, y))


def test_long_chains_need_no_stack():
    def long(x):
        for _ in range(3000):
            x = x + 1
        return jnp.copy(x)

    assert known(long, np.int32(1))[0].compute() == 3001


def test_what_is_not_known():
    def program(x):
        changing = lax.scan(lambda c, a: (c * 2 + a, jnp.copy(c)), 0.0, x)[1]
        return changing, lax.while_loop(lambda c: c < 9, lambda c: jnp.copy(c) + 1, x[0])

    assert not any(isinstance(v, Known) for v in known(program, X[0]))
    assert known(lambda x: jnp.copy(jnp.sort(x)), X)[0].compute() is None  # nothing is compiled unless it is allowed


def test_every_rule_is_tried():
    tried = set()

    def names(jaxpr):
        for eqn in open_jaxpr(jaxpr)[0].eqns:
            tried.add(eqn.primitive.name)
            for value in eqn.params.values():
                if hasattr(value, "eqns") or hasattr(value, "jaxpr"):
                    names(value)

    for program in PROGRAMS.values():
        names(jax.make_jaxpr(program)(jnp.asarray(X)))
    left = set(NUMPY_RULES) - tried - {"add_any", "copy", "copy_p", "expand_dims", "stop_gradient", "clamp"}
    assert left <= {"reduce_and", "reduce_or"} | set(), left
