"""Where chains start: strategies that give each latent site an unconstrained value.

A strategy is a frozen record: `propose(key, dist, bijection, shape, name)` gives the unconstrained value of one site, `fixed(program)` the
constrained values it takes from the user. The sampler tries a strategy up to a hundred times until the density and its gradient
are finite.
"""

import functools
import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import Distribution

from ..transforms import InitError, ModelError
from .gate import as_array
from .program import ModelProgram, Site
from .spec import distribution_name, drawn

__all__ = [
    "InitStrategy",
    "as_strategy",
    "init_to_feasible",
    "init_to_mean",
    "init_to_median",
    "init_to_sample",
    "init_to_uniform",
    "init_to_value",
]

_log = logging.getLogger("luciole")


@dataclass(frozen=True)
class InitStrategy:
    """The uniform strategy, and the base class of the others. Equality is of what is compiled: the user's values play no part.

    Attributes:
        radius: half the width of the uniform distribution, in unconstrained space.
    """

    radius: float = 2.0

    def propose(self, key: Any, dist: Distribution, bijection: Any, shape: tuple[int, ...], name: str) -> Any:
        return jax.random.uniform(key, shape, minval=-self.radius, maxval=self.radius)

    def fixed(self, program: ModelProgram, num_chains: int | None = None) -> dict[str, Any]:
        """The values that the user gave, constrained, by site: with a leading chain axis if `num_chains` is given."""
        return {}


@dataclass(frozen=True)
class _Median(InitStrategy):
    num_samples: int = 15

    def propose(self, key: Any, dist: Distribution, bijection: Any, shape: tuple[int, ...], name: str) -> Any:
        try:
            draws = drawn(dist, key, (self.num_samples,))
        except NotImplementedError:
            _log.warning(
                "site %r: %s cannot be sampled, so it has no median to start from; it starts from init_to_uniform() instead.",
                name,
                distribution_name(dist),
            )
            return super().propose(key, dist, bijection, shape, name)
        return jnp.median(bijection.inv(draws), axis=0)


@dataclass(frozen=True)
class _Mean(_Median):
    def propose(self, key: Any, dist: Distribution, bijection: Any, shape: tuple[int, ...], name: str) -> Any:
        median = super().propose(key, dist, bijection, shape, name)
        try:
            mean = jnp.broadcast_to(1.0 * dist.mean, dist.shape())
        except (NotImplementedError, AttributeError, ValueError):
            _log.info("site %r: %s has no known mean; it starts from its median.", name, distribution_name(dist))
            return median
        moved = bijection.inv(mean)
        return jnp.where(jnp.isfinite(moved), moved, median)  # a heavy tail has no mean


@dataclass(frozen=True)
class _Value(InitStrategy):
    values: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def fixed(self, program: ModelProgram, num_chains: int | None = None) -> dict[str, Any]:
        return {name: self._checked(program, name, np.asarray(v), num_chains) for name, v in self.values.items()}

    def _checked(self, program: ModelProgram, name: str, value: np.ndarray, num_chains: int | None) -> np.ndarray:
        if name not in program.latents:
            raise InitError(f"init_to_value: the model has no latent site {name!r}; it has {list(program.latents)}.")
        site = program.latents[name]
        per_chain = site.shape if num_chains is None else (num_chains, *site.shape)
        if value.shape not in (site.shape, per_chain):
            also = f", or {per_chain} for one value per chain" if num_chains else ""
            raise InitError(f"init_to_value: site {name!r} has a value of shape {value.shape}; expected {site.shape}{also}.")
        if not np.isfinite(value).all():
            raise InitError(f"init_to_value: the value of site {name!r} is not finite; give a value inside the support, {site.support}.")
        value = value.astype(site.dtype)
        _check_support(site, value)
        return value if value.shape == per_chain else np.broadcast_to(value, per_chain)


def _check_support(site: Site, value: np.ndarray) -> None:
    """Refuses a value outside of a support that is known before anything runs; one that hangs on a latent site is not."""
    support = site.support
    if support is None or not all(isinstance(x, (bool, int, float, np.ndarray, np.generic, jax.Array)) for x in jax.tree.leaves(support)):
        return
    event_dim = site.spec.event_dim
    try:
        inside = np.broadcast_to(np.asarray(support(value)), value.shape[: value.ndim - event_dim])
    except (TypeError, ValueError):  # limits with the axes of a `vmap` or of a loop elsewhere: the run will tell
        return
    if not inside.all():
        index = tuple(int(i) for i in np.argwhere(~inside)[0])
        where = f" at index {index[0] if len(index) == 1 else index}" if index else ""
        raise InitError(
            f"init_to_value: the value {value[index]}{where} of site {site.name!r} is outside its support, {support}; give a value inside. "
            "Values are constrained ones, as `get_samples` returns them."
        )


def init_to_uniform(radius: float = 2.0) -> InitStrategy:
    """Uniform on (-radius, radius) in unconstrained space, every coordinate."""
    if not radius >= 0:
        raise InitError(f"init_to_uniform: radius is {radius}; expected a number that is not negative.")
    return InitStrategy(radius=float(radius))


def init_to_feasible() -> InitStrategy:
    """The same point for all chains, zero in unconstrained space: inside every support, whatever the distributions' parameters are."""
    return InitStrategy(radius=0.0)


def init_to_sample() -> InitStrategy:
    """A draw from each site's prior given the sites before it. A site whose prior cannot be sampled starts from `init_to_uniform`."""
    return _Median(num_samples=1)


def init_to_median(num_samples: int = 15) -> InitStrategy:
    """The median, in unconstrained space, of draws from each site's prior given the sites before it.

    A site whose prior cannot be sampled starts from `init_to_uniform`; a line in the log "luciole" says which.
    """
    if num_samples < 1:
        raise InitError(f"init_to_median: num_samples is {num_samples}; expected a positive integer.")
    return _Median(num_samples=int(num_samples))


def init_to_mean() -> InitStrategy:
    """The mean of each site's prior given the sites before it; the median where the prior has no mean or NumPyro does not know it."""
    return _Mean()


def init_to_value(values: Mapping[str, Any], radius: float = 2.0) -> InitStrategy:
    """Given values, in constrained space; sites that are not named start from `init_to_uniform(radius)`.

    Args:
        values: by site name; of the site's shape (every chain starts there), or with a leading chain axis.

    Raises:
        InitError: a value is no number; as the run begins, before anything is compiled: a name, a shape, or a value outside of the
            site's support.
    """
    if not isinstance(values, Mapping):
        raise InitError(f"init_to_value: found a {type(values).__name__}; expected a dict of constrained values by site name.")
    try:
        arrays = {n: np.asarray(as_array(v, f"init_to_value: site {n!r}")) for n, v in values.items()}
    except ModelError as e:
        raise InitError(str(e)) from None
    return _Value(radius=float(radius), values=arrays)


_MAKERS = {
    make.__name__: make
    for make in (init_to_feasible, init_to_mean, init_to_median, init_to_sample, init_to_uniform, init_to_value)
}  # fmt: skip
_HOMES = (init_to_value.__module__, "numpyro.infer.initialization")


def as_strategy(given: Any) -> InitStrategy:
    """A strategy from what users give for one: a strategy, a function that makes one without its call, and NumPyro's of the same names.

    Raises:
        InitError: it is none of these.
    """
    if isinstance(given, InitStrategy):
        return given
    partial = given if isinstance(given, functools.partial) else functools.partial(given) if callable(given) else None
    if partial is not None and not partial.args and getattr(partial.func, "__module__", None) in _HOMES:
        make: Callable[..., InitStrategy] | None = _MAKERS.get(partial.func.__name__)
        if make is init_to_value and not partial.keywords.get("values"):
            raise InitError("init_strategy: init_to_value was given without values; write init_to_value({'site': value}).")
        if make is not None:
            known = inspect.signature(make).parameters
            return make(**{name: value for name, value in partial.keywords.items() if name in known})
    raise InitError(
        f"init_strategy is {given!r}, where chains start expected; write init_to_uniform(), init_to_median(), init_to_mean(), "
        "init_to_sample(), init_to_feasible() or init_to_value({'site': value})."
    )
