"""Where a path starts: a draw from the prior, or from a normal distribution, wider than the one that was fitted to the posterior."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .objective import Objective
from .roots import Root

__all__ = ["Normal", "draw", "log_density", "restart_keys", "start_at"]


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


def restart_keys(key: jax.Array, number: Any) -> jax.Array:
    """The keys of a restart, (3,): of its start, of its guard, of its probes. They do not depend on how many restarts there are."""
    return jax.random.split(jax.random.fold_in(key, number), 3)


def start_at(objective: Objective, data: Sequence[Any], start: Normal | None, key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Where a restart begins, (dim,), log q_0 there, nats, and the standard normal numbers that made it, (dim,); None is the prior, which
    has numbers of its own and leaves none."""
    dim, dtype = objective.layout.dim, objective.layout.dtype
    if start is None:
        position = objective.draw(data, key)
        return position, objective.log_prior(data, position), jnp.zeros((0,), dtype)
    normal = jax.random.normal(key, (dim,), dtype)
    return draw(start, normal), log_density(start, normal), normal
