"""Which rows are bright, given where the chain is: every row is reconsidered with its own probability, independently of all others.

Explicitly: each row is drawn anew from its Bernoulli(r_n), for which all dark rows have to be looked at.

Implicitly: with the odds o_n = r_n / (1 - r_n) of being bright, a bright row goes dark with probability min(1, q_n / o_n); a dark one is
proposed with probability q_n = 1 - exp(-rate_n) and becomes bright with probability min(1, o_n / q_n). Each of these is reversible for its
row's Bernoulli(r_n), and rows do not hang on one another given w, so all together leave p(z | w) as it is.

Who is proposed is found without a look at every row: K ~ Poisson(sum of rates) rows are drawn with probabilities proportional to the rates;
the rows that occur at all do so independently, with probability q_n each (Poisson splitting). A number of proposals that is fixed
in advance would not have this property.

Source: Maclaurin & Adams (2014), algorithms 1 (explicit; of all rows, not of a fraction) and 2 (implicit; with one q_n for each row).
"""

from enum import IntEnum

import jax
import jax.numpy as jnp
from jax import lax

from ...transforms.streams import Stream, uniform
from .conditional import PASS, TILE, Conditional
from .records import Fireflies, Lit, Point

__all__ = ["Purpose", "flip", "propose", "redraw", "update"]


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


def update(conditional: Conditional, fireflies: Fireflies, stream: Stream, point: Point, lit: Lit):
    """One update of the bright rows at a point.

    Returns:
        The new `Lit`; likelihoods evaluated, () int32; whether a list was too short, () bool; a row whose bound was refuted, or -1.
    """
    return (redraw if conditional.explicit else flip)(conditional, fireflies, stream, point, lit)


def redraw(conditional: Conditional, fireflies: Fireflies, stream: Stream, point: Point, lit: Lit):
    """The explicit `update`."""
    capacity, num, dtype = conditional.capacity, len(fireflies.anchor), fireflies.cumulative.dtype
    bright = jnp.arange(capacity) < lit.count
    number = num - lit.count
    is_bright = jnp.zeros(num, bool).at[jnp.where(bright, lit.index, num)].set(True, mode="drop")
    dark = jnp.nonzero(~is_bright, size=-(-num // PASS) * PASS, fill_value=0)[0].astype(jnp.int32)
    to_light = uniform(stream, Purpose.LIGHT, (num,), dtype=dtype)

    def chance(index, gap):
        """r_n, of being bright at this point."""
        return -jnp.expm1(-conditional.effective_gap(fireflies, index, gap, point.inside))

    def body(k, carry):
        lit, refuted = carry
        index = lax.dynamic_slice_in_dim(dark, k * PASS, PASS)
        valid = k * PASS + jnp.arange(PASS) < number
        seen = conditional.look(fireflies, index, fireflies.rows[index].astype(dtype), valid, point.natural)
        lights = valid & (to_light[index] < chance(index, seen.gap))
        return _appended(lit, lights, index, seen.gap, seen.pull), jnp.maximum(refuted, seen.refuted)

    stays = bright & (uniform(stream, Purpose.DARKEN, (capacity,), dtype=dtype) < chance(lit.index, lit.gap))
    lit = _appended(conditional.nothing_lit(fireflies), stays, lit.index, lit.gap, lit.pull)
    lit, refuted = lax.fori_loop(0, (number + PASS - 1) // PASS, body, (lit, jnp.int32(-1)))
    return lit, number.astype(jnp.int32), lit.count > capacity, jnp.where(point.inside, refuted, -1)


def _appended(lit: Lit, kept, index, gap, pull) -> Lit:
    """The list with some rows more, those that are `kept`; what finds no room is lost, and `count` tells."""
    place = jnp.where(kept, lit.count + jnp.cumsum(kept) - 1, len(lit.index))

    def put(old, new):
        return jax.tree.map(lambda a, b: a.at[place].set(b, mode="drop"), old, new)

    return Lit(put(lit.index, index), put(lit.gap, gap), put(lit.pull, pull), lit.count + kept.sum(dtype=jnp.int32))


def flip(conditional: Conditional, fireflies: Fireflies, stream: Stream, point: Point, lit: Lit):
    """The implicit `update`."""
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
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), (lit.index, lit.gap, lit.pull), (index, seen.gap, seen.pull))
    lit = _appended(conditional.nothing_lit(fireflies), kept, *both)
    refuted = jnp.where(point.inside, seen.refuted, -1)
    return lit, new.sum(dtype=jnp.int32), short | (lit.count > capacity), refuted
