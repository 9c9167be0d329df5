"""Whether a bound holds where it was evaluated: nothing is clamped in silence.

At an offset t the likelihood is evaluated anyway, so its distance from the bound is known,

    gap = l(a + t) - (value + slope t - curvature t^2 / 2)  >=  0,

up to cancellation of the terms it is made of. A gap below that tolerance is a bound that exceeds the likelihood: an error, by row.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ....transforms.errors import BoundError
from .records import Quadratic
from .softmax import quadratic_form

__all__ = ["TOLERANCE", "Gap", "check", "gap_of"]

TOLERANCE = 1e-12
"""Relative to |l| and the bound's terms: a few thousand times the rounding error of float64, far below any gap that a wrong bound makes."""


class Gap(NamedTuple):
    """How far the likelihood lies above the bound. gap, tolerance: (obs,), nats; the bound is refuted where gap < -tolerance."""

    gap: Array
    tolerance: Array

    @property
    def refuted(self):
        """(obs,) bool; a gap that is NaN is refuted too."""
        return ~(self.gap >= -self.tolerance)

    @property
    def clamped(self):
        """The gap with cancellation taken away: at least 0 where the bound holds, NaN where it is refuted."""
        return jnp.where(self.refuted, jnp.nan, jnp.maximum(self.gap, 0.0))


def gap_of(log_likelihood, bound: Quadratic, offset) -> Gap:
    """The gap at an offset from the anchor. Pure JAX.

    Args:
        log_likelihood: l(a + offset), (obs,), float64.
        bound: of the same rows.
        offset: t, (obs,) or (obs, K), float64.

    Returns:
        Gap, (obs,).
    """
    if offset.ndim == 1:
        linear, square = bound.slope * offset, offset**2
        size = jnp.abs(linear)
    else:
        linear, square = (bound.slope * offset).sum(-1), quadratic_form(offset)
        size = (jnp.abs(bound.slope) * jnp.abs(offset)).sum(-1)
    bend = bound.curvature * square / 2
    gap = log_likelihood - bound.value - linear + bend
    size = jnp.abs(log_likelihood) + jnp.abs(bound.value) + size + jnp.abs(bend)
    return Gap(gap, TOLERANCE * size)


def check(log_likelihood, bound: Quadratic, offset, rows=None, what: str = "the bound") -> None:
    """Refuse a bound that exceeds the likelihood at evaluated points.

    Args:
        log_likelihood, bound, offset: as for `gap_of`.
        rows: the rows' numbers in the data, (obs,); None counts them from 0.
        what: names the bound in the message.

    Raises:
        BoundError: names the worst row, its offset, the likelihood and the bound.
    """
    with jax.enable_x64(True):
        found = gap_of(jnp.asarray(log_likelihood), Quadratic(*map(jnp.asarray, bound)), jnp.asarray(offset))
        refuted, gap = np.asarray(found.refuted), np.asarray(found.gap)
    if not refuted.any():
        return
    worst = int(np.argmin(np.where(refuted, np.where(np.isnan(gap), -np.inf, gap), np.inf)))
    row = worst if rows is None else int(np.asarray(rows)[worst])
    likelihood = float(np.asarray(log_likelihood)[worst])
    raise BoundError(
        f"{what} does not hold at row {row}: at the offset {np.asarray(offset)[worst]} of its linear predictor the log likelihood is "
        f"{likelihood:.17g} and the bound {likelihood - gap[worst]:.17g}, {-gap[worst]:.3g} above it ({int(refuted.sum())} of "
        f"{refuted.size} rows checked are refuted); a registered bound must return a curvature no smaller than the supremum "
        "of -l'' between anchor and offset, "
        "and the slope l'(anchor)."
    )
