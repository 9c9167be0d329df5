"""One iteration of Firefly Monte Carlo: move the parameters given which rows are bright, then reconsider which rows are bright.

The move is Hamiltonian Monte Carlo in coordinates w, u = centre + scale w, whitened by the bounds, with H = w'w / 2 + V(w) + p'p / 2: the
flow of the Gaussian part, a rotation of (w, p), is exact, and only V, which is what the bright rows and the prior leave over, needs
small steps:

    p -= (step / 2) grad V(w);    (w, p) rotates by the angle `step`;    p -= (step / 2) grad V(w).

Source: Shahbaba, Lan, Johnson & Neal (2014), "Split Hamiltonian Monte Carlo", section 2.2. The step is jittered by a fifth.
"""

from enum import IntEnum
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ...transforms.streams import Stream, uniform
from .conditional import Conditional
from .flips import update
from .records import Fireflies, Lit, Point

__all__ = ["LARGEST_STEP", "Step", "Whereabouts", "iterate"]

JITTER = 0.2
LARGEST_STEP = 1.3  # with jitter a quarter of a turn, where w and p change places


class Purpose(IntEnum):
    """The uses of randomness within one move."""

    ACCEPT = 2
    JITTER = 3


class Whereabouts(NamedTuple):
    """A chain between iterations. w: (dim,), whitened, of the point."""

    w: jax.Array
    point: Point
    lit: Lit


class Step(NamedTuple):
    """What one iteration did.

    Attributes:
        acceptance_rate: (). log_density: (), nats, of the parameters and the bright rows that it ended with.
        queries: int32, (). Likelihoods evaluated.
        short: bool, (). A list was too short: the chain is no longer exact. refuted: int32, (). A row whose bound exceeded its likelihood,
            or -1.
    """

    acceptance_rate: jax.Array
    log_density: jax.Array
    queries: jax.Array
    short: jax.Array
    refuted: jax.Array


def iterate(conditional: Conditional, fireflies: Fireflies, stream: Stream, here: Whereabouts, momentum, step, num_steps):
    """One iteration.

    Args:
        momentum: (dim,), standard normal. step: angle of a step, (). num_steps: steps of the move, int32 ().

    Returns:
        (Whereabouts, Step).
    """
    here, rate, moved, bad = _move(conditional, fireflies, stream, here, momentum, step, num_steps)
    lit, asked, short, refuted = update(conditional, fireflies, stream, here.point, here.lit)
    log_density = conditional.log_density(fireflies, here.point, lit)
    return here._replace(lit=lit), Step(rate, log_density, moved + asked, short, jnp.maximum(bad, refuted))


def _move(conditional: Conditional, fireflies: Fireflies, stream: Stream, here: Whereabouts, p, step, num_steps):
    dtype = here.w.dtype
    step = step * (1 + JITTER * (2 * uniform(stream, Purpose.JITTER, dtype=dtype) - 1))
    cos, sin = jnp.cos(step), jnp.sin(step)
    rows = conditional.gather(fireflies, here.lit)

    def position_of(w):
        return fireflies.centre + fireflies.scale @ w

    def force_at(w, position, natural, lit):
        """Minus the gradient of V."""
        return fireflies.scale @ conditional.force(fireflies, position, natural, lit, rows) + w

    def body(_, carry):
        w, p, force, lit, refuted = carry
        p = p + 0.5 * step * force
        w, p = cos * w + sin * p, cos * p - sin * w
        position = position_of(w)
        _, natural = conditional.natural(fireflies, position)
        lit, wrong = conditional.relight(fireflies, lit, rows, natural)
        force = force_at(w, position, natural, lit)
        refuted = jnp.maximum(refuted, jnp.where(conditional.holds(fireflies, natural), wrong, -1))
        return w, p + 0.5 * step * force, force, lit, refuted

    start = (here.w, p, force_at(here.w, here.point.position, here.point.natural, here.lit), here.lit, jnp.int32(-1))
    w, q, _, lit, refuted = lax.fori_loop(0, num_steps, body, start)
    end, passed = conditional.arrive(fireflies, position_of(w))
    old_density, new_density = (conditional.log_density(fireflies, *at) for at in ((here.point, here.lit), (end, lit)))
    gain = new_density - old_density + 0.5 * (p @ p - q @ q)
    rate = jnp.where(jnp.isfinite(gain), jnp.exp(jnp.minimum(gain, 0)), 0)
    accepted = uniform(stream, Purpose.ACCEPT, dtype=dtype) < rate
    here = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), Whereabouts(w, end, lit), here)
    return here, rate, num_steps * lit.count + passed, refuted
