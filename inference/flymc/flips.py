"""Which rows are bright, given where the chain is: every row is reconsidered with its own probability, independently of all others.

Explicitly: each row is drawn anew from its Bernoulli(r_n), for which all dark rows have to be evaluated.

Implicitly: with the odds o_n = r_n / (1 - r_n) of being bright, a bright row goes dark with probability min(1, q_n / o_n); a dark one is
proposed with probability q_n = 1 - exp(-rate_n) and becomes bright with probability min(1, o_n / q_n). Each of these is reversible for its
row's Bernoulli(r_n), and the z_n are independent given w, so all together leave p(z | w) as it is.

Candidates are drawn without visiting every row: K ~ Poisson(sum of rates) rows are drawn with probabilities proportional to the rates;
the rows that occur at all do so independently, with probability q_n each (Poisson splitting). A number of proposals that is fixed
in advance would not have this property.

Source: Maclaurin & Adams (2014), algorithms 1 (explicit; of all rows, not of a fraction) and 2 (implicit; with one q_n for each row).
"""

import jax
import jax.numpy as jnp
from jax import lax

from ...transforms.streams import Stream, uniform
from ..kernels.purposes import Purpose
from .conditional import PASS, TILE, Conditional
from .records import BoundData, BrightSet, Point

__all__ = ["flip", "propose", "redraw", "update"]


def propose(bound_data: BoundData, stream: Stream):
    """The rows proposed to become bright.

    Their number comes from a table that ends with 1, `BoundData.poisson`, so that it is below the table's length.

    Returns:
        index, (length of the table,) int32; which of them count, bool, each row once.
    """
    size = len(bound_data.poisson)
    dtype = bound_data.cumulative.dtype
    number = jnp.searchsorted(bound_data.poisson, uniform(stream, Purpose.NUMBER, dtype=dtype), side="right")
    at = uniform(stream, Purpose.WHICH, (size,), dtype=dtype) * bound_data.cumulative[-1]
    index = jnp.minimum(jnp.searchsorted(bound_data.cumulative, at, side="right"), len(bound_data.cumulative) - 1).astype(jnp.int32)
    order = jnp.arange(size)
    again = ((index[:, None] == index) & (order < order[:, None])).any(1)
    return index, (order < number) & ~again


def update(conditional: Conditional, bound_data: BoundData, stream: Stream, point: Point, bright: BrightSet):
    """One update of the bright rows at a point.

    Returns:
        The new `BrightSet`; likelihoods evaluated, () int32; whether a buffer overflowed, () bool; a row whose bound was refuted, or -1.
    """
    return (redraw if conditional.explicit else flip)(conditional, bound_data, stream, point, bright)


def redraw(conditional: Conditional, bound_data: BoundData, stream: Stream, point: Point, bright: BrightSet):
    """The explicit `update`."""
    capacity, num, dtype = conditional.capacity, len(bound_data.anchor), bound_data.cumulative.dtype
    used = jnp.arange(capacity) < bright.count
    number = num - bright.count
    is_bright = jnp.zeros(num, bool).at[jnp.where(used, bright.index, num)].set(True, mode="drop")
    dark = jnp.nonzero(~is_bright, size=-(-num // PASS) * PASS, fill_value=0)[0].astype(jnp.int32)
    to_brighten = uniform(stream, Purpose.BRIGHTEN, (num,), dtype=dtype)

    def chance(index, gap):
        """r_n, of being bright at this point."""
        return -jnp.expm1(-conditional.effective_gap(bound_data, index, gap, point.inside))

    def body(k, carry):
        bright, refuted = carry
        index = lax.dynamic_slice_in_dim(dark, k * PASS, PASS)
        valid = k * PASS + jnp.arange(PASS) < number
        seen = conditional.evaluate(bound_data, index, bound_data.rows[index].astype(dtype), valid, point.natural)
        brightens = valid & (to_brighten[index] < chance(index, seen.gap))
        return _appended(bright, brightens, index, seen.gap, seen.pull), jnp.maximum(refuted, seen.refuted)

    stays = used & (uniform(stream, Purpose.DARKEN, (capacity,), dtype=dtype) < chance(bright.index, bright.gap))
    bright = _appended(conditional.all_dark(bound_data), stays, bright.index, bright.gap, bright.pull)
    bright, refuted = lax.fori_loop(0, (number + PASS - 1) // PASS, body, (bright, jnp.int32(-1)))
    return bright, number.astype(jnp.int32), bright.count > capacity, jnp.where(point.inside, refuted, -1)


def _appended(bright: BrightSet, kept, index, gap, pull) -> BrightSet:
    """The list with some rows more, those that are `kept`; what does not fit is lost, and `count` tells."""
    place = jnp.where(kept, bright.count + jnp.cumsum(kept) - 1, len(bright.index))

    def put(old, new):
        return jax.tree.map(lambda a, b: a.at[place].set(b, mode="drop"), old, new)

    return BrightSet(put(bright.index, index), put(bright.gap, gap), put(bright.pull, pull), bright.count + kept.sum(dtype=jnp.int32))


def flip(conditional: Conditional, bound_data: BoundData, stream: Stream, point: Point, bright: BrightSet):
    """The implicit `update`."""
    capacity, size, dtype = conditional.capacity, len(bound_data.poisson), bound_data.cumulative.dtype

    def odds(index, gap):
        """o_n, of being bright at this point."""
        return jnp.expm1(conditional.effective_gap(bound_data, index, gap, point.inside))

    used = jnp.arange(capacity) < bright.count
    asked = -jnp.expm1(-bound_data.rate[bright.index])
    stays = uniform(stream, Purpose.DARKEN, (capacity,), dtype=dtype) * odds(bright.index, bright.gap) >= asked
    index, new = propose(bound_data, stream)

    def already(k, found):
        part = lax.dynamic_slice_in_dim(jnp.where(used, bright.index, -1), k * TILE, TILE)
        return found | (index[:, None] == part).any(1)

    new = new & ~lax.fori_loop(0, (bright.count + TILE - 1) // TILE, already, jnp.zeros(size, bool))
    seen = conditional.evaluate(bound_data, index, bound_data.rows[index].astype(dtype), new, point.natural)
    asked = -jnp.expm1(-bound_data.rate[index])
    brightens = uniform(stream, Purpose.BRIGHTEN, (size,), dtype=dtype) * asked < odds(index, seen.gap)
    kept = jnp.concatenate([used & stays, new & brightens])
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), (bright.index, bright.gap, bright.pull), (index, seen.gap, seen.pull))
    bright = _appended(conditional.all_dark(bound_data), kept, *both)
    refuted = jnp.where(point.inside, seen.refuted, -1)
    return bright, new.sum(dtype=jnp.int32), bright.count > capacity, refuted
