"""From a rule to quadratics, over all rows: float64 inside whatever the run's precision, in tiles, compiled once per rule and shape.

A chord in closed form is the best curvature there is; rules that have none get the piecewise one.
"""

import functools

import jax
import jax.numpy as jnp

from ....transforms.bounded import bounded_jit
from ..tiles import in_tiles
from .majorant import majorant
from .records import Quadratic, Row, Rule, ScaleTangent

__all__ = ["everywhere_quadratic", "local_quadratic", "prepared", "scale_tangent"]


def _spread(x, num: int, widen: bool = True):
    """A row parameter with a leading axis of rows; scalars are shared by all rows."""
    x = jnp.asarray(x)
    x = x.astype(jnp.float64) if widen else x
    return jnp.broadcast_to(x, (num,)) if x.ndim == 0 else x


def _with_slope(rule: Rule, anchor, row: Row, curvature, radius=0.0) -> Quadratic:
    """The quadratic of that curvature; terms of l are largest at the ends of the ball, if not at the anchor."""
    ends = (rule.error(anchor + part * radius, row) for part in (-1.0, 0.0, 1.0))
    rounding = functools.reduce(jnp.fmax, ends)
    value = rule.log_likelihood(anchor, row)
    return Quadratic(value, rule.slope(anchor, row) + 0 * anchor, curvature, rounding + 0 * anchor, value)


@bounded_jit(static_argnums=0)
def _local(rule: Rule, anchor, radius, row: Row) -> Quadratic:
    def one_tile(anchor, radius, row):
        curvature = majorant(rule, anchor, radius, row) if rule.chord is None else rule.chord(anchor, radius, row)
        return _with_slope(rule, anchor, row, curvature, radius)

    return in_tiles(one_tile, anchor, radius, row)


@bounded_jit(static_argnums=0)
def _everywhere(rule: Rule, anchor, row: Row) -> Quadratic:
    def one_tile(anchor, row):
        assert rule.everywhere is not None
        return _with_slope(rule, anchor, row, rule.everywhere(anchor, row))

    return in_tiles(one_tile, anchor, row)


@bounded_jit(static_argnums=0)
def _tangent(rule: Rule, touching, row: Row) -> ScaleTangent:
    def one_tile(touching, row):
        assert rule.residual_tangent is not None
        weight = rule.residual_tangent(touching**2, row)
        unit = {**row, "value": jnp.zeros_like(touching), "scale": jnp.ones_like(touching)}
        level = rule.log_likelihood(touching, unit)
        return ScaleTangent(level + weight * touching**2, weight, touching)

    return in_tiles(one_tile, touching, row)


def prepared(rule: Rule, anchor, row: Row):
    """The predictor in float64 and the row's parameters as the rule wants them, each with the axis of rows."""
    anchor = jnp.asarray(anchor).astype(jnp.float64)
    return anchor, {name: _spread(x, anchor.shape[0], rule.widen) for name, x in row.items()}


def local_quadratic(rule: Rule, anchor, radius, row: Row) -> Quadratic:
    """The quadratic of every row on its ball; see `bounds.local_bound`."""
    rule.prove()
    with jax.enable_x64(True):
        anchor, row = prepared(rule, anchor, row)
        radius = _spread(radius, anchor.shape[0])
        return _local(rule, anchor, radius, row)


def everywhere_quadratic(rule: Rule, anchor, row: Row) -> Quadratic | None:
    """The quadratic of every row that holds on the whole line, or None; see `bounds.global_bound`."""
    if rule.everywhere is None:
        return None
    with jax.enable_x64(True):
        return _everywhere(rule, *prepared(rule, anchor, row))


def scale_tangent(rule: Rule, anchor, scale, row: Row) -> ScaleTangent | None:
    """The bound for every predictor and scale, tangent at the anchor, or None; see `bounds.scale_bound`."""
    if rule.residual_tangent is None:
        return None
    with jax.enable_x64(True):
        anchor, row = prepared(rule, anchor, row)
        scale = _spread(scale, anchor.shape[0])
        return _tangent(rule, jnp.abs(row["value"] - anchor) / scale, row)
