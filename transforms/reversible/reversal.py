"""A loop whose carries are had again by running its update backwards.

Forward: the state in fixed point, every step undone later by the inverse operations in reverse order. Nothing is kept but what the products
lose (`store`), and a snapshot at the begin of every segment if asked for. Backward: each operation is undone, which gives the state before
it; there its cotangents are pulled back in floating point. The increments are computed by the same isolated program both ways. No compiler
promises that two loops give it the same bits, so every segment's begin is compared with the state that stood there: a segment that does
not arrive is run again from its snapshot, with its carries kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..autodiff import vjp
from .cost import Choice, cost_of_reversal
from .numbers import DENOMINATOR, LIMIT, decode, divide, encode, multiply, numerator, to_units
from .store import pop, push, schedule
from .traced import Operation, Program

__all__ = ["Held", "Report", "Reversal"]


class Held(NamedTuple):
    """The loop between two steps, in integers.

    Attributes:
        units: the leaves of the state. remainders, words, places: of each slot; words hold what has spilled, places where the next goes.
    """

    units: tuple[Any, ...]
    remainders: tuple[Any, ...]
    words: tuple[Any, ...]
    places: tuple[Any, ...]

    @property
    def restorable(self) -> tuple[Any, ...]:
        """What must be again as it was: all but the words, which are written over."""
        return (*self.units, *self.remainders, *self.places)


class Tables(NamedTuple):
    """numerators: int32, (step, slot). spills: bool, (step, slot)."""

    numerators: Any
    spills: Any


class Kept(NamedTuple):
    """What the way back starts from: the last state, the tables, snapshots of every later segment's begin, and where values went out of range.

    Attributes:
        outside: int32, for each leaf: the first step after which it was out of range or not finite; num_steps if none.
    """

    held: Held
    tables: Tables
    snapshots: tuple[Any, ...]
    outside: Any


class Report(NamedTuple):
    """How the way back went.

    Attributes:
        exact: bool: the state before the first step came out bit for bit, by itself or because segments were run again.
        repaired: int32: segments that were run again.
        in_range: bool: no value left the range of the fixed-point numbers.
        outside: int32, as in `Kept`.
    """

    exact: Any
    repaired: Any
    in_range: Any
    outside: Any


class _Adjoint(NamedTuple):
    """Cotangents in float64: of the leaves of the state, of theta (differentiable ones), of the factors (step, slot)."""

    state: tuple[Any, ...]
    theta: tuple[Any, ...]
    factors: Any


@dataclass(frozen=True)
class Reversal:
    """A way back: see the module.

    Attributes:
        program: the update. segment: steps from one snapshot to the next; num_steps or more: none is kept.
    """

    program: Program
    segment: int

    @property
    def num_segments(self) -> int:
        return -(-self.program.num_steps // self.segment) if self.program.num_steps else 1

    @property
    def cost(self) -> Choice:
        """What it keeps, and how often it evaluates a step if no segment must be run again."""
        p = self.program
        sizes = [t.size for t in p.types]
        return cost_of_reversal(sizes, [sizes[leaf] for leaf in p.slot_leaf], p.words, p.num_steps, self.segment)

    # forwards

    def start(self, carry: Sequence[Any]) -> Held:
        p = self.program
        shapes = [p.types[leaf].shape for leaf in p.slot_leaf]
        return Held(
            tuple(encode(x) for x in carry),
            tuple(jnp.zeros(s, jnp.uint64) for s in shapes),
            tuple(jnp.zeros((w + 1, *s), jnp.uint16) for w, s in zip(p.words, shapes, strict=True)),
            tuple(jnp.int32(0) for _ in shapes),
        )

    def tables(self, consts: Sequence[Any], theta: Sequence[Any]) -> Tables:
        with self.users():
            factors = self.program.factors(consts, theta)
        numerators = numerator(factors)
        return Tables(numerators.astype(jnp.int32), schedule(numerators))

    def record(self, consts: Sequence[Any], theta: Sequence[Any], carry: Sequence[Any]) -> tuple[list[Any], Kept]:
        """The state after the last step, and what the way back needs. The state is NaN if a value left the range."""
        p = self.program
        with jax.enable_x64(True):
            tables, held = self.tables(consts, theta), self.start(carry)
            outside = jnp.full((len(p.types),), p.num_steps, jnp.int32)
            outside = self.look(held.units, carry, outside, jnp.int32(0))
            later = [jnp.zeros((self.num_segments - 1, *x.shape), x.dtype) for x in held.restorable]

            def segment(j: Any, state: Any) -> Any:
                held, outside, later = state
                if self.num_segments > 1:  # row j - 1 of what is kept; that of the first is written over
                    later = [
                        lax.dynamic_update_index_in_dim(rows, x, jnp.maximum(j - 1, 0), 0)
                        for rows, x in zip(later, held.restorable, strict=True)
                    ]
                stop = jnp.minimum((j + 1) * self.segment, p.num_steps)
                turn = lambda i, s: self.forward(i, *s, tables, consts, theta)  # noqa: E731
                return *lax.fori_loop(j * self.segment, stop, turn, (held, outside)), later

            held, outside, later = lax.fori_loop(jnp.int32(0), jnp.int32(self.num_segments), segment, (held, outside, later))
            in_range = jnp.all(outside == p.num_steps)
            outs = [jnp.where(in_range, decode(u, t.dtype), jnp.nan) for u, t in zip(held.units, p.types, strict=True)]
        return outs, Kept(held, tables, tuple(later), outside)

    def forward(self, i: Any, held: Held, outside: Any, tables: Tables, consts: Any, theta: Any) -> tuple[Held, Any]:
        """One step."""
        units, remainders, words, places = map(list, held)
        for op in self.program.operations:
            if op.slots:
                for leaf, slot in zip(op.target, op.slots, strict=True):
                    made = push(words[slot], places[slot], remainders[slot], tables.spills[i, slot])
                    words[slot], places[slot], remainder = made
                    units[leaf], remainders[slot] = multiply(units[leaf], remainder, tables.numerators[i, slot])
            else:
                for leaf, change in zip(op.target, self.increments(op, i, units, consts, theta), strict=True):
                    sum_ = decode(units[leaf], jnp.float64) + change.astype(jnp.float64)
                    within = jnp.all(jnp.abs(sum_) < LIMIT)
                    outside = outside.at[leaf].min(jnp.where(within, self.program.num_steps, i).astype(jnp.int32))
                    units[leaf] = units[leaf] + to_units(change)
        return Held(tuple(units), tuple(remainders), tuple(words), tuple(places)), outside

    def look(self, units: Sequence[Any], carry: Sequence[Any], outside: Any, i: Any) -> Any:
        """The range of the state before the first step."""
        for leaf, value in enumerate(carry):
            within = jnp.all(jnp.abs(value) < LIMIT)
            outside = outside.at[leaf].min(jnp.where(within, self.program.num_steps, i).astype(jnp.int32))
        return outside

    def values(self, units: Sequence[Any]) -> list[Any]:
        """The state in the user's floating point types."""
        return [decode(u, t.dtype) for u, t in zip(units, self.program.types, strict=True)]

    def increments(self, op: Operation, i: Any, units: Sequence[Any], consts: Any, theta: Any) -> list[Any]:
        """What an addition adds: the same bits in both directions."""
        inputs = op.function.inputs(consts, theta, i.astype(jnp.int32), self.values(units))
        with self.users():
            return op.function.value(inputs)

    def users(self) -> Any:
        """The user's code sees the numbers that it was written for."""
        return jax.enable_x64(self.program.wide)

    # backwards

    def reverse(
        self, consts: Sequence[Any], theta: Sequence[Any], carry: Sequence[Any], kept: Kept, cotangents: Sequence[Any]
    ) -> tuple[list[Any], list[Any], Report]:
        """From the last step to the first: cotangents of the carry and of theta (None of what has none), and how it went.

        Args:
            carry: the state before the first step. cotangents: of the state after the last.
        """
        p = self.program
        differentiable = [jnp.issubdtype(x.dtype, jnp.inexact) for x in theta]
        with jax.enable_x64(True):
            start = self.start(carry)
            adjoint = _Adjoint(
                tuple(ct.astype(jnp.float64) for ct in cotangents),
                tuple(jnp.zeros(x.shape, jnp.float64) for x, d in zip(theta, differentiable, strict=True) if d),
                jnp.zeros(kept.tables.numerators.shape, jnp.float64),
            )
            fits = jnp.all(jnp.sum(kept.tables.spills, 0) <= jnp.asarray(np.asarray(p.words, np.int64))) if p.words else jnp.bool_(True)
            back = lambda k, s: self.backward(k, *s, kept.tables, consts, theta)  # noqa: E731

            def segment(number: Any, state: Any) -> Any:
                held, adjoint, exact, repaired = state
                j = self.num_segments - 1 - number
                first, last = j * self.segment, jnp.minimum((j + 1) * self.segment, p.num_steps)
                arrived, pulled = lax.fori_loop(jnp.int32(0), last - first, lambda k, s: back(last - 1 - k, s), (held, adjoint))
                was = [
                    jnp.where(j == 0, x, lax.dynamic_index_in_dim(rows, jnp.maximum(j - 1, 0), 0, keepdims=False)) if len(rows) else x
                    for x, rows in zip(start.restorable, kept.snapshots, strict=True)
                ]
                same = jnp.all(jnp.stack([jnp.all(a == b) for a, b in zip(arrived.restorable, was, strict=True)]))
                if self.num_segments == 1:
                    return arrived, pulled, exact & same, repaired
                n = len(p.types)
                held = Held(tuple(was[:n]), tuple(was[n : -len(p.words) or None]), arrived.words, tuple(was[len(was) - len(p.words) :]))
                pulled = lax.cond(same, lambda: pulled, lambda: self.again(held, first, last, adjoint, kept.tables, consts, theta))
                return held, pulled, exact, repaired + jnp.where(same, 0, 1).astype(jnp.int32)

            state = (kept.held, adjoint, fits, jnp.int32(0))
            _, adjoint, exact, repaired = lax.fori_loop(jnp.int32(0), jnp.int32(self.num_segments), segment, state)
            of_theta = iter(self.through_factors(adjoint, consts, theta, differentiable))
            theta_cts = [next(of_theta).astype(x.dtype) if d else None for x, d in zip(theta, differentiable, strict=True)]
            carry_cts = [ct.astype(t.dtype) for ct, t in zip(adjoint.state, p.types, strict=True)]
            report = Report(exact, repaired, jnp.all(kept.outside == p.num_steps), kept.outside)
        return carry_cts, theta_cts, report

    def backward(self, i: Any, held: Held, adjoint: _Adjoint, tables: Tables, consts: Any, theta: Any) -> tuple[Held, _Adjoint]:
        """One step undone, and pulled back."""
        units, remainders, words, places = map(list, held)
        for op in reversed(self.program.operations):
            if op.slots:
                for leaf, slot in zip(op.target, op.slots, strict=True):
                    units[leaf], remainder = divide(units[leaf], remainders[slot], tables.numerators[i, slot])
                    places[slot], remainders[slot] = pop(words[slot], places[slot], remainder, tables.spills[i, slot])
            else:
                for leaf, change in zip(op.target, self.increments(op, i, units, consts, theta), strict=True):
                    units[leaf] = units[leaf] - to_units(change)
            adjoint = self.pull(op, i, units, adjoint, tables, consts, theta)
        return Held(tuple(units), tuple(remainders), tuple(words), tuple(places)), adjoint

    def pull(self, op: Operation, i: Any, units: Sequence[Any], adjoint: _Adjoint, tables: Tables, consts: Any, theta: Any) -> _Adjoint:
        """The cotangents before an operation, at the state before it."""
        state, factors = list(adjoint.state), adjoint.factors
        if op.slots:
            for leaf, slot in zip(op.target, op.slots, strict=True):
                made = jnp.sum(state[leaf] * decode(units[leaf], jnp.float64))
                factors = factors.at[i, slot].set(made)
                state[leaf] = state[leaf] * (tables.numerators[i, slot] / DENOMINATOR)
            return adjoint._replace(state=tuple(state), factors=factors)
        values = self.values(units)
        inputs = op.function.inputs(consts, theta, i.astype(jnp.int32), values)
        with self.users():
            arriving = [state[leaf].astype(self.program.types[leaf].dtype) for leaf in op.target]
            of_theta, of_state = op.function.pull(inputs, arriving, len(values))
        state = [ct if more is None else ct + more.astype(jnp.float64) for ct, more in zip(state, of_state, strict=True)]
        places = [n for n, x in enumerate(theta) if jnp.issubdtype(x.dtype, jnp.inexact)]
        sums = [ct + of_theta[n].astype(jnp.float64) if n in of_theta else ct for n, ct in zip(places, adjoint.theta, strict=True)]
        return adjoint._replace(state=tuple(state), theta=tuple(sums))

    def again(self, held: Held, first: Any, last: Any, adjoint: _Adjoint, tables: Tables, consts: Any, theta: Any) -> _Adjoint:
        """A segment pulled back from its begin: its states are computed once more, forwards, and kept."""
        p = self.program
        kept = [jnp.zeros((self.segment, *u.shape), u.dtype) for u in held.units]
        outside = jnp.full((len(p.types),), p.num_steps, jnp.int32)

        def onward(i: Any, state: Any) -> Any:
            held, kept = state
            kept = [lax.dynamic_update_index_in_dim(rows, u, i - first, 0) for rows, u in zip(kept, held.units, strict=True)]
            return self.forward(i, held, outside, tables, consts, theta)[0], kept

        _, kept = lax.fori_loop(first, last, onward, (held, kept))

        def back(k: Any, adjoint: _Adjoint) -> _Adjoint:
            i = last - 1 - k
            before = [lax.dynamic_index_in_dim(rows, i - first, 0, keepdims=False) for rows in kept]
            return self.pull_step(i, before, adjoint, tables, consts, theta)

        return lax.fori_loop(jnp.int32(0), last - first, back, adjoint)

    def pull_step(self, i: Any, before: Sequence[Any], adjoint: _Adjoint, tables: Tables, consts: Any, theta: Any) -> _Adjoint:
        """A whole step pulled back from the state before it."""
        units, states = list(before), []
        for op in self.program.operations:
            states.append(list(units))
            if op.slots:
                for leaf, slot in zip(op.target, op.slots, strict=True):
                    units[leaf], _ = multiply(units[leaf], jnp.zeros(units[leaf].shape, jnp.uint64), tables.numerators[i, slot])
            else:
                for leaf, change in zip(op.target, self.increments(op, i, units, consts, theta), strict=True):
                    units[leaf] = units[leaf] + to_units(change)
        for op, at in zip(reversed(self.program.operations), reversed(states), strict=True):
            adjoint = self.pull(op, i, at, adjoint, tables, consts, theta)
        return adjoint

    def through_factors(self, adjoint: _Adjoint, consts: Any, theta: Any, differentiable: Sequence[bool]) -> list[Any]:
        """Cotangents of theta with what comes by way of the factors of all steps."""
        if not self.program.words:
            return list(adjoint.theta)
        with self.users():
            moving = [x for x, d in zip(theta, differentiable, strict=True) if d]

            def factors(moving: Sequence[Any]) -> Any:
                rest = iter(moving)
                return self.program.factors(consts, [next(rest) if d else x for x, d in zip(theta, differentiable, strict=True)])

            made, pull = vjp(factors, moving)
            more = pull(adjoint.factors.astype(made.dtype))[0]
        return [a + b.astype(jnp.float64) for a, b in zip(adjoint.theta, more, strict=True)]
