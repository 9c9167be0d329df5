"""Sums over states, and what the gradient of each recovers.

With a term f_z (zero) added to the log probability of every state of every site, d log Z / d f_z is the posterior probability of the
state. If the linearization of log sum exp picks one term instead of weighing all, the transpose of the whole computation, loops
included, follows one path back: a joint draw (pick by Gumbel noise) or the most probable path (pick the largest).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ...transforms import defines_linearization

__all__ = ["Draw", "LogSum", "Most"]


def _log_sum_exp(x: Any, axis: int) -> Any:
    """Without a guard against -inf for the derivative, which is never this expression's but the one that is given with it."""
    largest = jnp.max(x, axis, keepdims=True)
    largest = jnp.where(jnp.isfinite(largest), largest, 0.0)
    return jnp.log(jnp.sum(jnp.exp(x - largest), axis)) + jnp.squeeze(largest, axis)


class LogSum:
    """log sum exp over one axis. Where every term is -inf so is the sum, and its derivative is zero."""

    def __call__(self, x: Any, axis: int) -> Any:
        x = jnp.moveaxis(x, axis, 0)
        return _summed(x)

    def for_turns(self, count: int) -> tuple[Any, Callable[[Any], "LogSum"]]:
        """What differs from turn to turn of a loop, to be scanned over, and the sum of one turn."""
        return None, lambda _: self


@defines_linearization(lambda x: _log_sum_exp(x, 0))
def _summed(x: Any) -> Any:
    value = _log_sum_exp(x, 0)
    weights = jnp.exp(x - jnp.where(jnp.isfinite(value), value, 0.0))
    return value, lambda dx: jnp.sum(weights * dx, 0)


class Draw:
    """log sum exp whose derivative is that of one term, drawn with its probability (the largest after Gumbel noise)."""

    def __init__(self, key: Any) -> None:
        self._key, self._used = key, 0

    def _next(self) -> Any:
        self._used += 1
        return jax.random.fold_in(self._key, self._used)

    def __call__(self, x: Any, axis: int) -> Any:
        x = jnp.moveaxis(x, axis, 0)
        return _drawn(x, jax.random.gumbel(self._next(), x.shape, x.dtype))

    def for_turns(self, count: int) -> tuple[Any, Callable[[Any], "Draw"]]:
        return jax.random.split(self._next(), count), Draw


@defines_linearization(lambda x, noise: _log_sum_exp(x, 0))
def _drawn(x: Any, noise: Any) -> Any:
    chosen = jax.nn.one_hot(jnp.argmax(x + noise, 0), x.shape[0], axis=0, dtype=x.dtype)
    return _log_sum_exp(x, 0), lambda dx, _: jnp.sum(chosen * dx, 0)


class Most:
    """The largest term in the place of the sum."""

    def __call__(self, x: Any, axis: int) -> Any:
        return _largest(jnp.moveaxis(x, axis, 0))

    def for_turns(self, count: int) -> tuple[Any, Callable[[Any], "Most"]]:
        return None, lambda _: self


@defines_linearization(lambda x: jnp.max(x, 0))
def _largest(x: Any) -> Any:
    chosen = jax.nn.one_hot(jnp.argmax(x, 0), x.shape[0], axis=0, dtype=x.dtype)
    return jnp.max(x, 0), lambda dx: jnp.sum(chosen * dx, 0)
