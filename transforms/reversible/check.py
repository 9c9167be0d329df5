"""A check of an update that a user has written: forwards and back, step by step, with all bits compared."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import DerivativeError
from ..settings import whole
from .reversal import Reversal
from .steps import Given
from .traced import trace_update
from .update import Update

__all__ = ["ReversalCheck", "check_reversal"]


class ReversalCheck(NamedTuple):
    """num_steps: that were undone. bits: that the store took, for each number that is multiplied and each step. largest: value seen."""

    num_steps: int
    bits: float
    largest: float


def check_reversal(update: Update, state: dict[str, Any], num_steps: int = 100) -> ReversalCheck:
    """Run an update forwards and back, and compare the state before every step, bit for bit.

    Forwards and backwards are programs of their own, called step by step from the host: what differs here is not the same function of
    its arguments each time (a host callback, a random number that is not derived from the step). Only arrays of numbers, nothing traced.

    Args:
        update: the step. state: a dict of real floating point arrays. num_steps: at least 1; all states are kept in host memory.

    Raises:
        DerivativeError: a state does not come back, or a value leaves the range (names step and leaf); or as `reversible_loop`.
    """
    num_steps = whole("check_reversal", "num_steps", num_steps, 1, error=DerivativeError)
    if not isinstance(update, Update):
        raise DerivativeError(f"check_reversal: update is a {type(update).__name__}; an Update of Add and Multiply expected.")
    state = jax.tree.map(jnp.asarray, state)
    program, consts, theta = trace_update(lambda _: update, (), state, num_steps)
    reversal, names = Reversal(program, num_steps), program.names
    steps = reversal.steps
    with jax.enable_x64(True):
        given = Given(consts, theta, reversal.tables(consts, theta))
        zero = steps.adjoint(theta, [jnp.zeros(t.shape) for t in program.types])
        forward, backward = jax.jit(steps.forward), jax.jit(lambda i, held: steps.backward(i, (held, zero), given)[0])
        held, outside = steps.start(jax.tree.leaves(state)), jnp.full((len(names),), num_steps, jnp.int32)
        before = []
        for i in range(num_steps):
            before.append(jax.tree.map(np.asarray, (held.units, held.remainders, held.places)))
            held, outside = forward(jnp.int32(i), (held, outside), given)
            if int(jnp.min(outside)) < num_steps:
                raise DerivativeError(
                    f"check_reversal: the state's {names[int(jnp.argmin(outside))]} is beyond 2048 in size, or NaN, after step {i}. "
                    "Fixed-point numbers hold no more: use smaller steps, or units in which it is smaller."
                )
        places, largest = list(held.places), max(float(np.abs(steps.values(held.units)[n]).max(initial=0)) for n in range(len(names)))
        for i in reversed(range(num_steps)):
            held = backward(jnp.int32(i), held)
            found = jax.tree.map(np.asarray, (held.units, held.remainders, held.places))
            for leaf, (a, b) in enumerate(zip(found[0], before[i][0], strict=True)):
                if not np.array_equal(a, b):
                    raise _not_undone(names[leaf], i, int((a != b).sum()), a.size)
            if not all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(before[i]), strict=True)):
                raise _not_undone(f"{names[program.slot_leaf[0]]} (what its products lost)", i, 1, 1)
    numbers = sum(program.types[leaf].size for leaf in program.slot_leaf)
    spilled = sum(16 * int(p) * program.types[leaf].size for p, leaf in zip(places, program.slot_leaf, strict=True))
    return ReversalCheck(num_steps, spilled / (numbers * num_steps) if numbers else 0.0, largest)


def _not_undone(name: str, step: int, differing: int, size: int) -> DerivativeError:
    return DerivativeError(
        f"check_reversal: step {step} was not undone: {differing} of {size} numbers of the state's {name} differ from what they were "
        "before it. An increment has given other bits for the same step and state. Derive random numbers from the step, and call nothing "
        "on the host that remembers."
    )
