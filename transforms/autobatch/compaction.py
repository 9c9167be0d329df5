"""The tail of a batch: when few members still run, they are gathered into a smaller one.

Members need different numbers of ticks, and a tick costs the same however many of them take part. The host lets the machine run
until at most a quarter of the batch is left, gathers those members, goes on with the smaller batch, and puts them back. What a
member computes depends on no other, so the results are the same, up to the rounding of XLA at another batch size.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .program_counter import Machine, State

__all__ = ["advance_compacted"]

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
    size = state["program counter"].shape[0]
    smaller = -(-size // _STEP)
    if size <= _SMALLEST:
        return advance(state, shared, leave=0)
    state = advance(state, shared, leave=smaller)
    halted = np.asarray(machine.halted(state))
    if halted.all():
        return state
    rows = jnp.asarray(np.argsort(halted, kind="stable")[:smaller])
    part = advance_compacted(machine, advance, _gather(state, rows), shared)
    return _scatter(state, part, rows)


@jax.jit
def _gather(state: State, rows: jax.Array) -> State:
    return {key: value if key in _WHOLE else value[rows] for key, value in state.items()}


@jax.jit
def _scatter(state: State, part: State, rows: jax.Array) -> State:
    return {key: part[key] if key in _WHOLE else value.at[rows].set(part[key]) for key, value in state.items()}
