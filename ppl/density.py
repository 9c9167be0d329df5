"""The log density of a model on unconstrained space.

    log_density(u) = log p(x(u), y) + sum_s log |det d x_s / d u_s|        (nats)

`LogDensity` is a pytree whose leaves are the data: pass it through `jax.jit`, `jax.grad` or `jax.vmap` as an argument and the data are
never baked into the compiled program.
"""

import functools
import inspect
import logging
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer, eval_jaxpr

from ..transforms import KeywordError, LucioleWarning, ModelError
from ..transforms.calls import fits
from ..transforms.jax_compat import open_jaxpr
from ..transforms.partial import Split, split
from . import interpreters
from .gate import as_array
from .initial import InitStrategy, as_strategy, init_to_uniform
from .program import ModelProgram, Site, trace

__all__ = ["LogDensity", "NothingObservedWarning", "ScaledLatentWarning", "SubstitutedSiteWarning", "log_density"]


class ScaledLatentWarning(LucioleWarning):
    """A latent site is scaled and its Jacobian is not: a deliberate difference from NumPyro."""


class NothingObservedWarning(LucioleWarning):
    """A model with an argument that is None, and neither an observation nor a factor: its density is the prior's. A forgotten `y=`?"""


class SubstitutedSiteWarning(LucioleWarning):
    """A site that was given a value by `handlers.substitute` counts as observed in a density."""


_log = logging.getLogger("luciole")


@dataclass(frozen=True)
class _Skeleton:
    """Everything about a density but its data."""

    program: ModelProgram

    @functools.cached_property
    def positions(self) -> dict[str, jax.ShapeDtypeStruct]:
        return {n: jax.ShapeDtypeStruct(s.unconstrained_shape, s.dtype) for n, s in self.program.latents.items()}

    @functools.cached_property
    def scored(self) -> Split:
        """The density as a jaxpr of (data, position), split into what reads only data and the rest."""
        jaxpr = jax.make_jaxpr(self.total)(self.program.data, self.positions)
        return split(jaxpr, len(self.program.data))

    def scores(self, data: Sequence[Any], position: Mapping[str, Any]) -> dict[str, jax.Array]:
        """The log density site by site; where discrete sites are summed out it has no parts, and stands beside every latent site."""
        if not self.program.enumerated:
            return interpreters.score_sites(self.program, data, position)
        return dict.fromkeys(self.program.latents, self.total(data, position))

    def total(self, data: Sequence[Any], position: Mapping[str, Any]) -> jax.Array:
        """The log density, straight from the interpreter."""
        if self.program.enumerated:
            jaxpr, consts = open_jaxpr(self.program.enumeration.jaxpr)
            return eval_jaxpr(jaxpr, consts, *data, *jax.tree.leaves(dict(position)))[0]
        scores = interpreters.score_sites(self.program, data, position)
        return functools.reduce(jnp.add, [interpreters.total_of(s) for s in scores.values()])


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True, eq=False)
class LogDensity:
    """A model's log density; see the module. Call it on a position: a dict by latent site, unconstrained; it returns a scalar in nats.

    Attributes:
        data: the arrays the model was traced with (the leaves of this pytree).
        program: the `ModelProgram`.
        positions: shape and dtype of each unconstrained latent site, in program order.
        dim: number of unconstrained coordinates.
    """

    data: tuple[Any, ...]
    skeleton: _Skeleton

    def tree_flatten(self) -> tuple[tuple[Any, ...], _Skeleton]:
        return self.data, self.skeleton

    @classmethod
    def tree_unflatten(cls, skeleton: _Skeleton, data: Sequence[Any]) -> "LogDensity":
        return cls(tuple(data), skeleton)

    @property
    def program(self) -> ModelProgram:
        return self.skeleton.program

    @property
    def positions(self) -> dict[str, jax.ShapeDtypeStruct]:
        return dict(self.skeleton.positions)

    @property
    def dim(self) -> int:
        return sum(math.prod(s.shape) for s in self.skeleton.positions.values())

    def __call__(self, position: Mapping[str, Any]) -> jax.Array:
        position = self._checked(position)
        if all(isinstance(x, Tracer) for x in [*self.data, *position.values()]):
            # About to be compiled: to differentiate and lower a copy that was traced before costs a fifth more.
            values = {n: jnp.asarray(position[n], s.dtype) for n, s in self.skeleton.positions.items()}
            return self.skeleton.total(self.data, values)
        return self.evaluate(self.prepare(), position)

    def prepare(self) -> list[Any]:
        """Run once what reads only the data; the values that `evaluate` needs."""
        return self.skeleton.scored.prepare(self.data)

    def evaluate(self, prepared: Sequence[Any], position: Mapping[str, Any]) -> jax.Array:
        """The log density, from the values of `prepare`: a loop over positions keeps `prepare` outside."""
        values = jax.tree.leaves({n: jnp.asarray(position[n], s.dtype) for n, s in self.skeleton.positions.items()})
        return self.skeleton.scored.rest(prepared, values)[0]

    def init(self, key: Any, strategy: InitStrategy | None = None, values: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """A starting position, unchecked: it may have zero density.

        Args:
            key: a random key.
            strategy: `lc.init_to_uniform()` by default.
            values: constrained values by site that go before the strategy; by default those it brings itself.
        """
        strategy = init_to_uniform() if strategy is None else as_strategy(strategy)
        values = strategy.fixed(self.program) if values is None else values
        return interpreters.start(self.program, self.data, key, strategy.propose, values)

    def constrain(self, position: Mapping[str, Any]) -> dict[str, Any]:
        """Position -> constrained values of the latent and the deterministic sites."""
        position = self._checked(position)
        return interpreters.constrain(self.program, self.data, position)

    def unconstrain(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Constrained values of the latent sites -> position."""
        missing = [n for n in self.positions if n not in values]
        if missing:
            raise ModelError(f"values have no entry for the latent site {missing[0]!r}; expected one for each of {list(self.positions)}.")
        return interpreters.unconstrain(self.program, self.data, {n: as_array(values[n], f"site {n!r}: the value") for n in self.positions})

    def joint(self, values: Mapping[str, Any]) -> jax.Array:
        """log p(x, y) at constrained values of the latent sites, nats, without Jacobians: a scalar, of one draw of each site."""
        latents = self.program.latents
        missing = [name for name in latents if name not in values]
        if missing:
            raise ModelError(f"values have no entry for the latent site {missing[0]!r}; expected one for each of {list(latents)}.")
        for name, site in latents.items():
            if np.shape(values[name]) != site.shape:
                raise ModelError(
                    f"site {name!r}: the value has shape {np.shape(values[name])}, expected {site.shape} (constrained, of one draw; "
                    "`jax.vmap` goes over many)."
                )
        arrays = {n: as_array(values[n], f"site {n!r}: the value") for n in latents}
        scores = interpreters.score_values(self.program, self.data, arrays)
        return functools.reduce(jnp.add, [interpreters.total_of(s) for s in scores.values()])

    def _checked(self, position: Mapping[str, Any]) -> dict[str, Any]:
        expected = self.skeleton.positions
        unknown, missing = [n for n in position if n not in expected], [n for n in expected if n not in position]
        if unknown or missing:
            what = f"has no latent site {unknown[0]!r}" if unknown else f"needs a value for the latent site {missing[0]!r}"
            raise ModelError(f"the model {what}; a position is a dict with exactly the keys {list(expected)}.")
        arrays = {name: as_array(position[name], f"site {name!r}: the position") for name in expected}
        for name, struct in expected.items():
            if arrays[name].shape != struct.shape:
                raise ModelError(
                    f"site {name!r}: the position has shape {arrays[name].shape}, expected {struct.shape} (unconstrained; "
                    "`density.unconstrain` turns constrained values into a position)."
                )
        return arrays

    def report(self, position: Mapping[str, Any], gradients: bool = True) -> str:
        """What a person needs to see when a starting point is not valid: a line for every site, worst first.

        For each site: its log density (of observed sites too) and, if it is latent, its value and, with `gradients`, whether its
        gradient is finite.
        """
        values = self.constrain(position)
        score_sites = jax.jit(self.skeleton.scores)  # NumPyro warns of what is outside unless traced
        scores = {n: float(jnp.sum(s)) for n, s in score_sites(self.data, dict(position)).items()}
        moved = {n: jnp.asarray(position[n], s.dtype) for n, s in self.positions.items()}
        slopes = jax.grad(self.__call__)(moved) if gradients else {}
        rows = []
        for name, score in scores.items():
            finite = bool(np.isfinite(slopes[name]).all()) if name in slopes else True
            value = f"value {_short(values[name])}" if name in moved else "observed"
            if name in slopes:
                value += f", gradient {'finite' if finite else 'NOT finite'}"
            rows.append((np.isfinite(score) and finite, f"  {name!r}: log density {score:.6g}, {value}"))
        return "\n".join(row for _, row in sorted(rows, key=lambda r: r[0]))


def log_density(model: Callable[..., Any], /, *args: Any, **kwargs: Any) -> LogDensity:
    """The log density of `model` given its arguments.

    Raises:
        ModelError: as `trace`; and if the model has no latent site, or one that gradients cannot move (discrete, or without a
            bijection from unconstrained space).

    Warns:
        ScaledLatentWarning: a latent site with a bijection is scaled; here, unlike in NumPyro, its Jacobian is not.
        SubstitutedSiteWarning: `handlers.substitute` around the model gives a value to a site; it counts as observed.
        NothingObservedWarning: an argument is None, and there is no observed site and no factor: the density is the prior's.
    """
    _refuse_separate_arguments(model, args, kwargs)
    program = trace(model, *args, **kwargs)
    if not program.latents:
        none = "every `sample` statement is observed" if any(s.observed for s in program.sites.values()) else "it has no `sample` statement"
        raise ModelError(f"the model has no latent site: {none}, so there is nothing to infer.")
    program = replace(program, enumerated=program.discrete)
    _refuse_only_discrete(program)
    for site in program.latents.values():
        _check_latent(site)
    if program.enumerated:  # refuses, and names the largest table, before anything is compiled
        _log.info(program.enumeration.line)
    _warn_of_substituted(program)
    if program.absent and all(site.latent or site.kind == "deterministic" for site in program.sites.values()):
        _warn_of_prior(program)
    return LogDensity(program.data, _Skeleton(program))


def _warn_of_substituted(program: ModelProgram) -> None:
    for site in program.sites.values():
        if site.spec.substituted:
            warnings.warn(
                f"site {site.name!r} ({site.line}) has a value from `handlers.substitute`. A density takes it for an observation, and a "
                f"chain does not move it. If that is meant, write `lc.condition(model, {{{site.name!r}: value}})`; to start there, "
                f"`init_strategy=lc.init_to_value({{{site.name!r}: value}})`.",
                SubstitutedSiteWarning,
                stacklevel=3,
            )


def _warn_of_prior(program: ModelProgram) -> None:
    *others, last = program.absent
    none = f"arguments {', '.join(map(repr, others))} and {last!r} are" if others else f"argument {last!r} is"
    warnings.warn(
        f"no site is observed, and the {none} None: this is the density of the prior, with every one of {list(program.latents)} latent. "
        f"Give the data, for example `{last}={last}`; for draws from the prior use `lc.prior_predictive`, which needs no chains.",
        NothingObservedWarning,
        stacklevel=3,
    )


def _refuse_separate_arguments(model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Answers NumPyro's form, log_density(model, args, kwargs, params), where the model can mean nothing else."""
    if kwargs or len(args) != 3 or not isinstance(args[0], (tuple, list)) or not all(isinstance(a, dict) for a in args[1:]):
        return
    try:
        signature = inspect.signature(model)
    except (TypeError, ValueError):
        return
    if fits(signature, *args[0], **args[1]) and not fits(signature, *args):
        raise KeywordError(
            "log_density: NumPyro's form log_density(model, args, kwargs, params) found. The model's arguments are given as they are, and "
            "constrained values to `joint`: write lc.log_density(model, *args, **kwargs).joint(params)."
        )


def _refuse_only_discrete(program: ModelProgram) -> None:
    if program.enumerated and not program.latents:
        first = program.sites[next(n for n in program.sites if n in program.enumerated)]
        raise ModelError(
            f"site {first.name!r} ({first.line}) is latent and discrete, as every latent site of the model is: densities sum it out, and "
            "no parameter is left to move. Its states follow from one computation and need no chains: `lc.infer_discrete(model, key, {}, "
            "...)`. If parameters were meant to be latent, give them `sample` statements."
        )


def _check_latent(site: Site) -> None:
    if site.spec.discrete:
        raise ModelError(
            f"site {site.name!r} ({site.line}) is latent and discrete (support {site.support}), and `lc.marginalize` was told to sum out "
            "other sites only. Gradients cannot move it: name it there too, or observe it."
        )
    if site.spec.unconstrained_shape is None:
        raise ModelError(
            f"site {site.name!r} ({site.line}) is latent and its support, {site.support}, has no bijection from unconstrained space. "
            "Use a distribution on the reals, an interval, the positive numbers, a simplex or a matrix constraint of NumPyro."
        )
    if site.spec.scale is not None and not site.spec.unit_jacobian:
        warnings.warn(
            f"site {site.name!r} ({site.line}) is latent, constrained and scaled by `handlers.scale`: its log probability is scaled and "
            "the Jacobian of its bijection is not. NumPyro scales both, which makes its density depend on the parametrisation.",
            ScaledLatentWarning,
            stacklevel=3,
        )


def _short(value: Any) -> str:
    return np.array2string(np.asarray(value), precision=4, threshold=6, edgeitems=2).replace("\n", "")
