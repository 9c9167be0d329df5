"""Firefly Monte Carlo as transitions: rotation HMC, which keeps what it has evaluated, and any other kernel on the density given z."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ...transforms.autobatch import program
from ...transforms.streams import Stream, normal
from ..kernels.adaptation import adapting
from ..kernels.kernel import Transition
from ..kernels.purposes import Purpose
from ..kernels.records import ChainState, Draw, Plan
from .conditional import Conditional
from .flips import update
from .records import BoundData, BrightSet, Point
from .rotation import LARGEST_STEP, Location, iterate

__all__ = ["Faults", "GivenTransition", "RotationTransition"]

_MAX_STEPS = 64


class Faults(NamedTuple):
    """What must not happen, remembered.

    short: bool, (). A buffer of rows overflowed. refuted: int32, (). A row whose bound does not hold, or -1.
    """

    short: Any
    refuted: Any

    @classmethod
    def none(cls) -> "Faults":
        return cls(jnp.bool_(False), jnp.int32(-1))

    def and_also(self, short, refuted) -> "Faults":
        return Faults(self.short | short, jnp.maximum(self.refuted, refuted))


class RotationState(NamedTuple):
    """The auxiliary state of a chain of rotation HMC."""

    here: Location
    faults: Faults


class EvaluatedPoint(NamedTuple):
    """What was found at a point."""

    point: Point
    bright: BrightSet


class GivenState(NamedTuple):
    """The auxiliary state of a chain on the density given z.

    Attributes:
        last: at the point where it was evaluated last. first: where the transition began. A move mostly ends at one of the two.
        queries: int64, (). Likelihoods evaluated in this transition.
    """

    last: EvaluatedPoint
    first: EvaluatedPoint
    queries: Any
    faults: Faults


@dataclass(frozen=True)
class RotationTransition(Transition):
    """The static part of rotation HMC."""

    conditional: Conditional

    @property
    def stats(self) -> dict[str, str]:
        return {
            "n_steps": "int32",
            "n_bright": "int32",
            "n_queries": "int64",
            "acceptance_rate": "float",
            "lp": "float",
            "step_size": "float",
        }

    @property
    def uses_gradient(self) -> bool:
        return True

    def noise(self, stream: Stream, position: Any) -> Any:
        return normal(stream, Purpose.MOMENTUM, position.shape, dtype=position.dtype)

    def start(self, plan: Plan, position: Any):
        bound_data = _bound_data_of(plan)
        w = jnp.linalg.solve(bound_data.scale, position - bound_data.centre)
        point, _ = self.conditional.point_at(bound_data, position)
        here = Location(w, point, self.conditional.all_dark(bound_data))
        return point.base, jnp.zeros_like(position), RotationState(here, Faults.none())

    def program(self, density, plan: Plan):
        """A move and an update of z, as one block; then adapts the angle of a step if warm-up is on."""
        conditional, bound_data, options = self.conditional, _bound_data_of(plan), plan.tuning.options
        adapt = adapting(plan.schedule, plan.tuning)

        @program(heavy=True)
        def iteration(stream, here, momentum, step, num_steps):
            return iterate(conditional, bound_data, stream, here, momentum, step, num_steps)

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
                "n_bright": here.bright.count,
                "n_queries": did.queries,
                "acceptance_rate": did.acceptance_rate,
                "lp": did.log_density,
                "step_size": taken,
            }
            step_size, metric, adaptation = adapt(
                step, state.metric, state.adaptation, state.stream.counter.astype("int32"), did.acceptance_rate, position
            )
            stream = state.stream._replace(counter=state.stream.counter + 1)
            auxiliary = RotationState(here, state.auxiliary.faults.and_also(did.short, did.refuted))
            state = ChainState(position, did.log_density, state.gradient, step_size, metric, adaptation, stream, auxiliary)
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
        return {**self.inner.stats, "n_bright": "int32", "n_queries": "int64"}

    @property
    def uses_gradient(self) -> bool:
        return self.inner.uses_gradient

    def noise(self, stream: Stream, position: Any) -> Any:
        return self.inner.noise(stream, position)

    def start(self, plan: Plan, position: Any):
        bound_data = _bound_data_of(plan)
        known = EvaluatedPoint(self.conditional.point_at(bound_data, position)[0], self.conditional.all_dark(bound_data))
        return self._evaluate(bound_data, position, GivenState(known, known, jnp.int64(0), Faults.none()))

    def _evaluate(self, bound_data: BoundData, position, auxiliary: GivenState):
        """Log density given z and, if it is used, gradient; the auxiliary state, with the likelihoods counted."""
        conditional = self.conditional
        point, passed = conditional.point_at(bound_data, position)
        rows = conditional.gather(bound_data, auxiliary.last.bright)
        bright, refuted = conditional.reevaluate(bound_data, auxiliary.last.bright, rows, point.natural)
        faults = auxiliary.faults.and_also(False, jnp.where(point.inside, refuted, -1))
        auxiliary = GivenState(EvaluatedPoint(point, bright), auxiliary.first, auxiliary.queries + bright.count + passed, faults)
        gradient = conditional.force(bound_data, position, point.natural, bright, rows) if self.uses_gradient else position[:0]
        return conditional.log_density(bound_data, point, bright), gradient, auxiliary

    def _reconsider(self, bound_data: BoundData, stream, position, auxiliary: GivenState):
        """An update of z; what the density then is comes from the rows that were looked at for it."""
        conditional = self.conditional
        (point, before), evaluated, refuted = self._return(bound_data, position, auxiliary)
        bright, asked, short, wrong = update(conditional, bound_data, stream, point, before)
        faults = auxiliary.faults.and_also(short, jnp.maximum(wrong, jnp.where(point.inside, refuted, -1)))
        gradient = position[:0]
        if self.uses_gradient:
            gradient = conditional.force(bound_data, position, point.natural, bright, conditional.gather(bound_data, bright))
        known = EvaluatedPoint(point, bright)
        auxiliary = GivenState(known, known, auxiliary.queries + evaluated + asked, faults)
        return conditional.log_density(bound_data, point, bright), gradient, auxiliary

    def _return(self, bound_data: BoundData, position, auxiliary: GivenState):
        """What is known where a move has ended, how many likelihoods were evaluated for it, and a row whose bound was refuted, or -1."""
        at_last, at_first = ((position == known.point.position).all() for known in (auxiliary.last, auxiliary.first))
        old = jax.tree.map(lambda last, first: jnp.where(at_last | ~at_first, last, first), auxiliary.last, auxiliary.first)
        found = at_last | at_first
        point, passed = self.conditional.point_at(bound_data, position, skip=found)
        rows = self.conditional.gather(bound_data, old.bright)
        bright, refuted = self.conditional.reevaluate(bound_data, old.bright, rows, point.natural, skip=found)
        known = jax.tree.map(lambda old, new: jnp.where(found, old, new), old, EvaluatedPoint(point, bright))
        return known, jnp.where(found, 0, bright.count + passed), refuted

    def program(self, density, plan: Plan):
        bound_data = _bound_data_of(plan)

        @program(heavy=True)
        def given_bright(position, auxiliary):
            return self._evaluate(bound_data, position, auxiliary)

        @program
        def reconsider(stream, position, auxiliary):
            return self._reconsider(bound_data, stream, position, auxiliary)

        move = self.inner.program(given_bright, plan)

        @program
        def transition(state, noise):
            stream = state.stream
            state, draw = move(state._replace(auxiliary=state.auxiliary._replace(first=state.auxiliary.last, queries=jnp.int64(0))), noise)
            log_density, gradient, auxiliary = reconsider(stream, state.position, state.auxiliary)
            stats = {**draw.stats, "n_bright": auxiliary.last.bright.count, "n_queries": auxiliary.queries, "lp": log_density}
            return state._replace(log_density=log_density, gradient=gradient, auxiliary=auxiliary), Draw(draw.position, stats)

        return transition


def _bound_data_of(plan: Plan) -> BoundData:
    return jax.tree.map(jnp.asarray, plan.tuning.options["bound_data"])
