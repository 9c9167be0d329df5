"""The model run forwards and scored point by point, many draws at a time.

Draws are worked through in batches: device memory is bounded by the batch, and the results gather in host memory as NumPy arrays.
The batch function is compiled once for a model and the shapes of its data; new data of the same shapes compile nothing.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ..transforms import ModelError, structure
from ..transforms.bounded import bounded_jit
from ..transforms.calls import verb
from ..transforms.keys import random_key
from ..transforms.streams import key_words
from . import interpreters
from .program import ModelProgram, trace
from .words import PREDICTIVE

__all__ = ["log_likelihood", "log_likelihood_of", "posterior_predictive", "prior_predictive"]

_BATCH_BYTES = 32 * 2**20
_MAX_BATCH = 1000

Samples = Mapping[str, Any]


@verb("lc.prior_predictive(model, key, num_samples, *args, **kwargs)", PREDICTIVE)
def prior_predictive(model: Callable[..., Any], key: Any, num_samples: int, /, *args: Any, **kwargs: Any) -> dict[str, np.ndarray]:
    """Draws from the joint prior distribution: latent, deterministic and observed sites; observations in `args` are not used.

    Args:
        model: the model; args and kwargs are its arguments.
        key: a random key, legacy or new-style.
        num_samples: number of draws.

    Returns:
        By site, (num_samples, *site shape).

    Raises:
        ModelError: as `trace`; a site cannot be sampled; num_samples is not positive; `key` is no key.
    """
    if not isinstance(num_samples, (int, np.integer)) or num_samples < 1:
        raise ModelError(f"prior_predictive: num_samples is {num_samples!r}; expected a positive integer.")
    program = trace(model, *args, **kwargs)
    return _in_batches(_forwards, program, _typed(key), {}, int(num_samples))


@verb("lc.posterior_predictive(model, key, samples, *args, **kwargs)", PREDICTIVE)
def posterior_predictive(model: Callable[..., Any], key: Any, samples: Samples, /, *args: Any, **kwargs: Any) -> dict[str, np.ndarray]:
    """Draws of what `samples` leave open: observed sites, deterministic sites (always recomputed), latent sites that are not in `samples`.

    Args:
        model: the model; args and kwargs are its arguments, and may be new data of other shapes. Observed sites are drawn whether or
            not their observation is given.
        key: a random key, legacy or new-style.
        samples: constrained values of latent sites by name, with the same leading axes for all: (draw, ...) or (chain, draw, ...).
            Entries that are no latent site (deterministic ones, say) are ignored.

    Returns:
        By site, (*leading axes, *site shape).
    """
    program = trace(model, *args, **kwargs)
    given, lead = _given(program, samples)
    if not given:
        raise ModelError(
            f"posterior_predictive: none of {list(samples)} is a latent site of the model ({list(program.latents)}). For draws from the "
            "prior use `lc.prior_predictive`."
        )
    return _in_batches(_forwards, program, _typed(key), given, math.prod(lead), lead)


@verb("lc.log_likelihood(model, samples, *args, **kwargs)", PREDICTIVE)
def log_likelihood(model: Callable[..., Any], samples: Samples, /, *args: Any, **kwargs: Any) -> dict[str, np.ndarray]:
    """log p(y_i | sample), nats, for every element of every observed site.

    Args:
        model: the model; args and kwargs are its arguments, observations included.
        samples: constrained values of all latent sites, with the same leading axes for all.

    Returns:
        By observed site, (*leading axes, *site shape without its event axes). NaN where an element is masked: it is no observation
        (`MCMC.to_arviz` leaves it out). A `scale` handler plays no part.
    """
    return log_likelihood_of(trace(model, *args, **kwargs), samples)


def log_likelihood_of(program: ModelProgram, samples: Samples) -> dict[str, np.ndarray]:
    """`log_likelihood` of a model that is traced already."""
    given, lead = _given(program, samples)
    missing = [n for n in program.latents if n not in given]
    if missing:
        raise ModelError(
            f"log_likelihood: samples have no entry for the latent site {missing[0]!r}; expected all of {list(program.latents)}."
        )
    return _in_batches(_pointwise, program, random_key(), given, math.prod(lead), lead)


def _typed(key: Any) -> jax.Array:
    """A legacy or new-style key as a threefry key; a `SamplerError` if it is no key."""
    return random_key(key_words(key))


def _given(program: ModelProgram, samples: Samples) -> tuple[dict[str, np.ndarray], tuple[int, ...]]:
    """The entries of `samples` that are latent sites, with one flat leading axis; and the leading axes they had."""
    given: dict[str, np.ndarray] = {}
    lead: tuple[int, ...] | None = None
    for name, site in program.latents.items():
        if name not in samples:
            continue
        value = np.asarray(samples[name])
        cut = value.ndim - len(site.shape)
        if cut < 1 or value.shape[cut:] != site.shape or (lead is not None and value.shape[:cut] != lead):
            expected = f"{lead} + {site.shape}" if lead else f"(draw, ...) or (chain, draw, ...) before the site's shape {site.shape}"
            raise ModelError(f"site {name!r}: the samples have shape {value.shape}; expected {expected}.")
        lead = value.shape[:cut]
        given[name] = value.reshape(math.prod(lead), *site.shape)
    return given, lead or ()


def _forwards(program: ModelProgram, data: Sequence[Any], key: Any, values: Samples) -> dict[str, Any]:
    drawn = interpreters.generate(program, data, key, values, resample_observed=True)
    return {n: v for n, v in drawn.items() if n not in values}


def _pointwise(program: ModelProgram, data: Sequence[Any], key: Any, values: Samples) -> dict[str, Any]:
    return interpreters.pointwise(program, data, values)


@dataclass(frozen=True, eq=False)
class _Forward:
    """A program that will not be differentiated: derivative rules, which every trace makes anew, are no part of its identity."""

    program: ModelProgram

    @functools.cached_property
    def _key(self) -> Any:
        return structure(self.program.jaxpr, differentiated=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Forward) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@bounded_jit(static_argnums=(0, 1))
def _batch(one: Callable[..., Any], forward: _Forward, data: Sequence[Any], key: Any, numbers: Any, values: Samples) -> dict[str, Any]:
    """`one` for every draw of a batch; draw number i uses the key fold_in(key, i), whatever the batch."""
    return jax.vmap(lambda i, v: one(forward.program, data, jax.random.fold_in(key, i), v))(numbers, values)


def _in_batches(
    one: Callable[..., dict[str, Any]],
    program: ModelProgram,
    key: Any,
    values: dict[str, np.ndarray],
    total: int,
    lead: tuple[int, ...] | None = None,
) -> dict[str, np.ndarray]:
    lead = (total,) if lead is None else lead
    first = {n: jax.ShapeDtypeStruct(v.shape[1:], v.dtype) for n, v in values.items()}
    shapes = jax.eval_shape(lambda data, key, v: one(program, data, key, v), program.data, key, first)
    bytes_per_draw = sum(math.prod(s.shape) * s.dtype.itemsize for s in jax.tree.leaves(shapes)) or 1
    size = max(1, min(total, _MAX_BATCH, _BATCH_BYTES // bytes_per_draw))
    out = {n: np.empty((total, *s.shape), s.dtype) for n, s in shapes.items()}
    for begin in range(0, total, size):
        numbers = np.minimum(np.arange(begin, begin + size), total - 1)  # the last batch is filled up with its last draw
        batch = _batch(one, _Forward(program), program.data, key, numbers.astype(np.uint32), {n: v[numbers] for n, v in values.items()})
        for name, value in batch.items():
            out[name][begin : begin + size] = np.asarray(value)[: total - begin]
    return {n: v.reshape(*lead, *v.shape[1:]) for n, v in out.items()}
