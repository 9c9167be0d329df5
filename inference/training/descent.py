"""One step of an optimiser on a model's loss, compiled once for all steps, epochs and restarts."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ...ppl import trace
from ...ppl.interpreters import constrain, score_values, total_of
from ...transforms import value_and_grad
from .rows import Rows

__all__ = ["default_optimiser", "loss_of", "step_of"]

_LAST = 0.02  # of the step size, at the end of the cosine


def default_optimiser(step_size: float, num_steps: int) -> optax.GradientTransformation:
    """Adam, whose step size falls with a cosine to a fiftieth; a gradient longer than 10 is shortened to that."""
    schedule = optax.cosine_decay_schedule(step_size, num_steps, alpha=_LAST)
    return optax.chain(optax.clip_by_global_norm(10.0), optax.adam(schedule))


def loss_of(model: Callable[..., Any], rows: Rows) -> Callable[..., Any]:
    """-(log p(x) + N / B log p(y_batch | x)) / N, nats per row, of (position, data of a batch).

    x are the constrained values of the latent sites at a position, and the density has no Jacobian: its maximum is the mode that the model
    speaks of, whatever the coordinates. Observed sites and factors outside of the plate count once. Without plate N and B are equal.
    """

    def loss(position: dict[str, Any], data: list[Any]) -> Any:
        args, kwargs = rows.arguments(data)
        program = trace(model, *args, **kwargs)
        values = {n: v for n, v in constrain(program, program.data, position).items() if n in program.latents}
        total = 0.0
        for name, score in score_values(program, program.data, values).items():
            sizes = {p.name: p.size for p in program.sites[name].spec.plates}
            total += total_of(score) * (rows.num_rows / sizes[rows.plate] if rows.plate in sizes else 1.0)
        return -jnp.asarray(total) / rows.num_rows

    return loss


def step_of(loss: Callable[..., Any], optimiser: optax.GradientTransformation) -> Callable[..., Any]:
    """(position, state of the optimiser, data) -> the same after a step, and the loss before it."""

    def step(position: dict[str, Any], state: Any, data: list[Any]) -> tuple[Any, Any, Any]:
        value, gradient = value_and_grad(lambda u: loss(u, data))(position)
        updates, state = optimiser.update(gradient, state, position)
        return optax.apply_updates(position, updates), state, value

    return jax.jit(step)
