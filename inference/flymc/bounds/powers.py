"""Powers of likelihoods, s log L with s >= 0 by row: survey weights, tempering. A bound of log L times s is one of s log L."""

from typing import Any

import jax.numpy as jnp

from ....ppl.factors import POWER
from .records import Row

__all__ = ["POWER", "power_of", "times"]


def power_of(params: Row) -> tuple[Any, Row]:
    """(s by rows in float64, or None; the likelihood's own parameters)."""
    if POWER not in params:
        return None, params
    return jnp.asarray(params[POWER]).astype(jnp.float64), {name: x for name, x in params.items() if name != POWER}


def times(power: Any, x: Any) -> Any:
    """s x by rows, x (obs, ...)."""
    return x if power is None else power.reshape(power.shape + (1,) * (x.ndim - power.ndim)) * x
