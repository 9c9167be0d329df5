"""The smallest curvature that a piecewise bound of -l'' can prove.

Along one direction, with h >= -l'' on the ball, Taylor's formula with integral remainder gives

    l(a) + l'(a) t - l(a + t)  <=  F(t),    F'' = h, F(0) = F'(0) = 0,

so l(a + t) >= l(a) + l'(a) t - c t^2 / 2 wherever c >= 2 F(t) / t^2. Let h be constant on each of `PIECES` equal pieces of [0, T]:
the supremum of that quotient is then found exactly, piece by piece. This is much less than sup h when T is small: the quotient averages h
with the weight 2 (1 - s), which for a straight h gives a third of its rise.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax

from .records import Row, Rule

__all__ = ["PIECES", "majorant"]

PIECES = 16
_EPSILON = float(np.finfo(np.float64).eps)


def majorant(rule: Rule, anchor, radius, row: Row, pieces: int = PIECES):
    """A curvature that holds for |t| <= radius, from upper bounds of -l'' on `pieces` pieces of each side.

    With t in units of a piece's width, F is a parabola on piece k: F = F_k + G_k (t - k) + u_k (t - k)^2 / 2. In s = 1 / t,

        2 F / t^2 = u_k + 2 beta s + 2 alpha s^2,   alpha = F_k - G_k k + u_k k^2 / 2,   beta = G_k - u_k k,

    whose supremum over the piece is at one of its ends or, if alpha < 0, at s = -beta / (2 alpha).

    Args:
        rule: gives `sup_curvature`.
        anchor, radius: (obs,), float64.
        row: parameters by name, (obs,) each.
        pieces: how many on either side of the anchor.

    Returns:
        (obs,), rounded up: 64 pieces eps max |h| covers the rounding of the sums, whose terms are at most `pieces` max |h|.
    """
    margin = 8 * _EPSILON * (jnp.abs(anchor) + radius)

    def add_piece(k, carry):
        value, slope, best, largest = carry
        left = k >= pieces
        value, slope = (jnp.where(k == pieces, 0.0, x) for x in (value, slope))
        start = jnp.where(left, k - pieces, k).astype(anchor.dtype)
        near, far = radius * (start / pieces), radius * ((start + 1) / pieces)
        low, high = jnp.where(left, anchor - far, anchor + near), jnp.where(left, anchor - near, anchor + far)
        u = rule.sup_curvature(low - margin, high + margin, row)
        alpha, beta = value - slope * start + u * start**2 / 2, slope - u * start
        shortest, longest = 1 / (start + 1), 1 / jnp.maximum(start, 1)
        s = jnp.clip(-beta / jnp.where(alpha < 0, 2 * alpha, 1.0), shortest, longest)
        inside = jnp.where(alpha < 0, u + 2 * beta * s + 2 * alpha * s**2, -jnp.inf)
        value, slope = value + slope + u / 2, slope + u
        at_end = 2 * value * shortest**2
        best = jnp.maximum(best, jnp.where(start == 0, u, jnp.maximum(inside, at_end)))
        return value, slope, best, jnp.maximum(largest, jnp.abs(u))

    zero = jnp.zeros_like(anchor)
    _, _, best, largest = lax.fori_loop(0, 2 * pieces, add_piece, (zero, zero, zero - jnp.inf, zero))
    raised = best + 64 * pieces * _EPSILON * largest
    return jnp.where(jnp.isfinite(largest), raised, jnp.inf)
