"""`reversible_loop`: a differentiable loop of which one chooses how its carries are had again on the way back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ..autodiff.checkpoints import Checkpoints
from ..autodiff.linear_op import linear_op
from ..autodiff.loops import differentiable_loop
from ..autodiff.turns import Turn, WayBack, trace_step
from ..errors import DerivativeError
from ..jax_compat import open_jaxpr
from ..settings import whole
from .cost import Strategy, check_strategy, choose
from .reversal import Reversal
from .traced import trace_update
from .update import Update

__all__ = ["Undo", "reversible_loop"]


def reversible_loop(
    step: Update | Callable[[Any, Any], Any],
    state: Any,
    num_steps: int,
    strategy: Strategy = "auto",
    *,
    snapshot_every: int | None = None,
    memory_bytes: float = 1e9,
    fanout: int = 4,
) -> Any:
    """The state after `num_steps` steps, differentiable in the state and in all traced values that the step closes over.

        strategy       kept for the way back                       evaluations of a step    steps
        "tape"         every state                                  2 per step               any
        "sqrt"         2 sqrt(num_steps) states                     3                        any
        "tree"         fanout log(num_steps) / log(fanout) states   1 + log(num_steps)       any
        "reversible"   log2(1/factor) bits per number and step      3                        an `Update`

    "reversible" holds the state in fixed point (64 bits, 52 of them after the point: values below 2048 in size) and undoes the steps
    exactly. Its result differs from that of the others by rounding. Where a value leaves the range the result is NaN, and so is every
    derivative; where the way back does not arrive at the state that it began with, bit for bit, every derivative is NaN. Nothing is
    silently approximate.

    Args:
        step: an `Update`, made of `Add` and `Multiply`; or any function (i, state) -> state of the same structure, shapes and dtypes.
        state: a pytree; for an `Update` a dict of real floating point arrays.
        num_steps: a number, not traced.
        strategy: "auto" takes, of those that keep at most `memory_bytes`, the one with the fewest evaluations of a step; if none does, the
            one that keeps the least. The choice is logged.
        snapshot_every: for "reversible": keep a snapshot every so many steps (24 bytes for each number with momentum). A segment that does
            not arrive at its snapshot is run again from it, with its states kept, so that the derivative is right all the same.
        fanout: of "tree".

    Raises:
        DerivativeError: the step does not fit the state; "reversible" is asked for a step that is no `Update`; a factor is outside
            (0, 1] or below its bound; an increment reads its own target; nothing fits `memory_bytes` of the strategy asked for.

    Source: Maclaurin, Duvenaud & Adams (2015), "Gradient-based hyperparameter optimization through reversible learning", ICML. We
    deviate in a remainder of one word with a store of fixed size, in the comparison with the start, and in snapshots.
    """
    where = "reversible_loop"
    num_steps = whole(where, "num_steps", num_steps, 1, error=DerivativeError)
    check_strategy(where, strategy)
    if snapshot_every is not None:
        whole(where, "snapshot_every", snapshot_every, 1, error=DerivativeError)
    state = jax.tree.map(jnp.asarray, state)
    if isinstance(step, Update):
        program, consts, params = trace_update(lambda _: step, (), state, num_steps)
        turn, carry, tree = program.turn(consts, params), *jax.tree.flatten(state)
        reversal = Reversal(program, snapshot_every or num_steps)
    else:
        traced = trace_step(where, step, jnp.int32(0), state).with_constants_as_params()
        turn, consts, params, carry, tree = traced.turn, traced.consts, traced.params, traced.carry, traced.carry_tree
        reversal = None
    chosen = choose(where, strategy, carry, num_steps, reversal and reversal.cost, memory_bytes, fanout)
    way: WayBack
    if reversal is not None and chosen.strategy == "reversible":
        way = Undo(num_steps, reversal)
    else:
        way = Checkpoints.of(chosen.strategy, num_steps, fanout)
    return jax.tree.unflatten(tree, differentiable_loop(turn, way, jnp.int32(num_steps), consts, carry, params))


@dataclass(frozen=True)
class Undo(WayBack):
    """The way back of an update that is undone. What it computes in 64-bit integers is one equation of the program around it."""

    capacity: int
    reversal: Reversal
    second_order: ClassVar[bool] = False

    def record(self, n: Any, turn: Turn, consts: Sequence[Any], carry: Sequence[Any], params: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        half = _Record(self.reversal, len(consts), len(params))
        operands = [*consts, *params, *carry]
        made = linear_op(half, half, operands, [], half.types(operands))
        return made[: len(carry)], [*carry, *made[len(carry) :]]

    def backwards(
        self, n: Any, turn: Turn, consts: Sequence[Any], params: Sequence[Any], kept: Sequence[Any], carry_cts: Sequence[Any]
    ) -> tuple[list[Any], list[Any]]:
        num_carry = len(carry_cts)
        held = jax.tree.unflatten(self.reversal.structure, kept[num_carry:])
        of_carry, of_params, report = self.reversal.reverse(consts, params, kept[:num_carry], held, carry_cts)
        good = report.exact & report.in_range

        def poisoned(ct: Any) -> Any:
            return jnp.where(good, ct, jnp.full_like(ct, jnp.nan))

        return [poisoned(ct) for ct in of_carry], [poisoned(ct) for ct in of_params if ct is not None]


@dataclass(frozen=True)
class _Record:
    """The forward pass of a reversal: (constants, theta, carry) -> the carry at the end, and the leaves of `Kept`."""

    reversal: Reversal
    num_consts: int
    num_theta: int

    def __call__(self, operands: Sequence[Any], _: Sequence[Any]) -> list[Any]:
        a, b = self.num_consts, self.num_consts + self.num_theta
        outs, kept = self.reversal.record(operands[:a], operands[a:b], operands[b:])
        return [*outs, *jax.tree.leaves(kept)]

    def types(self, operands: Sequence[Any]) -> list[Any]:
        with jax.enable_x64(True):
            jaxpr, _ = open_jaxpr(jax.make_jaxpr(lambda *xs: self(xs, []))(*operands))
        return [v.aval for v in jaxpr.outvars]
