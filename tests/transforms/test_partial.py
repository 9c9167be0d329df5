"""A program in two parts computes what the whole computes, on random programs; the first part holds what it should."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from luciole.transforms.jax_compat import named_axes
from luciole.transforms.partial import split

# Every step takes values of shape (4,) to one of shape (4,); half of them only copy, so that chains of copies come up.
STEPS = [
    lambda a, b: a + b,
    lambda a, b: jnp.sin(a) * b,
    lambda a, b: a[::-1],
    lambda a, b: a.reshape(2, 2).T.reshape(4),
    lambda a, b: a.astype(jnp.int32).astype(a.dtype),
    lambda a, b: jnp.broadcast_to(a[:1], (4,)),
    lambda a, b: jnp.concatenate([a[2:], b[:2]]),
    lambda a, b: jnp.expand_dims(a, 0)[0],
    lambda a, b: jax.lax.scan(lambda c, x: (0.5 * c + x, c), b[0], a)[1],
    lambda a, b: jnp.where(a > b, a, jnp.arange(4.0)),
    lambda a, b: jnp.full(4, 2.0) * a,
]


def random_program(seed):
    """A straight-line program of (first, second): each of two arrays of shape (4,)."""
    rng = np.random.default_rng(seed)
    plan = [(rng.integers(len(STEPS)), rng.random(), rng.random()) for _ in range(rng.integers(1, 16))]
    outs = rng.random(3)

    def f(first, second):
        values = [*first, *second]
        for step, i, j in plan:
            values.append(STEPS[step](values[int(i * len(values))], values[int(j * len(values))]))
        return [values[int(o * len(values))] for o in outs]

    return f


@pytest.mark.parametrize("block", [0, *(pytest.param(b, marks=pytest.mark.slow) for b in range(1, 8))])
def test_the_parts_make_the_whole(block):
    rng = np.random.default_rng(block)
    hoisted = 0
    for seed in range(12 * block, 12 * (block + 1)):
        first, second = (tuple(jnp.asarray(v, jnp.float32) for v in rng.standard_normal((2, 4))) for _ in range(2))
        jaxpr = jax.make_jaxpr(random_program(seed))(first, second)
        parts = split(jaxpr, 2)
        found = parts.rest(parts.prepare(first), second)
        expected = jax.core.eval_jaxpr(jaxpr.jaxpr, jaxpr.consts, *first, *second)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
        hoisted += parts.num_hoisted
    assert hoisted > 10, "the programs would show nothing"


def count(run, *args):
    return [e.primitive.name for e in jax.make_jaxpr(run)(*args).eqns]


def test_what_reads_only_the_first_is_hoisted():
    def f(x, z):
        return jnp.exp(x).sum() * z + jnp.exp(z)

    parts = split(jax.make_jaxpr(f)(jnp.ones(3), 1.0), 1)
    prepared = parts.prepare([jnp.ones(3)])
    assert parts.num_hoisted == 2
    assert [p.shape for p in prepared] == [()]
    assert count(parts.rest, prepared, [1.0]).count("exp") == 1


def test_copies_are_not_hoisted():
    """The rest reads the small original of a broadcast value, not the large copy."""

    def f(x, z):
        return (jnp.broadcast_to(jnp.exp(x), (1000, 3)) * z).sum()

    parts = split(jax.make_jaxpr(f)(jnp.ones(3), 1.0), 1)
    assert max(p.size for p in parts.prepare([jnp.ones(3)])) == 3


def test_a_chain_of_copies_read_by_both_parts():
    def f(x, z):
        copy = x.reshape(2, 2).reshape(4)
        return jnp.exp(copy) * z + copy

    x = jnp.arange(4.0)
    parts = split(jax.make_jaxpr(f)(x, 2.0), 1)
    np.testing.assert_allclose(parts.rest(parts.prepare([x]), [2.0])[0], f(x, 2.0), rtol=1e-6)
    assert "exp" not in count(parts.rest, parts.prepare([x]), [2.0])


@pytest.mark.parametrize("num_first", range(4))
def test_every_cut(num_first):
    def f(a, b, c):
        return a * 2.0 + jnp.sin(b), c, 3.0, a

    args = [jnp.asarray(v) for v in (1.0, 2.0, 3.0)]
    parts = split(jax.make_jaxpr(f)(*args), num_first)
    found = parts.rest(parts.prepare(args[:num_first]), args[num_first:])
    np.testing.assert_allclose(found, f(*args), rtol=1e-6)
    assert parts.num_hoisted == {0: 0, 1: 1, 2: 3, 3: 3}[num_first]


def test_effects_stay():
    def f(x, z):
        jax.debug.print("{}", x)
        return x * z

    seen = split(jax.make_jaxpr(f)(1.0, 2.0), 1)
    assert seen.num_hoisted == 0


def test_constants_belong_to_the_first_part():
    table = np.arange(3.0, dtype=np.float32)
    parts = split(jax.make_jaxpr(lambda z: (jnp.exp(table) * z).sum())(1.0), 0)
    assert parts.num_hoisted == 1
    np.testing.assert_allclose(parts.rest(parts.prepare([]), [2.0])[0], 2 * np.exp(table).sum(), rtol=1e-6)


def test_steps_are_all_used():
    used = set(itertools.chain.from_iterable(count(random_program(s), (jnp.ones(4),) * 2, (jnp.ones(4),) * 2) for s in range(30)))
    assert {"sin", "rev", "scan", "concatenate", "transpose", "reshape", "broadcast_in_dim"} <= used


def test_a_collective_of_the_first_part_is_hoisted():
    with named_axes({"d": 4}):
        jaxpr = jax.make_jaxpr(lambda data, x: jax.lax.psum(data, "d") * x)(2.0, 3.0)
        parts = split(jaxpr, 1)
        early = jax.make_jaxpr(lambda data: parts.prepare([data]))(2.0)
    assert "psum" in str(early) and parts.num_hoisted == 1
