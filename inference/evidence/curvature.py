"""The guard: how large the largest eigenvalue of A = step size x Hessian is along the path.

The estimates of the entropy are bounds as long as it stays below a limit, and no quantity that comes for free can certify that. A few
products with A now and then can, nearly: a direction v climbs its Rayleigh quotient v'Av, each time to the best direction in the
plane of v and A v, and begins where it was at the last check. Unlike power iteration this is not drawn to eigenvalues that are
large and negative, which are harmless. The quotient only rises at one check, and is never above the truth.

Source: steepest ascent of the Rayleigh quotient, Hestenes & Karush (1951); in the plane the best angle solves tan 2t = 2 b / (p - q).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

__all__ = ["climb", "start_direction"]

_FIRST = 20  # steps of the first check, which starts from a random direction
_LATER = 2  # of each later one


def start_direction(key: jax.Array, dim: int, dtype) -> jax.Array:
    """A random direction, (dim,), of unit length."""
    direction = jax.random.normal(key, (dim,), dtype)
    return direction / jnp.linalg.norm(direction)


def climb(direction: jax.Array, product: Callable[[jax.Array], jax.Array], first: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A few steps up, one product each, and one product more.

    Args:
        direction: (dim,), of unit length; where the last check ended.
        product: v (dim,) -> A v (dim,).
        first: whether this is the first check, which takes more steps.

    Returns:
        The direction, and its Rayleigh quotient: the largest eigenvalue as far as it was seen.
    """

    def ascend(_, carry):
        v, image = carry
        p = jnp.vdot(v, image)
        ahead = image - p * v
        b = jnp.linalg.norm(ahead)
        ahead = ahead / jnp.where(b > 0, b, 1)  # zero at an eigenvector: nowhere to go
        image_ahead = product(ahead)
        angle = 0.5 * jnp.arctan2(2 * b, p - jnp.vdot(ahead, image_ahead))
        c, s = jnp.cos(angle), jnp.sin(angle)
        s = jnp.where(b > 0, s, 0)
        length = jnp.linalg.norm(c * v + s * ahead)
        return (c * v + s * ahead) / length, (c * image + s * image_ahead) / length

    count = jnp.where(first, _FIRST, _LATER)
    direction, image = lax.fori_loop(0, count, ascend, (direction, product(direction)))
    return direction, jnp.vdot(direction, image)
