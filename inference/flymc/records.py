"""What the rooms of Firefly Monte Carlo hand to one another: the rows with their bounds, and which of them are bright."""

from typing import Any, NamedTuple

from jax import Array

from .bounds import Quadratic

__all__ = ["Fireflies", "Lit", "Point"]


class Fireflies(NamedTuple):
    """Everything about the data that is computed once. All arrays, an argument of compiled programs.

    Coordinates are whitened: u = centre + scale @ w for a position u. The predictor of a row is eta_n = anchor_n + t_n, t_n = rows[n] @ w,
    and its bound, on the ball |metric @ w| <= radius,

        log B_n(w) = value_n - dimming_n + slope_n t_n - curvature_n t_n^2 / 2,    sum_n log B_n = level + tilt @ w - w' bend w / 2.

    Attributes:
        rows: (obs, dim), in the run's float type; by definition these, and `anchor`, are the data.
        anchor: (obs,), float64. params: the rows' parameters by name, (obs,) each.
        bound: Quadratic, (obs,) each, float64.
        dimming: (obs,), nats, at least 0: by how much a bound is lowered below its tangent, so that no row's log odds are unbounded.
        rate: (obs,), at least 0. A dark row is proposed with probability q_n = 1 - exp(-rate_n). Never changed while sampling.
        cumulative: (obs,). Running sum of the rates. poisson: distribution function of a Poisson variable with mean sum(rate).
        level: (). tilt: (dim,). bend: (dim, dim). Sufficient statistics of the bounds.
        centre: (dim,). scale: (dim, dim). metric: (dim, dim). radius: ().
        prior_data: leaves of the log density, for the rest of the model.
    """

    rows: Array
    anchor: Array
    params: dict[str, Array]
    bound: Quadratic
    dimming: Array
    rate: Array
    cumulative: Array
    poisson: Array
    level: Array
    tilt: Array
    bend: Array
    centre: Array
    scale: Array
    metric: Array
    radius: Array
    prior_data: Any


class Lit(NamedTuple):
    """The bright rows: the first `count` entries.

    Attributes:
        index: int32, (capacity,). Numbers of the rows.
        gap: (capacity,), nats. log L_n - log B_n at the chain's point.
        pull: (capacity,). Derivative of the gap by the row's predictor.
        count: int32, ().
    """

    index: Array
    gap: Array
    pull: Array
    count: Array


class Point(NamedTuple):
    """Where a chain is, and what is known there without the bright rows.

    Attributes:
        w: (dim,). Whitened.
        inside: bool, (). Whether the bounds hold here.
        base: (), nats. Inside: log prior + sum_n log B_n. Outside: the log density, less the sum of all rates.
        force: (dim,). Gradient of log prior + sum_n log B_n.
    """

    w: Array
    inside: Array
    base: Array
    force: Array
