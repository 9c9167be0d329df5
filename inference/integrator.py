"""One leapfrog step of Hamiltonian dynamics, and the energy it conserves up to its error."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from .metric import Metric, kinetic_energy, velocity

__all__ = ["MAX_ENERGY_ERROR", "Phase", "ValueAndGrad", "energy", "energy_error", "leapfrog"]

MAX_ENERGY_ERROR = 1000.0  # nats; Stan's threshold, Betancourt (2017), section 6.2

ValueAndGrad = Callable[[jax.Array], tuple[jax.Array, jax.Array]]
"""position (dim,) -> (log density (), gradient (dim,))."""


class Phase(NamedTuple):
    """A point in phase space.

    Attributes:
        position: (dim,).
        momentum: (dim,).
        gradient: (dim,). Of the log density at the position.
    """

    position: jax.Array
    momentum: jax.Array
    gradient: jax.Array


def leapfrog(value_and_grad: ValueAndGrad, metric: Metric, step: jax.Array, phase: Phase) -> tuple[Phase, jax.Array]:
    """One step of the velocity Verlet scheme, second order and symplectic.

        p' = p + (step / 2) g(q);   q1 = q + step S p';   p1 = p' + (step / 2) g(q1)

    Args:
        value_and_grad: the log density and its gradient g; called once.
        metric: has S, the inverse mass matrix.
        step: (). Negative to go back in time.
        phase: where from.

    Returns:
        The new phase and its log density, shape ().
    """
    half = 0.5 * step
    momentum = phase.momentum + half * phase.gradient
    position = phase.position + step * velocity(metric, momentum)
    log_density, gradient = value_and_grad(position)
    return Phase(position, momentum + half * gradient, gradient), log_density


def half_kick_and_drift(metric: Metric, step: jax.Array, phase: Phase) -> Phase:
    """The part of a `leapfrog` step before its gradient: the new position, half of the new momentum, the old gradient."""
    momentum = phase.momentum + 0.5 * step * phase.gradient
    return Phase(phase.position + step * velocity(metric, momentum), momentum, phase.gradient)


def kick(step: jax.Array, phase: Phase, gradient: jax.Array) -> Phase:
    """The part of a `leapfrog` step after its gradient."""
    return Phase(phase.position, phase.momentum + 0.5 * step * gradient, gradient)


def energy(metric: Metric, log_density: jax.Array, p: jax.Array) -> jax.Array:
    """The Hamiltonian: minus the log density plus K(p), nats, shape ()."""
    return kinetic_energy(metric, p) - log_density


def energy_error(new: jax.Array, start: jax.Array) -> jax.Array:
    """new - start in nats; anything that is not finite counts as infinitely bad."""
    error = new - start
    return jnp.where(jnp.isfinite(error), error, jnp.inf)
