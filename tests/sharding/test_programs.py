"""Programs of many kinds, each split in many ways: results are those of the whole, and the collectives those that were predicted."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from luciole import sharding as ls
from luciole.sharding.rules import RULES

from .programs import mesh, tactics
from .programs_of_arrays import PROGRAMS

# Of these the first way runs in the quick set: one of each kind.
REPRESENTATIVE = {
    "layers", "while", "members with data", "members, padded", "cond and switch", "remat", "conjugate gradients", "groups", "updates",
    "concatenation, padded", "convolution", "mixture, padded", "reductions, padded", "poles, padded", "typed keys", "types", "edges",
}  # fmt: skip


def ways():
    """Each program with each of its ways, marked by what it costs; about every third has its compiled program looked at."""
    for name, program in PROGRAMS.items():
        for number, way in enumerate(program.ways):
            marks = () if number == 0 and name in REPRESENTATIVE else pytest.mark.slow if number < 2 else pytest.mark.exhaustive
            yield pytest.param(name, way, number % 3 == 1, marks=marks, id=f"{name}: {way}")


def without_keys(tree):
    """NumPy arrays, the data of typed keys."""
    return jax.tree.map(lambda x: np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x), tree)


@functools.cache
def whole(name):
    program = PROGRAMS[name]
    return without_keys(jax.jit(program.function)(*program.arguments()))


def assert_same(found, expected, error):
    """Alike in structure, type and shape; integers equal, numbers within `error` of the largest, what is not finite the same."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(without_keys(found)), jax.tree.leaves(expected), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        if not jnp.issubdtype(b.dtype, jnp.inexact):
            np.testing.assert_array_equal(a, b)
            continue
        a, b = (x.astype(np.complex128 if x.dtype.kind == "c" else np.float64) for x in (a, b))
        largest = np.abs(b[np.isfinite(b)]).max(initial=0)
        np.testing.assert_allclose(a, b, rtol=0, atol=error * largest + 1e-30)


def run(name, way, *, compiled=False):
    program = PROGRAMS[name]
    args = program.arguments()
    part = ls.partition(program.function, args, mesh(way), tactics(way))
    assert not [note for note in part.reports[-1].notes if "table of rules" in note]
    part.check(compiled=compiled)
    assert_same(part(*args), whole(name), program.error)


@pytest.mark.parametrize(("name", "way", "compiled"), list(ways()))
def test_program(name, way, compiled):
    run(name, way, compiled=compiled)


def test_every_program_is_split_in_three_ways():
    assert len(PROGRAMS) > 40
    assert all(len(set(program.ways)) >= 3 for program in PROGRAMS.values())


def test_a_wrong_rule_is_found(monkeypatch):
    """A running sum is said to work on each entry by itself."""
    x, split = np.arange(8, dtype=np.float32), [ls.ManualPartition({"x": 0}, axis="a")]
    expected = np.cumsum(x)
    assert_same(ls.partition(lambda x: jnp.cumsum(x), (x,), {"a": 4}, split)(x), expected, 1e-6)
    monkeypatch.setitem(RULES, "cumsum", RULES["sin"])
    part = ls.partition(lambda x: jnp.cumsum(x), (x,), {"a": 4}, split)
    part.check()
    with pytest.raises(AssertionError):
        assert_same(part(x), expected, 1e-2)


def test_draws_have_the_same_bits_on_any_mesh():
    def draw(key, x):
        noise = ls.tag(jax.random.normal(key, (16, 6)), "noise")
        return noise, jax.random.normal(jax.random.fold_in(key, 1), x.shape) * x

    args = jax.random.key(5), np.ones((16, 6), np.float32)
    expected = jax.jit(draw)(*args)
    for sizes in ({"a": 1}, {"a": 2, "b": 2}, {"a": 8}):
        named = [ls.ManualPartition({"noise": n, "x": n}, axis=axis) for n, axis in enumerate(sizes)]
        part = ls.partition(draw, args, sizes, named)
        assert sum(part.check().lowered.values()) == 0
        for a, b in zip(part(*args), expected, strict=True):
            assert len(a.sharding.device_set) == np.prod(list(sizes.values()))
            np.testing.assert_array_equal(np.asarray(a).view(np.uint32), np.asarray(b).view(np.uint32))
