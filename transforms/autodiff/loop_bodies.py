"""What the rules of all loops share: bodies split into a known and a linear part, and the test for loops that need no tape."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.core import eval_jaxpr

from ..equations import dependents, needed_equations, needed_inputs
from ..jax_compat import Literal, open_jaxpr
from .core import Linearized, evaluate_equations, linearize_jaxpr
from .transpose import backward_dense

__all__ = [
    "RecomputingBody",
    "SplitBody",
    "chosen",
    "omitted",
    "order_free",
    "split_body",
    "spread",
]


@dataclass(frozen=True)
class SplitBody:
    """A loop body in two programs.

    known: an open jaxpr, the body's inputs -> its outputs, then the residuals; consts: its constants.
    linear: (residuals; active tangents) -> tangents of the wanted outputs.
    num_out: the number of outputs of the body.
    """

    known: Any
    consts: list[Any]
    linear: Linearized
    num_out: int

    @property
    def residual_atoms(self) -> list[Any]:
        return list(self.known.outvars[self.num_out :])


def split_body(jaxpr: Any, consts: Sequence[Any], active: Sequence[bool], want: Sequence[bool]) -> SplitBody:
    """Linearize a body on abstract inputs."""
    kept: list[Linearized] = []

    def both(*inputs: Any) -> list[Any]:
        outs, linear = linearize_jaxpr(jaxpr, consts, inputs, active, want)
        kept.append(linear)
        return [*outs, *linear.residuals]

    known, known_consts = open_jaxpr(jax.make_jaxpr(both)(*[v.aval for v in jaxpr.invars]))
    return SplitBody(known, known_consts, kept[-1]._replace(residuals=[]), len(jaxpr.outvars))


def order_free(
    jaxpr: Any,
    unknown: Sequence[bool],
    carries: Sequence[bool],
    watched: Sequence[bool],
    const_watched: bool | Sequence[bool],
) -> bool:
    """Whether the transpose of a loop may visit its turns in any order, and so run forwards beside the known carries.

    True if every carried cotangent comes out of the transposed body as the same variable that went in (the loop adds up
    terms that do not depend on the sum), or if the transposed body reads no known value that changes (every turn applies
    the same linear map).

    Args:
        jaxpr: the body, open.
        unknown: per input, whether it is linear. carries: per output, whether it is a linear carry.
        watched: per input, whether it is known and changes from turn to turn. const_watched: the same per constant.
    """
    num_carry, num_consts = sum(carries), len(jaxpr.constvars)
    const_watched = [const_watched] * num_consts if isinstance(const_watched, bool) else list(const_watched)

    def transposed(cts: Sequence[Any], consts: Sequence[Any], known: Sequence[Any]) -> list[Any]:
        return backward_dense(jaxpr, consts, unknown, known, spread(cts, carries))

    avals = [v.aval for v in chosen(jaxpr.outvars, carries)]
    known_avals = [v.aval for v in omitted(jaxpr.invars, unknown)]
    traced, _ = open_jaxpr(jax.make_jaxpr(transposed)(avals, [v.aval for v in jaxpr.constvars], known_avals))
    carried = traced.outvars[len(traced.outvars) - num_carry :]
    if all(a is b for a, b in zip(carried, traced.invars[:num_carry], strict=True)):
        return True
    reads = needed_inputs(traced, [True] * len(traced.outvars))[num_carry:]
    changing = [*const_watched, *omitted(watched, unknown)]
    return not any(r and w for r, w in zip(reads, changing, strict=True))


def chosen(values: Sequence[Any], flags: Sequence[bool]) -> list[Any]:
    """The values whose flag is set."""
    return [v for v, f in zip(values, flags, strict=True) if f]


def omitted(values: Sequence[Any], flags: Sequence[bool]) -> list[Any]:
    """The values whose flag is not set."""
    return [v for v, f in zip(values, flags, strict=True) if not f]


def spread(values: Sequence[Any], flags: Sequence[bool]) -> list[Any]:
    """The values at the places whose flag is set, None elsewhere."""
    rest = iter(values)
    return [next(rest) if f else None for f in flags]


class RecomputingBody:
    """One turn of the linear program of a loop that computes its known carries again.

    needed: which carries the linear part or `extra` is computed from, directly or through other carries.
    """

    def __init__(self, body: SplitBody, num_consts: int, num_carry: int, active: Sequence[bool], extra: Sequence[bool] = ()):
        self.body, self.num_consts, self.num_carry, self.active = body, num_consts, num_carry, active
        carry = slice(num_consts, num_consts + num_carry)
        num_out = body.num_out
        residual = [False] * num_out + [True] * (len(body.known.outvars) - num_out)
        needed = [a or b for a, b in zip(needed_inputs(body.known, residual)[carry], extra or [False] * num_carry, strict=True)]
        while True:
            flags = [*needed, *[False] * (num_out - num_carry), *residual[num_out:]]
            grown = [a or b for a, b in zip(needed, needed_inputs(body.known, flags)[carry], strict=True)]
            if grown == needed:
                break
            needed = grown
        self.needed = needed
        self.outs = [*chosen(body.known.outvars[:num_carry], needed), *body.residual_atoms]
        self.equations = needed_equations(body.known.eqns, self.outs)
        self.carry_vars = chosen(body.known.invars[carry], needed)
        self.on_carry = active[carry]

    def turn(self, consts: Sequence[Any], known: Sequence[Any], const_ts: Sequence[Any], carry_ts: Sequence[Any]) -> Any:
        """(known carries, tangents) -> the same one turn later."""
        env = dict(zip(self.body.known.constvars, self.body.consts, strict=True))
        env.update(zip(self.body.known.invars[: self.num_consts], consts, strict=True))
        env.update(zip(self.carry_vars, known, strict=True))
        made = evaluate_equations(self.equations, env, self.outs)
        n = len(self.carry_vars)
        outs = eval_jaxpr(self.body.linear.jaxpr, made[n:], *const_ts, *carry_ts)
        return made[:n], outs

    @property
    def order_free(self) -> bool:
        """Whether the transpose can run forwards; see `loop_bodies.order_free`."""
        jaxpr = self.body.linear.jaxpr
        varies = _varying_residuals(self.body, self.num_consts, self.num_carry)
        return order_free(jaxpr, [True] * len(jaxpr.invars), [True] * len(jaxpr.outvars), [False] * len(jaxpr.invars), varies)


def _varying_residuals(body: SplitBody, num_consts: int, num_carry: int) -> list[bool]:
    """Per residual, whether it is computed from a carry."""
    moving = dependents(body.known.eqns, body.known.invars[num_consts : num_consts + num_carry])
    return [not isinstance(x, Literal) and x in moving for x in body.residual_atoms]
