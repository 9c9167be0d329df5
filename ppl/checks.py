"""What is checked of a site while a model is traced, before anything runs. Every message names it and says what to write instead."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from numpyro.distributions import CategoricalLogits, CategoricalProbs, Distribution, Unit

from ..transforms import LucioleWarning, ModelError
from .spec import Plate, distribution_name, peel

__all__ = ["MissingPlateWarning", "check_observation", "check_shape", "check_values", "coded"]


class MissingPlateWarning(LucioleWarning):
    """An observation has more dimensions than its distribution and the plates around it."""


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
            fits = broadcast == shape or (broadcast == expected and (not plates or isinstance(peel(dist)[0], Unit)))
    if not fits:
        raise ModelError(
            f"site {name!r}: the observed value has shape {shape}, and {distribution_name(dist)} has shape {expected} "
            f"(batch {tuple(dist.batch_shape)}, event {event_shape}){_plate_words(plates)}. Give an observation of the distribution's "
            "shape, or change the plate's size or the distribution's arguments to fit the data."
        )
    if plates and math.prod(broadcast[: len(broadcast) - len(expected)]) > 1:
        _warn_of_rows(name, dist, broadcast, plates)
    return broadcast


def _warn_of_rows(name: str, dist: Distribution, shape: tuple[int, ...], plates: Sequence[Plate]) -> None:
    """Warn that rows of an observation that no plate accounts for are taken for independent copies."""
    extra = len(shape) - len(dist.shape())
    dim = len(dist.event_shape) - len(shape) + extra - 1
    warnings.warn(
        f"site {name!r}: the observed value has shape {shape}, and {distribution_name(dist)} has shape {tuple(dist.shape())}"
        f"{_plate_words(plates)}: the {math.prod(shape[:extra])} rows in front count as independent observations of the same distribution. "
        f"If that is meant, write a plate for them: `lc.plate(name, {shape[extra - 1]}, dim={dim})`.",
        MissingPlateWarning,
        stacklevel=2,
    )


def coded(dist: Distribution, value: Any) -> Any:
    """Labels as the integers that they are: a distribution over categories picks by them, and cannot by 1.0 or True."""
    if isinstance(value, Tracer) or not isinstance(peel(dist)[0], (CategoricalLogits, CategoricalProbs)) or value.dtype.kind not in "bf":
        return value
    codes = np.asarray(value)
    if not np.isfinite(codes).all() or (codes != np.trunc(codes)).any():
        return value
    return codes.astype(jax.dtypes.canonicalize_dtype(int))


def check_observation(name: str, dist: Distribution, value: Any) -> None:
    """Refuse NaN and values outside the support, where value and support are known at trace time."""
    if isinstance(value, Tracer) or value.size == 0:
        return
    value = np.asarray(value)
    base, masks = peel(dist)  # element by element: what is NaN, or outside, inside a larger event can be masked on its own
    used = _used(masks, base.event_dim, value.shape[: value.ndim - base.event_dim])
    if used is not None:
        check_values(name, base, value, used, base.support)


def check_values(name: str, base: Distribution, value: np.ndarray, used: np.ndarray, support: Any) -> None:
    """Refuse NaN and values outside a support.

    Args:
        name: of the site.
        base: its distribution without masks.
        value: batch + event of `base`, or with further axes in front.
        used: bool, the shape of `value` without the event: which elements count.
        support: of `base`, or None if it is not known.
    """
    if np.issubdtype(value.dtype, np.inexact):
        nan = np.isnan(value).any(axis=tuple(range(used.ndim, value.ndim)))
        if (nan & used).any():
            raise ModelError(
                f"site {name!r}: the observed value is NaN at index {_first(nan & used)} ({int((nan & used).sum())} of {nan.size} in "
                "all). Drop these rows; or have them imputed, `lc.sample(name, fn, obs=y, obs_mask=~jnp.isnan(y))`; or leave them out of "
                "the density, `with numpyro.handlers.mask(mask=~jnp.isnan(y))`."
            )
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
            f"outside the support of {distribution_name(base)}, {support}. Check the data's coding, or choose another distribution."
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
