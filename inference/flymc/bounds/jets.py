"""Jets: a function of the predictor and its first derivatives, each known to lie in an interval.

A jet is a tuple (f, f', f'', ...) of intervals, the function's range and those of its derivatives over one interval of the predictor. None
stands for a derivative that is exactly zero, so that constants and linear functions cost nothing and lose nothing. Products follow
Leibniz, compositions Faa di Bruno.
"""

from math import comb
from typing import Any

import jax.numpy as jnp

from .intervals import Interval, add, hull, multiply, negate, point, where
from .ranges import Univariate, range_of

__all__ = ["Jet", "add_jets", "compose", "constant", "identity", "multiply_jets", "negate_jet", "select_jets", "unknown_where"]

Jet = tuple[Any, ...]  # of Interval | None; the first is never None


def constant(x, orders: int) -> Jet:
    """The jet of a number that does not depend on the predictor."""
    return (point(x), *[None] * (orders - 1))


def identity(x: Interval, orders: int) -> Jet:
    """The jet of the predictor itself on the interval x."""
    one = point(jnp.ones_like(x.low))
    return (x, *[one, *[None] * (orders - 2)][: orders - 1])


def _sum(x: Interval | None, y: Interval | None) -> Interval | None:
    return y if x is None else x if y is None else add(x, y)


def _product(x: Interval | None, y: Interval | None) -> Interval | None:
    return None if x is None or y is None else multiply(x, y)


def _times(number: int, x: Interval | None) -> Interval | None:
    return x if x is None or number == 1 else multiply(point(jnp.full_like(x.low, number)), x)


def add_jets(x: Jet, y: Jet) -> Jet:
    return tuple(_sum(a, b) for a, b in zip(x, y, strict=True))


def negate_jet(x: Jet) -> Jet:
    return tuple(None if a is None else negate(a) for a in x)


def multiply_jets(x: Jet, y: Jet) -> Jet:
    """Leibniz: (x y)^(n) = sum_k C(n, k) x^(k) y^(n - k)."""
    made = []
    for n in range(len(x)):
        total = None
        for k in range(n + 1):
            total = _sum(total, _times(comb(n, k), _product(x[k], y[n - k])))
        made.append(total)
    return tuple(made)


def compose(function: Univariate, x: Jet) -> Jet:
    """Faa di Bruno, to the third order:

    (f o x)' = f' x',   (f o x)'' = f'' x'^2 + f' x'',   (f o x)''' = f''' x'^3 + 3 f'' x' x'' + f' x'''.
    """
    inner = x[0]
    assert inner is not None
    made: list[Interval | None] = [range_of(function, 0, inner)]
    f = [None, *(range_of(function, k, inner) for k in range(1, len(x)))] if any(a is not None for a in x[1:]) else [None] * len(x)
    if len(x) > 1:
        made.append(_product(f[1], x[1]))
    if len(x) > 2:
        made.append(_sum(_product(f[2], _square(x[1])), _product(f[1], x[2])))
    if len(x) > 3:
        cube = _product(f[3], _product(_square(x[1]), x[1]))
        made.append(_sum(_sum(cube, _times(3, _product(f[2], _product(x[1], x[2])))), _product(f[1], x[3])))
    return tuple(made)


def _square(x: Interval | None) -> Interval | None:
    if x is None:
        return None
    squared = multiply(x, x)
    return Interval(jnp.maximum(squared.low, 0.0), squared.high)


def select_jets(condition, x: Jet, y: Jet) -> Jet:
    """Entry by entry x where the condition holds, which must not depend on the predictor, else y."""

    def choose(a, b):
        if a is None and b is None:
            return None
        zero = point(jnp.zeros_like((a or b).low))
        return where(condition, a or zero, b or zero)

    return tuple(choose(a, b) for a, b in zip(x, y, strict=True))


def unknown_where(condition, x: Jet, y: Jet, otherwise: Jet) -> Jet:
    """`otherwise`, but where the condition holds it may be x or y: the value is in the hull, the derivatives anywhere."""
    value, other = x[0], y[0]
    assert value is not None
    assert other is not None
    anything = Interval(jnp.full_like(value.low, -jnp.inf), jnp.full_like(value.low, jnp.inf))
    return select_jets(condition, (hull(value, other), *[anything] * (len(x) - 1)), otherwise)
