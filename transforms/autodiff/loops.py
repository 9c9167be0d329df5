"""Loops whose number of turns is known only at run time, and whose order matters: a stated capacity makes them reversible.

    c_{i+1} = step(i, c_i, theta),  i = 0 .. n-1,  n <= max_trips

The forward pass keeps the carries c_i on a tape of `max_trips` entries, or every K-th of them, K = ceil(sqrt(max_trips));
the backward pass visits the turns from the last to the first, n of them and not `max_trips`, and linearizes each one anew.
With checkpoints it computes K carries again from each one it kept: memory for 2 K carries, and one more evaluation of
every step.

Source: Griewank (1992), "Achieving logarithmic growth of temporal and spatial complexity in reverse automatic
differentiation", for the trade; we use its two-level form, because the number of turns is not known when the program is
made.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer, eval_jaxpr

from ..errors import DerivativeError
from ..jax_compat import open_jaxpr
from .core import is_differentiable, linearize_jaxpr, push_forward, tangent_aval
from .linear_op import linear_op
from .loop_bodies import chosen, spread
from .ruled import defines_linearization
from .transpose import backward_dense, instantiate_all

__all__ = ["dynamic_loop"]

_log = logging.getLogger("luciole")


def dynamic_loop(
    n: Any,
    step: Callable[[Any, Any, Any], Any],
    theta: Any,
    init: Any,
    *,
    max_trips: int,
    checkpoint: Literal["tape", "sqrt"] = "tape",
) -> Any:
    """The carry after `n` turns, differentiable in `theta` and `init`.

    Args:
        n: number of turns, an integer scalar, traced or not.
        step: (i, carry, theta) -> carry of the same structure, shapes and dtypes.
        theta: what the derivative is taken in beside `init`: a pytree. What `step` closes over has no derivative.
        init: the carry at the start: a pytree.
        max_trips: capacity.
        checkpoint: "tape" keeps every carry, "sqrt" 2 sqrt(max_trips) of them at the price of one more evaluation of each step.

    Returns:
        The carry. If n > max_trips its floating point leaves are NaN, and so is every derivative; the overrun is logged as an
        error at run time.

    Raises:
        DerivativeError: `max_trips` is not positive; a concrete n exceeds it; `step` changes the carry's type; in second
            order, reverse over reverse is refused (forward over reverse works).
    """
    if max_trips < 1:
        raise DerivativeError(f"dynamic_loop: max_trips must be positive, found {max_trips}.")
    if not isinstance(n, Tracer) and int(n) > max_trips:
        raise DerivativeError(f"dynamic_loop: {int(n)} turns exceed the stated capacity max_trips={max_trips}.")
    carry, carry_tree = jax.tree.flatten(init)
    carry = [jnp.asarray(c) for c in carry]
    params, theta_tree = jax.tree.flatten(theta)
    params = [jnp.asarray(p) for p in params]
    index = jnp.asarray(n, jnp.int32)

    def flat(i: Any, carry: Sequence[Any], params: Sequence[Any]) -> list[Any]:
        out = step(i, jax.tree.unflatten(carry_tree, carry), jax.tree.unflatten(theta_tree, params))
        leaves, tree = jax.tree.flatten(out)
        if tree != carry_tree:
            raise DerivativeError(f"dynamic_loop: step returns a carry of structure {tree}, expected {carry_tree}.")
        return [jnp.asarray(v) for v in leaves]

    carry = [lax.convert_element_type(c, c.dtype) for c in carry]  # a weak type would not survive one turn
    jaxpr, consts = open_jaxpr(jax.make_jaxpr(flat)(index, carry, params))
    for before, after in zip(carry, jaxpr.outvars, strict=True):
        if before.shape != after.aval.shape or before.dtype != after.aval.dtype:
            raise DerivativeError(f"dynamic_loop: step turns a carry of {jax.typeof(before).str_short()} into {after.aval.str_short()}.")
    turns = _Turns(jaxpr, len(consts), len(carry), max_trips, checkpoint)
    report = jnp.greater(index, max_trips)
    if isinstance(report, Tracer):
        lax.cond(report, lambda: jax.debug.callback(_report, report, index, max_trips), lambda: None)

    def body(n: Any, carry: Any, params: Any) -> Any:
        return turns.run(n, consts, carry, params)

    @defines_linearization(body)
    def loop(n: Any, carry: Any, params: Any) -> Any:
        outs, kept = turns.record(n, consts, carry, params)
        residuals = [n, *consts, *params, *carry, *kept]
        avals = [tangent_aval(jax.typeof(v)) for v in carry]

        def linear(_: Any, carry_ts: Any, params_ts: Any) -> Any:
            moving = [t for t in (*carry_ts, *params_ts) if t is not None]
            on = [is_differentiable(a) for a in avals]
            made = linear_op(_Forward(turns), _Backward(turns), residuals, moving, chosen(avals, on))
            return [jnp.zeros(a.shape, a.dtype) if t is None else t for t, a in zip(spread(made, on), avals, strict=True)]

        return outs, linear

    return jax.tree.unflatten(carry_tree, loop(index, carry, params))


def _report(overrun: Any, n: Any, max_trips: int) -> None:
    if bool(overrun):
        _log.error("dynamic_loop: %d turns exceed the stated capacity max_trips=%d; the result is NaN.", int(n), max_trips)


@dataclass(frozen=True)
class _Turns:
    """The turns of one loop: jaxpr is (constants, i, carry, theta) -> carry."""

    jaxpr: Any
    num_consts: int
    num_carry: int
    capacity: int
    checkpoint: str

    @property
    def spacing(self) -> int:
        return 1 if self.checkpoint == "tape" else math.isqrt(self.capacity - 1) + 1

    def one(self, i: Any, consts: Sequence[Any], carry: Sequence[Any], params: Sequence[Any]) -> list[Any]:
        return eval_jaxpr(self.jaxpr, consts, i, *carry, *params)

    def poison(self, n: Any, values: Sequence[Any]) -> list[Any]:
        """NaN instead of a result that the capacity made wrong."""
        return [jnp.where(n > self.capacity, jnp.full_like(v, jnp.nan), v) if is_differentiable(jax.typeof(v)) else v for v in values]

    def run(self, n: Any, consts: Sequence[Any], carry: Sequence[Any], params: Sequence[Any]) -> list[Any]:
        last = jnp.minimum(n, self.capacity)
        outs = lax.while_loop(
            lambda s: s[0] < last,
            lambda s: (s[0] + 1, self.one(s[0], consts, s[1], params)),
            (jnp.zeros_like(n), list(carry)),
        )[1]
        return self.poison(n, outs)

    def record(self, n: Any, consts: Sequence[Any], carry: Sequence[Any], params: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The result, and the carry before every `spacing`-th turn."""
        last, k = jnp.minimum(n, self.capacity), self.spacing
        room = -(-self.capacity // k)

        def turn(state: Any) -> Any:
            i, values, kept = state
            kept = [_write(buffer, v, i // k, i % k == 0) for buffer, v in zip(kept, values, strict=True)]
            return i + 1, self.one(i, consts, values, params), kept

        empty = [jnp.zeros((room, *v.shape), v.dtype) for v in carry]
        _, outs, kept = lax.while_loop(lambda s: s[0] < last, turn, (jnp.zeros_like(n), list(carry), empty))
        return self.poison(n, outs), kept

    def split(self, residuals: Sequence[Any]) -> tuple[Any, list[Any], list[Any], list[Any], list[Any]]:
        """n, constants, theta, initial carry, kept carries."""
        n, rest = residuals[0], list(residuals[1:])
        num_params = len(self.jaxpr.invars) - 1 - self.num_carry
        a, b, c = self.num_consts, self.num_consts + num_params, self.num_consts + num_params + self.num_carry
        return n, rest[:a], rest[a:b], rest[b:c], rest[c:]

    @property
    def active(self) -> list[bool]:
        return [False, *(is_differentiable(v.aval) for v in self.jaxpr.invars[1:])]

    @property
    def on_carry(self) -> list[bool]:
        return self.active[1 : 1 + self.num_carry]


def _write(buffer: Any, value: Any, place: Any, when: Any) -> Any:
    old = lax.dynamic_index_in_dim(buffer, place, 0, keepdims=False)
    return lax.dynamic_update_index_in_dim(buffer, jnp.where(when, value, old), place, 0)


@dataclass(frozen=True)
class _Forward:
    """Tangents of (carry, theta) -> tangent of the result: the loop again, carrying values and tangents."""

    turns: _Turns

    def __call__(self, residuals: Sequence[Any], tangents: Sequence[Any]) -> list[Any]:
        t = self.turns
        n, consts, params, carry, _ = t.split(residuals)
        num_on = sum(t.on_carry)
        params_ts = spread(tangents[num_on:], t.active[1 + t.num_carry :])

        def turn(state: Any) -> Any:
            i, values, moving = state
            outs, made = push_forward(t.jaxpr, consts, [i, *values, *params], [None, *spread(moving, t.on_carry), *params_ts])
            return i + 1, outs, instantiate_all(made, t.jaxpr.outvars, t.on_carry)

        last = jnp.minimum(n, t.capacity)
        state = (jnp.zeros_like(n), list(carry), list(tangents[:num_on]))
        return t.poison(n, lax.while_loop(lambda s: s[0] < last, turn, state)[2])


@dataclass(frozen=True)
class _Backward:
    """Cotangent of the result -> cotangents of (carry, theta): the kept carries from the last to the first."""

    turns: _Turns

    def __call__(self, residuals: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
        t = self.turns
        n, consts, params, _, kept = t.split(residuals)
        k, last = t.spacing, jnp.minimum(n, t.capacity)
        on_params = t.active[1 + t.num_carry :]

        def back(i: Any, values: Sequence[Any], state: Any) -> Any:
            carry_cts, params_cts = state
            _, program = linearize_jaxpr(t.jaxpr, consts, [i, *values, *params], t.active, t.on_carry)
            dense = backward_dense(program.jaxpr, program.residuals, [True] * len(program.jaxpr.invars), [], carry_cts)
            return dense[: len(carry_cts)], [a + b for a, b in zip(params_cts, dense[len(carry_cts) :], strict=True)]

        def block(b: Any, state: Any) -> Any:
            """All turns from checkpoint b to the next, backwards."""
            start = b * k
            stop = jnp.minimum(start + k, last)
            values = [lax.dynamic_index_in_dim(buffer, b, 0, keepdims=False) for buffer in kept]
            if k == 1:
                return back(start, values, state)

            def again(s: Any) -> Any:
                i, values, inner = s
                inner = [lax.dynamic_update_index_in_dim(buffer, v, i - start, 0) for buffer, v in zip(inner, values, strict=True)]
                return i + 1, t.one(i, consts, values, params), inner

            empty = [jnp.zeros((k, *v.shape), v.dtype) for v in values]
            _, _, inner = lax.while_loop(lambda s: s[0] < stop, again, (start, values, empty))

            def one_back(s: Any) -> Any:
                i, state = s
                at = [lax.dynamic_index_in_dim(buffer, i - start, 0, keepdims=False) for buffer in inner]
                return i - 1, back(i, at, state)

            return lax.while_loop(lambda s: s[0] >= start, one_back, (stop - 1, state))[1]

        zero = [jnp.zeros(p.shape, p.dtype) for p in chosen(params, on_params)]
        num_blocks = (last + k - 1) // k
        state = (num_blocks - 1, (list(cotangents), zero))
        _, (carry_cts, params_cts) = lax.while_loop(lambda s: s[0] >= 0, lambda s: (s[0] - 1, block(*s)), state)
        return t.poison(n, [*carry_cts, *params_cts])
