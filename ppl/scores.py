"""What a site adds to a log density, element by element: its log probability, and the Jacobian of its coordinates."""

import math
from typing import Any

import jax.numpy as jnp
from numpyro.distributions import Distribution, Unit

from .log_probs import better
from .spec import peel

__all__ = ["idle", "log_prob_of", "masked_jacobian", "scaled", "total_of"]


def log_prob_of(dist: Distribution, value: Any) -> Any:
    """The log probability of each event. Of a value without elements it is 0, which not all of NumPyro's can compute.

    A factor is the log probability of an event that has no elements.
    """
    if jnp.size(value) or isinstance(peel(dist)[0], Unit):
        return better(dist).log_prob(value)
    return jnp.zeros(jnp.shape(value)[: jnp.ndim(value) - dist.event_dim], jnp.result_type(float))


def masked_jacobian(bijection: Any, u: Any, value: Any, dist: Distribution) -> Any:
    """log |det d value / d u|, and zero where the site is masked: a masked element has no density at all, and stays flat in u."""
    if not jnp.size(value):
        return jnp.zeros((), jnp.result_type(float))
    log_det = bijection.log_abs_det_jacobian(u, value)
    for mask, event_dim in peel(dist)[1]:
        if event_dim == dist.event_dim:
            log_det = jnp.where(mask, log_det, 0.0)
    return log_det


def idle(u: Any, missing: Any) -> Any:
    """log N(u; 0, 1) of the coordinates that belong to no missing element: they touch nothing and need a density of their own."""
    missing = missing.reshape(*missing.shape, *(1 for _ in range(u.ndim - missing.ndim)))
    return jnp.sum(jnp.where(missing, 0.0, -0.5 * u**2 - 0.5 * math.log(2 * math.pi)))


def scaled(log_prob: Any, scale: Any) -> Any:
    return log_prob if scale is None else scale * log_prob


def total_of(x: Any) -> Any:
    """The sum over all elements. A scalar is left as it is: a sum over no axes is one more equation to trace and differentiate."""
    return x if jnp.ndim(x) == 0 else jnp.sum(x)
