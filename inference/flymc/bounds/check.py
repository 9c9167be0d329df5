"""Whether a bound holds where it was evaluated: nothing is clamped in silence.

At an offset t the likelihood is evaluated anyway, so its distance from the bound is known,

    gap = l(a + t) - (value + slope t - curvature t^2 / 2)  =  curvature t^2 / 2 - (l(a) + l'(a) t - l(a + t))  >=  0,

up to the rounding of the terms it is computed from. A gap below that tolerance is a bound that exceeds the likelihood: an error, by row.
For a tangent that the rule of a likelihood has made the second form is taken, whose terms are of the gap's own size; the value and slope
of such a bound are compared with the likelihood once, at the anchor (`touches`).
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ....transforms.errors import BoundError
from .records import Quadratic
from .softmax import quadratic_form

__all__ = ["TOLERANCE", "Gap", "bend", "check", "gap_of", "refuse", "refuse_rows"]

TOLERANCE = 1e-12
"""Relative to the terms that a gap is the sum of: a few thousand times the rounding error of float64, far below a wrong bound's."""
_LEAST = 1e-3
"""A log likelihood near 0 is the logarithm of a number near 1, and good to 1e-16 at best; 1e-15 nats are forgiven it."""


class Gap(NamedTuple):
    """How far the likelihood lies above the bound. gap, tolerance: (obs,), nats; the bound is refuted where gap < -tolerance."""

    gap: Array
    tolerance: Array

    @classmethod
    def of(cls, *terms: Any, rounding: Any = 0.0) -> "Gap":
        """The gap that is the sum of some terms, each good to a few units in the last place and, all together, to `rounding`."""
        return cls(functools.reduce(jnp.add, terms), TOLERANCE * (sum(jnp.abs(x) for x in terms) + _LEAST) + rounding)

    @property
    def refuted(self):
        """(obs,) bool; a gap that is NaN is refuted too."""
        return ~(self.gap >= -self.tolerance)

    @property
    def clamped(self):
        """The gap with rounding taken away: at least 0 where the bound holds, NaN where it is refuted."""
        return jnp.where(self.refuted, jnp.nan, jnp.maximum(self.gap, 0.0))


def gap_of(log_likelihood, bound: Quadratic, offset, reference: bool = True) -> Gap:
    """The gap at an offset from the anchor, from values of the likelihood, of which it is a small difference. Pure JAX.

    Args:
        log_likelihood: l(a + offset), (obs,), float64.
        bound: of the same rows.
        offset: t, (obs,) or (obs, K), float64.
        reference: for K logits, whether they stand beside one that is fixed at 0.

    Returns:
        Gap, (obs,).
    """
    linear = bound.slope * offset
    linear = (linear,) if offset.ndim == 1 else tuple(jnp.moveaxis(linear, -1, 0))
    return Gap.of(log_likelihood, -bound.value, *(-x for x in linear), bend(bound, offset, reference), rounding=bound.rounding)


def bend(bound: Quadratic, offset, reference: bool = True):
    """By how much the parabola falls short of its tangent at the anchor: curvature t^2 / 2, or curvature t' A t / 2."""
    return bound.curvature * (offset**2 if offset.ndim == 1 else quadratic_form(offset, reference)) / 2


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
    refuse(np.asarray(found.gap), np.asarray(found.refuted), np.asarray(offset), rows, what)


def refuse(gap: np.ndarray, refuted: np.ndarray, offset: np.ndarray, rows: Any = None, what: str = "the bound") -> None:
    """Refuse a bound that is refuted, from what was found at some offsets: (obs,) each.

    Raises:
        BoundError: names the worst row.
    """
    if not refuted.any():
        return
    worst = int(np.argmin(np.where(refuted, np.where(np.isnan(gap), -np.inf, gap), np.inf)))
    row = worst if rows is None else int(np.asarray(rows)[worst])
    raise BoundError(
        f"{what} does not hold at row {row}: at the offset {offset[worst]} of its linear predictor it is {-gap[worst]:.3g} nats above the "
        f"log likelihood ({int(refuted.sum())} of {refuted.size} rows checked are refuted); a registered bound must return a curvature no "
        "smaller than the supremum of -l'' between anchor and offset, and the slope l'(anchor)."
    )


def refuse_rows(name: str, kinks: Sequence[str], bound: Quadratic, rows=None) -> None:
    """Refuse rows whose curvature is not finite, or whose anchor the likelihood is not finite at.

    Args:
        name: of the likelihood. kinks: primitives at which its curvature may be unknown.
        bound: of some rows; `rows` are their numbers in the data, None counts from 0.

    Raises:
        BoundError: names the first such row, and the primitives that may be the cause.
    """
    numbers = np.stack([np.asarray(x).reshape(np.shape(x)[0], -1).sum(-1) for x in bound[:3]], axis=-1)
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
