"""`while_loop`, of an unknown number of turns: reversed exactly and without storage where the order of turns does not matter.

The linear program of a while loop is a while loop that computes the known carries again beside the tangents. Its
transpose runs forwards too, if the loop adds up terms that do not depend on the sum, or applies the same linear map at
every turn (`loop_bodies.order_free`). Memory does not grow with the number of turns. Any other loop is refused, with the
way out: a stated capacity (`dynamic_loop`).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax
from jax.core import eval_jaxpr

from ..equations import needed_equations, needed_inputs
from ..errors import DerivativeError
from ..jax_compat import bind, open_jaxpr
from ..source_lines import source_line
from .activity import fixpoint
from .core import Unknown, add, evaluate_equations, push_forward, zeros
from .linear_op import linearize_function
from .loop_bodies import RecomputingBody, chosen, omitted, order_free, split_body, spread
from .registry import forwards, linearizes, transposes
from .transpose import backward, instantiate_all, with_unknowns


class _Layout:
    """A while equation, cut into its parts, with what is active in it."""

    def __init__(self, eqn: Any, active: Sequence[bool]):
        p = eqn.params
        self.cond, self.cond_consts = open_jaxpr(p["cond_jaxpr"])
        self.body, self.body_consts = open_jaxpr(p["body_jaxpr"])
        self.skip, self.num_consts = p["cond_nconsts"], p["body_nconsts"]
        self.first = self.skip + self.num_consts
        self.num_carry = len(eqn.outvars)
        self.out_active = fixpoint(p["body_jaxpr"], active[self.skip :], self.num_consts, self.num_carry)
        self.active = (*active[self.skip : self.first], *self.out_active)
        self.carries = self.body.invars[self.num_consts :]

    def parts(self, values: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
        """Constants of the condition, constants of the body, carries."""
        return list(values[: self.skip]), list(values[self.skip : self.first]), list(values[self.first :])

    def holds(self, cond_consts: Sequence[Any], carry: Sequence[Any]) -> Any:
        return eval_jaxpr(self.cond, self.cond_consts, *cond_consts, *carry)[0]

    def start(self, tangents: Sequence[Any]) -> list[Any]:
        """The initial tangents of the active carries."""
        return instantiate_all(tangents[self.first :], self.carries, self.out_active)


def _of_one(eqn: Any) -> Callable[..., list[Any]] | None:
    """The loop of a batch, of which every member has a condition of its own (`vmap` makes such), as a loop with one condition; else None.

    It goes on while any member's condition holds; a member whose condition does not keeps its carries.
    """
    p = eqn.params
    (cond, cond_consts), (body, body_consts) = open_jaxpr(p["cond_jaxpr"]), open_jaxpr(p["body_jaxpr"])
    rank = len(cond.outvars[0].aval.shape)
    if rank == 0:
        return None
    first, second = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]

    def run(*operands: Any) -> list[Any]:
        def holds(carry: Any) -> Any:
            return eval_jaxpr(cond, cond_consts, *operands[:first], *carry)[0]

        def turn(carry: Any) -> Any:
            going = holds(carry)
            made = eval_jaxpr(body, body_consts, *operands[first:second], *carry)
            return [lax.select(lax.broadcast_in_dim(going, b.shape, range(rank)), a, b) for a, b in zip(made, carry, strict=True)]

        return lax.while_loop(lambda carry: lax.reduce_or(holds(carry), range(rank)), turn, list(operands[second:]))

    return run


@forwards("while")
def forward_while(eqn: Any, primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """One loop that carries values and tangents together."""
    if (run := _of_one(eqn)) is not None:
        return push_forward(*open_jaxpr(jax.make_jaxpr(run)(*primals)), primals, tangents)
    at = _Layout(eqn, [t is not None for t in tangents])
    cond_consts, consts, carry = at.parts(primals)
    _, const_ts, _ = at.parts(tangents)

    def turn(state: Any) -> Any:
        values, moving = state
        outs, out_ts = push_forward(at.body, at.body_consts, [*consts, *values], [*const_ts, *spread(moving, at.out_active)])
        return outs, instantiate_all(out_ts, at.carries, at.out_active)

    outs, moving = lax.while_loop(lambda s: at.holds(cond_consts, s[0]), turn, (carry, at.start(tangents)))
    return outs, spread(moving, at.out_active)


@linearizes("while")
def linearize_while(eqn: Any, active: Sequence[bool], *primals: Any) -> Any:
    """See the module."""
    if (run := _of_one(eqn)) is not None:
        return linearize_function(run, primals, active)
    at = _Layout(eqn, active)
    outs = bind(eqn, primals)
    if not any(at.out_active):
        return outs, lambda ts: [None] * len(outs), at.out_active
    cond_consts, consts, carry = at.parts(primals)
    body = split_body(at.body, at.body_consts, at.active, at.out_active)
    asked = needed_inputs(at.cond, [True])[at.skip :]
    program = RecomputingBody(body, at.num_consts, at.num_carry, at.active, extra=asked)
    start = chosen(carry, program.needed)

    def linear(ts: Sequence[Any]) -> list[Any]:
        const_ts = chosen(at.parts(ts)[1], at.active[: at.num_consts])

        def holds(state: Any) -> Any:
            known = iter(state[0])
            return at.holds(
                cond_consts,
                [next(known) if n else _absent(v.aval) for n, v in zip(program.needed, at.cond.invars[at.skip :], strict=True)],
            )

        _, moved = lax.while_loop(holds, lambda s: tuple(program.turn(consts, s[0], const_ts, s[1])), (start, at.start(ts)))
        return spread(moved, at.out_active)

    return outs, linear, at.out_active


def _absent(aval: Any) -> Any:
    """A value for a carry that the condition does not read."""
    return lax.full(aval.shape, 0, aval.dtype)


@transposes("while")
def transpose_while(eqn: Any, cotangents: Sequence[Any], *operands: Any) -> Any:
    """A loop over the same turns, forwards, that carries the cotangents and adds up those of the constants.

    Raises:
        DerivativeError: the order of the turns matters.
    """
    if (run := _of_one(eqn)) is not None:
        return backward(*open_jaxpr(jax.make_jaxpr(run)(*[v.aval for v in eqn.invars])), operands, cotangents)
    at = _Layout(eqn, [isinstance(x, Unknown) for x in operands])
    cond_consts, _, _ = at.parts(operands)
    on = at.out_active
    if any(isinstance(x, Unknown) for x in cond_consts) or any(chosen(needed_inputs(at.cond, [True])[at.skip :], on)):
        raise _irreversible(eqn, "its condition reads a value that depends on the tangents")
    unknown = at.active
    changing = [i >= at.num_consts and not u for i, u in enumerate(unknown)]
    if not order_free(at.body, unknown, on, changing, False):
        raise _irreversible(eqn, "a turn's derivative depends on values that later turns overwrite")
    _, consts, carry = at.parts(operands)
    const_vars, on_consts = at.body.invars[: at.num_consts], unknown[: at.num_consts]
    known_consts, known_outs = omitted(consts, on_consts), omitted(at.body.outvars, on)
    advancing = needed_equations(at.body.eqns, known_outs)

    def turn(state: Any) -> Any:
        known, ct_carry, ct_const = state
        values = with_unknowns(at.body.invars, unknown, [*known_consts, *known])
        made = backward(at.body, at.body_consts, values, spread(ct_carry, on))
        new_carry = instantiate_all(made[at.num_consts :], at.carries, on)
        new_const = [add(a, ct) for a, ct in zip(ct_const, chosen(made[: at.num_consts], on_consts), strict=True)]
        env = dict(zip(at.body.constvars, at.body_consts, strict=True))
        env.update((v, x) for v, x in zip(at.body.invars, values, strict=True) if not isinstance(x, Unknown))
        return evaluate_equations(advancing, env, known_outs), new_carry, new_const

    def holds(state: Any) -> Any:
        known = iter(state[0])
        return at.holds(
            cond_consts,
            [_absent(v.aval) if u else next(known) for u, v in zip(on, at.cond.invars[at.skip :], strict=True)],
        )

    arriving = instantiate_all(cotangents, at.carries, on)
    start = (
        omitted(carry, on),
        arriving,
        [zeros(v.aval) for v in chosen(const_vars, on_consts)],
    )
    _, ct_carry, ct_const = lax.while_loop(holds, turn, start)
    full = spread(ct_carry, on)
    return [
        *[None] * at.skip,
        *spread(ct_const, on_consts),
        *(ct if isinstance(x, Unknown) else None for ct, x in zip(full, carry, strict=True)),
    ]


def _irreversible(eqn: Any, why: str) -> DerivativeError:
    return DerivativeError(
        f"the primitive 'while' cannot be reversed ({source_line(eqn)}): {why}, and the number of turns is not "
        "known, so that there is no room to store them. Give the loop a capacity with "
        "`dynamic_loop(n, step, theta, init, max_trips=...)`, use `jax.lax.fori_loop` with a static number of turns or "
        "`jax.lax.scan`, or use a forward derivative (`jvp`)."
    )
