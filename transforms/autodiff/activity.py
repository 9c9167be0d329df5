"""Which results of a program can depend on which inputs, for derivatives: a walk that looks into nested programs.

Conservative: a result that is said to be inactive certainly has no tangent; one that is said to be active may have one
that is zero.
"""

from collections.abc import Sequence
from typing import Any

from ..equations import body_of
from ..jax_compat import Literal, open_jaxpr, scan_layout
from .core import is_differentiable

__all__ = ["active_outputs", "fixpoint"]

NO_TANGENT = {"stop_gradient", "sign", "floor", "ceil", "round"}


def active_outputs(jaxpr: Any, active: Sequence[bool]) -> tuple[bool, ...]:
    """Which outputs of a (closed) jaxpr have a tangent if the inputs marked in `active` do."""
    inner, _ = open_jaxpr(jaxpr)
    alive = {v for v, a in zip(inner.invars, active, strict=True) if a}
    for eqn in inner.eqns:
        reads = [not isinstance(x, Literal) and x in alive for x in eqn.invars]
        if any(reads):
            alive.update(v for v, a in zip(eqn.outvars, _equation(eqn, reads), strict=True) if a and is_differentiable(v.aval))
    return tuple(not isinstance(v, Literal) and v in alive for v in inner.outvars)


def _equation(eqn: Any, active: Sequence[bool]) -> Sequence[bool]:
    name = eqn.primitive.name
    if name in NO_TANGENT:
        return [False] * len(eqn.outvars)
    if (body := body_of(eqn)) is not None:
        return active_outputs(body, active)
    if name == "cond":
        each = [active_outputs(b, active[1:]) for b in eqn.params["branches"]]
        return [any(flags) for flags in zip(*each, strict=True)]
    if name == "scan":
        num_consts, num_carry = scan_layout(eqn)
        return fixpoint(eqn.params["jaxpr"], active, num_consts, num_carry)
    if name == "while":
        skip, num_consts = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        return fixpoint(eqn.params["body_jaxpr"], active[skip:], num_consts, len(eqn.outvars))
    return [True] * len(eqn.outvars)


def fixpoint(body: Any, active: Sequence[bool], num_consts: int, num_carry: int) -> tuple[bool, ...]:
    """Which outputs of a loop have tangents: a carry that becomes active in one turn is active in all."""
    active = list(active)
    carry = slice(num_consts, num_consts + num_carry)
    while True:
        outs = active_outputs(body, active)
        grown = [a or b for a, b in zip(active[carry], outs[:num_carry], strict=True)]
        if grown == active[carry]:
            return (*grown, *outs[num_carry:])
        active[carry] = grown
