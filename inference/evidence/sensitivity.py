"""The bound of every restart at the end of a given path, and its derivative in some of the data through all steps, as one program.

The path is that of `descent`: the same start, the same steps, the same random numbers. Here it is a loop whose carries come back, so that
the derivative goes through the start (from the prior: through the draw and its density), through every step, and through every
log-determinant. The preconditioner, the sizes of the steps, their number, and q_0 at a fit are held: the bound is one for each of them.
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from ...transforms import dynamic_loop, value_and_grad
from ...transforms.bounded import bounded_jit
from .descent import Data, compensated
from .estimators import Order
from .parametric import Parametric
from .starts import restart_keys, start_at
from .steps import move

__all__ = ["Checkpoint", "Sensitivity", "sensitivities"]

Checkpoint = Literal["tape", "sqrt", "tree"]


@dataclass(frozen=True)
class Sensitivity:
    """What the program is compiled for.

    Attributes:
        model: with the data that are chosen. joint, order, num_probes: as in `Path`.
        capacity: steps that there is room for. checkpoint: how carries come back, see `dynamic_loop`.
    """

    model: Parametric
    joint: bool
    order: Order
    num_probes: int
    capacity: int
    checkpoint: Checkpoint

    def bound(self, chosen: Any, data: Data, step_sizes: jax.Array, number: jax.Array, key: jax.Array, restart: jax.Array) -> Any:
        """Of one restart, nats; and the standard normal numbers of its start."""
        model = self.model
        start_key, _, probe_key = restart_keys(key, restart)
        position, log_start, normal = start_at(model.objective, model.data(data.train, chosen), data.start, start_key)
        fixed, moving = model.prepare(data.train, chosen)

        def turn(i, carry, moving):
            u, total, lost = carry

            def loss(u):
                log_likelihood, log_prior = model.densities(fixed, moving, u)
                return -log_likelihood - log_prior if self.joint else -log_likelihood

            now = move(data.rule, loss, u, step_sizes[i], self.order, self.num_probes, jax.random.fold_in(probe_key, i))
            return now.moved, *compensated(total, now.log_det, lost)

        zero = jnp.zeros((), position.dtype)
        end = dynamic_loop(number, turn, moving, (position, zero, zero), max_trips=self.capacity, checkpoint=self.checkpoint)
        log_likelihood, log_prior = model.densities(fixed, moving, end[0])
        return log_likelihood + (log_prior - log_start) + end[1], normal


@bounded_jit(static_argnums=0)
def sensitivities(path: Sensitivity, chosen: Any, data: Data, step_sizes: jax.Array, number: jax.Array, key: jax.Array, restarts: Any):
    """Bounds (restart,), nats; their gradients, (restart, *shape) for each chosen array; standard normal numbers, (restart, dim).

    Args:
        path: static. chosen: the arrays at the model's places. data: of the path.
        step_sizes: (capacity,). number: of steps, at most capacity. restarts: their numbers, (restart,), uint32.
    """
    function = value_and_grad(path.bound, has_aux=True)
    (bounds, normals), gradients = jax.vmap(lambda restart: function(chosen, data, step_sizes, number, key, restart))(restarts)
    return bounds, gradients, normals
