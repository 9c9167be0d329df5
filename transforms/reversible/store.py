"""Where remainders spill: 16-bit words in buffers of a fixed size, at moments that depend on the factors alone.

A remainder counts states of its numbers: U_0 = 1, and a product with n/d makes U' = ceil(U d / n) of them, whatever the numbers are. When
U > 2^47, all numbers of a leaf write their lowest word and U shrinks by 2^16. So the schedule is a function of the factors, one pointer
serves a whole leaf, and every write is in place. The bits are log2(d/n) for each number and product, and up to 64 more in the remainder.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from .numbers import DENOMINATOR

__all__ = ["pop", "push", "schedule", "words_for", "words_within"]

_FULL = 1 << 47
_WORD = 16


def _spill(states: Any) -> tuple[Any, Any]:
    """Which leaves spill before their next product, and how many states are left then; for arrays of NumPy and of JAX."""
    spills = states > _FULL
    return spills, states + spills * (((states + 0xFFFF) >> _WORD) - states)


def _grow(states: Any, n: Any) -> Any:
    """U' = ceil(U d / n), without a number beyond 64 bits."""
    return states // n * DENOMINATOR + (states % n * DENOMINATOR + n - 1) // n


def schedule(numerators: Any) -> Any:
    """Bool, (step, leaf): whether a leaf spills before the product of a step. numerators: int64, (step, leaf)."""

    def turn(states: Any, n: Any) -> tuple[Any, Any]:
        spills, states = _spill(states)
        return _grow(states, n), spills

    return lax.scan(turn, jnp.ones(numerators.shape[1:], jnp.int64), numerators)[1]


def words_for(factors: np.ndarray) -> list[int]:
    """Words that the leaves of known factors, (step, leaf), spill."""
    numerators = np.clip(np.rint(np.asarray(factors, np.float64) * DENOMINATOR), 1, DENOMINATOR).astype(np.int64)
    states, words = np.ones(numerators.shape[1:], np.int64), np.zeros(numerators.shape[1:], np.int64)
    for n in numerators:
        spills, states = _spill(states)
        words, states = words + spills, _grow(states, n)
    return [int(w) for w in words]


def words_within(at_least: float, num_steps: int) -> int:
    """Words that suffice for factors of at least so much."""
    n = max(round(at_least * DENOMINATOR), 1)
    return max(0, int(np.ceil((num_steps * (np.log2(DENOMINATOR / n) + 2.0**-30) - 47) / _WORD))) + 1


def push(words: Any, place: Any, remainder: Any, spills: Any) -> tuple[Any, Any, Any]:
    """Write the lowest words of the remainders, if they spill: (words, place, remainder) after it.

    They are written in any case, and written over later if they have not spilled: so the buffer stays in place.
    """
    low = (remainder & 0xFFFF).astype(jnp.uint16)
    words = lax.dynamic_update_index_in_dim(words, low, place, 0)
    return words, place + spills.astype(place.dtype), jnp.where(spills, remainder >> _WORD, remainder)


def pop(words: Any, place: Any, remainder: Any, spills: Any) -> tuple[Any, Any]:
    """The inverse of `push`: (place, remainder) before it."""
    place = place - spills.astype(place.dtype)
    low = lax.dynamic_index_in_dim(words, place, 0, keepdims=False).astype(jnp.uint64)
    return place, jnp.where(spills, (remainder << _WORD) | low, remainder)
