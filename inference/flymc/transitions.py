"""Firefly Monte Carlo as transitions: rotation HMC, which keeps what it has evaluated, and any other kernel on the density given z."""

import logging
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...transforms.autobatch import program
from ...transforms.errors import BoundError
from ...transforms.streams import Stream, normal
from ..adaptation import adapting
from ..kernel import Transition
from ..records import ChainState, Draw, Plan
from .conditional import Conditional
from .flips import update
from .records import Fireflies, Lit, Point
from .rotation import LARGEST_STEP, Whereabouts, iterate

__all__ = ["Faults", "GivenTransition", "RotationTransition", "mended"]

_log = logging.getLogger("luciole")

_MOMENTUM = 1
_MAX_STEPS = 64


class Faults(NamedTuple):
    """What must not happen, remembered.

    short: bool, (). A list of rows was too short. refuted: int32, (). A row whose bound does not hold, or -1.
    """

    short: Any
    refuted: Any

    @classmethod
    def none(cls) -> "Faults":
        return cls(jnp.bool_(False), jnp.int32(-1))

    def and_also(self, short, refuted) -> "Faults":
        return Faults(self.short | short, jnp.maximum(self.refuted, refuted))


class Rotating(NamedTuple):
    """What a chain of rotation HMC holds."""

    here: Whereabouts
    faults: Faults


class Known(NamedTuple):
    """What was found at a point."""

    point: Point
    lit: Lit


class Held(NamedTuple):
    """What the density given z holds.

    Attributes:
        last: at the point where it was evaluated last. first: where the transition began. A move mostly ends at one of the two.
        queries: int32, (). Likelihoods evaluated in this transition.
    """

    last: Known
    first: Known
    queries: Any
    faults: Faults


def mended(transition: Any, state: ChainState, site: str, num: int) -> Any:
    """A transition with more room, if rows found none and the draws would not be exact; None if nothing is wrong.

    Args:
        transition: one of this file. state: of the chains. site, num: of the rows, and how many there are.

    Raises:
        BoundError: a bound exceeded the likelihood; names the row.
    """
    conditional: Conditional = transition.conditional
    faults: Faults = state.auxiliary.faults
    refuted = int(np.asarray(faults.refuted).max())
    if refuted >= 0:
        name = conditional.kind.family.distribution.__name__
        raise BoundError(
            f"FlyMC: the bound of row {refuted} of site {site!r} ({name}) exceeds its likelihood at a point that was visited: the draws "
            "would be wrong. If the bound is your own (lc.bounds.register), it must return the slope l' at the anchor and a curvature no "
            "smaller than the supremum of -l'' on the ball."
        )
    if not np.asarray(faults.short).any():
        return None
    larger = conditional.with_more_room(num)
    _log.warning(
        "FlyMC: no room for all bright rows of site %r: the run begins again with a capacity of %d instead of %d. "
        "kernel_options={'capacity': %d} saves this.",
        site, larger.capacity, conditional.capacity, larger.capacity,
    )  # fmt: skip
    return replace(transition, conditional=larger)


@dataclass(frozen=True)
class RotationTransition(Transition):
    """The static part of rotation HMC."""

    conditional: Conditional

    @property
    def stats(self) -> dict[str, str]:
        return {
            "n_steps": "int32",
            "n_bright": "int32",
            "n_queries": "int32",
            "acceptance_rate": "float",
            "lp": "float",
            "step_size": "float",
        }

    @property
    def uses_gradient(self) -> bool:
        return True

    def noise(self, stream: Stream, position: Any) -> Any:
        return normal(stream, _MOMENTUM, position.shape, dtype=position.dtype)

    def start(self, plan: Plan, position: Any):
        fireflies = _fireflies(plan)
        w = jnp.linalg.solve(fireflies.scale, position - fireflies.centre)
        point, _ = self.conditional.arrive(fireflies, position)
        here = Whereabouts(w, point, self.conditional.nothing_lit(fireflies))
        return point.base, jnp.zeros_like(position), Rotating(here, Faults.none())

    def program(self, density, plan: Plan):
        """A move and an update of z, as one block; then adapts the angle of a step if warm-up is on."""
        conditional, fireflies, options = self.conditional, _fireflies(plan), plan.tuning.options
        adapt = adapting(plan.schedule, plan.tuning)

        @program(heavy=True)
        def iteration(stream, here, momentum, step, num_steps):
            return iterate(conditional, fireflies, stream, here, momentum, step, num_steps)

        @program
        def transition(state, noise):
            step = jnp.minimum(state.step_size, LARGEST_STEP)
            wanted = jnp.clip(jnp.ceil(options["trajectory_length"] / step - 1e-9), 1, _MAX_STEPS)
            fixed = options["num_steps"] > 0
            n_steps = (options["num_steps"] if fixed else wanted).astype("int32")
            taken = step if fixed else jnp.minimum(step, options["trajectory_length"] / wanted)  # as many, of the length asked for
            here, did = iteration(state.stream, state.auxiliary.here, noise, taken, n_steps)
            position = here.point.position
            stats = {
                "n_steps": n_steps,
                "n_bright": here.lit.count,
                "n_queries": did.queries,
                "acceptance_rate": did.acceptance_rate,
                "lp": did.log_density,
                "step_size": taken,
            }
            step_size, metric, adaptation = adapt(
                step, state.metric, state.adaptation, state.stream.counter.astype("int32"), did.acceptance_rate, position
            )
            stream = state.stream._replace(counter=state.stream.counter + 1)
            held = Rotating(here, state.auxiliary.faults.and_also(did.short, did.refuted))
            state = ChainState(position, did.log_density, state.gradient, step_size, metric, adaptation, stream, held)
            return state, Draw(position, stats)

        return transition


@dataclass(frozen=True)
class GivenTransition(Transition):
    """Another kernel's transition on the density of the parameters given z, then an update of z.

    Attributes:
        inner: the other kernel's static part.
    """

    inner: Transition
    conditional: Conditional

    @property
    def stats(self) -> dict[str, str]:
        return {**self.inner.stats, "n_bright": "int32", "n_queries": "int32"}

    @property
    def uses_gradient(self) -> bool:
        return self.inner.uses_gradient

    def noise(self, stream: Stream, position: Any) -> Any:
        return self.inner.noise(stream, position)

    def start(self, plan: Plan, position: Any):
        fireflies = _fireflies(plan)
        known = Known(self.conditional.arrive(fireflies, position)[0], self.conditional.nothing_lit(fireflies))
        return self._evaluate(fireflies, position, Held(known, known, jnp.int32(0), Faults.none()))

    def _evaluate(self, fireflies: Fireflies, position, held: Held):
        """Log density given z and, if it is used, gradient; what is held, with the likelihoods counted."""
        conditional = self.conditional
        point, passed = conditional.arrive(fireflies, position)
        rows = conditional.gather(fireflies, held.last.lit)
        lit, refuted = conditional.relight(fireflies, held.last.lit, rows, point.natural)
        faults = held.faults.and_also(False, jnp.where(point.inside, refuted, -1))
        held = Held(Known(point, lit), held.first, held.queries + lit.count + passed, faults)
        gradient = conditional.force(fireflies, position, point.natural, lit, rows) if self.uses_gradient else position[:0]
        return conditional.log_density(fireflies, point, lit), gradient, held

    def _reconsider(self, fireflies: Fireflies, stream, position, held: Held):
        """An update of z; what the density then is comes from the rows that were looked at for it."""
        conditional = self.conditional
        (point, before), evaluated, refuted = self._return(fireflies, position, held)
        lit, asked, short, wrong = update(conditional, fireflies, stream, point, before)
        faults = held.faults.and_also(short, jnp.maximum(wrong, jnp.where(point.inside, refuted, -1)))
        gradient = position[:0]
        if self.uses_gradient:
            gradient = conditional.force(fireflies, position, point.natural, lit, conditional.gather(fireflies, lit))
        known = Known(point, lit)
        return conditional.log_density(fireflies, point, lit), gradient, Held(known, known, held.queries + evaluated + asked, faults)

    def _return(self, fireflies: Fireflies, position, held: Held):
        """What is known where a move has ended, how many likelihoods were evaluated for it, and a row whose bound was refuted, or -1."""
        at_last, at_first = ((position == known.point.position).all() for known in (held.last, held.first))
        old = jax.tree.map(lambda last, first: jnp.where(at_last | ~at_first, last, first), held.last, held.first)
        found = at_last | at_first
        point, passed = self.conditional.arrive(fireflies, position, skip=found)
        rows = self.conditional.gather(fireflies, old.lit)
        lit, refuted = self.conditional.relight(fireflies, old.lit, rows, point.natural, skip=found)
        known = jax.tree.map(lambda old, new: jnp.where(found, old, new), old, Known(point, lit))
        return known, jnp.where(found, 0, lit.count + passed), refuted

    def program(self, density, plan: Plan):
        fireflies = _fireflies(plan)

        @program(heavy=True)
        def given_bright(position, held):
            return self._evaluate(fireflies, position, held)

        @program
        def reconsider(stream, position, held):
            return self._reconsider(fireflies, stream, position, held)

        move = self.inner.program(given_bright, plan)

        @program
        def transition(state, noise):
            stream = state.stream
            state, draw = move(state._replace(auxiliary=state.auxiliary._replace(first=state.auxiliary.last, queries=jnp.int32(0))), noise)
            log_density, gradient, held = reconsider(stream, state.position, state.auxiliary)
            stats = {**draw.stats, "n_bright": held.last.lit.count, "n_queries": held.queries, "lp": log_density}
            return state._replace(log_density=log_density, gradient=gradient, auxiliary=held), Draw(draw.position, stats)

        return transition


def _fireflies(plan: Plan) -> Fireflies:
    return jax.tree.map(jnp.asarray, plan.tuning.options["fireflies"])
