"""Whether gradients jump where paths end.

The Jacobian of a step has the derivative of the gradient and not its jumps. Where a log density has kinks (|u|, a Laplace density, ReLU,
a clipped value) the gradient jumps, steps fold there, and neither determinant nor guard sees it: what is estimated is no bound.

    d' (g(u + d) - g(u - d)) / 2    and    d' H d,    d = e * s * r

with s the standard deviations of the samples, r random signs and e small, agree for smooth densities. The mean of their difference,
over e^2, is the trace of what the Hessian does not see, in units in which a Gaussian posterior has a trace of one for each dimension.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...transforms import grad, jvp, value_and_grad
from ...transforms.bounded import bounded_jit
from ...transforms.keys import random_key
from .objective import Objective

__all__ = ["unseen_curvature"]

_LENGTH = 0.3  # of d, in standard deviations
_DIRECTIONS = 256  # over all restarts
_LEAST, _SHARE, _ERRORS = 0.3, 0.03, 3.0  # a difference counts beyond this trace, this share of it, and so many standard errors
_FEWEST = 4  # restarts whose spread is known


def unseen_curvature(objective: Objective, data: Sequence[Any], joint: bool, positions: jax.Array | np.ndarray) -> float:
    """The trace that the Hessian does not see; 0 if that is no more than noise and higher derivatives explain.

    Args:
        joint: whether f has the prior in it. positions: (restart, dim), all finite; of too few restarts nothing is known, NaN.
    """
    number, dim = positions.shape
    if number < _FEWEST:
        return np.nan
    size = _LENGTH / np.sqrt(dim)
    keys = jax.random.split(random_key(), max(1, _DIRECTIONS // number))
    finite, exact = (np.asarray(x, np.float64) / size**2 for x in _second_derivatives(objective, joint, data, positions, keys, size))
    per_restart = (finite - exact).mean(axis=1)
    unseen, error = float(per_restart.mean()), float(per_restart.std(ddof=1) / np.sqrt(number))
    return unseen if abs(unseen) > max(_LEAST, _SHARE * abs(finite.mean()), _ERRORS * error) else 0.0


@bounded_jit(static_argnums=(0, 1))
def _second_derivatives(objective: Objective, joint: bool, data, positions, keys, size):
    """By differences of the gradient and by its derivative, (restart, direction) each, along the same d."""
    prepared = objective.prepare(data)

    def loss(u):
        return objective.loss(prepared, data, u, joint)

    scale, gradient, both = size * jnp.std(positions, axis=0, ddof=1), grad(loss), value_and_grad(loss)

    def along(u, key):
        d = scale * jax.random.rademacher(key, u.shape, u.dtype)
        exact = jnp.vdot(d, jvp(gradient, (u,), (d,))[1])
        (ahead, up), (behind, down) = both(u + d), both(u - d)
        inside = jnp.isfinite(ahead) & jnp.isfinite(behind)  # beyond a hard limit is no kink
        return jnp.where(inside, jnp.vdot(d, up - down) / 2, exact), exact

    return jax.vmap(lambda u, i: jax.vmap(lambda key: along(u, jax.random.fold_in(key, i)))(keys))(positions, jnp.arange(len(positions)))
