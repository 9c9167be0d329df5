"""Which events of a site count: what the masks around a distribution leave of it."""

import math
from typing import Any

import jax.numpy as jnp
from numpyro.distributions import Distribution

from .spec import peel

__all__ = ["counted"]


def counted(dist: Distribution) -> Any:
    """Bool, of the batch shape: where an event has a density at all. An event counts if any part of it does.

    A masked event has log probability 0 in NumPyro, which is right in a sum and wrong as the number of an observation.
    """
    base, masks = peel(dist)
    batch = len(dist.batch_shape)
    shape = tuple(dist.shape())[: batch + dist.event_dim - base.event_dim]
    used: Any = True
    for mask, level in masks:
        mask = jnp.asarray(mask)
        used = used & mask.reshape(mask.shape + (1,) * (level - base.event_dim))
    used = jnp.broadcast_to(used, shape)
    inside = tuple(range(batch, len(shape)))
    return used.any(inside) if math.prod(shape[batch:]) else used.all(inside)
