"""`scan`: the linear program of a scan is a scan; its transpose is a scan in the other direction.

Residuals of the body are of three kinds: those computed from loop constants alone are kept once; those that are an input
of the scan are not stored again; the rest is stacked, one entry per turn. A loop without inputs and outputs per turn
(`fori_loop`) that only adds up terms stores nothing: its linear program computes the known carries again (see
`loop_bodies.order_free`).
"""

from collections.abc import Sequence
from typing import Any

from jax import lax
from jax.core import eval_jaxpr

from ..jax_compat import Literal, bind, open_jaxpr, scan_layout
from .activity import fixpoint
from .core import Unknown, add, is_differentiable, literal, push_forward, tangent_aval
from .loop_bodies import (
    RecomputingBody,
    SplitBody,
    chosen,
    needed_equations,
    order_free,
    run_equations,
    split_body,
    spread,
)
from .registry import forwards, linearizes, transposes
from .transpose import backward, instantiate


def _scan(eqn: Any, body: Any, carry: Any, xs: Any, reverse: bool | None = None) -> Any:
    p = eqn.params
    return lax.scan(body, carry, xs, length=p["length"], reverse=p["reverse"] if reverse is None else reverse, unroll=p["unroll"])


class _Layout:
    """A scan equation with what is active in it."""

    def __init__(self, eqn: Any, active: Sequence[bool]):
        self.jaxpr, self.consts = open_jaxpr(eqn.params["jaxpr"])
        self.num_consts, self.num_carry = scan_layout(eqn)
        self.out_active = fixpoint(eqn.params["jaxpr"], active, self.num_consts, self.num_carry)
        first = self.num_consts + self.num_carry
        self.carry = slice(self.num_consts, first)
        self.xs = slice(first, None)
        self.active = (*active[: self.num_consts], *self.out_active[: self.num_carry], *active[first:])

    def start(self, tangents: Sequence[Any]) -> list[Any]:
        """The initial tangents of the active carries."""
        avals = [tangent_aval(v.aval) for v in self.jaxpr.invars[self.carry]]
        return [instantiate(t, a) for t, a, on in zip(tangents[self.carry], avals, self.active[self.carry], strict=True) if on]


@forwards("scan")
def forward_scan(eqn: Any, primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """One scan that carries values and tangents together, and stores nothing."""
    at = _Layout(eqn, [t is not None for t in tangents])
    consts, const_ts = primals[: at.num_consts], tangents[: at.num_consts]
    on_carry, on_xs = at.active[at.carry], at.active[at.xs]

    def body(state: Any, inputs: Any) -> Any:
        (carry, carry_ts), (xs, xs_ts) = state, inputs
        moving = [*const_ts, *spread(carry_ts, on_carry), *spread(xs_ts, on_xs)]
        outs, out_ts = push_forward(at.jaxpr, at.consts, [*consts, *carry, *xs], moving)
        dense = [instantiate(t, tangent_aval(v.aval)) for t, v, on in zip(out_ts, at.jaxpr.outvars, at.out_active, strict=True) if on]
        n = sum(on_carry)
        return (outs[: at.num_carry], dense[:n]), (outs[at.num_carry :], dense[n:])

    xs_ts = chosen(tangents[at.xs], on_xs)
    start = (list(primals[at.carry]), at.start(tangents))
    (carry, carry_ts), (ys, ys_ts) = _scan(eqn, body, start, (list(primals[at.xs]), xs_ts))
    return [*carry, *ys], spread([*carry_ts, *ys_ts], at.out_active)


@linearizes("scan")
def linearize_scan(eqn: Any, active: Sequence[bool], *primals: Any) -> Any:
    """See the module."""
    at = _Layout(eqn, active)
    body = split_body(at.jaxpr, at.consts, at.active, at.out_active)
    constant, given, stacked = _classify(body, at)
    if stacked and not at.jaxpr.invars[at.xs] and not any(at.out_active[at.num_carry :]):
        again = _recomputing(eqn, at, body, primals)
        if again is not None:
            return again
    early = needed_equations(body.known, constant)
    invariant = dict(zip(body.known.constvars, body.consts, strict=True))
    invariant.update(zip(body.known.invars[: at.num_consts], primals[: at.num_consts], strict=True))
    run_equations(early, invariant, [])
    hoisted = {id(e) for e in early}
    late = [e for e in body.known.eqns if id(e) not in hoisted]
    inputs = body.known.invars[at.num_consts :]
    wanted = [*body.known.outvars[: body.num_out], *stacked]

    def known(carry: Any, xs: Any) -> Any:
        env = {**invariant, **dict(zip(inputs, [*carry, *xs], strict=True))}
        outs = run_equations(late, env, wanted)
        return outs[: at.num_carry], outs[at.num_carry :]

    carry, ys = _scan(eqn, known, list(primals[at.carry]), list(primals[at.xs]))
    ys, kept = ys[: body.num_out - at.num_carry], ys[body.num_out - at.num_carry :]
    xs_of = dict(zip(body.known.invars[at.xs], primals[at.xs], strict=True))
    per_turn = {**dict(zip(stacked, kept, strict=True)), **{v: xs_of[v] for v in given}}
    per_turn_vars, per_turn_values = list(per_turn), list(per_turn.values())
    atoms = body.residual_atoms
    num_on = sum(at.active[at.carry])

    def linear(ts: Sequence[Any]) -> list[Any]:
        const_ts, xs_ts = chosen(ts[: at.num_consts], at.active[: at.num_consts]), chosen(ts[at.xs], at.active[at.xs])

        def turn(carry_ts: Any, inputs: Any) -> Any:
            moving, values = inputs
            env = {**invariant, **dict(zip(per_turn_vars, values, strict=True))}
            residuals = [literal(x) if isinstance(x, Literal) else env[x] for x in atoms]
            outs = eval_jaxpr(body.linear.jaxpr, residuals, *const_ts, *carry_ts, *moving)
            return outs[:num_on], outs[num_on:]

        carry_ts, ys_ts = _scan(eqn, turn, at.start(ts), (xs_ts, per_turn_values))
        return spread([*carry_ts, *ys_ts], at.out_active)

    return [*carry, *ys], linear, at.out_active


def _classify(body: SplitBody, at: _Layout) -> tuple[list[Any], list[Any], list[Any]]:
    """Residuals that are computed from loop constants alone, that are inputs per turn, and that must be stacked."""
    fixed = {*body.known.constvars, *body.known.invars[: at.num_consts]}
    for eqn in body.known.eqns:
        if not eqn.effects and all(isinstance(x, Literal) or x in fixed for x in eqn.invars):
            fixed.update(eqn.outvars)
    atoms = list(dict.fromkeys(x for x in body.residual_atoms if not isinstance(x, Literal)))
    inputs = set(body.known.invars[at.xs])
    given = [x for x in atoms if x in inputs]
    return [x for x in atoms if x in fixed], given, [x for x in atoms if x not in fixed and x not in inputs]


def _recomputing(eqn: Any, at: _Layout, body: SplitBody, primals: Sequence[Any]) -> Any:
    """The linearization of a loop that adds up terms, with known carries computed again beside the tangents; None if it does more."""
    program = RecomputingBody(body, at.num_consts, at.num_carry, at.active)
    if not program.order_free:
        return None
    consts = list(primals[: at.num_consts])
    known_start = chosen(primals[at.carry], program.needed)
    num_on = sum(at.active[at.carry])

    def linear(ts: Sequence[Any]) -> list[Any]:
        const_ts = chosen(ts[: at.num_consts], at.active[: at.num_consts])

        def turn(state: Any, _: Any) -> Any:
            known, moving = state
            return program.turn(consts, known, const_ts, moving), None

        (_, carry_ts), _ = _scan(eqn, turn, (known_start, at.start(ts)), None)
        return spread(carry_ts[:num_on], at.out_active)

    return bind(eqn, primals), linear, at.out_active


@transposes("scan")
def transpose_scan(eqn: Any, cotangents: Sequence[Any], *operands: Any) -> Any:
    """A scan from the last turn to the first that carries cotangents and adds up those of the constants."""
    jaxpr, consts = open_jaxpr(eqn.params["jaxpr"])
    num_consts, num_carry = scan_layout(eqn)
    first = num_consts + num_carry
    linear = [isinstance(x, Unknown) for x in operands]
    linear_carry = fixpoint(eqn.params["jaxpr"], linear, num_consts, num_carry)[:num_carry]
    unknown = [*linear[:num_consts], *linear_carry, *linear[first:]]
    known_xs = chosen(operands[first:], [not u for u in unknown[first:]])
    starts = operands[num_consts:first]
    forward_order = False
    recomputed: list[Any] = []
    if not all(linear_carry):
        changing = [num_consts <= i < first for i in range(len(operands))]
        known_start = [x for x, on in zip(starts, linear_carry, strict=True) if not on]
        forward_order = not jaxpr.invars[first:] and order_free(
            jaxpr, unknown, [*linear_carry, *[False] * (len(jaxpr.outvars) - num_carry)], changing, False
        )
        if not forward_order:
            recomputed = _known_carries(eqn, jaxpr, consts, unknown, operands, num_consts, num_carry)
    else:
        known_start = []
    avals = [tangent_aval(v.aval) for v in jaxpr.invars]
    out_cts = [instantiate(ct, tangent_aval(v.aval)) for ct, v in zip(cotangents, jaxpr.outvars, strict=True) if is_differentiable(v.aval)]
    out_on = [is_differentiable(v.aval) for v in jaxpr.outvars]
    full = spread(out_cts, out_on)
    carry_cts = chosen(full[:num_carry], linear_carry)
    const_zero = [instantiate(None, a) for a in chosen(avals[:num_consts], unknown[:num_consts])]
    ys_cts = [ct for ct in full[num_carry:] if ct is not None]
    ys_on = out_on[num_carry:]

    def turn(state: Any, inputs: Any) -> Any:
        known, ct_carry, ct_const = state
        ct_ys, xs, carried = inputs
        known_values = iter([*known] if forward_order else [*carried])
        constants, xs_values = iter(chosen(operands[:num_consts], [not u for u in unknown[:num_consts]])), iter(xs)
        values = [
            Unknown(v.aval) if u else next(constants if i < num_consts else known_values if i < first else xs_values)
            for i, (v, u) in enumerate(zip(jaxpr.invars, unknown, strict=True))
        ]
        arriving = [*spread(ct_carry, linear_carry), *spread(ct_ys, ys_on)]
        made = backward(jaxpr, consts, values, arriving)
        dense = [instantiate(ct, a) if u else None for ct, a, u in zip(made, avals, unknown, strict=True)]
        new_const = [add(a, ct) for a, ct in zip(ct_const, chosen(made[:num_consts], unknown[:num_consts]), strict=True)]
        new_carry = chosen(dense[num_consts:first], linear_carry)
        if forward_order:
            known = _advance(jaxpr, consts, values, linear_carry, num_carry)
        return (known, new_carry, new_const), chosen(dense[first:], unknown[first:])

    state = (known_start if forward_order else [], carry_cts, const_zero)
    reverse = eqn.params["reverse"] if forward_order else not eqn.params["reverse"]
    (_, ct_carry, ct_const), ct_xs = _scan(eqn, turn, state, (ys_cts, known_xs, recomputed), reverse=reverse)
    return [
        *spread(ct_const, unknown[:num_consts]),
        *(ct if isinstance(x, Unknown) else None for ct, x in zip(spread(ct_carry, linear_carry), starts, strict=True)),
        *spread(ct_xs, unknown[first:]),
    ]


def _advance(jaxpr: Any, consts: Sequence[Any], values: Sequence[Any], linear_carry: Sequence[bool], num_carry: int) -> list[Any]:
    """The known carries one turn later."""
    outs = [v for v, on in zip(jaxpr.outvars[:num_carry], linear_carry, strict=True) if not on]
    env = dict(zip(jaxpr.constvars, consts, strict=True))
    env.update((v, x) for v, x in zip(jaxpr.invars, values, strict=True) if not isinstance(x, Unknown))
    return run_equations(needed_equations(jaxpr, outs), env, outs)


def _known_carries(
    eqn: Any,
    jaxpr: Any,
    consts: Sequence[Any],
    unknown: Sequence[bool],
    operands: Sequence[Any],
    num_consts: int,
    num_carry: int,
) -> list[Any]:
    """The known carries at the start of every turn, stacked, in the order of the turns."""
    first = num_consts + num_carry
    linear_carry = unknown[num_consts:first]

    def turn(known: Any, xs: Any) -> Any:
        rest, inputs = iter(known), iter(xs)
        values = [
            Unknown(v.aval) if u else operands[i] if i < num_consts else next(rest if i < first else inputs)
            for i, (v, u) in enumerate(zip(jaxpr.invars, unknown, strict=True))
        ]
        return _advance(jaxpr, consts, values, linear_carry, num_carry), known

    start = [x for x, on in zip(operands[num_consts:first], linear_carry, strict=True) if not on]
    return _scan(eqn, turn, start, chosen(operands[first:], [not u for u in unknown[first:]]))[1]
