"""The joint density of the parameters u and of which rows are bright, whose marginal is the posterior:

    p(u, z) = prior(u) prod_n L_n(u) r_n(u)^{z_n} (1 - r_n(u))^{1 - z_n},    1 - r_n = exp(-gap_n),    gap_n = log L_n - log B_n > 0.

With the sum of all log B_n known in closed form only bright rows (z_n = 1) have to be evaluated: each adds log(exp(gap_n) - 1).

Bounds on a ball hold there. Outside it B_n = exp(-rate_n) L_n: rows are then bright with a probability that does not depend on u, and a
pass over all rows gives the density. This is exact, and z hardly changes where the ball is left. (B_n = L_n / 2, or rejection, is not: a
chain would practically never cross.)

Source: Maclaurin & Adams (2014), "Firefly Monte Carlo: exact MCMC with subsets of data", section 2; the ball, the bound outside it and
the dimming are ours.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ...transforms import grad, vjp
from .kinds import Kind
from .records import BoundData, BrightSet, Natural, Point
from .rest import Rest

__all__ = ["PASS", "TILE", "Conditional", "Evaluated", "log_odds"]

TILE = 32
_LEAST_GAP = 1e-12
PASS = 4096


class Evaluated(NamedTuple):
    """What was found at some rows: gap and pull as in `BrightSet`; a row whose bound exceeds its likelihood, int32 (), or -1."""

    gap: jax.Array
    pull: Natural
    refuted: jax.Array


def log_odds(gap):
    """log(exp(gap) - 1), of being bright."""
    gap = jnp.maximum(gap, _LEAST_GAP)
    return gap + jnp.log(-jnp.expm1(-gap))


@dataclass(frozen=True)
class Conditional:
    """The density of u given z; frozen, a part of a compiled program's key.

    Attributes:
        kind: of the bounds. rest: the model without its rows.
        capacity: of the buffer of bright rows.
        explicit: whether updates look at all dark rows instead.
    """

    kind: Kind
    rest: Rest
    capacity: int
    explicit: bool = False

    def with_larger_buffer(self, num: int) -> "Conditional":
        """With a buffer of four times as many bright rows, or of all `num`. That of proposed rows has no end to overflow (`propose`)."""
        return self.with_capacity(min(4 * self.capacity, num))

    def with_capacity(self, bright: int) -> "Conditional":
        """With a list of as many bright rows, or the few more that fill a tile."""
        return replace(self, capacity=TILE * -(-bright // TILE))

    def all_dark(self, bound_data: BoundData) -> BrightSet:
        """All rows dark."""
        width = bound_data.anchor.shape[1:]
        pull = Natural(jnp.zeros((self.capacity, *width)), {name: jnp.zeros(self.capacity) for name in self.rest.names})
        return BrightSet(jnp.zeros(self.capacity, jnp.int32), jnp.ones(self.capacity), pull, jnp.int32(0))

    def natural(self, bound_data: BoundData, position) -> tuple[Any, Natural]:
        """The log prior, (), and what the rows see of a position, (dim,)."""
        log_prior, coefficients, shared = self.rest(bound_data.data, bound_data.constants, position)
        if self.rest.affine:
            offset = position - bound_data.centre
            plain = bound_data.matrix.ndim == 1
            shift = (offset[bound_data.matrix] if plain else bound_data.matrix @ offset).reshape(bound_data.origin.shape)
        else:
            shift = coefficients - bound_data.origin
        return log_prior, Natural(shift, shared)

    def point_at(self, bound_data: BoundData, position, skip: Any = False) -> tuple[Point, jax.Array]:
        """What is known there without bright rows; also, (), the likelihoods evaluated for it: none inside the ball, all outside.

        If `skip`, rows are not evaluated outside either; the result then means nothing there.
        """
        log_prior, natural = self.natural(bound_data, position)
        inside = self.holds(bound_data, natural)
        rows = jnp.where(
            inside, self.kind.total(bound_data.moments, natural), self.whole(bound_data, natural, inside | skip) - bound_data.cumulative[-1]
        )
        return Point(position, natural, inside, log_prior + rows), jnp.where(inside, 0, len(bound_data.anchor)).astype(jnp.int64)

    def holds(self, bound_data: BoundData, natural: Natural):
        """Whether the bounds hold there."""
        if not self.kind.on_ball:
            return jnp.bool_(True)
        return ((bound_data.metric @ natural.shift.reshape(-1)) ** 2).sum() <= bound_data.radius**2

    def whole(self, bound_data: BoundData, natural: Natural, skip):
        """The log likelihood of all rows, (), a tile at a time; means nothing, and is no work, if `skip`, of many chains if all do.

        It is sum_n log B_n + gap_n, though B_n is no bound here, so that rows count outside the ball to the last digit as they do inside.
        """
        num = len(bound_data.anchor)

        def body(k, total):
            first = jnp.minimum(k * PASS, max(num - PASS, 0))
            index = first + jnp.arange(min(PASS, num))
            bound, params, anchor, dimming = _at(bound_data, index)
            offset = bound_data.rows[index].astype(anchor.dtype) @ natural.shift
            gap = self.kind.gap(bound, anchor, offset, params, natural.shared).gap + dimming
            return total + jnp.where(index >= k * PASS, gap, 0).sum()  # the last tile is moved back to fit

        return lax.fori_loop(0, jnp.where(skip, 0, -(-num // PASS)), body, self.kind.total(bound_data.moments, natural))

    def evaluate(self, bound_data: BoundData, index, rows, valid, natural: Natural, finite: bool = True) -> Evaluated:
        """Evaluates the likelihood of some rows.

        Args:
            index: (k,). rows: (k, d), theirs. valid: (k,) bool; what is found at others means nothing.
            finite: whether a gap that is NaN is refuted; not so on the way, where a trajectory may run off.
        """
        bound, params, anchor, dimming = _at(bound_data, index)

        def gap(offset, shared):
            found = self.kind.gap(bound, anchor, offset, params, shared)
            return found.gap, found.refuted

        shared = {name: jnp.broadcast_to(x, index.shape) for name, x in natural.shared.items()}
        value, back, refuted = vjp(gap, rows @ natural.shift, shared, has_aux=True)
        pull = Natural(*back(jnp.ones_like(value)))
        wrong = refuted & valid & (jnp.isfinite(value) | finite)
        first = jnp.where(wrong.any(), index[jnp.argmax(wrong)], -1)
        return Evaluated(jnp.maximum(value, 0) + dimming, pull, first.astype(jnp.int32))

    def effective_gap(self, bound_data: BoundData, index, gap, inside):
        """The gap to the bound that holds at the point: the fitted one's inside the ball, the rate outside."""
        return jnp.where(inside, gap, bound_data.rate[index])

    def log_density(self, bound_data: BoundData, point: Point, bright: BrightSet):
        """log p(u, z), (), nats, up to a constant."""
        gap = self.effective_gap(bound_data, bright.index, bright.gap, point.inside)
        return point.base + jnp.where(jnp.arange(self.capacity) < bright.count, log_odds(gap), 0).sum()

    def gather(self, bound_data: BoundData, bright: BrightSet):
        """The bright rows, (capacity, d), a tile at a time; what lies behind the last tile means nothing."""
        buffer = jnp.zeros((self.capacity, bound_data.rows.shape[1]), bound_data.anchor.dtype)

        def body(k, buffer):
            index = lax.dynamic_slice_in_dim(bright.index, k * TILE, TILE)
            return lax.dynamic_update_slice_in_dim(buffer, bound_data.rows[index].astype(buffer.dtype), k * TILE, 0)

        return lax.fori_loop(0, _tiles(bright), body, buffer)

    def reevaluate(
        self, bound_data: BoundData, bright: BrightSet, rows, natural: Natural, skip: Any = False
    ) -> tuple[BrightSet, jax.Array]:
        """The same bright rows at another point; also a row whose bound was refuted there, or -1. Nothing is done if `skip`."""

        def body(k, carry):
            bright, refuted = carry
            index, x = (lax.dynamic_slice_in_dim(a, k * TILE, TILE) for a in (bright.index, rows))
            seen = self.evaluate(bound_data, index, x, k * TILE + jnp.arange(TILE) < bright.count, natural, finite=False)
            old, new = (bright.gap, bright.pull), (seen.gap, seen.pull)
            gap, pull = jax.tree.map(lambda a, b: lax.dynamic_update_slice_in_dim(a, b, k * TILE, 0), old, new)
            return bright._replace(gap=gap, pull=pull), jnp.maximum(refuted, seen.refuted)

        return lax.fori_loop(0, jnp.where(skip, 0, _tiles(bright)), body, (bright, jnp.int32(-1)))

    def force(self, bound_data: BoundData, position, natural: Natural, bright: BrightSet, rows):
        """Gradient of log p(u, z) in the position, (dim,), from what is known of the bright rows; outside the ball that of the density
        inside.

        Any function of u and z keeps Hamiltonian dynamics reversible: only where a move ends does the density count.
        """

        def body(k, total):
            gap, pull, x = jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, k * TILE, TILE), (bright.gap, bright.pull, rows))
            weight = 1 / -jnp.expm1(-jnp.maximum(gap, _LEAST_GAP))
            pull = jax.tree.map(lambda p: _scaled(p, jnp.where(k * TILE + jnp.arange(TILE) < bright.count, weight, 0)), pull)
            return jax.tree.map(jnp.add, total, Natural((pull.shift.T @ x).T, {name: p.sum() for name, p in pull.shared.items()}))

        nothing = Natural(jnp.zeros_like(bound_data.origin), {name: jnp.float64(0) for name in self.rest.names})
        pulls = lax.fori_loop(0, _tiles(bright), body, nothing)

        pulls = jax.tree.map(jnp.add, pulls, self.kind.slope(bound_data.moments, natural))

        def surrogate(position):
            log_prior, natural = self.natural(bound_data, position)
            return log_prior + sum(jax.tree.leaves(jax.tree.map(jnp.vdot, pulls, natural)))

        return grad(surrogate)(position)


def _at(bound_data: BoundData, index):
    """Bounds, parameters, anchors and dimming of some rows."""
    arrays = bound_data.bound, bound_data.params, bound_data.anchor, bound_data.dimming
    return jax.tree.map(lambda x: x[index], arrays)


def _scaled(x, weight):
    return x * weight.reshape(weight.shape + (1,) * (x.ndim - 1))


def _tiles(bright: BrightSet):
    return (bright.count + TILE - 1) // TILE
