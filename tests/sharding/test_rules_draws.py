"""Random bits on shards are those of the whole, whatever the mesh."""

from typing import Any

import jax
import numpy as np
import pytest

from luciole.sharding.rules import factors_of
from luciole.sharding.rules.draws import counters
from luciole.transforms.jax_compat import bind
from luciole.transforms.keys import WRITTEN_OUT

from .shards import check, check_all, equation

pytestmark = pytest.mark.strict

KEY = jax.random.key(7)


def bits(key, shape=(4, 6), dtype: Any = np.uint32):
    return equation("random_bits", lambda key: jax.random.bits(key, shape, dtype), key)


@pytest.mark.slow
@pytest.mark.parametrize("impl", ["threefry2x32", WRITTEN_OUT], ids=["jax", "written out"])
def test_bits_from_global_counters(impl):
    key = jax.random.key(7, impl=impl)
    for dtype in (np.uint32, np.uint8):
        eqn = bits(key, dtype=dtype)
        assert [f.how for f in factors_of(eqn)] == ["counter", "counter"]
        check(eqn, [key], factors_of(eqn), [2, 3])
        check(eqn, [key], factors_of(eqn)[:1], [3])  # uneven
    assert bind(bits(key), [key])[0].tolist() == jax.random.bits(key, (4, 6)).tolist()


def test_bits_of_many_keys():
    keys = jax.random.split(KEY, 4)
    eqn = equation("random_bits", jax.vmap(lambda key: jax.random.bits(key, (6,))), keys)
    assert [f.how for f in factors_of(eqn)] == ["", "counter"]
    check(eqn, [keys], factors_of(eqn), [2, 3])


def test_wide_bits(x64):
    eqn = bits(KEY, dtype=np.uint64)
    check(eqn, [KEY], factors_of(eqn), [2, 2])


def test_bits_that_are_not_numbered_have_no_factor():
    with jax.threefry_partitionable(False):
        eqn = bits(KEY)
    assert factors_of(eqn) == ()
    assert factors_of(bits(jax.random.key(1, impl="rbg"))) == ()


@pytest.mark.parametrize(
    ("shape", "first"),
    [
        ((4, 6), (2, 3)),
        ((3, 2**31, 5), (2, 2**31 - 2, 1)),
        ((2**20, 2**20, 7), (2**20 - 2, 2**19 + 3, 5)),
        ((9, 2**32 - 1), (7, 2**32 - 3)),
    ],
)
def test_numbers_beyond_32_bits(shape, first):
    local = (2,) * len(shape)
    high, low = counters(shape, local, [np.asarray(n, np.uint32) for n in first])
    places = np.meshgrid(*(np.uint64(n) + np.arange(2, dtype=np.uint64) for n in first), indexing="ij")
    expected = np.zeros(local, np.uint64)
    for size, place in zip(shape, places, strict=True):
        expected = expected * np.uint64(size) + place
    np.testing.assert_array_equal((np.asarray(high, np.uint64) << np.uint64(32)) + np.asarray(low, np.uint64), expected)


CASES = [
    ("random_split", 1, jax.vmap(lambda key: jax.random.split(key, 3))),
    ("random_fold_in", 1, jax.vmap(lambda key: jax.random.fold_in(key, 3))),
    ("random_unwrap", 1, jax.random.key_data),
    ("random_wrap", 1, lambda keys: jax.random.wrap_key_data(jax.random.key_data(keys))),
    ("random_gamma", 1, lambda keys: jax.vmap(lambda key: jax.random.gamma(key, 2.0))(keys)),
]


@pytest.mark.slow
def test_operations_on_keys():
    keys = jax.random.split(KEY, 4)
    for name, number, function in CASES:
        eqn = equation(name, function, keys)
        assert len(factors_of(eqn)) == number, name
        values = [
            keys if jax.dtypes.issubdtype(v.aval.dtype, jax.dtypes.prng_key) else np.ones(v.aval.shape, v.aval.dtype) for v in eqn.invars
        ]
        check_all(eqn, values)
