"""The kinds of lower bounds whose sum over all rows is known in closed form, from moments of the design matrix.

    Parabola    log B_n = value_n + slope_n' t - curvature_n t' A t / 2                    on a ball, or everywhere; A = 1 for one predictor
    Residual    log B_n = constant_n - weight_n ((r_n - t) / sigma)^2 - log sigma           everywhere, for a scale sigma that is not known

with t the offset of the row's predictor, t_n = x_n' shift, and r_n = y_n - anchor_n.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp

from ...ppl.factors import Family
from .bounds import (
    POWER,
    Gap,
    Quadratic,
    ScaleTangent,
    boehning,
    gap,
    global_bound,
    has_reference,
    is_softmax,
    local_bound,
    residual_gap,
    scale_bound,
    touches,
    untuned_anchor,
)
from .records import Natural

__all__ = ["Kind", "Moments", "Parabola", "Residual"]


class Moments(NamedTuple):
    """Sums over rows: level (), tilt (d,) or (d, predictors), gram (d, d), number of rows (), or of their powers."""

    level: Any
    tilt: Any
    gram: Any
    rows: Any


class Kind(Protocol):
    """One kind of bound; frozen. In every method `bound`, `params`, `anchor` are those of some rows."""

    @property
    def family(self) -> Family: ...
    @property
    def on_ball(self) -> bool:
        """Whether bounds hold on a ball only."""
        ...

    def fit(self, anchor, radius, params, shared) -> Any:
        """The bounds of rows, from predictors at the centre, their balls and the shared parameters there; None if there is none."""
        ...

    def gap(self, bound, anchor, offset, params, shared) -> Gap:
        """log L_n - log B_n, without dimming; `shared` are scalars or, like the others, by rows."""
        ...

    def touches(self, bound, anchor, params) -> Any:
        """Whether bounds agree with the likelihood at the anchor as they should, (obs,) bool."""
        ...

    def moments(self, design, bound, anchor, params, dimming) -> Moments:
        """Sums over these rows."""
        ...

    def total(self, moments: Moments, natural: Natural) -> Any:
        """sum_n log B_n, ()."""
        ...

    def slope(self, moments: Moments, natural: Natural) -> Natural:
        """The derivative of `total`; in closed form, because half of the work of a derived one is lost on a symmetric matrix."""
        ...


@dataclass(frozen=True)
class Parabola:
    """Parabolas in the predictors, on a ball or (not `on_ball`) everywhere; if `untuned`, made without knowledge of the mode."""

    family: Family
    on_ball: bool
    untuned: bool = False

    def fit(self, anchor, radius, params, shared) -> Quadratic | None:
        if self.on_ball:
            return local_bound(self.family, anchor, radius, params)
        touching, moved = self._touching(anchor, params)
        bound = global_bound(self.family, touching, params)
        return bound if bound is None or not self.untuned else self._seen_from(bound, moved)

    def _seen_from(self, bound: Quadratic, moved) -> Quadratic:
        """The same parabolas in the offset from other anchors."""
        bent = bound.curvature.reshape(-1, *(1,) * (moved.ndim - 1)) * moved
        if is_softmax(self.family):
            bent = bent @ boehning(bent.shape[1], has_reference(self.family))
        rise = ((bound.slope - 0.5 * bent) * moved).reshape(len(moved), -1).sum(1)
        return bound._replace(value=bound.value + rise, slope=bound.slope - bent, level=bound.level + rise)

    def gap(self, bound, anchor, offset, params, shared) -> Gap:
        touching, moved = self._touching(anchor, params)
        return gap(self.family, bound, touching, moved + offset, params)

    def touches(self, bound, anchor, params):
        if self.untuned:  # seen from elsewhere
            return jnp.ones(len(anchor), bool)
        return touches(self.family, bound, anchor, params)

    def _touching(self, anchor, params):
        """Where the parabola touches the likelihood, and how far the anchor is from there."""
        touching = untuned_anchor(self.family, anchor, params) if self.untuned else anchor
        return touching, anchor - touching

    def moments(self, design, bound, anchor, params, dimming) -> Moments:
        gram = design.T @ (bound.curvature[:, None] * design)
        return Moments((bound.value - dimming).sum(), design.T @ bound.slope, gram, jnp.float64(len(design)))

    def total(self, moments, natural):
        return moments.level + jnp.vdot(moments.tilt - 0.5 * self._bent(moments, natural.shift), natural.shift)

    def slope(self, moments, natural):
        return Natural(moments.tilt - self._bent(moments, natural.shift), {})

    def _bent(self, moments, shift):
        bent = moments.gram @ shift
        return bent @ boehning(bent.shape[1], has_reference(self.family)) if is_softmax(self.family) else bent


@dataclass(frozen=True)
class Residual:
    """Parabolas in the residual over an unknown scale."""

    family: Family
    on_ball: bool = False

    def fit(self, anchor, radius, params, shared) -> ScaleTangent | None:
        return scale_bound(self.family, anchor, shared["scale"], params)

    def gap(self, bound, anchor, offset, params, shared) -> Gap:
        return residual_gap(self.family, bound, params["value"] - anchor - offset, shared["scale"], params)

    def touches(self, bound, anchor, params):
        return jnp.ones(anchor.shape, bool)  # everywhere where the residual has its size; tangents are made for no place of their own

    def moments(self, design, bound, anchor, params, dimming) -> Moments:
        residual = params["value"] - anchor
        level = jnp.stack([(bound.constant - dimming).sum(), (bound.weight * residual**2).sum()])
        gram = design.T @ (bound.weight[:, None] * design)
        rows = params.get(POWER, jnp.ones(len(design))).sum()
        return Moments(level, design.T @ (bound.weight * residual), gram, rows)

    def total(self, moments, natural):
        scale, shift = natural.shared["scale"], natural.shift
        squares = moments.level[1] - jnp.vdot(2 * moments.tilt - moments.gram @ shift, shift)
        return moments.level[0] - squares / scale**2 - moments.rows * jnp.log(scale)

    def slope(self, moments, natural):
        scale, shift = natural.shared["scale"], natural.shift
        half = moments.tilt - moments.gram @ shift
        squares = moments.level[1] - jnp.vdot(moments.tilt + half, shift)
        return Natural(2 * half / scale**2, {"scale": 2 * squares / scale**3 - moments.rows / scale})
