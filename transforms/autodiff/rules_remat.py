"""`jax.checkpoint`: residuals are the operands and what the policy allows to be saved; the rest is computed again.

The linear program holds a checkpointed program of (operands, saved values; tangents). Its transpose computes again what
it needs, at the time it needs it, behind the same barrier.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax.core import eval_jaxpr

from ..equations import CHECKPOINTS
from ..jax_compat import bind, open_jaxpr
from .activity import active_outputs
from .core import Unknown, evaluate_equations, linearize_jaxpr, push_forward
from .loop_bodies import chosen, omitted, spread
from .registry import forwards, linearizes, transposes
from .rules_calls import inline_calls
from .transpose import backward_dense, instantiate_all

NAMES = tuple(CHECKPOINTS)


def _again(eqn: Any, function: Any) -> Any:
    return jax.checkpoint(function, prevent_cse=eqn.params["prevent_cse"], policy=eqn.params["policy"])


def _saves(eqn: Any, policy: Any) -> bool:
    """Whether the policy lets the results of an equation be kept; offloading them counts as saving them where they are."""
    verdict = policy(eqn.primitive, *(v.aval for v in eqn.invars), **eqn.params)
    if isinstance(verdict, bool):
        return verdict
    return type(verdict).__name__ != "RecomputeType"


@linearizes(*NAMES)
def linearize_remat(eqn: Any, active: Sequence[bool], *primals: Any) -> Any:
    """See the module."""
    jaxpr, consts = open_jaxpr(eqn.params["jaxpr"])
    out_active = active_outputs(jaxpr, active)
    policy = eqn.params["policy"]
    saved: list[Any] = []
    places: list[Any] = []
    if policy is None:
        outs = bind(eqn, primals)
    else:
        jaxpr, consts = inline_calls(jaxpr, consts)  # so that the policy sees their equations
        places = [v for e in jaxpr.eqns if _saves(e, policy) for v in e.outvars]
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *primals], strict=True))
        outs = evaluate_equations(jaxpr.eqns, env, jaxpr.outvars)
        saved = [env[v] for v in places]

    def again(primals: Any, saved: Any, moving: Any) -> Any:
        _, program = linearize_jaxpr(jaxpr, consts, primals, active, out_active, overrides=dict(zip(places, saved, strict=True)))
        return eval_jaxpr(program.jaxpr, program.residuals, *moving)

    def linear(ts: Sequence[Any]) -> list[Any]:
        return spread(_again(eqn, again)(list(primals), saved, chosen(ts, active)), out_active)

    return outs, linear, out_active


@forwards(*NAMES)
def forward_remat(eqn: Any, primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """The forward derivative of the program, checkpointed as the program was."""
    jaxpr, consts = open_jaxpr(eqn.params["jaxpr"])
    active = [t is not None for t in tangents]
    out_active = active_outputs(jaxpr, active)

    def forward(primals: Any, moving: Any) -> Any:
        outs, out_ts = push_forward(jaxpr, consts, primals, spread(moving, active))
        return outs, instantiate_all(out_ts, eqn.outvars, out_active)

    outs, moved = _again(eqn, forward)(list(primals), chosen(tangents, active))
    return outs, spread(moved, out_active)


@transposes(*NAMES)
def transpose_remat(eqn: Any, cotangents: Sequence[Any], *operands: Any) -> Any:
    """What the transpose needs is computed again inside it."""
    jaxpr, consts = open_jaxpr(eqn.params["jaxpr"])
    unknown = [isinstance(x, Unknown) for x in operands]
    arriving = instantiate_all(cotangents, eqn.outvars)

    def transposed(known: Any, cts: Any) -> Any:
        return backward_dense(jaxpr, consts, unknown, known, cts)

    return spread(_again(eqn, transposed)(omitted(operands, unknown), arriving), unknown)
