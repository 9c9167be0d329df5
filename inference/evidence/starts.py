"""Where a path starts if not at draws from the prior: a normal distribution, wider than the one that was fitted to the posterior."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from .roots import Root

__all__ = ["Normal", "draw", "log_density"]


class Normal(NamedTuple):
    """N(mean, R R'). mean: (dim,). root: R."""

    mean: jax.Array
    root: Root


def draw(start: Normal, normal: jax.Array) -> jax.Array:
    """A draw (dim,), from independent standard normal numbers (dim,)."""
    return start.mean + start.root.apply(normal)


def log_density(start: Normal, normal: jax.Array) -> jax.Array:
    """Log density, nats, of the draw that is made from the same numbers."""
    dim = normal.shape[0]
    return -0.5 * jnp.vdot(normal, normal) - 0.5 * dim * math.log(2 * math.pi) - start.root.log_det()
