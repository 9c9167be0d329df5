"""Where a path starts if not at draws from the prior: a normal distribution, wider than the posterior it was fitted to."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from .roots import Root

__all__ = ["Normal", "draw", "log_density"]


class Normal(NamedTuple):
    """N(mean, inflate^2 S S'). mean: (dim,). root: S. inflate: k, ()."""

    mean: jax.Array
    root: Root
    inflate: jax.Array


def draw(start: Normal, normal: jax.Array) -> jax.Array:
    """A draw (dim,), from independent standard normal numbers (dim,)."""
    return start.mean + start.inflate * start.root.apply(normal)


def log_density(start: Normal, normal: jax.Array) -> jax.Array:
    """Log density, nats, of the draw that was made from the same numbers."""
    dim = normal.shape[0]
    volume = dim * jnp.log(start.inflate) + start.root.log_det()
    return -0.5 * jnp.vdot(normal, normal) - 0.5 * dim * math.log(2 * math.pi) - volume
