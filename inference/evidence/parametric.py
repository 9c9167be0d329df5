"""A model as a function of some of its data too: hyperparameters, or anything else among its arguments.

What the densities compute is cut into three: from the other data alone; from the chosen ones and not from the vector, once for a path
(a factorised kernel matrix, for example); and the rest, at every step.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...transforms.equations import dependents
from ...transforms.jax_compat import open_jaxpr
from ...transforms.partial import Split, split
from .objective import Objective

__all__ = ["Parametric"]


@dataclass(frozen=True)
class Parametric:
    """Hashable, as `Objective` is.

    Attributes:
        objective: the model. places: which of its data are chosen, floating point arrays.
    """

    objective: Objective
    places: tuple[int, ...]

    def data(self, data: Sequence[Any], chosen: Sequence[Any]) -> list[Any]:
        """All data, with these at the chosen places."""
        whole = list(data)
        for place, value in zip(self.places, chosen, strict=True):
            whole[place] = value
        return whole

    def prepare(self, data: Sequence[Any], chosen: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """What the densities compute without the vector: what the chosen data have no part in, and what can be differentiated in them."""
        prepared = self._densities.prepare(self.data(data, chosen))
        return self._parted(prepared, False), self._parted(prepared, True)

    def densities(self, fixed: Sequence[Any], moving: Sequence[Any], vector: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Log likelihood and log prior, nats, at a vector (dim,), given what `prepare` returned."""
        rest, on = iter(fixed), iter(moving)
        log_likelihood, log_prior = self._densities.rest([next(on) if moves else next(rest) for moves in self._moves], [vector])
        return log_likelihood, log_prior

    def _parted(self, prepared: Sequence[Any], moving: bool) -> list[Any]:
        return [value for value, moves in zip(prepared, self._moves, strict=True) if moves == moving]

    @functools.cached_property
    def _densities(self) -> Split:
        def densities(data, vector):
            objective = self.objective
            return objective.log_likelihood(objective.prepare(data), vector), objective.log_prior(data, vector)

        layout, data = self.objective.layout, self.objective.program.data
        vector = jax.ShapeDtypeStruct((layout.dim,), np.dtype(layout.dtype))
        return split(jax.make_jaxpr(densities)(data, vector), len(data))

    @functools.cached_property
    def _moves(self) -> tuple[bool, ...]:
        """Which of the prepared values have a derivative in the chosen data."""
        jaxpr, _ = open_jaxpr(jax.make_jaxpr(self._densities.prepare)(self.objective.program.data))
        chosen = {jaxpr.invars[place] for place in self.places}
        moving = chosen | dependents(jaxpr.eqns, chosen, effects=False)
        return tuple(not hasattr(v, "val") and v in moving and jnp.issubdtype(v.aval.dtype, jnp.inexact) for v in jaxpr.outvars)
