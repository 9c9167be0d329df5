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

from ..equations import dependents, needed_equations
from ..jax_compat import Literal, bind, open_jaxpr, scan_layout
from .activity import fixpoint
from .core import Unknown, add, evaluate_equations, push_forward, read, zeros
from .loop_bodies import (
    RecomputingBody,
    SplitBody,
    chosen,
    omitted,
    order_free,
    split_body,
    spread,
)
from .registry import forwards, linearizes, transposes
from .transpose import backward, instantiate_all, with_unknowns


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
        return instantiate_all(tangents[self.carry], self.jaxpr.invars[self.carry], self.active[self.carry])


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
        dense = instantiate_all(out_ts, at.jaxpr.outvars, at.out_active)
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
    early = needed_equations(body.known.eqns, constant)
    invariant = dict(zip(body.known.constvars, body.consts, strict=True))
    invariant.update(zip(body.known.invars[: at.num_consts], primals[: at.num_consts], strict=True))
    evaluate_equations(early, invariant, [])
    hoisted = {id(e) for e in early}
    late = [e for e in body.known.eqns if id(e) not in hoisted]
    inputs = body.known.invars[at.num_consts :]
    wanted = [*body.known.outvars[: body.num_out], *stacked]

    def known(carry: Any, xs: Any) -> Any:
        env = {**invariant, **dict(zip(inputs, [*carry, *xs], strict=True))}
        outs = evaluate_equations(late, env, wanted)
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
            residuals = [read(env, x) for x in atoms]
            outs = eval_jaxpr(body.linear.jaxpr, residuals, *const_ts, *carry_ts, *moving)
            return outs[:num_on], outs[num_on:]

        carry_ts, ys_ts = _scan(eqn, turn, at.start(ts), (xs_ts, per_turn_values))
        return spread([*carry_ts, *ys_ts], at.out_active)

    return [*carry, *ys], linear, at.out_active


def _classify(body: SplitBody, at: _Layout) -> tuple[list[Any], list[Any], list[Any]]:
    """Residuals that are computed from loop constants alone, that are inputs per turn, and that must be stacked."""
    moving = dependents(body.known.eqns, body.known.invars[at.num_consts :])
    atoms = list(dict.fromkeys(x for x in body.residual_atoms if not isinstance(x, Literal)))
    inputs = set(body.known.invars[at.xs])
    given = [x for x in atoms if x in inputs]
    return [x for x in atoms if x not in moving], given, [x for x in atoms if x in moving and x not in inputs]


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
    """A scan from the last turn to the first that carries cotangents and adds up those of the constants.

    Known carries are computed again: beside it where the order of the turns does not matter, elsewhere by a scan before it.
    """
    at = _Layout(eqn, [isinstance(x, Unknown) for x in operands])
    jaxpr, unknown = at.jaxpr, at.active
    on_consts, on_carry, on_xs = unknown[: at.num_consts], unknown[at.carry], unknown[at.xs]
    known_consts, known_xs = omitted(operands[: at.num_consts], on_consts), omitted(operands[at.xs], on_xs)
    known_start = omitted(operands[at.carry], on_carry)
    known_outs = omitted(jaxpr.outvars[: at.num_carry], on_carry)
    advancing = needed_equations(jaxpr.eqns, known_outs)

    def values_of(known: Sequence[Any], xs: Sequence[Any]) -> list[Any]:
        return with_unknowns(jaxpr.invars, unknown, [*known_consts, *known, *xs])

    def advance(values: Sequence[Any]) -> list[Any]:
        """The known carries one turn later."""
        env = dict(zip(jaxpr.constvars, at.consts, strict=True))
        env.update((v, x) for v, x in zip(jaxpr.invars, values, strict=True) if not isinstance(x, Unknown))
        return evaluate_equations(advancing, env, known_outs)

    beside = bool(known_start) and not jaxpr.invars[at.xs] and _order_free(at)
    before: list[Any] = []
    if known_start and not beside:
        before = _scan(eqn, lambda known, xs: (advance(values_of(known, xs)), known), known_start, known_xs)[1]

    # An output per turn whose cotangent is missing is left out: zeros made from the body's types would lack the axis of turns.
    carry_cts = instantiate_all(cotangents[: at.num_carry], jaxpr.outvars[: at.num_carry], on_carry)
    ys_cts = list(cotangents[at.num_carry :])
    ys_on = [ct is not None for ct in ys_cts]
    zero_consts = [zeros(v.aval) for v in chosen(jaxpr.invars[: at.num_consts], on_consts)]

    def turn(state: Any, inputs: Any) -> Any:
        known, carry_cts, const_cts = state
        ys_cts, xs, kept = inputs
        values = values_of(known if beside else kept, xs)
        made = backward(jaxpr, at.consts, values, [*spread(carry_cts, on_carry), *spread(ys_cts, ys_on)])
        const_cts = [add(a, ct) for a, ct in zip(const_cts, chosen(made[: at.num_consts], on_consts), strict=True)]
        carry_cts = instantiate_all(made[at.carry], jaxpr.invars[at.carry], on_carry)
        xs_cts = instantiate_all(made[at.xs], jaxpr.invars[at.xs], on_xs)
        return (advance(values) if beside else [], carry_cts, const_cts), xs_cts

    state = (known_start if beside else [], carry_cts, zero_consts)
    inputs = (chosen(ys_cts, ys_on), known_xs, before)
    reverse = eqn.params["reverse"] if beside else not eqn.params["reverse"]
    (_, carry_cts, const_cts), xs_cts = _scan(eqn, turn, state, inputs, reverse=reverse)
    start_cts = [ct if isinstance(x, Unknown) else None for ct, x in zip(spread(carry_cts, on_carry), operands[at.carry], strict=True)]
    return [*spread(const_cts, on_consts), *start_cts, *spread(xs_cts, on_xs)]


def _order_free(at: _Layout) -> bool:
    carries = [*at.active[at.carry], *[False] * (len(at.jaxpr.outvars) - at.num_carry)]
    changing = [at.num_consts <= i < at.num_consts + at.num_carry for i in range(len(at.jaxpr.invars))]
    return order_free(at.jaxpr, at.active, carries, changing, False)
