"""Which rows are bright, given where the chain is: every row is reconsidered with its own probability, independently of all others.

With the odds o_n = r_n / (1 - r_n) of being bright, a bright row goes dark with probability min(1, q_n / o_n); a dark one is proposed with
probability q_n = 1 - exp(-rate_n) and becomes bright with probability min(1, o_n / q_n). Each of these is reversible for its row's
Bernoulli(r_n), and rows do not hang on one another given w, so all together leave p(z | w) as it is.

Who is proposed is found without a look at every row: K ~ Poisson(sum of rates) rows are drawn with probabilities proportional to the rates;
the rows that occur at all do so independently, with probability q_n each (Poisson splitting). A number of proposals that is fixed
in advance would not have this property.
"""

from enum import IntEnum

import jax
import jax.numpy as jnp

from ...transforms.streams import Stream, uniform
from .conditional import Conditional, effective_gap
from .records import Fireflies, Lit, Point

__all__ = ["Purpose", "flip", "propose"]


class Purpose(IntEnum):
    """The uses of randomness within one update."""

    NUMBER = 20
    WHICH = 21
    LIGHT = 22
    DARKEN = 23


def propose(fireflies: Fireflies, stream: Stream, room: int):
    """The rows proposed to become bright.

    Returns:
        index, (room,) int32; which of them count, (room,) bool, each row once; whether there was too little room, () bool.
    """
    dtype = fireflies.cumulative.dtype
    number = jnp.searchsorted(fireflies.poisson, uniform(stream, Purpose.NUMBER, dtype=dtype), side="right")
    at = uniform(stream, Purpose.WHICH, (room,), dtype=dtype) * fireflies.cumulative[-1]
    index = jnp.minimum(jnp.searchsorted(fireflies.cumulative, at, side="right"), len(fireflies.cumulative) - 1).astype(jnp.int32)
    order = jnp.arange(room)
    again = ((index[:, None] == index) & (order < order[:, None])).any(1)
    return index, (order < number) & ~again, number >= room


def flip(conditional: Conditional, fireflies: Fireflies, stream: Stream, point: Point, lit: Lit, room: int):
    """One update of the bright rows at a point.

    Args:
        room: for proposed rows.

    Returns:
        The new `Lit`; likelihoods evaluated, () int32; whether a list was too short, () bool; whether a bound was refuted, () bool.
    """
    capacity, dtype = len(lit.index), fireflies.cumulative.dtype
    bright = jnp.arange(capacity) < lit.count
    asked = -jnp.expm1(-fireflies.rate[lit.index])
    stays = uniform(stream, Purpose.DARKEN, (capacity,), dtype=dtype) * _odds(fireflies, lit.index, lit.gap, point) >= asked
    index, new, short = propose(fireflies, stream, room)
    new = new & ~((index[:, None] == lit.index) & bright).any(1)
    seen = conditional.look(fireflies, index, fireflies.rows[index].astype(dtype), new, point.w)
    asked = -jnp.expm1(-fireflies.rate[index])
    lights = uniform(stream, Purpose.LIGHT, (room,), dtype=dtype) * asked < _odds(fireflies, index, seen.gap, point)
    kept = jnp.concatenate([bright & stays, new & lights])
    place = jnp.where(kept, jnp.cumsum(kept) - 1, capacity)
    every = ((lit.index, index), (lit.gap, seen.gap), (lit.pull, seen.pull))
    index, gap, pull = (jnp.zeros_like(a).at[place].set(jnp.concatenate([a, b]), mode="drop") for a, b in every)
    count = kept.sum(dtype=jnp.int32)
    inside_refuted = seen.refuted & point.inside
    return Lit(index, gap, pull, count), new.sum(dtype=jnp.int32), short | (count > capacity), inside_refuted


def _odds(fireflies: Fireflies, index, gap, point: Point) -> jax.Array:
    """o_n, of being bright at this point."""
    return jnp.expm1(effective_gap(fireflies, index, gap, point.inside))
