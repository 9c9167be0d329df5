"""Counter-based numbers: the generator's own bits, its moments, and independence of the executor."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import threefry_2x32

from luciole.transforms import SamplerError, Stream, key_words, normal, stream_for, uniform
from luciole.transforms.streams import random_bits, threefry


def test_bits_equal_jax():
    key = jnp.array([0xDEADBEEF, 12345], jnp.uint32)
    count = jnp.arange(64, dtype=jnp.uint32) * jnp.uint32(2654435761)
    ours = jnp.concatenate(threefry(key[0], key[1], count[:32], count[32:]))
    np.testing.assert_array_equal(ours, threefry_2x32(key, count))


def test_layout_of_the_counter():
    stream = Stream(jnp.array([1, 2], jnp.uint32), jnp.uint32(7))
    many = random_bits(stream, 3, (2, 5), index=11)
    one = random_bits(stream, 3, (), index=11 + 7)
    assert int(many[0][1, 2]) == int(one[0]) and int(many[1][1, 2]) == int(one[1])
    expected = threefry(stream.key[0], stream.key[1], stream.counter, jnp.uint32((3 << 24) + 18))
    assert int(one[0]) == int(expected[0])


@pytest.mark.parametrize("x64", [False, True])
def test_moments_and_range(x64):
    with jax.enable_x64(x64):
        stream = stream_for(np.array([3, 4], np.uint32), 0)
        u = np.asarray(uniform(stream, 1, (100_000,)), np.float64)
        z = np.asarray(normal(stream, 2, (100_000,)), np.float64)
        assert uniform(stream, 1).dtype == jnp.result_type(float)
    assert 0 <= u.min() and u.max() < 1
    five_sigma = 5 / np.sqrt(100_000)
    assert abs(u.mean() - 0.5) < five_sigma * np.sqrt(1 / 12)
    assert abs(z.mean()) < five_sigma
    assert abs(z.var() - 1) < five_sigma * np.sqrt(2)
    assert abs((z**4).mean() - 3) < five_sigma * np.sqrt(96)
    assert np.isfinite(z).all()
    if x64:
        assert len(np.unique(u)) == len(u)


def test_chains_and_transitions_are_uncorrelated():
    key = np.array([0, 1], np.uint32)
    rows = [normal(stream_for(key, chain), 1, (50_000,)) for chain in range(4)]
    first = stream_for(key, 0)
    rows.append(normal(first._replace(counter=jnp.uint32(1)), 1, (50_000,)))
    rows.append(normal(first, 2, (50_000,)))
    correlation = np.corrcoef(np.asarray(rows, np.float64)) - np.eye(len(rows))
    assert np.abs(correlation).max() < 5 / np.sqrt(50_000)


@pytest.mark.slow
def test_same_numbers_in_every_executor():
    key = np.array([5, 6], np.uint32)

    def draw(chain):
        stream = stream_for(key, chain)
        return random_bits(stream, 1, (3,)), uniform(stream, 2, (2,)), normal(stream, 3, (4,))

    eager = [draw(chain) for chain in range(3)]
    batched = jax.vmap(draw)(jnp.arange(3))
    compiled = jax.jit(jax.vmap(draw))(jnp.arange(3))
    for other in (batched, compiled):
        for chain in range(3):
            jax.tree.map(lambda a, b, chain=chain: np.testing.assert_allclose(a, b[chain], rtol=1e-6), eager[chain], other)
            np.testing.assert_array_equal(eager[chain][0][0], other[0][0][chain])
            np.testing.assert_array_equal(eager[chain][1], other[1][chain])


def test_keys_at_the_edge():
    legacy, modern = jax.random.PRNGKey(7), jax.random.key(7)
    np.testing.assert_array_equal(key_words(legacy), key_words(modern))
    np.testing.assert_array_equal(key_words(np.asarray(legacy)), key_words(modern))
    assert key_words(jax.random.key(7, impl="rbg")).shape == (2,)


@pytest.mark.parametrize("bad", [0, None, 1.5, np.arange(2), np.zeros((4, 2), np.uint32)])
def test_what_is_no_key(bad):
    with pytest.raises(SamplerError, match=r"key: .* found, .*expected; write jax.random.key"):
        key_words(bad)


def test_many_keys_are_no_key():
    with pytest.raises(SamplerError, match="array of keys of shape"):
        key_words(jax.random.split(jax.random.key(0), 4))


def test_too_many_numbers():
    stream = stream_for(np.array([5, 6], np.uint32), 0)
    with pytest.raises(SamplerError, match="at most 16777216"):
        jax.eval_shape(lambda: uniform(stream, 1, (2**24 + 1,)))
