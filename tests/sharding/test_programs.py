"""Programs of many kinds, each split in many ways: results are those of the whole, and the collectives those that were predicted."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from luciole import sharding as ls
from luciole.sharding.rules import RULES
from luciole.transforms.errors import PartitionError

from .programs import mesh, tactics
from .programs_of_arrays import PROGRAMS

# Of these the first way runs in the quick set: one of each kind.
REPRESENTATIVE = {
    "while", "members with data", "members, padded", "cond and switch", "remat", "conjugate gradients", "groups", "updates",
    "concatenation, padded", "convolution", "mixture, padded", "poles, padded", "typed keys", "types", "edges",
}  # fmt: skip


def ways():
    """Each program with each of its ways, marked by what it costs; every third has its compiled program looked at."""
    found = []
    for name, program in PROGRAMS.items():
        for number, way in enumerate(program.ways):
            level = number + (name not in REPRESENTATIVE)
            marks = [] if level == 0 else [pytest.mark.slow] if level == 1 else [pytest.mark.exhaustive]
            found.append(pytest.param(name, way, len(found) % 3 == 0, marks=marks, id=f"{name}: {way}"))
    return found


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
    assert not part.check(compiled=compiled).unexplained
    assert_same(part(*args), whole(name), program.error)


@pytest.mark.parametrize(("name", "way", "compiled"), ways())
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
        return noise, jax.random.uniform(key, x.shape) * x

    args = jax.random.key(5), np.ones((16, 6), np.float32)
    expected = jax.jit(draw)(*args)
    for sizes in ({"a": 1}, {"a": 2, "b": 2}, {"a": 8}):
        named = [ls.ManualPartition({"noise": n, "x": n}, axis=axis) for n, axis in enumerate(sizes)]
        part = ls.partition(draw, args, sizes, named)
        assert sum(part.check().lowered.values()) == 0
        for a, b in zip(part(*args), expected, strict=True):
            assert len(a.sharding.device_set) == np.prod(list(sizes.values()))
            np.testing.assert_array_equal(np.asarray(a).view(np.uint32), np.asarray(b).view(np.uint32))


@pytest.mark.parametrize("unroll", [2, 5, True])
def test_an_unrolled_scan_has_its_collectives_once(unroll):
    def program(x):
        return jax.lax.scan(lambda c, v: (jnp.sin(c + v), jnp.sum(c)), x[0], x, unroll=unroll)

    x = np.ones((5, 8), np.float32)
    part = ls.partition(program, (x,), {"a": 4}, [ls.ManualPartition({"x": 1}, axis="a")])
    assert part.check(compiled=True).compiled == {"all_gather": 0, "all_reduce": 1, "reduce_scatter": 0, "all_to_all": 0}
    assert_same(part(x), jax.tree.map(np.asarray, program(x)), 1e-6)


def repeated(x):
    """The same product twice, the sum of a constant, and a branch for each platform."""
    sums = jax.grad(lambda a, b: jnp.sum(x * a + b), (0, 1))(x[0], x[0])
    return x.T @ x, jnp.sin(x.T @ x), sums, jax.lax.platform_dependent(x, cpu=lambda x: x.sum(0), default=lambda x: x.max(0))


def test_what_the_compiler_may_drop():
    x = np.ones((8, 4), np.float32)
    part = ls.partition(repeated, (x,), {"a": 4}, [ls.ManualPartition({"x": 0}, axis="a")])
    found = part.check(compiled=True)
    assert found.predicted["all_reduce"] == 6
    assert found.duplicates == {"all_gather": 0, "all_reduce": 4, "reduce_scatter": 0, "all_to_all": 0}
    assert found.compiled is not None and 2 <= found.compiled["all_reduce"] < 6


def test_what_the_compiler_drops_beyond_that_is_unexplained(monkeypatch):
    monkeypatch.setattr("luciole.sharding.planning.duplicates", lambda *_: {})
    part = ls.partition(
        lambda x: (x.T @ x, jnp.sin(x.T @ x)), (np.ones((8, 4), np.float32),), {"a": 4}, [ls.ManualPartition({"x": 0}, axis="a")]
    )
    assert part.check().unexplained == {}
    assert part.check(compiled=True).unexplained == {"all_reduce": 1}


def test_more_than_was_predicted_is_an_error(monkeypatch):
    monkeypatch.setattr("luciole.sharding.check.compiled_collectives", lambda text: {"all_reduce": 2})
    part = ls.partition(jnp.sin, (np.ones((8, 4), np.float32),), {"a": 4}, [ls.ManualPartition({"x": 0}, axis="a")])
    with pytest.raises(PartitionError, match="communicates more"):
        part.check(compiled=True)


def test_what_only_the_derivatives_of_a_solve_need_is_dropped():
    """Gathers of the matrix for the transposed solve are not in the program: the solve is batched, and nothing moves."""
    a, b = PROGRAMS["solve"].args
    part = ls.partition(jnp.linalg.solve, (a, b), {"a": 4}, [ls.ManualPartition({"a": 0}, axis="a")])
    assert sum(part.check(compiled=True).lowered.values()) == 0
