"""The guard: how large the largest eigenvalue of A = step size x Hessian is along the path.

The estimates of the entropy are bounds as long as it stays below a limit, and no quantity that comes for free can certify that. Power
iteration can, nearly: started from where it was at the last check it needs a few products now and then. It is run on A + c I, with c
the largest |A v| seen of late, so that what it finds is the largest eigenvalue and not the largest in size, which may be
negative and is harmless. What it returns is a Rayleigh quotient, and so never above the truth.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

__all__ = ["Guard", "look", "start_guard"]

_FIRST = 30  # products of the first check, which starts from a random vector
_LATER = 3  # of each later one
_FADING = 0.9  # of the shift, per product: the curvature that made it large may be past


class Guard(NamedTuple):
    """direction: (dim,), of unit length. shift: (), what keeps negative eigenvalues from leading."""

    direction: jax.Array
    shift: jax.Array


def start_guard(key: jax.Array, dim: int, dtype) -> Guard:
    """A guard that has not looked yet."""
    direction = jax.random.normal(key, (dim,), dtype)
    return Guard(direction / jnp.linalg.norm(direction), jnp.zeros((), dtype))


def look(guard: Guard, product: Callable[[jax.Array], jax.Array], first: jax.Array) -> tuple[Guard, jax.Array]:
    """A few more products, and the largest eigenvalue of A as far as they see it.

    Args:
        guard: where the last check ended.
        product: v (dim,) -> A v (dim,).
        first: whether this is the first check, which takes more products.
    """

    def iterate(_, carry):
        (v, shift), _ = carry
        moved = product(v)
        shift = jnp.maximum(_FADING * shift, jnp.linalg.norm(moved))
        ahead = moved + shift * v
        norm = jnp.linalg.norm(ahead)
        v_next = jnp.where(norm > 0, ahead / jnp.where(norm > 0, norm, 1), v)
        return Guard(v_next, shift), jnp.vdot(v, moved)

    count = jnp.where(first, _FIRST, _LATER)
    return lax.fori_loop(0, count, iterate, (guard, jnp.zeros_like(guard.shift)))
