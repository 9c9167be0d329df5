"""A loop whose carries are had again by running its update backwards.

Forwards: the state in fixed point (`steps`). Nothing is kept but what the products lose (`store`), and a snapshot at the begin of every
segment if asked for. Backwards: each operation is undone, which gives the state before it; there its cotangents are pulled back in floating
point. The increments are computed by the same isolated program both ways. No compiler promises that two loops give it the same bits, so
the state at the begin of every segment is compared with the one that stood there; a segment that does not arrive is pulled back once more
from its snapshot, with carries kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..autodiff import vjp
from ..autodiff.checkpoints import Checkpoints
from ..autodiff.core import is_differentiable
from ..autodiff.loop_bodies import chosen, spread
from .cost import Choice, cost_of_reversal
from .numbers import decode, numerator
from .steps import Adjoint, Given, Held, SegmentTurn, Steps, Tables
from .store import schedule
from .traced import Program

__all__ = ["Kept", "Report", "Reversal"]


class Kept(NamedTuple):
    """What the way back starts from.

    Attributes:
        held: after the last step. tables: of the factors.
        snapshots: for each array of `_compared`, its values at the begin of every segment but the first.
        outside: int32, for each leaf: the first step at which it was out of range or NaN; num_steps if none.
    """

    held: Held
    tables: Tables
    snapshots: tuple[Any, ...]
    outside: Any


class Report(NamedTuple):
    """How the way back went.

    Attributes:
        exact: bool: the state before the first step came out bit for bit, every segment by itself or pulled back from its snapshot.
        repaired: int32: segments that were pulled back from their snapshots.
        in_range: bool: no value left the range of the fixed-point numbers.
        outside: int32, as in `Kept`.
    """

    exact: Any
    repaired: Any
    in_range: Any
    outside: Any


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
        return -(-self.program.num_steps // self.segment)

    @property
    def steps(self) -> Steps:
        return Steps(self.program)

    @property
    def cost(self) -> Choice:
        """What it keeps, and how often it evaluates a step if no segment must be run again."""
        p = self.program
        sizes = [t.size for t in p.types]
        return cost_of_reversal(sizes, [sizes[leaf] for leaf in p.slot_leaf], p.words, p.num_steps, self.segment)

    def record(self, consts: Sequence[Any], theta: Sequence[Any], carry: Sequence[Any]) -> tuple[list[Any], Kept]:
        """The state after the last step, NaN if a value left the range; and what the way back needs."""
        p, steps = self.program, self.steps
        with jax.enable_x64(True):
            given, held = Given(consts, theta, self.tables(consts, theta)), steps.start(carry)
            outside = jnp.full((len(p.types),), p.num_steps, jnp.int32)
            for leaf, value in enumerate(carry):
                outside = steps.look(leaf, value, outside, jnp.int32(0))
            rows = [jnp.zeros((self.num_segments - 1, *x.shape), x.dtype) for x in _compared(held)]

            def segment(j: Any, state: Any) -> Any:
                held, outside, rows = state
                if self.num_segments > 1:  # the begin of the first is written over by that of the second
                    rows = [_set(row, jnp.maximum(j - 1, 0), x) for row, x in zip(rows, _compared(held), strict=True)]
                first, last = self.bounds(j)
                return *lax.fori_loop(first, last, lambda i, s: steps.forward(i, s, given), (held, outside)), rows

            held, outside, rows = lax.fori_loop(jnp.int32(0), jnp.int32(self.num_segments), segment, (held, outside, rows))
            good = jnp.all(outside == p.num_steps)
            outs = [jnp.where(good, decode(u, t.dtype), jnp.nan) for u, t in zip(held.units, p.types, strict=True)]
        return outs, Kept(held, given.tables, tuple(rows), outside)

    @property
    def structure(self) -> Any:
        """That of `Kept`."""
        n, m = len(self.program.types), len(self.program.words)
        held = Held((0,) * n, (0,) * m, (0,) * m, (0,) * m)
        return jax.tree.structure(Kept(held, Tables(0, 0), tuple(_compared(held)), 0))

    def tables(self, consts: Sequence[Any], theta: Sequence[Any]) -> Tables:
        with self.steps.users_numbers():
            factors = self.program.factors(consts, theta)
        numerators = numerator(factors)
        return Tables(numerators.astype(jnp.int32), schedule(numerators))

    def bounds(self, j: Any) -> tuple[Any, Any]:
        """The first step of a segment, and the first after it."""
        return j * self.segment, jnp.minimum((j + 1) * self.segment, self.program.num_steps)

    def reverse(
        self, consts: Sequence[Any], theta: Sequence[Any], carry: Sequence[Any], kept: Kept, cotangents: Sequence[Any]
    ) -> tuple[list[Any], list[Any], Report]:
        """From the last step to the first: cotangents of the carry and of theta (None of what has none), and how it went.

        Args:
            carry: the state before the first step. cotangents: of the state after the last.
        """
        p, steps = self.program, self.steps
        given, on = Given(consts, theta, kept.tables), [is_differentiable(x) for x in theta]
        with jax.enable_x64(True):
            start = _compared(steps.start(carry))
            adjoint = steps.adjoint(theta, cotangents)

            def segment(number: Any, state: Any) -> Any:
                held, adjoint, exact, repaired = state
                j = self.num_segments - 1 - number
                first, last = self.bounds(j)
                undone = lambda k, s: steps.backward(last - 1 - k, s, given)  # noqa: E731
                arrived, pulled = lax.fori_loop(jnp.int32(0), last - first, undone, (held, adjoint))
                if self.num_segments == 1:
                    return arrived, pulled, exact & _same(_compared(arrived), start), repaired
                was = [jnp.where(j == 0, x, row[jnp.maximum(j - 1, 0)]) for x, row in zip(start, kept.snapshots, strict=True)]
                same = _same(_compared(arrived), was)
                pulled = lax.cond(same, lambda: pulled, lambda: self.again(was, first, last, adjoint, given))
                return _restored(arrived, was), pulled, exact, repaired + jnp.where(same, 0, 1).astype(jnp.int32)

            fits = jnp.all(jnp.sum(kept.tables.spills, 0) <= jnp.asarray(np.array(p.words, np.int64)))
            state = (kept.held, adjoint, fits, jnp.int32(0))
            _, adjoint, exact, repaired = lax.fori_loop(jnp.int32(0), jnp.int32(self.num_segments), segment, state)
            summed = self.with_factors(adjoint, consts, theta, on)
            of_theta = spread([ct.astype(x.dtype) for ct, x in zip(summed, chosen(theta, on), strict=True)], on)
            of_carry = [ct.astype(t.dtype) for ct, t in zip(adjoint.state, p.types, strict=True)]
            return of_carry, of_theta, Report(exact, repaired, jnp.all(kept.outside == p.num_steps), kept.outside)

    def again(self, was: Sequence[Any], first: Any, last: Any, adjoint: Adjoint, given: Given) -> Adjoint:
        """A segment pulled back from its begin, by a tree of checkpoints."""
        leaves, like = jax.tree.flatten(adjoint)
        turn: Any = SegmentTurn(self.steps, first, given, like)
        way, number, carry = Checkpoints.of("tree", self.segment), last - first, was[: len(was) - len(self.program.words)]
        _, kept = way.record(number, turn, (), carry, ())
        return jax.tree.unflatten(like, way.backwards(number, turn, (), (), kept, leaves)[0])

    def with_factors(self, adjoint: Adjoint, consts: Sequence[Any], theta: Sequence[Any], on: Sequence[bool]) -> list[Any]:
        """Cotangents of theta, with what comes by way of the factors of all steps."""
        if not self.program.words:
            return list(adjoint.theta)

        def factors(moving: Sequence[Any]) -> Any:
            rest = iter(moving)
            return self.program.factors(consts, [next(rest) if o else x for x, o in zip(theta, on, strict=True)])

        with self.steps.users_numbers():
            made, pull = vjp(factors, chosen(theta, on))
            (more,) = pull(adjoint.factors.astype(made.dtype))
        return [a + b.astype(jnp.float64) for a, b in zip(adjoint.theta, more, strict=True)]


def _compared(held: Held) -> list[Any]:
    """What must be again as it was: all but the words, which are written over."""
    return [*held.units, *held.remainders, *held.places]


def _restored(held: Held, was: Sequence[Any]) -> Held:
    """The words as they are, all else as it was."""
    n, m = len(held.units), len(held.remainders)
    return Held(tuple(was[:n]), tuple(was[n : n + m]), held.words, tuple(was[n + m :]))


def _same(found: Sequence[Any], expected: Sequence[Any]) -> Any:
    return jnp.all(jnp.stack([jnp.all(a == b) for a, b in zip(found, expected, strict=True)]))


def _set(rows: Any, place: Any, value: Any) -> Any:
    return lax.dynamic_update_index_in_dim(rows, value, place, 0)
