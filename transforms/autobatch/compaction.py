"""The tail of a batch: when few members still run, they are gathered into a smaller one.

Members need different numbers of ticks, and a tick costs the same however many of them take part. The host lets the machine run
until at most a quarter of the batch is left, gathers those members, goes on with the smaller batch, and puts them back. What a
member computes depends on no other, so the results are the same, up to the rounding of XLA at another batch size.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from .frames import HALT
from .program_counter import Machine, State

__all__ = ["advance_compacted", "gather", "scatter", "smaller"]

_STEP = 4
_SMALLEST = 2
_WHOLE = ("runs", "members")  # not per member


def advance_compacted(machine: Machine, advance: Callable[..., State], state: State, shared: Sequence[Any]) -> State:
    """Runs until all members have halted.

    Args:
        machine: the program.
        advance: `machine.advance`, compiled, with `leave` static; it may take over the memory of the state.
        state: of all members, on concrete values.
        shared: one array per shared parameter of the main function, in order.
    """
    left = smaller(state["program counter"].shape[0])
    state = advance(state, shared, leave=left)
    if not left or machine.halted(state).all():
        return state
    part, rows = gather(state, left)
    return scatter(state, advance_compacted(machine, advance, part, shared), rows)


def smaller(size: int) -> int:
    """The next smaller batch: a quarter, rounded up; 0 if the batch is small enough."""
    return -(-size // _STEP) if size > _SMALLEST else 0


@partial(jax.jit, static_argnames="size")
def gather(state: State, size: int) -> tuple[State, jax.Array]:
    """The state of `size` members, those that still run before others, and which they are, int32 (size,)."""
    rows = jnp.argsort(state["program counter"] == HALT, stable=True)[:size].astype(jnp.int32)
    return {key: value if key in _WHOLE else value[rows] for key, value in state.items()}, rows


@partial(jax.jit, donate_argnames="state")
def scatter(state: State, part: State, rows: jax.Array) -> State:
    """Puts members that `gather` took back."""
    return {key: part[key] if key in _WHOLE else value.at[rows].set(part[key]) for key, value in state.items()}
