"""The linear part of a program that is proven affine: M x, without the offset and without the matrix.

If f(x) = M x + b, the same program computes M x once every value of degree 0 that enters an equation *linearly* (an intercept that is
added, a case of a select, the start of a carry) is replaced by zero, and every value that enters as a coefficient is kept. No
derivative is taken, so custom derivative rules play no part and nothing is lost to the difference f(x) - f(0).

A value is a plain array (degree 0), a `Linear` (the linear part of a value of degree 1), or None (not affine, and so not read by any
result that is).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from ..equations import run_jaxpr
from ..jax_compat import JaxprEqn, bind, open_jaxpr, scan_layout
from .proof import Blocked, Form, Value, carried, join, walk
from .rules import PASSES, aval, called_body, linear_slots

__all__ = ["NOT_AFFINE", "Linear", "evaluate", "filling_zero", "step", "zeros"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Linear:
    """M x of a value M x + b; `value` has the value's shape and dtype."""

    value: Array


def evaluate(jaxpr: Any, operands: Sequence[Any]) -> list[Any]:
    """The results of a (closed) jaxpr, each an array, a `Linear` or None, given its inputs in the same terms."""
    inner, consts = open_jaxpr(jaxpr)
    return run_jaxpr(inner, consts, operands, step)


def step(eqn: JaxprEqn, operands: list[Any]) -> list[Any]:
    """One equation: the results in the terms of the operands."""
    if all(not isinstance(x, Linear) and x is not None for x in operands):
        return bind(eqn, operands)
    called = called_body(eqn, operands)
    if called is not None:
        return evaluate(*called)
    name = eqn.primitive.name
    if name in _CONTROL:
        return _CONTROL[name](eqn, operands)
    if name in PASSES:
        return operands
    if any(x is None for x in operands):
        return [None] * len(eqn.outvars)
    slots = linear_slots(eqn, [isinstance(x, Linear) for x in operands])
    if isinstance(slots, str):
        return [None] * len(eqn.outvars)
    parts = [
        x.value if isinstance(x, Linear) else zeros(aval(var)) if i in slots else x
        for i, (x, var) in enumerate(zip(operands, eqn.invars, strict=True))
    ]
    return [Linear(out) for out in bind(filling_zero(eqn), parts)]


def filling_zero(eqn: JaxprEqn) -> JaxprEqn:
    """The equation with what it writes for indices out of bounds (NaN, say: part of the offset) replaced by zero."""
    return eqn.replace(params={**eqn.params, "fill_value": 0}) if "fill_value" in eqn.params else eqn


def zeros(like: Any) -> Array:
    return jnp.zeros(like.shape, like.dtype)


def _value(x: Any) -> Value:
    """What the proof says of a value in our terms; which inputs it reads does not matter here."""
    return Form({0: frozenset()}) if isinstance(x, Linear) else NOT_AFFINE if x is None else Form()


NOT_AFFINE = Blocked(None, "")  # type: ignore[arg-type]  # never shown: the proof proper has passed


def _fit(x: Any, value: Value, like: Any) -> Any:
    """`x` in the terms that `value` asks for: a carry keeps them at every turn, all branches give the same."""
    if isinstance(value, Blocked):
        return None
    if value.coefs:
        return x if isinstance(x, Linear) else Linear(zeros(like))
    return x if isinstance(x, Array) else jnp.asarray(x, like.dtype)


def _fit_all(xs: Sequence[Any], values: Sequence[Value], variables: Sequence[Any]) -> list[Any]:
    return [_fit(x, v, aval(var)) for x, v, var in zip(xs, values, variables, strict=True)]


def _scan(eqn: JaxprEqn, operands: list[Any]) -> list[Any]:
    num_consts, num_carry = scan_layout(eqn)
    consts, start, xs = operands[:num_consts], operands[num_consts : num_consts + num_carry], operands[num_consts + num_carry :]
    body, variables = eqn.params["jaxpr"], eqn.outvars[:num_carry]
    values = carried(body, [_value(x) for x in consts], [_value(x) for x in start], [_value(x) for x in xs])

    def turn(carry: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
        outs = evaluate(body, [*consts, *carry, *x])
        return _fit_all(outs[:num_carry], values, variables), outs[num_carry:]

    options = {k: eqn.params[k] for k in ("length", "reverse", "unroll")}
    last, ys = lax.scan(turn, _fit_all(start, values, variables), xs, **options)
    return [*last, *ys]


def _while(eqn: JaxprEqn, operands: list[Any]) -> list[Any]:
    num_cond, num_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    cond, body = eqn.params["cond_jaxpr"], eqn.params["body_jaxpr"]
    for_cond, for_body, start = operands[:num_cond], operands[num_cond : num_cond + num_body], operands[num_cond + num_body :]
    values = carried(body, [_value(x) for x in for_body], [_value(x) for x in start], ())
    goes_on = walk(cond, [*(_value(x) for x in for_cond), *values])[0]
    if isinstance(goes_on, Blocked) or goes_on.coefs:
        return [None] * len(eqn.outvars)
    return lax.while_loop(
        lambda carry: evaluate(cond, [*for_cond, *carry])[0],
        lambda carry: _fit_all(evaluate(body, [*for_body, *carry]), values, eqn.outvars),
        _fit_all(start, values, eqn.outvars),
    )


def _cond(eqn: JaxprEqn, operands: list[Any]) -> list[Any]:
    index, rest = operands[0], operands[1:]
    if index is None or isinstance(index, Linear):
        return [None] * len(eqn.outvars)
    branches = eqn.params["branches"]
    values = walk(branches[0], [_value(x) for x in rest])
    for b in branches[1:]:
        values = [join(a, o) for a, o in zip(values, walk(b, [_value(x) for x in rest]), strict=True)]

    def branch(b: Any) -> Any:
        return lambda xs: _fit_all(evaluate(b, xs), values, eqn.outvars)

    return lax.switch(index, [branch(b) for b in branches], rest)


_CONTROL = {"cond": _cond, "scan": _scan, "while": _while}
