"""From a position by site to one vector per chain, and back. Nothing else knows how the vector is laid out."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Layout", "float_type"]


class Layout(NamedTuple):
    """The order, shapes and dtypes of the unconstrained sites in the raveled vector.

    Attributes:
        sites: ((name, shape, dtype name), ...) in program order.
        dtype: name of the vector's float type.
    """

    sites: tuple[tuple[str, tuple[int, ...], str], ...]
    dtype: str

    @classmethod
    def of(cls, positions: dict[str, jax.ShapeDtypeStruct]) -> "Layout":
        """The layout of positions with these shapes, in the float type of the run."""
        sites = tuple((name, tuple(spec.shape), np.dtype(spec.dtype).name) for name, spec in positions.items())
        return cls(sites, float_type())

    @property
    def dim(self) -> int:
        """Length of the vector."""
        return sum(math.prod(shape) for _, shape, _ in self.sites)

    def ravel(self, position: dict[str, jax.Array]) -> jax.Array:
        """One position by site -> vector of shape (dim,)."""
        parts = [jnp.ravel(position[name]).astype(self.dtype) for name, _, _ in self.sites]
        return jnp.concatenate(parts) if parts else jnp.zeros((0,), self.dtype)

    def unravel(self, vector: Any) -> dict[str, Any]:
        """Vector of shape (..., dim) -> arrays of shape (..., *site shape), by site; works on NumPy arrays too."""
        position, start = {}, 0
        for name, shape, dtype in self.sites:
            stop = start + math.prod(shape)
            position[name] = vector[..., start:stop].reshape(vector.shape[:-1] + shape).astype(dtype)
            start = stop
        return position


def float_type() -> str:
    """Name of the process's float type."""
    return np.dtype(jnp.result_type(float)).name
