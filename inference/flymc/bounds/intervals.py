"""Interval arithmetic with outward rounding: each result holds every value that its operands' intervals allow, rounding errors included.

Round-to-nearest is all the arithmetic that XLA offers, so each operation widens its result by more than its own error, `_ULPS` units in the
last place and the smallest normal number. An end that is NaN (infinity minus infinity, an argument outside a function's domain) makes
the interval the whole line: such a row gets no finite bound, never a wrong one.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

__all__ = ["Interval", "absolute", "add", "hull", "multiply", "negate", "outward", "point", "where"]

_ULPS = 8 * float(np.finfo(np.float64).eps)
_TINY = 4 * float(np.finfo(np.float64).tiny)


class Interval(NamedTuple):
    """[low, high], arrays of one shape, float64; an empty interval does not occur."""

    low: Array
    high: Array


def point(x) -> Interval:
    """The interval of one number, exact."""
    x = jnp.asarray(x).astype(jnp.float64)
    return Interval(x, x)


def outward(low, high, absolute_error: Any = 0.0) -> Interval:
    """Ends that were computed in float64, moved apart by their rounding errors."""
    low = low - (_ULPS * jnp.abs(low) + _TINY + absolute_error)
    high = high + (_ULPS * jnp.abs(high) + _TINY + absolute_error)
    unknown = jnp.isnan(low) | jnp.isnan(high)
    return Interval(jnp.where(unknown, -jnp.inf, low), jnp.where(unknown, jnp.inf, high))


def negate(x: Interval) -> Interval:
    return Interval(-x.high, -x.low)


def add(x: Interval, y: Interval) -> Interval:
    return outward(x.low + y.low, x.high + y.high)


def multiply(x: Interval, y: Interval) -> Interval:
    """0 * inf = 0, because an infinite end means unbounded: it stands for numbers of any size, each of them finite."""

    def product(a, b):
        return jnp.where((a == 0) | (b == 0), 0.0, a * b)

    if x.low is x.high:
        x, y = y, x
    if y.low is y.high:  # a number: half the work
        ends = product(x.low, y.low), product(x.high, y.low)
        return outward(jnp.minimum(*ends), jnp.maximum(*ends))
    ends = product(x.low, y.low), product(x.low, y.high), product(x.high, y.low), product(x.high, y.high)
    low = jnp.minimum(jnp.minimum(ends[0], ends[1]), jnp.minimum(ends[2], ends[3]))
    high = jnp.maximum(jnp.maximum(ends[0], ends[1]), jnp.maximum(ends[2], ends[3]))
    return outward(low, high)


def hull(x: Interval, y: Interval) -> Interval:
    return Interval(jnp.minimum(x.low, y.low), jnp.maximum(x.high, y.high))


def absolute(x: Interval) -> Interval:
    return Interval(jnp.maximum(jnp.maximum(x.low, -x.high), 0.0), jnp.maximum(-x.low, x.high))


def where(condition, x: Interval, y: Interval) -> Interval:
    return Interval(jnp.where(condition, x.low, y.low), jnp.where(condition, x.high, y.high))
