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
from jax import lax

from ...transforms.streams import Stream, uniform
from .conditional import TILE, Conditional
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


def flip(conditional: Conditional, fireflies: Fireflies, stream: Stream, point: Point, lit: Lit):
    """One update of the bright rows at a point.

    Returns:
        The new `Lit`; likelihoods evaluated, () int32; whether a list was too short, () bool; a row whose bound was refuted, or -1.
    """
    capacity, room, dtype = conditional.capacity, conditional.candidates, fireflies.cumulative.dtype

    def odds(index, gap):
        """o_n, of being bright at this point."""
        return jnp.expm1(conditional.effective_gap(fireflies, index, gap, point.inside))

    bright = jnp.arange(capacity) < lit.count
    asked = -jnp.expm1(-fireflies.rate[lit.index])
    stays = uniform(stream, Purpose.DARKEN, (capacity,), dtype=dtype) * odds(lit.index, lit.gap) >= asked
    index, new, short = propose(fireflies, stream, room)

    def already(k, found):
        part = lax.dynamic_slice_in_dim(jnp.where(bright, lit.index, -1), k * TILE, TILE)
        return found | (index[:, None] == part).any(1)

    new = new & ~lax.fori_loop(0, (lit.count + TILE - 1) // TILE, already, jnp.zeros(room, bool))
    seen = conditional.look(fireflies, index, fireflies.rows[index].astype(dtype), new, point.natural)
    asked = -jnp.expm1(-fireflies.rate[index])
    lights = uniform(stream, Purpose.LIGHT, (room,), dtype=dtype) * asked < odds(index, seen.gap)
    kept = jnp.concatenate([bright & stays, new & lights])
    place = jnp.where(kept, jnp.cumsum(kept) - 1, capacity)

    def packed(old, new):
        return jnp.zeros_like(old).at[place].set(jnp.concatenate([old, new]), mode="drop")

    index, gap, pull = jax.tree.map(packed, (lit.index, lit.gap, lit.pull), (index, seen.gap, seen.pull))
    count = kept.sum(dtype=jnp.int32)
    refuted = jnp.where(point.inside, seen.refuted, -1)
    return Lit(index, gap, pull, count), new.sum(dtype=jnp.int32), short | (count > capacity), refuted
