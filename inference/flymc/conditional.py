"""The joint density of the parameters and of which rows are bright, whose marginal is the posterior:

    p(w, z) = prior(w) prod_n L_n(w) r_n(w)^{z_n} (1 - r_n(w))^{1 - z_n},    1 - r_n = exp(-gap_n),    gap_n = log L_n - log B_n > 0.

With the sum of all log B_n known in closed form only bright rows (z_n = 1) have to be looked at: each adds log(exp(gap_n) - 1).

The bounds hold on a ball. Outside it B_n = exp(-rate_n) L_n: rows are then bright with a probability that does not depend on w, and a
pass over all rows gives the density. This is exact, and z hardly changes where the ball is left. (B_n = L_n / 2, or rejection, is not: a
chain would practically never cross.)

Source: Maclaurin & Adams (2014), "Firefly Monte Carlo: exact MCMC with subsets of data", section 2; the ball, the bound outside it and
the dimming are ours.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ...ppl.factors import Factor, Family
from ...transforms import grad, vjp
from .bounds import gap_of, log_likelihood
from .records import Fireflies, Lit, Point

__all__ = ["TILE", "Conditional", "Seen", "effective_gap", "log_odds"]

TILE = 32
_LEAST_GAP = 1e-12
_PASS = 4096


class Seen(NamedTuple):
    """What was found at some rows: gap and pull, (k,) each as in `Lit`, and whether one of the bounds exceeds the likelihood, ()."""

    gap: jax.Array
    pull: jax.Array
    refuted: jax.Array


def log_odds(gap):
    """log(exp(gap) - 1), of being bright."""
    gap = jnp.maximum(gap, _LEAST_GAP)
    return gap + jnp.log(-jnp.expm1(-gap))


def effective_gap(fireflies: Fireflies, index, gap, inside):
    """The gap to the bound that holds at the point: the parabola's inside the ball, the rate outside."""
    return jnp.where(inside, gap, fireflies.rate[index])


@dataclass(frozen=True)
class Conditional:
    """The density of w given z; frozen, a part of a compiled program's key.

    Attributes:
        family: the likelihood. log_prior: (data, position) -> nats, the rest of the model.
    """

    family: Family
    log_prior: Callable[[Any, Any], Any]

    @classmethod
    def of(cls, factor: Factor) -> "Conditional":
        """That of a model's factor; the rest of the model is computed in the run's float type."""
        dtype = jnp.result_type(float)
        return cls(factor.family, lambda data, position: factor.log_prior(data, position.astype(dtype)).astype(position.dtype))

    def look(self, fireflies: Fireflies, index, rows, valid, w) -> Seen:
        """Evaluates the likelihood of some rows.

        Args:
            index: (k,). rows: (k, dim), theirs. valid: (k,) bool; what is found at others means nothing.
            w: (dim,).
        """
        bound = jax.tree.map(lambda x: x[index], fireflies.bound)
        t = rows @ w
        value, pull = self._row_likelihood(fireflies, index, t)
        gap = gap_of(value, bound, t)
        pull = pull - bound.slope + bound.curvature * t
        return Seen(jnp.maximum(gap.gap, 0) + fireflies.dimming[index], pull, (gap.refuted & valid).any())

    def _row_likelihood(self, fireflies, index, t):
        params = jax.tree.map(lambda x: x[index], fireflies.params)
        value, back = vjp(lambda eta: log_likelihood(self.family, eta, params), fireflies.anchor[index] + t)
        return value, back(jnp.ones_like(value))[0]

    def arrive(self, fireflies: Fireflies, w) -> tuple[Point, jax.Array]:
        """What is known at w without bright rows; also, (), the likelihoods evaluated for it: none inside the ball, all outside."""
        inside = self.holds(fireflies, w)
        bounds = fireflies.level + (fireflies.tilt - 0.5 * (fireflies.bend @ w)) @ w
        rows = lax.cond(inside, lambda: bounds, lambda: self.whole(fireflies, w) - fireflies.cumulative[-1])
        point = Point(w, inside, self._prior(fireflies, w) + rows, self.smooth_force(fireflies, w))
        return point, jnp.where(inside, 0, len(fireflies.anchor)).astype(jnp.int32)

    def holds(self, fireflies: Fireflies, w):
        """Whether w lies in the ball on which the bounds hold."""
        return ((fireflies.metric @ w) ** 2).sum() <= fireflies.radius**2

    def smooth_force(self, fireflies: Fireflies, w):
        """Gradient of log prior + sum_n log B_n, (dim,), of the bounds that hold inside the ball."""
        return grad(lambda w: self._prior(fireflies, w))(w) + fireflies.tilt - fireflies.bend @ w

    def _prior(self, fireflies, w):
        return self.log_prior(fireflies.prior_data, fireflies.centre + fireflies.scale @ w)

    def whole(self, fireflies: Fireflies, w):
        """The log likelihood of all rows, (), a tile at a time."""
        num = len(fireflies.anchor)

        def body(k, total):
            first = jnp.minimum(k * _PASS, max(num - _PASS, 0))
            index = first + jnp.arange(min(_PASS, num))
            t = lax.dynamic_slice_in_dim(fireflies.rows, first, len(index)).astype(w.dtype) @ w
            params = jax.tree.map(lambda x: x[index], fireflies.params)
            value = log_likelihood(self.family, fireflies.anchor[index] + t, params)
            return total + jnp.where(index >= k * _PASS, value, 0).sum()  # the last tile is moved back to fit

        return lax.fori_loop(0, -(-num // _PASS), body, jnp.zeros((), w.dtype))

    def log_density(self, fireflies: Fireflies, point: Point, lit: Lit):
        """log p(w, z), (), nats, up to a constant."""
        gap = effective_gap(fireflies, lit.index, lit.gap, point.inside)
        return point.base + jnp.where(_filled(lit), log_odds(gap), 0).sum()

    def gather(self, fireflies: Fireflies, lit: Lit):
        """The bright rows, (capacity, dim), a tile at a time; what lies behind the last tile means nothing."""
        room = jnp.zeros((len(lit.index), fireflies.rows.shape[1]), fireflies.anchor.dtype)

        def body(k, room):
            index = lax.dynamic_slice_in_dim(lit.index, k * TILE, TILE)
            return lax.dynamic_update_slice_in_dim(room, fireflies.rows[index].astype(room.dtype), k * TILE, 0)

        return lax.fori_loop(0, _tiles(lit), body, room)

    def force(self, smooth, lit: Lit, rows):
        """Gradient of log p(w, z) in w, (dim,), from `smooth_force`; outside the ball that of the density inside.

        Any function of w and z keeps the dynamics reversible: only where a move ends does the density count.
        """

        def body(k, force):
            gap, pull, x = (lax.dynamic_slice_in_dim(a, k * TILE, TILE) for a in (lit.gap, lit.pull, rows))
            weight = pull / -jnp.expm1(-jnp.maximum(gap, _LEAST_GAP))
            return force + jnp.where(k * TILE + jnp.arange(TILE) < lit.count, weight, 0) @ x

        return lax.fori_loop(0, _tiles(lit), body, smooth)

    def relight(self, fireflies: Fireflies, lit: Lit, rows, w) -> tuple[Lit, jax.Array]:
        """The same bright rows at another point; also whether a bound was refuted there."""

        def body(k, carry):
            lit, refuted = carry
            index, x = (lax.dynamic_slice_in_dim(a, k * TILE, TILE) for a in (lit.index, rows))
            seen = self.look(fireflies, index, x, k * TILE + jnp.arange(TILE) < lit.count, w)
            gap, pull = (lax.dynamic_update_slice_in_dim(a, b, k * TILE, 0) for a, b in ((lit.gap, seen.gap), (lit.pull, seen.pull)))
            return lit._replace(gap=gap, pull=pull), refuted | seen.refuted

        return lax.fori_loop(0, _tiles(lit), body, (lit, jnp.bool_(False)))


def _filled(lit: Lit):
    return jnp.arange(len(lit.index)) < lit.count


def _tiles(lit: Lit):
    return (lit.count + TILE - 1) // TILE
