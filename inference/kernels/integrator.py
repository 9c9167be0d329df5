"""One leapfrog step of Hamiltonian dynamics, and the energy it conserves up to its error.

The velocity Verlet scheme, second order and symplectic, with g the gradient of the log density and S the inverse mass matrix:

    p' = p + (step / 2) g(q);   q1 = q + step S p';   p1 = p' + (step / 2) g(q1)

It is cut where the gradient is computed, so that a program calls the density itself, between `half_kick_and_drift` and `kick`.

Source: Neal (2011), "MCMC using Hamiltonian dynamics", section 5.2.3, the leapfrog method.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .coordinates import Per
from .layout import Layout
from .metric import Metric, kinetic_energy, velocity

__all__ = ["MAX_ENERGY_ERROR", "Phase", "energy", "energy_error", "half_kick_and_drift", "kick"]

MAX_ENERGY_ERROR = 1000.0  # nats; Stan's threshold, Betancourt (2017), section 6.2


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


def half_kick_and_drift(metric: Metric, step: jax.Array, phase: Phase) -> Phase:
    """A leapfrog step as far as its gradient: (q1, p', g(q)).

    Args:
        metric: has S, the inverse mass matrix.
        step: (). Negative to go back in time.
        phase: (q, p, g(q)), where from.
    """
    momentum = phase.momentum + 0.5 * step * phase.gradient
    return Phase(phase.position + step * velocity(metric, momentum), momentum, phase.gradient)


def kick(step: jax.Array, phase: Phase, gradient: jax.Array) -> Phase:
    """The rest of a leapfrog step: (q1, p1, g(q1)).

    Args:
        step: the same.
        phase: (q1, p', g(q)), what `half_kick_and_drift` returned.
        gradient: (dim,). g(q1).
    """
    return Phase(phase.position, phase.momentum + 0.5 * step * gradient, gradient)


def energy(metric: Metric, log_density: jax.Array, p: jax.Array, layout: Layout | None = None, per: Per = Per.TRANSITION) -> jax.Array:
    """The Hamiltonian: minus the log density plus K(p), nats, shape (); `layout`, `per` as for `kinetic_energy`."""
    return kinetic_energy(metric, p, layout, per) - log_density


def energy_error(new: jax.Array, start: jax.Array) -> jax.Array:
    """new - start in nats; anything that is not finite counts as infinitely bad."""
    error = new - start
    return jnp.where(jnp.isfinite(error), error, jnp.inf)
