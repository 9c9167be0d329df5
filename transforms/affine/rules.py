"""In which of its operands a primitive is linear while the others are held: the one table behind the affine test.

Three walks read it: the proof (`proof`), the linear part of a proven program (`linear`) and its matrix (`blocks`).
"Linear" is meant of the *value* and over the reals, jointly in all the positions returned: `pad` in its operand and its padding
value, `select_n` in its cases for a given choice. The derivative is never asked: `floor` and `stop_gradient` have a derivative that
is zero everywhere, and are not affine.

A primitive that is not in the table is not affine. So a new primitive costs a refusal, never a wrong answer.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..equations import body_of
from ..jax_compat import JaxprEqn

__all__ = ["MOVES", "PASSES", "aval", "called_body", "linear_slots"]

# Each element of the result is one element of one operand, or zero: what holds for values holds for positions, too.
MOVES = {
    "broadcast_in_dim",
    "concatenate",
    "copy",
    "copy_p",
    "dynamic_slice",
    "dynamic_update_slice",
    "gather",
    "pad",
    "reshape",
    "rev",
    "scatter",
    "select_n",
    "slice",
    "split",
    "squeeze",
    "stack",
    "tile",
    "transpose",
}

# Each result is the operand of the same position.
PASSES = {"device_put", "optimization_barrier", "sharding_constraint"}

_IN_ALL = {"add", "add_any", "complex", "concatenate", "pad", "stack", "sub"}
_IN_FIRST = {
    "broadcast_in_dim",
    "conj",
    "convert_element_type",
    "copy",
    "copy_p",
    "cumsum",
    "div",
    "dynamic_slice",
    "fft",
    "gather",
    "imag",
    "neg",
    "real",
    "reduce_sum",
    "reduce_window_sum",
    "reshape",
    "rev",
    "slice",
    "split",
    "squeeze",
    "tile",
    "transpose",
}
_BY_POSITION = {
    "dynamic_update_slice": (0, 1),  # operand, update | start indices
    "scatter": (0, 2),  # operand, updates | indices between them
    "scatter-add": (0, 2),
    "scatter-sub": (0, 2),
    "triangular_solve": (1,),  # matrix | right-hand side
    "tridiagonal_solve": (3,),  # three diagonals | right-hand side
}
_BILINEAR = {"conv_general_dilated", "dot_general", "mul"}

# What an operand that must not vary is to the primitive: the words of a refusal.
_HELD = {
    "div": "divides by a value that depends on the argument",
    "dynamic_slice": "takes its start indices from the argument",
    "dynamic_update_slice": "takes its start indices from the argument",
    "gather": "takes its indices from the argument",
    "scatter": "takes its indices from the argument",
    "scatter-add": "takes its indices from the argument",
    "scatter-sub": "takes its indices from the argument",
    "select_n": "chooses by a value that depends on the argument",
    "triangular_solve": "solves with a matrix that depends on the argument",
    "tridiagonal_solve": "solves with a matrix that depends on the argument",
}


def linear_slots(eqn: JaxprEqn, varies: Sequence[bool]) -> frozenset[int] | str:
    """The operands in which an equation is jointly linear, or why it is not.

    Args:
        eqn: a first-order equation (no call, no control flow).
        varies: for each operand, whether it depends on the argument. At least one does.

    Returns:
        Positions that include every varying operand; the result is linear in them while the other operands are held. Or a
        sentence's end, for a person: "{primitive} ...".
    """
    name = eqn.primitive.name
    every = range(len(varies))
    if name in _IN_ALL:
        slots = frozenset(every)
    elif name in _IN_FIRST:
        slots = frozenset({0})
    elif name == "select_n":
        slots = frozenset(every[1:])
    elif name in _BY_POSITION:
        slots = frozenset(_BY_POSITION[name])
    elif name in _BILINEAR:
        if varies[0] and varies[1]:
            return "multiplies two values that both depend on the argument"
        slots = frozenset({0 if varies[0] else 1})
    else:
        return "is not affine, or not known to be"
    if any(v and i not in slots for i, v in enumerate(varies)):
        return _HELD.get(name, "is not affine in every operand that depends on the argument")
    for var in eqn.outvars:
        if not jnp.issubdtype(aval(var).dtype, np.inexact):
            return f"rounds to {aval(var).dtype}"
    if name == "convert_element_type" and _coarser(aval(eqn.invars[0]).dtype, aval(eqn.outvars[0]).dtype):
        return f"rounds to {aval(eqn.outvars[0]).dtype}"
    return slots


def aval(x: Any) -> Any:
    """Shape and dtype of an operand or result."""
    return x.aval


def _coarser(old: Any, new: Any) -> bool:
    """Whether a conversion is a staircase one can see: to fewer than float32's digits, from more."""
    precision = jnp.finfo(new).nmant
    return precision < jnp.finfo(old).nmant and precision < jnp.finfo(jnp.float32).nmant


def called_body(eqn: JaxprEqn, operands: list[Any]) -> tuple[Any, list[Any]] | None:
    """(body, its operands) of an equation whose value is that of one nested jaxpr; else None.

    A linear solve is its `solve` function, which is walked as well: a factorisation passes, an iteration to a tolerance does not.
    """
    name = eqn.primitive.name
    if (body := body_of(eqn)) is not None:
        return body, operands
    if name == "custom_linear_solve":
        lengths = eqn.params["const_lengths"]
        before, total = lengths.matvec + lengths.vecmat, sum(lengths)
        return eqn.params["jaxprs"].solve, [*operands[before : before + lengths.solve], *operands[total:]]
    return None
