"""Loops whose number of turns is known only at run time, and whose order matters: a stated capacity makes them reversible.

    c_{i+1} = step(i, c_i, theta),  i = 0 .. n-1,  n <= max_trips

The backward pass visits the turns from the last to the first, n of them and not `max_trips`, and linearizes each one anew
at its carry c_i. How the c_i are had again is a strategy: `turns.WayBack`. `checkpoints` keeps some and computes the others.
"""

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer

from ..errors import DerivativeError
from ..source_lines import calling_line
from .checkpoints import Checkpoints
from .core import is_differentiable, tangent_aval
from .linear_op import linear_op
from .loop_bodies import chosen, spread
from .ruled import defines_linearization
from .turns import Turn, WayBack, trace_step

__all__ = ["differentiable_loop", "dynamic_loop"]

_log = logging.getLogger("luciole")


def dynamic_loop(
    n: Any,
    step: Callable[[Any, Any, Any], Any],
    theta: Any,
    init: Any,
    *,
    max_trips: int,
    checkpoint: Literal["tape", "sqrt", "tree"] = "tape",
) -> Any:
    """The carry after `n` turns, differentiable in `theta` and `init`.

    Args:
        n: number of turns, an integer scalar, traced or not.
        step: (i, carry, theta) -> carry of the same structure, shapes and dtypes.
        theta: what the derivative is taken in beside `init`: a pytree. What `step` closes over has no derivative.
        init: the carry at the start: a pytree.
        max_trips: capacity.
        checkpoint: how the carries are had again on the way back. "tape" keeps every carry, `max_trips` of them. "sqrt" keeps
            2 sqrt(max_trips), at the price of one more evaluation of each step. "tree" keeps O(k log_k max_trips), k = 4, and
            takes about 1 + log_k n runs of the loop, linearizations included: of 10,000 turns 27 carries, and 6.5 runs where a
            tape takes 2. All three give the same derivatives. Source: Griewank (1992); k-ary as in Engstrom et al. (2025),
            "Optimizing ML training with metagradient descent".

    Returns:
        The carry. If n > max_trips its floating point leaves are NaN, and so is every derivative; the overrun is logged as an
        error at run time.

    Raises:
        DerivativeError: `max_trips` is not positive; a concrete n exceeds it; `checkpoint` is none of the three; `step` changes
            the carry's type; in second order, reverse over reverse is refused (forward over reverse works).
    """
    if max_trips < 1:
        raise DerivativeError(f"dynamic_loop: max_trips must be positive, found {max_trips}.")
    if not isinstance(n, Tracer) and int(n) > max_trips:
        raise DerivativeError(f"dynamic_loop: {int(n)} turns exceed the stated capacity max_trips={max_trips}.")
    way = Checkpoints.of(checkpoint, max_trips)
    index = jnp.asarray(n, jnp.int32)
    traced = trace_step("dynamic_loop", step, index, init, theta)
    report = jnp.greater(index, max_trips)
    if isinstance(report, Tracer):
        lax.cond(report, lambda: jax.debug.callback(_report, report, index, max_trips), lambda: None)
    outs = differentiable_loop(traced.turn, way, index, traced.consts, traced.carry, traced.params)
    return jax.tree.unflatten(traced.carry_tree, outs)


def _report(overrun: Any, n: Any, max_trips: int) -> None:
    if bool(overrun):
        _log.error("dynamic_loop: %d turns exceed the stated capacity max_trips=%d; the result is NaN.", int(n), max_trips)


def differentiable_loop(turn: Turn, way: WayBack, n: Any, consts: Sequence[Any], carry: Sequence[Any], params: Sequence[Any]) -> list[Any]:
    """The carry after n turns, with a derivative in `carry` and `params`.

    The forward derivative runs the loop once more, values and tangents together; the backward one is `way`'s.

    Args:
        turn: the turn. way: how its carries are had again. n: number of turns, an integer scalar.
        consts, carry, params: flat lists of arrays, as `turn` takes them.

    Returns:
        Flat, like `carry`. If n > way.capacity its floating point entries are NaN, and so are all derivatives.
    """

    def body(n: Any, carry: Any, params: Any) -> Any:
        return _poison(n, way.capacity, way.run(_within(n, way.capacity), turn, consts, carry, params))

    @defines_linearization(body)
    def loop(n: Any, carry: Any, params: Any) -> Any:
        start = (list(carry), list(params))
        start = start if way.second_order else _differentiated_once(type(way).__name__, start)
        outs, kept = way.record(_within(n, way.capacity), turn, consts, *start)
        residuals = [n, *consts, *params, *carry, *kept]
        avals = [tangent_aval(jax.typeof(v)) for v in carry]

        def linear(_: Any, carry_ts: Any, params_ts: Any) -> Any:
            moving = [t for t in (*carry_ts, *params_ts) if t is not None]
            made = linear_op(_Forward(turn, way), _Backward(turn, way), residuals, moving, chosen(avals, turn.on_carry))
            return [jnp.zeros(a.shape, a.dtype) if t is None else t for t, a in zip(spread(made, turn.on_carry), avals, strict=True)]

        return _poison(n, way.capacity, outs), linear

    return loop(n, list(carry), list(params))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _differentiated_once(way: str, start: Any) -> Any:
    """What a loop whose derivative is being taken starts from: to differentiate that again is an error."""
    return start


@_differentiated_once.defjvp
def _refuse_second_order(way: str, primals: Any, tangents: Any) -> Any:
    raise DerivativeError(
        f"a second derivative of a loop whose carries come back by {way} ({calling_line()}): they do not remember how they depend on "
        "where the loop started. Use a strategy that keeps carries: 'tape', 'sqrt' or 'tree'."
    )


def _within(n: Any, capacity: int) -> Any:
    """The turns that there is room for."""
    return jnp.minimum(n, capacity)


def _poison(n: Any, capacity: int, values: Sequence[Any]) -> list[Any]:
    """NaN instead of a result that the capacity made wrong."""
    return [jnp.where(n > capacity, jnp.full_like(v, jnp.nan), v) if is_differentiable(jax.typeof(v)) else v for v in values]


def _split(turn: Turn, residuals: Sequence[Any]) -> tuple[Any, list[Any], list[Any], list[Any], list[Any]]:
    """n, constants, parameters, initial carry, and what the way back kept."""
    n, rest = residuals[0], list(residuals[1:])
    a = turn.num_consts
    b = a + turn.num_params
    c = b + turn.num_carry
    return n, rest[:a], rest[a:b], rest[b:c], rest[c:]


@dataclass(frozen=True)
class _Forward:
    """Tangents of (carry, params) -> tangent of the result: the loop again, carrying values and tangents."""

    turn: Turn
    way: WayBack

    def __call__(self, residuals: Sequence[Any], tangents: Sequence[Any]) -> list[Any]:
        turn, capacity = self.turn, self.way.capacity
        n, consts, params, carry, _ = _split(turn, residuals)
        num_on = sum(turn.on_carry)
        params_ts = spread(tangents[num_on:], turn.on_params)

        def step(state: Any) -> Any:
            i, values, moving = state
            return i + 1, *turn.push(i, consts, values, params, spread(moving, turn.on_carry), params_ts)

        last = _within(n, capacity)
        state = (jnp.zeros_like(n), list(carry), list(tangents[:num_on]))
        return _poison(n, capacity, lax.while_loop(lambda s: s[0] < last, step, state)[2])


@dataclass(frozen=True)
class _Backward:
    """Cotangent of the result -> cotangents of (carry, params), by the way back."""

    turn: Turn
    way: WayBack

    def __call__(self, residuals: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
        capacity = self.way.capacity
        n, consts, params, _, kept = _split(self.turn, residuals)
        carry_cts, params_cts = self.way.backwards(_within(n, capacity), self.turn, consts, params, kept, cotangents)
        return _poison(n, capacity, [*carry_cts, *params_cts])
