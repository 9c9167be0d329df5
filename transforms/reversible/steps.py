"""One step of a reversible loop in fixed-point numbers: forwards, undone, and pulled back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..autodiff.core import is_differentiable
from .numbers import DENOMINATOR, LIMIT, decode, divide, multiply, to_units
from .store import pop, push
from .traced import Operation, Program

__all__ = ["Adjoint", "Given", "Held", "SegmentTurn", "Steps", "Tables"]


class Tables(NamedTuple):
    """Of all products. numerators: int32, (step, slot). spills: bool, (step, slot)."""

    numerators: Any
    spills: Any


class Given(NamedTuple):
    """What no step changes: constants, theta, and the tables of the factors."""

    consts: Sequence[Any]
    theta: Sequence[Any]
    tables: Tables


class Held(NamedTuple):
    """The loop between two steps, in integers.

    Attributes:
        units: the leaves of the state. remainders, words, places: of each slot; words hold what has spilled, places where the next goes.
    """

    units: tuple[Any, ...]
    remainders: tuple[Any, ...]
    words: tuple[Any, ...]
    places: tuple[Any, ...]


class Adjoint(NamedTuple):
    """Cotangents in float64: of the leaves of the state; of theta, those that have one; of the factors, (step, slot)."""

    state: tuple[Any, ...]
    theta: tuple[Any, ...]
    factors: Any


@dataclass(frozen=True)
class Steps:
    """The steps of a program. Call everything inside `jax.enable_x64(True)`; the user's code sees the numbers it was written for."""

    program: Program

    def start(self, carry: Sequence[Any]) -> Held:
        """The state before the first step; nothing has been multiplied."""
        p = self.program
        shapes = [p.types[leaf].shape for leaf in p.slot_leaf]
        return Held(
            tuple(to_units(x) for x in carry),
            tuple(jnp.zeros(s, jnp.uint64) for s in shapes),
            tuple(jnp.zeros((w + 1, *s), jnp.uint16) for w, s in zip(p.words, shapes, strict=True)),
            tuple(jnp.int32(0) for _ in shapes),
        )

    def adjoint(self, theta: Sequence[Any], cotangents: Sequence[Any]) -> Adjoint:
        """After the last step: the cotangents of its state, and nothing yet of theta and the factors."""
        p = self.program
        return Adjoint(
            tuple(ct.astype(jnp.float64) for ct in cotangents),
            tuple(jnp.zeros(x.shape, jnp.float64) for x in theta if is_differentiable(x)),
            jnp.zeros((p.num_steps, len(p.words)), jnp.float64),
        )

    def values(self, units: Sequence[Any]) -> list[Any]:
        """The state in the user's floating point types."""
        return [decode(u, t.dtype) for u, t in zip(units, self.program.types, strict=True)]

    def forward(self, i: Any, state: tuple[Held, Any], given: Given) -> tuple[Held, Any]:
        """One step. state: (held, outside), for the second see `Kept`."""
        held, outside = state
        units, remainders, words, places = map(list, held)
        for op in self.program.operations:
            if op.slots:
                for leaf, slot in zip(op.target, op.slots, strict=True):
                    made = push(words[slot], places[slot], remainders[slot], given.tables.spills[i, slot])
                    words[slot], places[slot], remainder = made
                    units[leaf], remainders[slot] = multiply(units[leaf], remainder, given.tables.numerators[i, slot])
            else:
                for leaf, change in zip(op.target, self.increments(op, i, units, given), strict=True):
                    moved = decode(units[leaf], jnp.float64) + change.astype(jnp.float64)
                    outside = self.look(leaf, moved, outside, i)
                    units[leaf] = units[leaf] + to_units(change)
        return Held(tuple(units), tuple(remainders), tuple(words), tuple(places)), outside

    def look(self, leaf: int, value: Any, outside: Any, i: Any) -> Any:
        """Whether a leaf has left the range, or is NaN, at a step."""
        within = jnp.all(jnp.abs(value) < LIMIT)
        return outside.at[leaf].min(jnp.where(within, self.program.num_steps, i).astype(jnp.int32))

    def increments(self, op: Operation, i: Any, units: Sequence[Any], given: Given) -> list[Any]:
        """What an addition adds: the same bits in both directions."""
        i = i.astype(jnp.int32)
        inputs = op.function.inputs(given.consts, given.theta, i, self.values(units))
        with self.users_numbers():
            return op.function.value(inputs, i)

    def users_numbers(self) -> Any:
        return jax.enable_x64(self.program.wide)

    def backward(self, i: Any, state: tuple[Held, Adjoint], given: Given) -> tuple[Held, Adjoint]:
        """One step undone; each operation is pulled back at the state before it."""
        held, adjoint = state
        units, remainders, words, places = map(list, held)
        for op in reversed(self.program.operations):
            if op.slots:
                for leaf, slot in zip(op.target, op.slots, strict=True):
                    units[leaf], remainder = divide(units[leaf], remainders[slot], given.tables.numerators[i, slot])
                    places[slot], remainders[slot] = pop(words[slot], places[slot], remainder, given.tables.spills[i, slot])
            else:
                for leaf, change in zip(op.target, self.increments(op, i, units, given), strict=True):
                    units[leaf] = units[leaf] - to_units(change)
            adjoint = self.pull(op, i, units, adjoint, given)
        return Held(tuple(units), tuple(remainders), tuple(words), tuple(places)), adjoint

    def pull(self, op: Operation, i: Any, units: Sequence[Any], adjoint: Adjoint, given: Given) -> Adjoint:
        """The cotangents before an operation, at the state before it. The rounding of factors counts as none."""
        state = list(adjoint.state)
        if op.slots:
            factors = adjoint.factors
            for leaf, slot in zip(op.target, op.slots, strict=True):
                factors = factors.at[i, slot].set(jnp.sum(state[leaf] * decode(units[leaf], jnp.float64)))
                state[leaf] = state[leaf] * (given.tables.numerators[i, slot] / DENOMINATOR)
            return adjoint._replace(state=tuple(state), factors=factors)
        values = self.values(units)
        inputs = op.function.inputs(given.consts, given.theta, i.astype(jnp.int32), values)
        with self.users_numbers():
            arriving = [state[leaf].astype(self.program.types[leaf].dtype) for leaf in op.target]
            of_theta, of_state = op.function.pull(inputs, arriving, len(values))
        state = [ct if more is None else ct + more.astype(jnp.float64) for ct, more in zip(state, of_state, strict=True)]
        numbers = [n for n, x in enumerate(given.theta) if is_differentiable(x)]
        theta = [ct + of_theta[n].astype(jnp.float64) if n in of_theta else ct for n, ct in zip(numbers, adjoint.theta, strict=True)]
        return adjoint._replace(state=tuple(state), theta=tuple(theta))


@dataclass(frozen=True)
class SegmentTurn:
    """A step as the turn of a loop that keeps its carries (`autodiff.turns.Turn`): the carry is the units and remainders.

    Attributes:
        first: number of the turn that the loop calls 0. like: the structure of an `Adjoint`; its leaves are the cotangents of the carry.
    """

    steps: Steps
    first: Any
    given: Given
    like: Any

    def split(self, carry: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        n = len(self.steps.program.types)
        return list(carry[:n]), list(carry[n:])

    def one(self, i: Any, consts: Any, carry: Sequence[Any], params: Any) -> list[Any]:
        """The carry after the step."""
        units, remainders = self.split(carry)
        for op in self.steps.program.operations:
            self.apply(op, self.first + i, units, remainders)
        return [*units, *remainders]

    def apply(self, op: Operation, i: Any, units: list[Any], remainders: list[Any]) -> None:
        """One operation, in place. What spills is in the store already."""
        if op.slots:
            for leaf, slot in zip(op.target, op.slots, strict=True):
                spills, n = self.given.tables.spills[i, slot], self.given.tables.numerators[i, slot]
                units[leaf], remainders[slot] = multiply(units[leaf], jnp.where(spills, remainders[slot] >> 16, remainders[slot]), n)
        else:
            for leaf, change in zip(op.target, self.steps.increments(op, i, units, self.given), strict=True):
                units[leaf] = units[leaf] + to_units(change)

    def back(self, i: Any, consts: Any, carry: Sequence[Any], params: Any, cotangents: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The step pulled back from the state before it."""
        (units, remainders), before = self.split(carry), []
        for op in self.steps.program.operations:
            before.append(list(units))
            self.apply(op, self.first + i, units, remainders)
        adjoint = jax.tree.unflatten(self.like, cotangents)
        for op, at in zip(reversed(self.steps.program.operations), reversed(before), strict=True):
            adjoint = self.steps.pull(op, self.first + i, at, adjoint, self.given)
        return jax.tree.leaves(adjoint), []

    def no_params_cts(self, params: Any) -> list[Any]:
        return []
