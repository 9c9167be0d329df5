"""Euclidean metrics: the kinetic energy K(p) = p' S p / 2 with S the inverse mass matrix, diagonal or dense.

S is an estimate of the posterior covariance. A diagonal S is stored as its diagonal; the rank of the array, static, decides.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from .coordinates import Per, dots
from .layout import Layout

__all__ = ["Metric", "kinetic_energy", "metric_of", "momentum", "velocity"]


class Metric(NamedTuple):
    """A Euclidean metric.

    Attributes:
        inverse_mass: S, shape (dim,) or (dim, dim).
        factor: F with F F' = S^-1, so that F z with z ~ N(0, I) has covariance S^-1; same shape.
    """

    inverse_mass: jax.Array
    factor: jax.Array


def metric_of(inverse_mass: jax.Array) -> Metric:
    """The metric with inverse mass matrix S, shape (dim,) or (dim, dim): for S = L L', F is L'^-1."""
    if inverse_mass.ndim == 1:
        return Metric(inverse_mass, jax.lax.rsqrt(inverse_mass))
    lower = jnp.linalg.cholesky(inverse_mass)
    identity = jnp.eye(inverse_mass.shape[0], dtype=inverse_mass.dtype)
    return Metric(inverse_mass, solve_triangular(lower, identity, lower=True, trans="T"))


def momentum(metric: Metric, noise: jax.Array) -> jax.Array:
    """A momentum from N(0, S^-1), shape (dim,), made of standard normal `noise`, shape (dim,)."""
    return _apply(metric.factor, noise)


def velocity(metric: Metric, p: jax.Array) -> jax.Array:
    """dK/dp = S p, shape (dim,)."""
    return _apply(metric.inverse_mass, p)


def kinetic_energy(metric: Metric, p: jax.Array, layout: Layout | None = None, per: Per = Per.TRANSITION) -> jax.Array:
    """K(p) in nats, shape (); `layout` where the coordinates lie split over devices, `per` how often."""
    (square,) = dots(layout, (p, velocity(metric, p)), per=per)
    return 0.5 * square


def _apply(matrix, vector):
    return matrix * vector if matrix.ndim == 1 else matrix @ vector
