"""`jax.checkpoint`: residuals are the operands and what the policy allows to be saved; the rest is computed again.

The linear program holds a checkpointed program of (operands, saved values; tangents). Its transpose computes again what
it needs, at the time it needs it, behind the same barrier.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax.core import eval_jaxpr

from ..jax_compat import Literal, bind, equation_context, open_jaxpr
from .activity import active_outputs
from .core import Unknown, linearize_jaxpr, literal, push_forward, tangent_aval
from .loop_bodies import chosen, run_equations, spread
from .registry import forwards, linearizes, transposes
from .rules_calls import PARAM
from .transpose import backward, instantiate

NAMES = ("remat2", "checkpoint", "remat")


def _again(eqn: Any, function: Any) -> Any:
    return jax.checkpoint(function, prevent_cse=eqn.params["prevent_cse"], policy=eqn.params["policy"])


def _saves(eqn: Any, policy: Any) -> bool:
    """Whether the policy lets the results of an equation be kept; offloading them counts as saving them where they are."""
    verdict = policy(eqn.primitive, *(v.aval for v in eqn.invars), **eqn.params)
    if isinstance(verdict, bool):
        return verdict
    return type(verdict).__name__ != "RecomputeType"


def _flatten(jaxpr: Any, consts: Sequence[Any]) -> Any:
    """The jaxpr with called programs written in place, so that a policy sees their equations."""
    if not any(e.primitive.name in PARAM for e in jaxpr.eqns):
        return jaxpr, list(consts)

    def run(*values: Any) -> list[Any]:
        return _inline(jaxpr, consts, values)

    return open_jaxpr(jax.make_jaxpr(run)(*[v.aval for v in jaxpr.invars]))


def _inline(jaxpr: Any, consts: Sequence[Any], values: Sequence[Any]) -> list[Any]:
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *values], strict=True))
    for eqn in jaxpr.eqns:
        operands = [literal(x) if isinstance(x, Literal) else env[x] for x in eqn.invars]
        with equation_context(eqn):
            if eqn.primitive.name in PARAM:
                inner, inner_consts = open_jaxpr(eqn.params[PARAM[eqn.primitive.name]])
                outs = _inline(inner, inner_consts, operands)
            else:
                outs = bind(eqn, operands)
        env.update(zip(eqn.outvars, outs, strict=True))
    return [literal(x) if isinstance(x, Literal) else env[x] for x in jaxpr.outvars]


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
        jaxpr, consts = _flatten(jaxpr, consts)
        places = [v for e in jaxpr.eqns if _saves(e, policy) for v in e.outvars]
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *primals], strict=True))
        outs = run_equations(jaxpr.eqns, env, jaxpr.outvars)
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
        return outs, [instantiate(t, tangent_aval(v.aval)) for t, v, on in zip(out_ts, eqn.outvars, out_active, strict=True) if on]

    outs, moved = _again(eqn, forward)(list(primals), chosen(tangents, active))
    return outs, spread(moved, out_active)


@transposes(*NAMES)
def transpose_remat(eqn: Any, cotangents: Sequence[Any], *operands: Any) -> Any:
    """What the transpose needs is computed again inside it."""
    jaxpr, consts = open_jaxpr(eqn.params["jaxpr"])
    unknown = [isinstance(x, Unknown) for x in operands]
    arriving = [instantiate(ct, tangent_aval(v.aval)) for ct, v in zip(cotangents, eqn.outvars, strict=True)]

    def transposed(known: Any, cts: Any) -> Any:
        values = [
            Unknown(v.aval) if u else x for v, u, x in zip(jaxpr.invars, unknown, spread(known, [not u for u in unknown]), strict=True)
        ]
        made = backward(jaxpr, consts, values, cts)
        return [instantiate(ct, tangent_aval(v.aval)) for ct, v, u in zip(made, jaxpr.invars, unknown, strict=True) if u]

    known = [x for x, u in zip(operands, unknown, strict=True) if not u]
    return spread(_again(eqn, transposed)(known, arriving), unknown)
