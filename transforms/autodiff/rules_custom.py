"""Functions that bring a derivative of their own: `custom_jvp`, `custom_vjp` and `custom_linear_solve`.

The user's rule is run by JAX's public `jax.jvp` or `jax.vjp` on the one equation, because its parameters are private;
what it computes becomes part of our trace, so that it can be differentiated again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer, eval_jaxpr

from ..equations import dependents, reads_any
from ..errors import DerivativeError
from ..jax_compat import Literal, bind, function_of_jax, open_jaxpr
from ..source_lines import source_line
from .core import Unknown, add, evaluate_equations, is_differentiable, read, tangent_aval
from .linear_op import linear_op, linearize_function
from .loop_bodies import chosen, spread
from .registry import linearizes, transposes
from .rules_calls import inline_calls
from .rules_pointwise import times
from .transpose import backward, instantiate, instantiate_all
from .trees import float0_zeros


def merge(values: Sequence[Any], active: Sequence[bool], moving: Sequence[Any]) -> list[Any]:
    """`values` with `moving` at the active places."""
    rest = iter(moving)
    return [next(rest) if a else x for x, a in zip(values, active, strict=True)]


@linearizes("custom_jvp_call")
def linearize_custom_jvp(eqn: Any, active: Sequence[bool], *primals: Any) -> Any:
    """The user's forward rule, cut into what does not depend on the tangents and what does."""
    if function_of_jax(eqn) == "logaddexp" and jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.floating):
        return linearize_logaddexp(active, *primals)
    at = chosen(primals, active)

    def forward(*tangents: Any) -> Any:
        outs, moved = jax.jvp(lambda *xs: bind(eqn, merge(primals, active, xs)), at, list(tangents))
        return outs, [t for t, v in zip(moved, eqn.outvars, strict=True) if is_differentiable(v.aval)]

    avals = [tangent_aval(v.aval) for v in chosen(eqn.invars, active)]
    jaxpr, consts = open_jaxpr(jax.make_jaxpr(forward)(*avals))
    outs, linear = peel(jaxpr, consts)
    num_out = len(eqn.outvars)
    out_active = tuple(is_differentiable(v.aval) for v in eqn.outvars)
    return outs[:num_out], lambda ts: spread(linear(chosen(ts, active))[num_out:], out_active), out_active


def linearize_logaddexp(active: Sequence[bool], x: Any, y: Any) -> Any:
    """d log(exp x + exp y) = s dx + (1 - s) dy,    s = 1 / (1 + exp(y - x)),

    of the one exponential that the value needs; JAX's own rule takes three more. `softplus` and `log_sigmoid` are made of it. Where
    both are the same infinity each has one half, where JAX says NaN or 1; with one that is known and finite, as those have, nobody asks.
    """
    known = any(not isinstance(a, Tracer) and np.isfinite(a).all() for a in (x, y))
    x, y = jnp.broadcast_arrays(x, y)
    d = x - y
    right = lax.ge(d, jnp.zeros_like(d))
    e = lax.exp(jnp.where(right, -d, d))  # not of |d|, whose derivative at 0 is 0, and that of s is 1/4
    value = jnp.maximum(x, y) + lax.log1p(e)
    share = jnp.where(right, jnp.ones_like(d), e) / (1 + e)
    if not known:
        value = jnp.where(jnp.isnan(d), x + y, value)
        share = jnp.where(jnp.isnan(d) & (x == y), jnp.full_like(d, 0.5), share)
    rest = 1 - share if active[1] else None

    def linear(ts: Sequence[Any]) -> list[Any]:
        dx, dy = times(ts[0], share, value), times(ts[1], rest, value)
        return [add(dx, dy)]

    return [value], linear, (True,)


def peel(jaxpr: Any, consts: Sequence[Any]) -> Any:
    """Evaluate now what does not depend on the inputs of a jaxpr; the rest is a function of them.

    Returns:
        (outputs, None where they depend on the inputs; a function from the inputs to all outputs).
    """
    jaxpr, consts = inline_calls(jaxpr, consts)
    waiting = dependents(jaxpr.eqns, jaxpr.invars, effects=False)
    late = [eqn for eqn in jaxpr.eqns if reads_any(eqn, waiting)]
    env = dict(zip(jaxpr.constvars, consts, strict=True))
    evaluate_equations([eqn for eqn in jaxpr.eqns if not reads_any(eqn, waiting)], env, [])
    outs = [None if not isinstance(x, Literal) and x in waiting else read(env, x) for x in jaxpr.outvars]

    def rest(inputs: Sequence[Any]) -> list[Any]:
        return evaluate_equations(late, {**env, **dict(zip(jaxpr.invars, inputs, strict=True))}, jaxpr.outvars)

    return outs, rest


@dataclass(frozen=True)
class _Pullback:
    """JAX's pullback as the backward half of a `linear_op`; its leaves are the residuals.

    It is what the user wrote, and linear in the cotangent only if the user's function is.
    """

    inlined: ClassVar[bool] = True
    tree: Any
    out_avals: tuple[Any, ...]

    def __call__(self, residuals: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
        arriving = iter(cotangents)
        full = [next(arriving) if is_differentiable(a) else float0_zeros(a) for a in self.out_avals]
        return list(jax.tree.unflatten(self.tree, residuals)(full))


@dataclass(frozen=True)
class _Pushforward:
    """The transpose of a pullback: how a function that defines only its reverse derivative has a forward one."""

    pullback: _Pullback
    line: str

    def __call__(self, residuals: Sequence[Any], tangents: Sequence[Any]) -> list[Any]:
        avals = [tangent_aval(a) for a in self.pullback.out_avals if is_differentiable(a)]
        jaxpr, consts = open_jaxpr(jax.make_jaxpr(lambda *cts: self.pullback(residuals, cts))(*avals))
        try:
            made = backward(jaxpr, consts, [Unknown(a) for a in avals], tangents)
        except DerivativeError as error:
            raise DerivativeError(
                f"the primitive 'custom_vjp_call' ({self.line}) has no forward derivative: its backward rule is not "
                f"linear in the cotangent. ({error})"
            ) from error
        return [instantiate(t, a) for t, a in zip(made, avals, strict=True)]


@linearizes("custom_vjp_call")
def linearize_custom_vjp(eqn: Any, active: Sequence[bool], *primals: Any) -> Any:
    """The user's forward and backward rules; a forward derivative is the transpose of the backward rule."""
    outs, pull = jax.vjp(lambda *xs: bind(eqn, merge(primals, active, xs)), *chosen(primals, active))
    residuals, tree = jax.tree.flatten(pull)
    avals = tuple(v.aval for v in eqn.outvars)
    out_active = tuple(is_differentiable(a) for a in avals)
    pullback = _Pullback(tree, avals)
    pushforward = _Pushforward(pullback, source_line(eqn))
    out_avals = [tangent_aval(a) for a in chosen(avals, out_active)]
    return (
        outs,
        lambda ts: spread(linear_op(pushforward, pullback, residuals, chosen(ts, active), out_avals), out_active),
        out_active,
    )


class _Solve:
    """The parts of a `custom_linear_solve` equation."""

    def __init__(self, eqn: Any, operands: Sequence[Any]):
        lengths, jaxprs = eqn.params["const_lengths"], eqn.params["jaxprs"]
        sizes = [lengths.matvec, lengths.vecmat, lengths.solve, lengths.transpose_solve]
        starts = [sum(sizes[:i]) for i in range(5)]
        self.matvec_consts, self.vecmat_consts, self.solve_consts, self.transpose_consts = (
            list(operands[a : a + n]) for a, n in zip(starts, sizes, strict=False)
        )
        self.jaxprs, self.b = jaxprs, list(operands[starts[4] :])
        self.num_matvec, self.first_b = sizes[0], starts[4]
        self.num_aux = len(eqn.outvars) - len(self.b)

    def function(self, name: str, consts: Sequence[Any]) -> Any:
        jaxpr, inner = open_jaxpr(getattr(self.jaxprs, name))
        return lambda *values: eval_jaxpr(jaxpr, inner, *consts, *values)

    def apply(self, b: Sequence[Any], transposed: bool) -> list[Any]:
        """A solve (or a solve with the transposed operator), itself a `custom_linear_solve`."""
        has_transpose = self.jaxprs.transpose_solve is not None
        pair = [("matvec", self.matvec_consts), ("solve", self.solve_consts)]
        other = [("vecmat", self.vecmat_consts), ("transpose_solve", self.transpose_consts)] if has_transpose else None
        if transposed:
            pair, other = other or pair, pair
        (matvec, solve), n = (self.function(*f) for f in pair), len(b)
        back = self.function(*other[1]) if other else None
        return lax.custom_linear_solve(
            lambda x: matvec(*x),
            list(b),
            lambda _, v: solve(*v)[:n],
            None if back is None else lambda _, v: back(*v)[:n],
        )


@linearizes("custom_linear_solve")
def linearize_solve(eqn: Any, active: Sequence[bool], *operands: Any) -> Any:
    """A x = b: dx = A^-1 (db - dA x). Auxiliary results of the solver have no tangent."""
    parts = _Solve(eqn, operands)
    outs = bind(eqn, operands)
    x = outs[: len(parts.b)]
    moving = active[: parts.num_matvec]
    through = None
    if any(moving):
        at = [*parts.matvec_consts, *x]
        jaxpr, inner = open_jaxpr(parts.jaxprs.matvec)
        flags = [*moving, *[False] * len(x)]
        _, through, _ = linearize_function(lambda *values: eval_jaxpr(jaxpr, inner, *values), at, flags)
    avals = [tangent_aval(v.aval) for v in eqn.outvars]

    def linear(ts: Sequence[Any]) -> list[Any]:
        right = list(ts[parts.first_b :])
        if through is not None:
            moved = through([*ts[: parts.num_matvec], *[None] * len(x)])
            right = [_minus(t, m) for t, m in zip(right, moved, strict=True)]
        dense = [instantiate(t, a) for t, a in zip(right, avals[: len(x)], strict=True)]
        return [*parts.apply(dense, transposed=False), *[None] * parts.num_aux]

    return outs, linear, (*[True] * len(x), *[False] * parts.num_aux)


def _minus(t: Any, m: Any) -> Any:
    if m is None:
        return t
    return lax.neg(m) if t is None else lax.sub(t, m)


@transposes("custom_linear_solve")
def transpose_solve(eqn: Any, cotangents: Sequence[Any], *operands: Any) -> Any:
    """A solve with the transposed operator.

    Raises:
        DerivativeError: the solve was defined without its transpose.
    """
    parts = _Solve(eqn, operands)
    if parts.jaxprs.transpose_solve is None:
        raise DerivativeError(
            f"the primitive 'custom_linear_solve' cannot be transposed ({source_line(eqn)}): `transpose_solve` was "
            "not given. Give it, or `symmetric=True`, to `jax.lax.custom_linear_solve`."
        )
    n = len(parts.b)
    arriving = instantiate_all(cotangents[:n], eqn.outvars[:n])
    return [*[None] * parts.first_b, *parts.apply(arriving, transposed=True)]
