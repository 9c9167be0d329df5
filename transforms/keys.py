"""JAX keys that are quick to compile: the numbers of JAX's own generator, with its twenty rounds written out.

On a CPU, JAX rolls the rounds of Threefry into loops, and XLA takes half a second to compile each use of a key: a model of ten sites would
spend five seconds on the program that draws from its prior. Written out (see `streams.threefry`) a use takes a tenth of a second or less.
The bits are the same, so that a key of either kind gives the same draws, up to rounding.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .jax_compat import define_prng_impl
from .streams import threefry

__all__ = ["WRITTEN_OUT", "jax_key", "random_key"]

_JAX = "threefry2x32"
_program = partial(jax.jit, inline=True)  # outside of a program as well a use is one call, not a hundred


def random_key(words: Any = (0, 0)) -> jax.Array:
    """A key from its two words, uint32 (2,), those of seed 0 if left out.

    Its generator is the one written out on a CPU, and JAX's own elsewhere, where that compiles quickly.
    """
    return jax.random.wrap_key_data(jnp.asarray(words, jnp.uint32), impl=WRITTEN_OUT if jax.default_backend() == "cpu" else _JAX)


def jax_key(key: jax.Array) -> jax.Array:
    """The same key of JAX's own generator: some of JAX's samplers (`jax.random.poisson`) take no other."""
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=_JAX)


def _counted(key, shape: tuple[int, ...]):
    """Two words for each entry of a shape."""
    if math.prod(shape) > 2**32:
        raise NotImplementedError("more than 2**32 numbers from one key")
    low = lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    return threefry(key[0], key[1], lax.full_like(low, 0), low)


@partial(_program, static_argnums=1)
def _split(key, shape: tuple[int, ...]):
    return jnp.stack(_counted(key, shape), axis=-1)


@_program
def _fold_in(key, data):
    low = jnp.asarray(data).astype(jnp.uint32)
    return jnp.stack(threefry(key[0], key[1], lax.full_like(low, 0), low))


@partial(_program, static_argnums=(1, 2))
def _random_bits(key, bit_width: int, shape: tuple[int, ...]):
    high, low = _counted(key, shape)
    if bit_width == 64:
        return lax.bitwise_or(lax.shift_left(high.astype(jnp.uint64), jnp.full(shape, 32, jnp.uint64)), low.astype(jnp.uint64))
    return lax.bitwise_xor(high, low).astype({8: jnp.uint8, 16: jnp.uint16, 32: jnp.uint32}[bit_width])


def _seed(seed):
    return jax.random.key_data(jax.random.key(seed, impl=_JAX))


WRITTEN_OUT = define_prng_impl(
    key_shape=(2,), seed=_seed, split=_split, random_bits=_random_bits, fold_in=_fold_in, name="threefry2x32_written_out", tag="two"
)
