"""A scalar function that was traced in some precision, run in float64, and how well it is known there.

    error of f(x_1, x_2, ...)  <=  sum_i |df/dx_i| error of x_i + |f|    in units of the rounding error,

added up equation by equation, to first order (running error analysis): large terms that cancel are seen, wherever they stand.

Source: Higham (2002), "Accuracy and stability of numerical algorithms", section 3.3.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from ....transforms import jvp
from ....transforms.equations import body_of, needed_equations, run_equations
from ....transforms.jax_compat import bind, open_jaxpr

__all__ = ["run_wide", "running_error"]

_Rule = Callable[[Any, list[Any], list[Any]], Sequence[tuple[Any, Any]]]
"""(equation, values, errors) -> results, each with its error; None is the error of what does not depend on the first operand."""


def run_wide(jaxpr: Any, consts: Any, operands: Any) -> Any:
    """The value, in float64 from the first operand on; the rest stays as it is."""
    start = [0.0, *[None] * (len(operands) - 1)]
    return _wide(_run(jaxpr, consts, operands, start, lambda eqn, values, errors: [(x, 0.0) for x in bind(eqn, values)])[0])


def running_error(jaxpr: Any, consts: Any, operands: Any) -> Any:
    """The error of that value, in units of the rounding error; to be multiplied by what elementary functions are good to."""
    start = [jnp.abs(operands[0]), *[None] * (len(operands) - 1)]
    error = _run(jaxpr, consts, operands, start, _propagated)[1]
    return 0 * operands[0] if error is None else error


def _run(jaxpr: Any, consts: Any, operands: Any, errors: Any, rule: _Rule) -> tuple[Any, Any]:
    """The value and the error of the one result."""

    def run(jaxpr: Any, consts: Any, operands: Any, errors: Any) -> list[tuple[Any, Any]]:
        exact = [None] * len(consts)
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], zip([*consts, *operands], [*exact, *errors], strict=True), strict=True))
        return run_equations(needed_equations(jaxpr.eqns, jaxpr.outvars), env, jaxpr.outvars, apply, _literal)

    def apply(eqn: Any, operands: list[Any]) -> Sequence[tuple[Any, Any]]:
        values, errors = [x for x, _ in operands], [e for _, e in operands]
        name = eqn.primitive.name
        if all(e is None for e in errors):
            return [(x, None) for x in bind(eqn, values)]
        if (body := body_of(eqn)) is not None:
            inner, inner_consts = open_jaxpr(body)
            return run(inner, inner_consts, values, errors)
        if name == "convert_element_type" and _inexact(values[0]) and jnp.issubdtype(eqn.params["new_dtype"], jnp.floating):
            return [(values[0], errors[0])]
        return [(_wide(x), e) for x, e in rule(eqn, [_wide(x) for x in values], errors)]

    return run(jaxpr, consts, operands, errors)[0]


def _propagated(eqn: Any, values: list[Any], errors: list[Any]) -> list[tuple[Any, Any]]:
    """One equation of `running_error`; what is a truth value or a whole number counts as exact."""
    outs = bind(eqn, values)
    totals = [jnp.abs(x) if _inexact(x) else 0.0 for x in outs]
    for i, (value, error) in enumerate(zip(values, errors, strict=True)):
        if error is None or not _inexact(value) or not any(map(_inexact, outs)):
            continue

        def along(x: Any, i: int = i) -> list[Any]:
            return [y for y in bind(eqn, [*values[:i], x, *values[i + 1 :]]) if _inexact(y)]

        moved = iter(jvp(along, (value,), (jnp.broadcast_to(jnp.asarray(error, jnp.float64), jnp.shape(value)),))[1])
        totals = [total + jnp.abs(next(moved)) if _inexact(x) else total for x, total in zip(outs, totals, strict=True)]
    return list(zip(outs, totals, strict=True))


def _inexact(x: Any) -> bool:
    return bool(jnp.issubdtype(jnp.result_type(x), jnp.floating))


def _wide(x: Any) -> Any:
    return jnp.asarray(x).astype(jnp.float64) if _inexact(x) else x


def _literal(x: Any) -> Any:
    return jnp.asarray(x.val, x.aval.dtype), None
