"""One iteration of Firefly Monte Carlo: move the parameters given which rows are bright, then reconsider which rows are bright.

The move is Hamiltonian Monte Carlo in coordinates whitened by the bounds, with H = w'w / 2 + V(w) + p'p / 2: the flow of the Gaussian
part, a rotation of (w, p), is exact, and only V, which is what the bright rows and the prior leave over, needs small steps:

    p -= (step / 2) grad V(w);    (w, p) rotates by the angle `step`;    p -= (step / 2) grad V(w).

Source: Shahbaba, Lan, Johnson & Neal (2014), "Split Hamiltonian Monte Carlo", section 2.2. The step is jittered by a fifth.
"""

from enum import IntEnum
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ...transforms.streams import Stream, normal, uniform
from .conditional import Conditional
from .flips import flip
from .records import Fireflies, Lit, Point

__all__ = ["Step", "iterate", "start"]

JITTER = 0.2


class Purpose(IntEnum):
    """The uses of randomness within one move."""

    MOMENTUM = 1
    ACCEPT = 2
    JITTER = 3
    START = 4


class Step(NamedTuple):
    """What one iteration did.

    Attributes:
        acceptance_rate: (). queries: int32, (). Likelihoods evaluated.
        short: bool, (). A list was too short: the chain is no longer exact. refuted: bool, (). A bound exceeded the likelihood.
    """

    acceptance_rate: jax.Array
    queries: jax.Array
    short: jax.Array
    refuted: jax.Array


def start(conditional: Conditional, fireflies: Fireflies, stream: Stream, capacity: int, room: int) -> tuple[Point, Lit]:
    """A point drawn from the Gaussian that the bounds make, and the rows that are bright there after one update from none."""
    dtype = fireflies.anchor.dtype
    point, _ = conditional.arrive(fireflies, normal(stream, Purpose.START, fireflies.centre.shape, dtype=dtype))
    none = Lit(jnp.zeros(capacity, jnp.int32), jnp.ones(capacity, dtype), jnp.zeros(capacity, dtype), jnp.int32(0))
    return point, flip(conditional, fireflies, stream, point, none, room)[0]


def iterate(conditional: Conditional, fireflies: Fireflies, stream: Stream, point: Point, lit: Lit, step, num_steps, room: int):
    """One iteration.

    Args:
        step: angle of a step, (). num_steps: steps of the move, int32 ().
        room: for proposed rows.

    Returns:
        (Point, Lit, Step).
    """
    point, lit, rate, moved, bad = _move(conditional, fireflies, stream, point, lit, step, num_steps)
    lit, asked, short, refuted = flip(conditional, fireflies, stream, point, lit, room)
    return point, lit, Step(rate, moved + asked, short, bad | refuted)


def _move(conditional: Conditional, fireflies: Fireflies, stream: Stream, point: Point, lit: Lit, step, num_steps):
    dtype = point.w.dtype
    p = normal(stream, Purpose.MOMENTUM, point.w.shape, dtype=dtype)
    step = step * (1 + JITTER * (2 * uniform(stream, Purpose.JITTER, dtype=dtype) - 1))
    cos, sin = jnp.cos(step), jnp.sin(step)
    rows = conditional.gather(fireflies, lit)

    def body(_, carry):
        w, p, smooth, lit, refuted = carry
        p = p + 0.5 * step * (conditional.force(smooth, lit, rows) + w)
        w, p = cos * w + sin * p, cos * p - sin * w
        lit, wrong = conditional.relight(fireflies, lit, rows, w)
        smooth = conditional.smooth_force(fireflies, w)
        p = p + 0.5 * step * (conditional.force(smooth, lit, rows) + w)
        return w, p, smooth, lit, refuted | (wrong & conditional.holds(fireflies, w))

    w, q, _, relit, refuted = lax.fori_loop(0, num_steps, body, (point.w, p, point.force, lit, jnp.bool_(False)))
    end, passed = conditional.arrive(fireflies, w)
    queries = num_steps * lit.count + passed
    gain = conditional.log_density(fireflies, end, relit) - conditional.log_density(fireflies, point, lit) + 0.5 * (p @ p - q @ q)
    rate = jnp.where(jnp.isfinite(gain), jnp.exp(jnp.minimum(gain, 0)), 0)
    accepted = uniform(stream, Purpose.ACCEPT, dtype=dtype) < rate
    point, lit = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), (end, relit), (point, lit))
    return point, lit, rate, queries, refuted
