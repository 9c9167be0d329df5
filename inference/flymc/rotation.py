"""One iteration of Firefly Monte Carlo: move the parameters given which rows are bright, then reconsider which rows are bright.

The move is Hamiltonian Monte Carlo in coordinates w, u = centre + scale w, whitened by the bounds, with H = w'w / 2 + V(w) + p'p / 2: the
flow of the Gaussian part, a rotation of (w, p), is exact, and only V, which is what the bright rows and the prior leave over, needs
small steps:

    p -= (step / 2) grad V(w);    (w, p) rotates by the angle `step`;    p -= (step / 2) grad V(w).

Source: Shahbaba, Lan, Johnson & Neal (2014), "Split Hamiltonian Monte Carlo", section 2.2. The step is jittered by a fifth.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ...transforms.streams import Stream, uniform
from ..kernels.purposes import Purpose
from .conditional import Conditional
from .flips import update
from .records import BoundData, BrightSet, Point

__all__ = ["LARGEST_STEP", "Location", "Step", "iterate"]

JITTER = 0.2
LARGEST_STEP = 1.3  # with jitter a quarter of a turn, where w and p change places


class Location(NamedTuple):
    """A chain between iterations. w: (dim,), whitened, of the point."""

    w: jax.Array
    point: Point
    bright: BrightSet


class Step(NamedTuple):
    """What one iteration did.

    Attributes:
        acceptance_rate: (). log_density: (), nats, of the parameters and the bright rows that it ended with.
        queries: int64, (). Likelihoods evaluated; those of one move of many steps over many bright rows may be more than 2^31.
        short: bool, (). A buffer overflowed: the chain is no longer exact. refuted: int32, (). A row whose bound exceeded its likelihood,
            or -1.
    """

    acceptance_rate: jax.Array
    log_density: jax.Array
    queries: jax.Array
    short: jax.Array
    refuted: jax.Array


def iterate(conditional: Conditional, bound_data: BoundData, stream: Stream, here: Location, momentum, step, num_steps):
    """One iteration.

    Args:
        momentum: (dim,), standard normal. step: angle of a step, (). num_steps: steps of the move, int32 ().

    Returns:
        (Location, Step).
    """
    here, rate, moved, bad = _move(conditional, bound_data, stream, here, momentum, step, num_steps)
    bright, asked, short, refuted = update(conditional, bound_data, stream, here.point, here.bright)
    log_density = conditional.log_density(bound_data, here.point, bright)
    return here._replace(bright=bright), Step(rate, log_density, moved + asked, short, jnp.maximum(bad, refuted))


def _move(conditional: Conditional, bound_data: BoundData, stream: Stream, here: Location, p, step, num_steps):
    dtype = here.w.dtype
    step = step * (1 + JITTER * (2 * uniform(stream, Purpose.JITTER, dtype=dtype) - 1))
    cos, sin = jnp.cos(step), jnp.sin(step)
    rows = conditional.gather(bound_data, here.bright)

    def position_of(w):
        return bound_data.centre + bound_data.scale @ w

    def force_at(w, position, natural, bright):
        """Minus the gradient of V."""
        return bound_data.scale.T @ conditional.force(bound_data, position, natural, bright, rows) + w

    def body(_, carry):
        w, p, force, bright, refuted = carry
        p = p + 0.5 * step * force
        w, p = cos * w + sin * p, cos * p - sin * w
        position = position_of(w)
        _, natural = conditional.natural(bound_data, position)
        bright, wrong = conditional.reevaluate(bound_data, bright, rows, natural)
        force = force_at(w, position, natural, bright)
        refuted = jnp.maximum(refuted, jnp.where(conditional.holds(bound_data, natural), wrong, -1))
        return w, p + 0.5 * step * force, force, bright, refuted

    start = (here.w, p, force_at(here.w, here.point.position, here.point.natural, here.bright), here.bright, jnp.int32(-1))
    w, q, _, bright, refuted = lax.fori_loop(0, num_steps, body, start)
    end, passed = conditional.point_at(bound_data, position_of(w))
    old_density, new_density = (conditional.log_density(bound_data, *at) for at in ((here.point, here.bright), (end, bright)))
    gain = new_density - old_density + 0.5 * (p @ p - q @ q)
    rate = jnp.where(jnp.isfinite(gain), jnp.exp(jnp.minimum(gain, 0)), 0)
    accepted = uniform(stream, Purpose.ACCEPT, dtype=dtype) < rate
    here = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), Location(w, end, bright), here)
    return here, rate, num_steps * bright.count.astype(jnp.int64) + passed, refuted
