"""The model run forwards and scored point by point, many draws at a time.

Draws are worked through in batches: device memory is bounded by the batch, and the results gather in host memory as NumPy arrays.
The batch function is compiled once for a model and the shapes of its data; new data of the same shapes compile nothing.

Draws that are split over the devices of a mesh are worked through where they are, by all devices at once (`split.py`):

    samples = jax.device_put(samples, NamedSharding(mesh, PartitionSpec("draws")))    # (draw, ...), or (chain, draw, ...) by chains
    lc.posterior_predictive(model, key, samples, x)
"""

import functools
import math
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from ..transforms import LucioleWarning, ModelError
from ..transforms.bounded import bounded_jit
from ..transforms.calls import verb
from ..transforms.graph import reachable
from ..transforms.keys import random_key
from ..transforms.streams import key_words
from . import interpreters
from .enumeration import marginal_rows, recovered
from .program import ModelProgram, trace
from .samples import Given, Samples, checked_samples, sampled_children, warn_of_open_sites
from .split import Split, batches
from .words import PREDICTIVE

__all__ = [
    "Forward",
    "SaturatedDrawWarning",
    "discrete_states",
    "log_likelihood",
    "log_likelihood_of",
    "posterior_predictive",
    "predictions",
    "prior_predictive",
    "score_axes",
]

_BATCH_BYTES = 32 * 2**20
_MAX_BATCH = 1000


class SaturatedDrawWarning(LucioleWarning):
    """Draws of a discrete site are the largest number of their dtype: what was to be drawn is larger still."""


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

    Warns:
        SaturatedDrawWarning: a draw is the largest number of its dtype.
    """
    if not isinstance(num_samples, (int, np.integer)) or num_samples < 1:
        raise ModelError(f"prior_predictive: num_samples is {num_samples!r}; expected a positive integer.")
    program = trace(model, *args, **kwargs)
    return _in_batches(_anew, program, _typed(key), Given(lead=(int(num_samples),)))


@verb("lc.posterior_predictive(model, key, samples, *args, **kwargs)", PREDICTIVE)
def posterior_predictive(model: Callable[..., Any], key: Any, samples: Samples, /, *args: Any, **kwargs: Any) -> dict[str, np.ndarray]:
    """Draws of data like those observed: y ~ p(y | sample), to lay beside them; deterministic sites are computed again.

    Discrete latent sites that are not in `samples`, as chains sum them out, are drawn first from their posterior given the sample and the
    observations, all together (`lc.infer_discrete`).

    Observed sites are drawn anew whether or not their observation is given. So a model that carries its observations along forgets
    them: for what comes after the data use `lc.predict`. One thing stays: a series that a handler around a
    `numpyro.contrib.control_flow.scan` gives to fewer steps than the scan has, which is NumPyro's way to forecast.

    Args:
        model: the model; args and kwargs are its arguments, and may be new data of other shapes.
        key: a random key, legacy or new-style.
        samples: constrained values of latent sites by name, with the same leading axes for all: (draw, ...) or (chain, draw, ...).
            Of a site in a loop fewer steps will do: the rest is drawn. Entries that are deterministic or observed sites are ignored.
            Where they are `jax.Array`s split over a mesh along leading axes, each device works on its own draws, with a copy of the data.

    Returns:
        By site, (*leading axes, *site shape): what `samples` leave open. The numbers do not depend on where the samples are, but for
        rounding.

    Raises:
        ModelError: as `trace`; a name in `samples` is no site of the model, or a shape does not fit; sites are split over devices
            differently, or along axes of their own.

    Warns:
        PriorDrawWarning: a latent site on which others depend is not in `samples`.
        SaturatedDrawWarning: a draw is the largest number of its dtype.
    """
    program = _summed_out(trace(model, *args, **kwargs), samples)
    given = checked_samples(program, samples, "posterior_predictive")
    if not given.values:
        raise ModelError(
            f"posterior_predictive: none of {list(samples)} is a latent site of the model ({list(program.latents)}). For draws from the "
            "prior use `lc.prior_predictive`."
        )
    warn_of_open_sites(program, given.shapes, "posterior_predictive", kept=lambda site: site.spec.kept)
    return _in_batches(_forwards, program, _typed(key), given)


def predictions(
    program: ModelProgram, key: Any, samples: Samples, what: str, *, data: Collection[str] = (), stacklevel: int = 3
) -> dict[str, np.ndarray]:
    """Draws of what samples and observations leave open, given both: `lc.predict` of a model that is traced already.

    Args:
        samples: as for `posterior_predictive`.
        data: sites that are known to be data, observed where the samples come from.
    """
    given = checked_samples(program, samples, what)
    shapes = given.shapes
    if not shapes:
        raise ModelError(f"{what}: none of {list(samples)} is a latent site of the model ({list(program.latents)}).")
    if all(shapes.get(n) == s.shape for n, s in program.latents.items()) and not _computed(program):
        raise ModelError(
            f"{what}: every site of the model is given, by the samples or by its observation, so there is nothing to predict. Leave the "
            "new observations out: `None`, or `obs_mask` where they are unknown. For replicates of the data use `lc.posterior_predictive`."
        )
    warn_of_open_sites(program, shapes, what, kept=lambda site: True, data=data, stacklevel=stacklevel + 1)
    return _in_batches(_onwards, program, _typed(key), given)


def _summed_out(program: ModelProgram, samples: Samples) -> ModelProgram:
    """The program with the discrete latent sites that `samples` leave out summed out, if all others are there.

    Those on which nothing depends that is observed are left to be drawn as the model runs.
    """
    children = sampled_children(program) if program.discrete else {}
    known = {n for n, s in program.sites.items() if s.role in ("observed", "factor")}
    left_out = frozenset(n for n in program.discrete if n not in samples and known & reachable(children, children[n]))
    if not left_out or any(n not in samples for n in program.latents if n not in left_out):
        return program
    return replace(program, enumerated=left_out)


def discrete_states(program: ModelProgram, key: Any, samples: Samples, mode: str) -> dict[str, np.ndarray]:
    """`lc.infer_discrete` of a program whose discrete sites are summed out."""
    given = checked_samples(program, samples, "infer_discrete", begun=False)
    missing = [n for n in program.latents if n not in given.values]
    if missing:
        raise ModelError(
            f"infer_discrete: samples have no entry for the latent site {missing[0]!r}; expected all of {list(program.latents)}."
        )
    if not program.latents:
        return {n: v[0] for n, v in _in_batches(_STATES[mode], program, _typed(key), Given(lead=(1,))).items()}
    return _in_batches(_STATES[mode], program, _typed(key), given)


def _drawn_states(program: ModelProgram, data: Sequence[Any], key: Any, values: Samples) -> dict[str, Any]:
    return recovered(program, data, values, key, "sample")


def _best_states(program: ModelProgram, data: Sequence[Any], key: Any, values: Samples) -> dict[str, Any]:
    return recovered(program, data, values, key, "map")


def _state_probabilities(program: ModelProgram, data: Sequence[Any], key: Any, values: Samples) -> dict[str, Any]:
    return recovered(program, data, values, key, "marginals")


_STATES = {"sample": _drawn_states, "map": _best_states, "marginals": _state_probabilities}


def _computed(program: ModelProgram) -> bool:
    return any(s.kind == "deterministic" for s in program.sites.values())


@verb("lc.log_likelihood(model, samples, *args, **kwargs)", PREDICTIVE)
def log_likelihood(model: Callable[..., Any], samples: Samples, /, *args: Any, **kwargs: Any) -> dict[str, np.ndarray]:
    """log p(y_i | sample), nats, for every element of every observed site.

    Where discrete latent sites are summed out, and not in `samples`, the elements that depend on them go together in rows that are
    independent of each other given the sample, and these are scored,

        log p(y_n | sample) = log sum over the states of p(y_n, states | sample):

    an item with the labels of all its annotators, a sequence with all its turns; everything, if one state is shared by all, or if there
    is one sequence alone. Several sites with elements in one row stand under all of their names, "y1, y2". With states in `samples`, as
    `lc.infer_discrete` draws them, every element is scored given its states: that is not what leave-one-out cross-validation needs.

    Args:
        model: the model; args and kwargs are its arguments, observations included.
        samples: constrained values of all latent sites but discrete ones of finite support, with the same leading axes for all; on one
            device or many, as for `posterior_predictive`.

    Returns:
        By observed site, (*leading axes, *site shape without its event axes); of rows (*leading axes, *rows). A
        `scale` handler plays no part. What is masked is no observation, and NaN, as is a row that has nothing else; so is what is missing
        of a site with `obs_mask` (`MCMC.to_arviz` leaves both out).

    Raises:
        ModelError: as `trace`; a latent site is not in `samples`, a name in them is no site of the model, or a shape does not fit; sites
            are split over devices differently, or along axes of their own.
    """
    return log_likelihood_of(trace(model, *args, **kwargs), samples)


def log_likelihood_of(program: ModelProgram, samples: Samples) -> dict[str, np.ndarray]:
    """`log_likelihood` of a model that is traced already."""
    discrete = frozenset(n for n in program.discrete if n not in samples)
    program = replace(program, enumerated=discrete) if discrete else program
    given = checked_samples(program, samples, "log_likelihood", begun=False)
    missing = [n for n in program.latents if n not in given.values]
    if missing:
        raise ModelError(
            f"log_likelihood: samples have no entry for the latent site {missing[0]!r}; expected all of {list(program.latents)}."
        )
    return _in_batches(_pointwise, program, random_key(), given)


def score_axes(program: ModelProgram, names: Iterable[str]) -> dict[str, tuple[tuple[str, int], ...]]:
    """By variable of `log_likelihood`, for each of its axes a site that has it, and which of that site's axes it is."""
    named = {n: tuple((n, a) for a in range(len(s.shape) - s.spec.event_dim)) for n, s in program.sites.items() if n in names}
    found: list[Any] = []

    def look(data: Any, values: Any) -> None:
        counted = {n: jnp.ones(s.shape[: len(s.shape) - s.spec.event_dim]) for n, s in program.sites.items()}
        found.extend(marginal_rows(program, data, values, counted))

    if program.enumerated:
        values = {n: jax.ShapeDtypeStruct(s.shape, s.dtype) for n, s in program.latents.items()}
        jax.eval_shape(look, program.data, values)
    return {**named, **{", ".join(rows.sites): rows.axes for rows in found}}


def _typed(key: Any) -> jax.Array:
    """A legacy or new-style key as a threefry key; a `SamplerError` if it is no key."""
    return random_key(key_words(key))


def _forwards(program: ModelProgram, data: Sequence[Any], key: Any, values: Samples) -> dict[str, Any]:
    states: dict[str, Any] = {}
    if program.enumerated:
        key, own = jax.random.split(key)
        states = recovered(program, data, values, own, "sample")
        program = replace(program, enumerated=frozenset())
    drawn = interpreters.generate(program, data, key, {**values, **states}, resample_observed=True)
    return {n: v for n, v in drawn.items() if not (_whole(program, n, values) or program.sites[n].spec.kept)}


def _anew(program: ModelProgram, data: Sequence[Any], key: Any, values: Samples) -> dict[str, Any]:
    return interpreters.generate(program, data, key, values, resample_observed=True, resample_kept=True)


def _onwards(program: ModelProgram, data: Sequence[Any], key: Any, values: Samples) -> dict[str, Any]:
    drawn = interpreters.generate(program, data, key, values)
    return {n: v for n, v in drawn.items() if not (_whole(program, n, values) or program.sites[n].role == "observed")}


def _whole(program: ModelProgram, name: str, values: Samples) -> bool:
    return name in values and values[name].shape == program.sites[name].shape


def _pointwise(program: ModelProgram, data: Sequence[Any], key: Any, values: Samples) -> dict[str, Any]:
    return interpreters.pointwise(program, data, values)


@dataclass(frozen=True, eq=False)
class Forward:
    """A program that will not be differentiated: derivative rules, which every trace makes anew, are no part of its identity."""

    program: ModelProgram

    @functools.cached_property
    def _key(self) -> Any:
        return self.program.structure_key(differentiated=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Forward) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@bounded_jit(static_argnums=(0, 1))
def _batch(one: Callable[..., Any], forward: Forward, data: Sequence[Any], key: Any, numbers: Any, values: Samples) -> dict[str, Any]:
    """`one` for every draw of a batch; draw number i uses the key fold_in(key, i), whatever the batch."""
    return jax.vmap(lambda i, v: one(forward.program, data, jax.random.fold_in(key, i), v))(numbers, values)


@bounded_jit(static_argnums=(0, 1, 2, 3))
def _batch_of_each(
    one: Callable[..., Any], forward: Forward, split: Split, size: int, data: Any, key: Any, begin: Any, numbers: Any, values: Samples
) -> dict[str, Any]:
    """`_batch` of every device, of `size` of its own draws; see `Split.each`."""
    return split.each(size, functools.partial(_batch, one, forward))(data, key, begin, numbers, values)


def _in_batches(one: Callable[..., dict[str, Any]], program: ModelProgram, key: Any, given: Given) -> dict[str, np.ndarray]:
    first = {n: jax.ShapeDtypeStruct(shape, given.values[n].dtype) for n, shape in given.shapes.items()}
    shapes = jax.eval_shape(lambda data, key, v: one(program, data, key, v), program.data, key, first)
    bytes_per_draw = sum(math.prod(s.shape) * s.dtype.itemsize for s in jax.tree.leaves(shapes)) or 1
    most = max(1, min(_MAX_BATCH, _BATCH_BYTES // bytes_per_draw))
    out = {n: np.empty((given.total, *s.shape), s.dtype) for n, s in shapes.items()}
    for places, batch in (_together if given.split is None else _on_each_device)(one, program, key, given, most):
        for name, value in batch.items():
            out[name][places] = value
    if one is not _pointwise and one not in _STATES.values():
        _warn_of_saturation(program, out)
    return {n: v.reshape(*given.lead, *v.shape[1:]) for n, v in out.items()}


Batches = Iterator[tuple[Any, dict[str, np.ndarray]]]
"""The numbers of draws, and what was computed of each."""


def _together(one: Callable[..., Any], program: ModelProgram, key: Any, given: Given, most: int) -> Batches:
    """Draws in host memory, on the device where the data are."""
    total, shapes = given.total, given.shapes
    values = {n: v.reshape(total, *shapes[n]) for n, v in given.values.items()}
    size = max(1, min(total, most))
    for begin in range(0, total, size):
        numbers = np.minimum(np.arange(begin, begin + size), total - 1)  # the last batch is filled up with its last draw
        batch = _batch(one, Forward(program), program.data, key, numbers.astype(np.uint32), {n: v[numbers] for n, v in values.items()})
        yield slice(begin, begin + size), {name: np.asarray(value)[: total - begin] for name, value in batch.items()}


def _on_each_device(one: Callable[..., Any], program: ModelProgram, key: Any, given: Given, most: int) -> Batches:
    """Draws on their devices; of all the batches of one turn, as large as that of one device is elsewhere."""
    split = given.split
    assert split is not None
    numbers = split.numbers(given.lead)
    size = max(1, min(numbers.shape[1], most))
    data, there = split.put(program.data, PartitionSpec()), split.put(numbers, split.blocks)
    for begin, places in batches(split, numbers, size):
        batch = _batch_of_each(one, Forward(program), split, size, data, key, np.int32(begin), there, given.values)
        yield places, {name: np.asarray(value) for name, value in batch.items()}


def _warn_of_saturation(program: ModelProgram, drawn: Mapping[str, np.ndarray]) -> None:
    """What a sampler draws beyond the range of its dtype comes out at the end of that range."""
    for name, value in drawn.items():
        site = program.sites[name]
        if not site.spec.discrete or not np.issubdtype(value.dtype, np.integer):
            continue
        ends = np.iinfo(value.dtype)
        beyond = int(np.count_nonzero(value == ends.max) + (np.count_nonzero(value == ends.min) if ends.min < 0 else 0))
        if beyond:
            warnings.warn(
                f"site {name!r} ({site.line}): {beyond} of {value.size} draws of {site.spec.distribution} are at the end of the range of "
                f"{value.dtype}, {ends.max}: what was to be drawn is larger. Count in larger units, model a rate, or switch on 64 bits: "
                '`jax.config.update("jax_enable_x64", True)`.',
                SaturatedDrawWarning,
                stacklevel=4,
            )
