"""Whether a bound holds where it was evaluated: nothing is clamped in silence.

At an offset t the likelihood is evaluated anyway, so its distance from the bound is known,

    gap = l(a + t) - (value + slope t - curvature t^2 / 2)  >=  0,

up to cancellation of the terms it is made of. A gap below that tolerance is a bound that exceeds the likelihood: an error, by row.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ....transforms.errors import BoundError
from .records import Quadratic, ScaleTangent
from .softmax import quadratic_form

__all__ = ["TOLERANCE", "Gap", "check", "gap_of", "refuse_rows", "residual_gap_of"]

TOLERANCE = 1e-12
"""Relative to |l| and the bound's terms: a few thousand times the rounding error of float64, far below any gap that a wrong bound makes."""
_LEAST = 1e-3
"""A log likelihood near 0 is the logarithm of a number near 1, and good to 1e-16 at best; 1e-15 nats are forgiven it."""


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


def gap_of(log_likelihood, bound: Quadratic, offset, reference: bool = True) -> Gap:
    """The gap at an offset from the anchor. Pure JAX.

    Args:
        log_likelihood: l(a + offset), (obs,), float64.
        bound: of the same rows.
        offset: t, (obs,) or (obs, K), float64.
        reference: for K logits, whether they stand beside one that is fixed at 0.

    Returns:
        Gap, (obs,).
    """
    if offset.ndim == 1:
        linear, square = bound.slope * offset, offset**2
        size = jnp.abs(linear)
    else:
        linear, square = (bound.slope * offset).sum(-1), quadratic_form(offset, reference)
        size = (jnp.abs(bound.slope) * jnp.abs(offset)).sum(-1)
    bend = bound.curvature * square / 2
    gap = log_likelihood - bound.value - linear + bend
    size = jnp.abs(log_likelihood) + jnp.abs(bound.value) + size + jnp.abs(bend)
    return Gap(gap, TOLERANCE * (size + _LEAST))


def residual_gap_of(log_likelihood, bound: ScaleTangent, residual, scale) -> Gap:
    """The gap of a bound in the residual y - eta, (obs,), at a scale, () or (obs,). Pure JAX."""
    bend, width = bound.weight * (residual / scale) ** 2, jnp.log(scale)
    size = jnp.abs(log_likelihood) + jnp.abs(bound.constant) + bend + jnp.abs(width)
    return Gap(log_likelihood - bound.constant + bend + width, TOLERANCE * (size + _LEAST))


def check(log_likelihood, bound: Quadratic, offset, rows=None, what: str = "the bound", reference: bool = True) -> None:
    """Refuse a bound that exceeds the likelihood at evaluated points.

    Args:
        log_likelihood, bound, offset: as for `gap_of`.
        rows: the rows' numbers in the data, (obs,); None counts them from 0.
        what: names the bound in the message.

    Raises:
        BoundError: names the worst row, its offset, the likelihood and the bound.
    """
    with jax.enable_x64(True):
        found = gap_of(jnp.asarray(log_likelihood), Quadratic(*map(jnp.asarray, bound)), jnp.asarray(offset), reference)
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


def refuse_rows(name: str, kinks: Sequence[str], bound: Quadratic, rows=None) -> None:
    """Refuse rows whose curvature is not finite, or whose anchor the likelihood is not finite at.

    Args:
        name: of the likelihood. kinks: primitives at which its curvature may be unknown.
        bound: of some rows; `rows` are their numbers in the data, None counts from 0.

    Raises:
        BoundError: names the first such row, and the primitives that may be the cause.
    """
    numbers = np.stack([np.asarray(x).reshape(np.shape(x)[0], -1).sum(-1) for x in bound], axis=-1)
    wrong = ~np.isfinite(numbers)
    if not wrong.any():
        return
    first = int(np.argmax(wrong.any(-1)))
    row = first if rows is None else int(np.asarray(rows)[first])
    what = [name for name, w in zip(("log likelihood", "slope", "curvature"), wrong[first], strict=True) if w]
    cause = "The row may hold NaN, or values outside the support."
    if kinks and what == ["curvature"]:
        cause = f"A kink of {', '.join(f'`{k}`' for k in kinks)} may lie in the ball."
    raise BoundError(
        f"{name}: row {row} has no finite {' and '.join(what)} at its anchor or on its ball ({int(wrong.any(-1).sum())} of "
        f"{len(wrong)} rows). {cause} Give the bound: lc.bounds.register(distribution_class, bound)."
    )
