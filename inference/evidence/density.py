"""A model's log density on vectors, many at a time."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...ppl import ModelProgram
from ...ppl.interpreters import score_sites, total_of, unconstrain
from ...ppl.predictive import Forward
from ...transforms.bounded import bounded_jit
from ..kernels.layout import Layout

__all__ = ["Density"]

_BATCH_BYTES = 32 * 2**20
_MAX_BATCH = 1000


@dataclass(frozen=True)
class Density:
    """The log density of a model on vectors u; device memory is bounded by a batch.

    Attributes:
        program: the model, with its data. layout: of the vectors.
        data: the data where they are on devices; None: the program's own, put there for each call.
    """

    program: ModelProgram
    layout: Layout
    data: Sequence[Any] | None = field(default=None, compare=False)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """(draw, dim), unconstrained -> log gamma, (draw,), nats, float64."""
        return self._in_batches(_log_densities, positions.astype(self.layout.dtype))

    def unconstrain(self, values: dict[str, np.ndarray]) -> np.ndarray:
        """Constrained values of the latent sites, (draw, *site shape) each -> positions (draw, dim), float64."""
        return self._in_batches(_unconstrained, values)

    @functools.cached_property
    def largest(self) -> int:
        """Elements of the largest value that the model computes for one vector."""
        shapes = [v.aval.shape for eqn in self.program.jaxpr.jaxpr.eqns for v in eqn.outvars]
        shapes += [site.shape for site in self.program.sites.values()]  # some may stand in programs within the program
        return max([self.layout.dim, *(math.prod(shape) for shape in shapes)])

    @property
    def _size(self) -> int:
        """Vectors in a batch: as many as keep their largest values below `_BATCH_BYTES`."""
        return max(1, min(_MAX_BATCH, _BATCH_BYTES // (self.largest * np.dtype(self.layout.dtype).itemsize)))

    def _in_batches(self, function: Callable[..., Any], rows: Any) -> np.ndarray:
        total = len(jax.tree.leaves(rows)[0])
        forward, parts = Forward(self.program), []
        data = jax.device_put(self.program.data) if self.data is None else self.data
        for begin in range(0, total, self._size):
            numbers = np.minimum(np.arange(begin, begin + self._size), total - 1)  # the last batch is filled up with the last row
            batch = function(forward, self.layout, data, jax.tree.map(lambda v, n=numbers: v[n], rows))
            parts.append(np.asarray(batch, np.float64)[: total - begin])
        return np.concatenate(parts)


@bounded_jit(static_argnums=(0, 1))
def _log_densities(forward: Forward, layout: Layout, data: Any, positions: jax.Array) -> jax.Array:
    def one(position: jax.Array) -> jax.Array:
        scores = score_sites(forward.program, data, layout.unravel(position))
        return functools.reduce(jnp.add, [total_of(score) for score in scores.values()]).astype(layout.dtype)

    return jax.vmap(one)(positions)


@bounded_jit(static_argnums=(0, 1))
def _unconstrained(forward: Forward, layout: Layout, data: Any, values: dict[str, jax.Array]) -> jax.Array:
    return jax.vmap(lambda v: layout.ravel(unconstrain(forward.program, data, v)))(values)
