"""What is checked while a model is traced, before anything runs. Every message names the site and says what to write instead."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from numpyro.distributions import Distribution

from ..transforms import ModelError
from .spec import Plate, distribution_name, peel

__all__ = ["check_observation", "check_shape", "check_value"]


def check_value(value: Any, name: str, what: str) -> Any:
    """`value` as a JAX or NumPy array of canonical dtype, or a `ModelError`.

    Concrete values stay NumPy arrays: under a trace `jnp.asarray` would hide them from the checks that follow.
    """
    if isinstance(value, jax.Array):  # tracers are jax.Arrays too
        return value
    try:
        array = np.asarray(value)
        if array.dtype == object or not (np.issubdtype(array.dtype, np.number) or array.dtype == bool):
            raise TypeError
        return array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)
    except (TypeError, ValueError):
        raise ModelError(
            f"site {name!r}: {what} is a {type(value).__module__}.{type(value).__name__}; expected a number or a numeric array. "
            "Convert it first, for example `jnp.asarray(x)`, `series.to_numpy()`, or integer codes for labels."
        ) from None


def check_shape(name: str, dist: Distribution, value: Any, plates: Sequence[Plate]) -> tuple[int, ...]:
    """The shape of an observed site, the broader of the two, or a `ModelError` if distribution, plates and observation do not fit."""
    shape, expected = np.shape(value), tuple(dist.shape())
    event_shape = tuple(dist.event_shape)
    fits = len(shape) >= len(event_shape) and (not event_shape or shape[len(shape) - len(event_shape) :] == event_shape)
    broadcast = shape
    if fits:
        try:
            broadcast = np.broadcast_shapes(shape, expected)
        except ValueError:
            fits = False
        else:
            fits = broadcast == shape or (broadcast == expected and not plates)
    if not fits:
        raise ModelError(
            f"site {name!r}: the observed value has shape {shape}, and {distribution_name(dist)} has shape {expected} "
            f"(batch {tuple(dist.batch_shape)}, event {event_shape}){_plate_words(plates)}. Give an observation of the distribution's "
            "shape, or change the plate's size or the distribution's arguments to fit the data."
        )
    return broadcast


def check_observation(name: str, dist: Distribution, value: Any) -> None:
    """Refuse NaN and values outside the support, where value and support are known at trace time."""
    if isinstance(value, Tracer) or value.size == 0:
        return
    value = np.asarray(value)
    base, masks = peel(dist)  # element by element: what is NaN, or outside, inside a larger event can be masked on its own
    used = _used(masks, base.event_dim, value.shape[: value.ndim - base.event_dim])
    if used is None:
        return
    if np.issubdtype(value.dtype, np.inexact):
        nan = np.isnan(value).any(axis=tuple(range(used.ndim, value.ndim)))
        if (nan & used).any():
            raise ModelError(
                f"site {name!r}: the observed value is NaN at index {_first(nan & used)} ({int((nan & used).sum())} of {nan.size} in "
                "all). Drop these rows; or have them imputed, `lc.sample(name, fn, obs=y, obs_mask=~jnp.isnan(y))`; or leave them out of "
                "the density, `with numpyro.handlers.mask(mask=~jnp.isnan(y))`."
            )
    support = base.support
    if support is None or any(isinstance(x, Tracer) for x in jax.tree.leaves(support)):
        return
    with jax.ensure_compile_time_eval():
        inside = support(value)
    if isinstance(inside, Tracer):
        return
    outside = ~np.broadcast_to(np.asarray(inside), used.shape) & used
    if outside.any():
        index = _first(outside)
        raise ModelError(
            f"site {name!r}: the observed value {value[index]} at index {index} ({int(outside.sum())} of {outside.size} in all) is "
            f"outside the support of {distribution_name(dist)}, {support}. Check the data's coding, or choose another distribution."
        )


def _used(masks: Sequence[tuple[Any, int]], event_dim: int, shape: tuple[int, ...]) -> np.ndarray | None:
    """Which elements of the base distribution count, or None when that is only known at run time."""
    used = np.ones(shape, bool)
    for mask, level in masks:
        if isinstance(mask, Tracer):
            return None
        mask = np.asarray(mask)
        used &= np.broadcast_to(mask.reshape(mask.shape + (1,) * (level - event_dim)), shape)
    return used


def _first(where: np.ndarray) -> Any:
    index = tuple(int(i) for i in np.argwhere(where)[0])
    return index[0] if len(index) == 1 else index


def _plate_words(plates: Sequence[Plate]) -> str:
    words = ", ".join(f"{p.name!r} of size {p.size} at dimension {p.dim}" for p in plates)
    return f", in the plate {words}" if words else ""
