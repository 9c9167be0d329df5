"""Square roots S of the matrices in a path: of a preconditioner, C = S S', and of a start, N(m, k^2 S S').

A further kind (low rank, Kronecker factors) is one class with these three methods, a named tuple of arrays.
"""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

__all__ = ["Diagonal", "Full", "Identity", "Root"]


class Root(Protocol):
    """S, (dim, dim), not singular. Vectors are (dim,)."""

    def apply(self, v: jax.Array) -> jax.Array:
        """S v."""
        ...

    def transposed(self, v: jax.Array) -> jax.Array:
        """S' v."""
        ...

    def log_det(self) -> jax.Array:
        """log|det S|."""
        ...


class Full(NamedTuple):
    """Any matrix, (dim, dim)."""

    matrix: jax.Array

    def apply(self, v: jax.Array) -> jax.Array:
        return self.matrix @ v

    def transposed(self, v: jax.Array) -> jax.Array:
        return v @ self.matrix

    def log_det(self) -> jax.Array:
        return jnp.linalg.slogdet(self.matrix)[1]


class Diagonal(NamedTuple):
    """Its diagonal, (dim,), positive."""

    scale: jax.Array

    def apply(self, v: jax.Array) -> jax.Array:
        return self.scale * v

    def transposed(self, v: jax.Array) -> jax.Array:
        return self.scale * v

    def log_det(self) -> jax.Array:
        return jnp.sum(jnp.log(self.scale))


class Identity(NamedTuple):
    """I: every direction alike."""

    def apply(self, v: jax.Array) -> jax.Array:
        return v

    def transposed(self, v: jax.Array) -> jax.Array:
        return v

    def log_det(self) -> jax.Array:
        return jnp.zeros(())
