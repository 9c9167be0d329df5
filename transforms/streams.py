"""Counter-based random numbers: a number is a function of where it is used, never of what was drawn before it.

    bits = threefry2x32(key, (counter, purpose * 2**24 + index))

`key` belongs to one chain of one run, `counter` to one transition, `purpose` to one use inside the transition, `index` to one
number of that use. So the numbers are the same in every executor, at every chunk size and whatever runs beside.

The twenty rounds are written out: JAX's own generator rolls them into loops on a CPU, which is an order of magnitude slower for
the few numbers that a sampler needs at a time.

Source: Salmon, Moraes, Dror & Shaw (2011), "Parallel random numbers: as easy as 1, 2, 3"; the rotation constants are those of
Threefry-2x32-20, so that the bits equal those of `jax.extend.random.threefry_2x32`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from .errors import SamplerError

__all__ = ["Stream", "key_words", "normal", "pool", "random_bits", "stream_for", "threefry", "uniform"]

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_INDEX_BITS = 24
_CHAIN_PURPOSE = 255
_POOL_BLOCK = 16


class Stream(NamedTuple):
    """The randomness of one chain at one transition.

    Attributes:
        key: uint32, shape (2,). The chain's key.
        counter: uint32, shape (). The transition.
    """

    key: jax.Array
    counter: jax.Array


def threefry(key0: jax.Array, key1: jax.Array, x0: jax.Array, x1: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Threefry-2x32 with twenty rounds, on any shape.

    Args:
        key0, key1: uint32, the two words of the key; shape () or that of the counters.
        x0, x1: uint32, the two words of the counter; one common shape.

    Returns:
        Two uint32 arrays of the counters' shape.
    """

    def rotate(x, by):
        left = lax.shift_left(x, lax.full_like(x, by))
        return lax.bitwise_or(left, lax.shift_right_logical(x, lax.full_like(x, 32 - by)))

    shape = jnp.shape(x0)
    key0, key1 = jnp.broadcast_to(key0, shape), jnp.broadcast_to(key1, shape)
    parity = lax.bitwise_xor(lax.bitwise_xor(key0, key1), lax.full_like(key0, _PARITY))
    schedule = (key0, key1, parity)
    x0, x1 = lax.add(x0, key0), lax.add(x1, key1)
    for group in range(5):
        for by in _ROTATIONS[group % 2]:
            x0 = lax.add(x0, x1)
            x1 = lax.bitwise_xor(rotate(x1, by), x0)
        x0 = lax.add(x0, schedule[(group + 1) % 3])
        x1 = lax.add(x1, lax.add(schedule[(group + 2) % 3], lax.full_like(x1, group + 1)))
    return x0, x1


def stream_for(run_key: ArrayLike, chain: ArrayLike) -> Stream:
    """The stream of one chain, at transition 0.

    Args:
        run_key: uint32, shape (2,). The words of the run's key.
        chain: integer, shape (). The chain's number.
    """
    run_key = jnp.asarray(run_key, jnp.uint32)
    chain = jnp.asarray(chain).astype(jnp.uint32)
    words = threefry(run_key[0], run_key[1], chain, lax.full_like(chain, _CHAIN_PURPOSE << _INDEX_BITS))
    return Stream(key=jnp.stack(words), counter=jnp.zeros((), jnp.uint32))


def random_bits(stream: Stream, purpose: int, shape: tuple[int, ...] = (), index: ArrayLike = 0) -> tuple[jax.Array, jax.Array]:
    """Two words of 32 random bits for each entry of `shape`.

    Args:
        stream: whose bits.
        purpose: a static number in [0, 255): one for each use within a transition.
        shape: shape of the result.
        index: integer, shape (). The first entry's index within the purpose; the others follow in row-major order. Or integers of
            that shape, every entry's own index. An index that is only known at run time must stay below 2**24 minus the number of
            entries that follow; the caller sees to that.

    Raises:
        SamplerError: more than 2**24 numbers are asked of one purpose, or the purpose is out of range.
    """
    size = math.prod(shape)
    last = size + (int(index) if isinstance(index, (int, np.integer)) else 0)
    if last > 2**_INDEX_BITS:
        raise SamplerError(
            f"random numbers: {last} were asked of purpose {int(purpose)} in one transition, at most {2**_INDEX_BITS} "
            "exist. Split the request over several purposes."
        )
    if not 0 <= int(purpose) < _CHAIN_PURPOSE:
        raise SamplerError(f"random numbers: purpose {int(purpose)} is not in [0, {_CHAIN_PURPOSE}).")
    first = jnp.asarray(index).astype(jnp.uint32)
    ahead = lax.iota(jnp.uint32, max(size, 1))[:size].reshape(shape)
    entries = first if shape and first.shape == shape else lax.add(lax.broadcast(first, shape), ahead)
    low = lax.bitwise_or(entries, lax.full_like(entries, int(purpose) << _INDEX_BITS))
    return threefry(stream.key[0], stream.key[1], lax.broadcast(stream.counter, shape), low)


def uniform(stream: Stream, purpose: int, shape: tuple[int, ...] = (), index: ArrayLike = 0, dtype: np.dtype | None = None) -> jax.Array:
    """Uniform numbers on [0, 1): multiples of 2**-24 in float32, of 2**-52 in float64.

    Args:
        stream, purpose, shape, index: as in `random_bits`.
        dtype: float32 or float64; the run's float type when left out.
    """
    whole, bits = _fraction(stream, purpose, shape, index, dtype, {32: 24, 64: 52})
    return whole * whole.dtype.type(2.0**-bits)


def normal(stream: Stream, purpose: int, shape: tuple[int, ...] = (), index: ArrayLike = 0, dtype: np.dtype | None = None) -> jax.Array:
    """Standard normal numbers by inversion: sqrt(2) * erfinv(2 u - 1) with u in the open interval, symmetric about 1/2.

    Args:
        stream, purpose, shape, index: as in `random_bits`.
        dtype: float32 or float64; the run's float type when left out.
    """
    whole, bits = _fraction(stream, purpose, shape, index, dtype, {32: 23, 64: 52})
    scalar = whole.dtype.type
    # (2 k + 1) / 2**bits - 1 is exact, odd in its numerator, and so never 0, 1 or -1.
    symmetric = whole * scalar(2.0 ** (1 - bits)) + scalar(2.0**-bits - 1.0)
    return lax.erf_inv(symmetric) * scalar(math.sqrt(2.0))


def _fraction(stream, purpose, shape, index, dtype, bits_of):
    """Random whole numbers below 2**bits as floats, and `bits`, which depends on the width of the float type."""
    dtype = np.dtype(jnp.result_type(float) if dtype is None else dtype)
    first, second = random_bits(stream, purpose, shape, index)
    bits = bits_of.get(dtype.itemsize * 8)
    if bits is None or dtype.kind != "f":
        raise SamplerError(f"random numbers: dtype {dtype} found, float32 or float64 expected.")
    low_bits = max(bits - 32, 0)
    high = lax.shift_right_logical(first, lax.full_like(first, max(32 - bits, 0))).astype(dtype)
    if not low_bits:
        return high, bits
    low = lax.shift_right_logical(second, lax.full_like(second, 32 - low_bits)).astype(dtype)
    return high * dtype.type(2.0**low_bits) + low, bits


def pool(draw: Callable[[Stream], Any], stream: Stream, capacity: int, number: ArrayLike) -> Any:
    """What `draw` gives for each of the next `number` transitions, stacked.

    Random numbers that depend on nothing but the transition cost less when they are drawn for many at a time.

    Args:
        draw: stream -> a pytree of arrays.
        stream: at the first of the transitions.
        capacity: length of the leading axis of the result; static.
        number: integer, shape (), at most `capacity`. The rows behind these hold anything.
    """
    block = min(capacity, _POOL_BLOCK)
    ahead = jnp.arange(block, dtype=jnp.uint32)
    room = jax.tree.map(lambda one: jnp.zeros((capacity, *one.shape), one.dtype), jax.eval_shape(draw, stream))

    def body(carry):
        row, rows = carry
        first = jnp.minimum(row, capacity - block)  # the last block is moved back to fit; what it repeats comes out the same
        counters = stream.counter + first.astype(jnp.uint32) + ahead
        new = jax.vmap(lambda counter: draw(stream._replace(counter=counter)))(counters)
        return row + block, jax.tree.map(lambda all, some: lax.dynamic_update_slice_in_dim(all, some, first, axis=0), rows, new)

    return lax.while_loop(lambda carry: carry[0] < number, body, (jnp.int32(0), room))[1]


def key_words(key) -> np.ndarray:
    """The two words of a user's random key, on the host.

    Args:
        key: `jax.random.key(seed)` or a legacy `jax.random.PRNGKey(seed)`. Of a key with more words (another generator's), the
            first two are taken.

    Returns:
        uint32, shape (2,).

    Raises:
        SamplerError: `key` is not one random key.
    """
    write = "write jax.random.key(0), or another seed"
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        if key.shape != ():
            raise SamplerError(f"key: an array of keys of shape {key.shape} found, one key expected; {write}.")
        words = np.asarray(jax.random.key_data(key)).reshape(-1)
    elif isinstance(key, (jax.Array, np.ndarray)) and key.dtype == np.uint32 and key.ndim == 1 and key.size in (2, 4):
        words = np.asarray(key)
    else:
        found = f"{type(key).__name__} {key!r}"
        if isinstance(key, (jax.Array, np.ndarray)):
            found = f"an array of shape {key.shape} and dtype {key.dtype}"
        raise SamplerError(f"key: {found} found, a random key expected; {write}.")
    return np.ascontiguousarray(words[:2], dtype=np.uint32)
