"""Keys that compile quickly: their bits are those of JAX's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from luciole.transforms.keys import WRITTEN_OUT, jax_key

WORDS = np.array([123456789, 987654321], np.uint32)


@pytest.fixture(scope="module")
def both():
    return jax.random.wrap_key_data(WORDS, impl=WRITTEN_OUT), jax.random.wrap_key_data(WORDS, impl="threefry2x32")


def same(one, two):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 5)], ids=str)
def test_bits(both, dtype, shape, x64):
    same(*(jax.random.bits(key, shape, dtype) for key in both))


def test_keys_made_of_keys(both):
    def derived(key):
        many = jax.random.split(key, (2, 3))
        return (
            jax.random.key_data(many),
            jax.random.key_data(jax.random.fold_in(many[1, 2], 2**31 + 5)),
            jax.random.key_data(jax.random.clone(key)),
        )

    same(*map(derived, both))
    same(*(jax.random.key_data(jax.random.key(2**40 + 3, impl=impl)) for impl in (WRITTEN_OUT, "threefry2x32")))


@pytest.mark.slow
def test_draws_in_programs(both):
    def draws(key):
        def body(carry, key):
            return carry + jax.random.normal(key), jax.random.gamma(key, 0.3)

        keys = jax.random.split(key, 4)
        shuffled = jax.vmap(lambda k: jax.random.permutation(k, 10))(keys)
        return jax.lax.scan(body, 0.0, keys), shuffled, jax.vmap(jax.random.beta, (0, None, None))(keys, 2.0, 3.0)

    for a, b in zip(*(jax.tree.leaves(jax.jit(draws)(key)) for key in both), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)  # the two programs round on their own


def test_jaxs_own_is_there_for_samplers_that_take_no_other(both):
    quick, own = both
    with pytest.raises(NotImplementedError, match="threefry2x32"):
        jax.random.poisson(quick, 3.0)
    same(jax.random.poisson(jax_key(quick), 3.0, (5,)), jax.random.poisson(own, 3.0, (5,)))
    assert jnp.array_equal(jax.random.key_data(jax_key(quick)), WORDS)
