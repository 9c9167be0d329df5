"""One turn of a loop, and what is asked of a way to have the carries again that the backward pass needs.

    c_{i+1} = turn(i, c_i, theta)              forward, its tangents beside it
    (c_i', theta') from c_{i+1}'               backward: the turn is linearized anew at c_i and transposed

A turn knows nothing of the loop around it: which c_i are kept, and how the others come back, is a `WayBack`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer, eval_jaxpr

from ..errors import DerivativeError
from ..jax_compat import open_jaxpr
from ..source_lines import calling_line
from .core import is_differentiable, linearize_jaxpr, push_forward
from .loop_bodies import chosen, omitted
from .transpose import backward_dense, instantiate_all
from .trees import leaf_names

__all__ = ["TracedStep", "Turn", "WayBack", "trace_step"]


@dataclass(frozen=True)
class Turn:
    """A turn as a program.

    jaxpr: open, (constants; i, carry, params) -> carry. Its constants have no derivative.
    num_consts: number of constants. num_carry: number of carries.
    """

    jaxpr: Any
    num_consts: int
    num_carry: int

    @property
    def num_params(self) -> int:
        return len(self.jaxpr.invars) - 1 - self.num_carry

    @property
    def active(self) -> list[bool]:
        """Per input (i, carry, params): whether it has a derivative."""
        return [False, *(is_differentiable(v.aval) for v in self.jaxpr.invars[1:])]

    @property
    def on_carry(self) -> list[bool]:
        return self.active[1 : 1 + self.num_carry]

    @property
    def on_params(self) -> list[bool]:
        return self.active[1 + self.num_carry :]

    def one(self, i: Any, consts: Sequence[Any], carry: Sequence[Any], params: Sequence[Any]) -> list[Any]:
        """The carry after the turn."""
        return eval_jaxpr(self.jaxpr, consts, i, *carry, *params)

    def push(
        self, i: Any, consts: Sequence[Any], carry: Sequence[Any], params: Sequence[Any], carry_ts: Sequence[Any], params_ts: Sequence[Any]
    ) -> tuple[list[Any], list[Any]]:
        """The carry after the turn, and its tangents.

        Args:
            carry_ts, params_ts: one tangent per carry and parameter, None where there is none.

        Returns:
            The carry, and explicit tangents of those carries that have a derivative.
        """
        outs, made = push_forward(self.jaxpr, consts, [i, *carry, *params], [None, *carry_ts, *params_ts])
        return outs, instantiate_all(made, self.jaxpr.outvars, self.on_carry)

    def back(
        self, i: Any, consts: Sequence[Any], carry: Sequence[Any], params: Sequence[Any], carry_cts: Sequence[Any]
    ) -> tuple[list[Any], list[Any]]:
        """Cotangents of the carry after the turn -> those of the carry before it, and of the parameters.

        Args:
            carry: before the turn. carry_cts: one per carry that has a derivative.

        Returns:
            One cotangent per carry that has a derivative, and one per parameter that has one.
        """
        _, program = linearize_jaxpr(self.jaxpr, consts, [i, *carry, *params], self.active, self.on_carry)
        dense = backward_dense(program.jaxpr, program.residuals, [True] * len(program.jaxpr.invars), [], carry_cts)
        return dense[: len(carry_cts)], dense[len(carry_cts) :]

    def no_params_cts(self, params: Sequence[Any]) -> list[Any]:
        """Zeros, to which the turns add the cotangents of the parameters."""
        return [jnp.zeros(p.shape, p.dtype) for p in chosen(params, self.on_params)]


class WayBack(ABC):
    """How the carries of a loop are had again on the way back. Hashable, and free of traced values: it is part of compiled programs.

    capacity: the largest number of turns. Of a loop that takes more, the result and all derivatives are NaN; the loop sees to that.
    second_order: whether `backwards` may be differentiated. It may where all that it computes carries from (kept, params) has a
        tangent; not where the carries come back from integers, whose derivative would silently be zero. The loop refuses then.

    In all methods n is the number of turns, traced or not, at most `capacity`; consts, carry and params are flat lists of
    arrays; carry and params are values at the start of the loop.
    """

    capacity: int
    second_order: ClassVar[bool]

    def run(self, n: Any, turn: Turn, consts: Sequence[Any], carry: Sequence[Any], params: Sequence[Any]) -> list[Any]:
        """The result where nothing is differentiated: that of `record`, to the bit."""
        return self.record(n, turn, consts, carry, params)[0]

    @abstractmethod
    def record(self, n: Any, turn: Turn, consts: Sequence[Any], carry: Sequence[Any], params: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The carry after n turns, and what `backwards` needs: any flat list of arrays, integers too."""

    @abstractmethod
    def backwards(
        self, n: Any, turn: Turn, consts: Sequence[Any], params: Sequence[Any], kept: Sequence[Any], carry_cts: Sequence[Any]
    ) -> tuple[list[Any], list[Any]]:
        """Cotangents of the result -> those of the carry at the start, and of the parameters; as `Turn.back`, for all turns."""


class TracedStep(NamedTuple):
    """A user's step as a turn, with the values that it starts from.

    turn, consts: the program and its constants. carry, params: flat, at the start. carry_tree: structure of the carry.
    """

    turn: Turn
    consts: list[Any]
    carry: list[Any]
    params: list[Any]
    carry_tree: Any

    def with_constants_as_params(self) -> "TracedStep":
        """The same step with a derivative in what it closes over: traced constants become parameters, behind those there are.

        A constant that is not traced (an array of numbers, data) cannot have a derivative and stays where it is.
        """
        turn, on = self.turn, [isinstance(c, Tracer) for c in self.consts]
        moved, stay = chosen(self.consts, on), omitted(self.consts, on)
        if not moved:
            return self
        num_inputs = len(turn.jaxpr.invars)

        def run(*inputs: Any) -> list[Any]:
            lifted, rest = iter(inputs[num_inputs : num_inputs + len(moved)]), iter(inputs[num_inputs + len(moved) :])
            consts = [next(lifted) if o else next(rest) for o in on]
            return eval_jaxpr(turn.jaxpr, consts, *inputs[:num_inputs])

        constvars = turn.jaxpr.constvars
        avals = [v.aval for v in (*turn.jaxpr.invars, *chosen(constvars, on))]
        jaxpr, consts = open_jaxpr(jax.make_jaxpr(lambda *inputs: run(*inputs, *stay))(*avals))
        return self._replace(turn=Turn(jaxpr, len(consts), turn.num_carry), consts=consts, params=[*self.params, *moved])


def trace_step(where: str, step: Callable[..., Any], index: Any, carry: Any, *params: Any) -> TracedStep:
    """A user's step(i, carry, *params) -> carry as a turn.

    Args:
        where: the function that the user called, for errors.
        index: the number of a turn, an integer scalar; its type is that of `i`.
        carry: the carry at the start, a pytree. params: what the derivative is taken in beside it, pytrees.

    Raises:
        DerivativeError: the step changes the structure, a shape or a dtype of the carry.
    """
    leaves, carry_tree = jax.tree.flatten(carry)
    leaves = [jnp.asarray(c) for c in leaves]
    flat_params, params_tree = jax.tree.flatten(params)
    flat_params = [jnp.asarray(p) for p in flat_params]

    def flat(i: Any, carry: Sequence[Any], params: Sequence[Any]) -> list[Any]:
        out = step(i, jax.tree.unflatten(carry_tree, carry), *jax.tree.unflatten(params_tree, params))
        made, tree = jax.tree.flatten(out)
        if tree != carry_tree:
            raise DerivativeError(f"{where}: step returns a carry of structure {tree}, expected {carry_tree} ({calling_line()}).")
        return [jnp.asarray(v) for v in made]

    leaves = [lax.convert_element_type(c, c.dtype) for c in leaves]  # a weak type would not survive one turn
    jaxpr, consts = open_jaxpr(jax.make_jaxpr(flat)(index, leaves, flat_params))
    for name, before, after in zip(leaf_names(carry_tree), leaves, jaxpr.outvars, strict=True):
        if before.shape != after.aval.shape or before.dtype != after.aval.dtype:
            raise DerivativeError(
                f"{where}: step turns a carry of {jax.typeof(before).str_short()} into {after.aval.str_short()}, at {name} "
                f"({calling_line()}). Return it with the shape and dtype that it came with, or convert the carry at the start."
            )
    return TracedStep(Turn(jaxpr, len(consts), len(leaves)), consts, leaves, flat_params, carry_tree)
