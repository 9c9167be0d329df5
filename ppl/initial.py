"""Where chains start: strategies that give each latent site an unconstrained value.

A strategy is a frozen record: `propose(key, dist, bijection, shape)` gives the unconstrained value of one site, `fixed(program)` the
constrained values it takes from the user. The sampler tries a strategy up to a hundred times until the density and its gradient
are finite.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import Distribution

from ..transforms import InitError
from .program import ModelProgram
from .spec import drawn

__all__ = ["InitStrategy", "init_to_median", "init_to_uniform", "init_to_value"]


@dataclass(frozen=True)
class InitStrategy:
    """The uniform strategy, and the base class of the others. Equality is of what is compiled: the user's values play no part.

    Attributes:
        radius: half the width of the uniform distribution, in unconstrained space.
    """

    radius: float = 2.0

    def propose(self, key: Any, dist: Distribution, bijection: Any, shape: tuple[int, ...]) -> Any:
        return jax.random.uniform(key, shape, minval=-self.radius, maxval=self.radius)

    def fixed(self, program: ModelProgram, num_chains: int | None = None) -> dict[str, Any]:
        """The values that the user gave, constrained, by site: with a leading chain axis if `num_chains` is given."""
        return {}


@dataclass(frozen=True)
class _Median(InitStrategy):
    num_samples: int = 15

    def propose(self, key: Any, dist: Distribution, bijection: Any, shape: tuple[int, ...]) -> Any:
        try:
            draws = drawn(dist, key, (self.num_samples,))
        except NotImplementedError:  # an improper prior has no median
            return super().propose(key, dist, bijection, shape)
        return jnp.median(bijection.inv(draws), axis=0)


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
        return value if value.shape == per_chain else np.broadcast_to(value, per_chain)


def init_to_uniform(radius: float = 2.0) -> InitStrategy:
    """Uniform on (-radius, radius) in unconstrained space, every coordinate."""
    if not radius >= 0:
        raise InitError(f"init_to_uniform: radius is {radius}; expected a number that is not negative.")
    return InitStrategy(radius=float(radius))


def init_to_median(num_samples: int = 15) -> InitStrategy:
    """The median, in unconstrained space, of draws from each site's prior given the sites before it.

    A site whose prior cannot be sampled starts from `init_to_uniform`.
    """
    if num_samples < 1:
        raise InitError(f"init_to_median: num_samples is {num_samples}; expected a positive integer.")
    return _Median(num_samples=int(num_samples))


def init_to_value(values: Mapping[str, Any], radius: float = 2.0) -> InitStrategy:
    """Given values, in constrained space; sites that are not named start from `init_to_uniform(radius)`.

    Args:
        values: by site name; of the site's shape (every chain starts there), or with a leading chain axis.
    """
    if not isinstance(values, Mapping):
        raise InitError(f"init_to_value: found a {type(values).__name__}; expected a dict of constrained values by site name.")
    return _Value(radius=float(radius), values={n: np.asarray(v) for n, v in values.items()})
