"""What the modules of Firefly Monte Carlo exchange: the rows with their bounds, and which of them are bright."""

from typing import Any, NamedTuple

from jax import Array

__all__ = ["BoundData", "BrightSet", "Natural", "Point"]


class Natural(NamedTuple):
    """What the likelihoods of the rows depend on; also a derivative in that direction.

    Attributes:
        shift: (d,), or (d, predictors). The coefficients less those that the bounds are made around: t_n = rows[n] @ shift.
        shared: latent parameters of the likelihood that are no predictor, scalars by name.
    """

    shift: Array
    shared: dict[str, Array]


class BoundData(NamedTuple):
    """Everything about the data that is computed once. All arrays, an argument of compiled programs.

    A row's predictor is eta_n = anchor_n + t_n, and its bound, for |metric @ shift| <= radius, the one of its kind (`Kind`) less `dimming`.

    Attributes:
        rows: (obs, d), in the data's float type. anchor: (obs,), or (obs, predictors). params: the rows' parameters by name, (obs,) each.
        bound: the bounds' own numbers, (obs, ...) each.
        dimming: (obs,), nats, at least 0: by how much a bound is lowered below its tangent, so that no row's log odds are unbounded.
        rate: (obs,), above 0. A dark row is proposed with probability q_n = 1 - exp(-rate_n). Never changed while sampling.
        cumulative: (obs,). Running sum of the rates. poisson: distribution function of a Poisson variable with mean sum(rate).
        moments: of the bounds, from which their sum is known.
        metric: (m, size of the coefficients). radius: ().
        centre: (dim,), (near) the mode. scale: (dim, dim). position = centre + scale @ w, w whitened by the bounds.
        origin: the coefficients at the centre.
        matrix: of an affine map to the coefficients, (size of the coefficients, dim), or the numbers of the coordinates that they are,
            int32 (size of the coefficients,); nothing, (0,), if there is none.
        data: leaves of the log density. constants: what tracing the rest of the model lifted out of it.
    """

    rows: Array
    anchor: Array
    params: dict[str, Array]
    bound: Any
    dimming: Array
    rate: Array
    cumulative: Array
    poisson: Array
    moments: Any
    metric: Array
    radius: Array
    centre: Array
    scale: Array
    origin: Array
    matrix: Array
    data: Any
    constants: Any


class BrightSet(NamedTuple):
    """The bright rows: the first `count` entries.

    Attributes:
        index: int32, (capacity,). Numbers of the rows.
        gap: (capacity,), nats. log L_n - log B_n at the chain's point.
        pull: derivative of the gap by the row's predictors and by the shared parameters, (capacity, ...) each.
        count: int32, ().
    """

    index: Array
    gap: Array
    pull: Natural
    count: Array


class Point(NamedTuple):
    """Where a chain is, and what is known there without the bright rows.

    Attributes:
        position: (dim,). natural: what the rows see of it.
        inside: bool, (). Whether the bounds hold here.
        base: (), nats. Inside: log prior + sum_n log B_n. Outside: the log density, less the sum of all rates.
    """

    position: Array
    natural: Natural
    inside: Array
    base: Array
