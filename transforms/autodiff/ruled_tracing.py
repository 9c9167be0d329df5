"""A user's function and its rule as programs: traced, checked, and cut into (values, residuals) and a linear program."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import eval_jaxpr

from ..equations import dependents, needed_equations, needed_inputs
from ..errors import DerivativeError
from ..jax_compat import Literal, bind, open_jaxpr
from ..source_lines import source_line
from .core import evaluate_equations, is_differentiable, linearize_jaxpr, tangent_aval
from .linear_op import linearize_function
from .loop_bodies import chosen, spread

__all__ = ["checked_tangents", "not_linear", "trace_body", "trace_rule"]


def _without_constants(closed: Any) -> tuple[Any, list[Any]]:
    """A jaxpr whose constants have become leading inputs, and their values."""
    jaxpr, consts = open_jaxpr(closed)
    if not jaxpr.constvars:
        return jaxpr, []
    avals = [v.aval for v in (*jaxpr.constvars, *jaxpr.invars)]
    n = len(consts)
    lifted, none = open_jaxpr(jax.make_jaxpr(lambda *xs: eval_jaxpr(jaxpr, xs[:n], *xs[n:]))(*avals))
    assert not none
    return lifted, consts


def trace_body(f: Callable[..., Any], tree: Any, leaves: Sequence[Any]) -> tuple[Any, list[Any], Any]:
    """The function on flat arguments as (jaxpr without constants, its constants as leading inputs, structure of the result)."""
    box: list[Any] = []

    def flat(*values: Any) -> list[Any]:
        outs, out_tree = jax.tree.flatten(f(*jax.tree.unflatten(tree, values)))
        box.append(out_tree)
        return outs

    body, consts = _without_constants(jax.make_jaxpr(flat)(*leaves))
    return body, consts, box[-1]


def trace_rule(
    rule: Callable[..., Any], tree: Any, leaves: Sequence[Any], out_tree: Any, out_avals: Sequence[Any], name: str
) -> tuple[Any, list[Any], Any]:
    """The rule as (leaves -> values and residuals) and the linear program (residuals; tangents -> tangents)."""
    box: list[Any] = []
    moving = [is_differentiable(jax.typeof(v)) for v in leaves]

    def flat(*values: Any) -> list[Any]:
        made = rule(*jax.tree.unflatten(tree, values))
        if not (isinstance(made, tuple) and len(made) == 2 and callable(made[1])):
            raise DerivativeError(f"the rule of {name} returns (value, linear map); found {type(made).__name__}.")
        value, linear_map = made
        outs = _checked_value(value, out_tree, out_avals, name)

        def flat_map(*tangents: Any) -> list[Any]:
            return checked_tangents(linear_map(*jax.tree.unflatten(tree, spread(tangents, moving))), out_tree, out_avals, name)

        residuals, program = _as_linear_program(flat_map, [tangent_aval(jax.typeof(v)) for v in chosen(values, moving)], name)
        box.append(program)
        return [*outs, *residuals]

    known, consts = _without_constants(jax.make_jaxpr(flat)(*leaves))
    linear = box[-1]
    avals = [[v.aval for v in linear.constvars], [v.aval for v in linear.invars]]
    lifted, _ = open_jaxpr(jax.make_jaxpr(lambda residuals, ts: eval_jaxpr(linear, residuals, *ts))(*avals))
    return known, consts, lifted


def _checked_value(value: Any, out_tree: Any, out_avals: Sequence[Any], name: str) -> list[Any]:
    """The leaves of a rule's value, which must be of the function's structure and types."""
    outs, found = jax.tree.flatten(value)
    if found != out_tree or any(jnp.shape(o) != a.shape or jnp.result_type(o) != a.dtype for o, a in zip(outs, out_avals, strict=True)):
        raise DerivativeError(
            f"the rule of {name} has a value of structure {found} and types {[jax.typeof(o).str_short() for o in outs]}; "
            f"expected {out_tree} and {[a.str_short() for a in out_avals]}, as the function itself."
        )
    return outs


def checked_tangents(tangent: Any, out_tree: Any, out_avals: Sequence[Any], name: str) -> list[Any]:
    """The leaves of what a linear map returns that belong to differentiable results; those of the others may be left out."""
    wanted = [is_differentiable(a) for a in out_avals]
    leaves, found = jax.tree.flatten(tangent)
    leaves, avals = chosen(leaves, wanted) if len(leaves) == len(wanted) else leaves, chosen(out_avals, wanted)
    if [jnp.shape(t) for t in leaves] != [a.shape for a in avals]:
        raise DerivativeError(f"the linear map of {name} returns structure {found}; expected a tangent shaped like the value, {out_tree}.")
    return [jnp.asarray(t, a.dtype) for t, a in zip(leaves, avals, strict=True)]


def _as_linear_program(flat_map: Callable[..., Any], avals: Sequence[Any], name: str) -> tuple[list[Any], Any]:
    """Linearize the map once, so that whatever it computes beside the tangents is a residual.

    Raises:
        DerivativeError: a residual depends on the tangents, so the map is not linear.
    """
    jaxpr, consts = open_jaxpr(jax.make_jaxpr(flat_map)(*avals))
    box: list[Any] = []

    def split(consts: Sequence[Any], tangents: Sequence[Any]) -> list[Any]:
        _, program = linearize_jaxpr(jaxpr, consts, tangents, [True] * len(tangents), [True] * len(jaxpr.outvars))
        box.append(program.jaxpr)
        return program.residuals

    known, inner = open_jaxpr(jax.make_jaxpr(split)([v.aval for v in jaxpr.constvars], list(avals)))
    if any(needed_inputs(known, [True] * len(known.outvars))[len(consts) :]):
        raise not_linear(jaxpr, name)
    env = dict(zip([*known.constvars, *known.invars], [*inner, *consts, *[None] * len(avals)], strict=True))
    return evaluate_equations(needed_equations(known.eqns, known.outvars), env, known.outvars), box[-1]


def not_linear(jaxpr: Any, name: str, at_zero: Mapping[Any, Any] | None = None) -> DerivativeError:
    """The error that names the first equation of a map that is not linear in the tangents.

    Args:
        jaxpr: the map. name: of the function whose rule it belongs to.
        at_zero: if known, the values of all variables where the tangents are zero, as they must all be.
    """
    depends = dependents(jaxpr.eqns, jaxpr.invars)
    for eqn in jaxpr.eqns:
        flags = [not isinstance(x, Literal) and x in depends for x in eqn.invars]
        shifted = at_zero is not None and any(jnp.any(at_zero[v] != 0) for v in eqn.outvars)
        if any(flags) and (shifted or _is_bent(eqn, flags)):
            return DerivativeError(
                f"the linear map of {name} is not linear: the primitive {eqn.primitive.name!r} ({source_line(eqn)}) "
                "depends on the tangents in a way that is not linear. Compute what does not depend on the tangents before the "
                "map is returned."
            )
    return DerivativeError(f"the linear map of {name} is not linear in the tangents.")


def _is_bent(eqn: Any, flags: Sequence[bool]) -> bool:
    """Whether the derivative of one equation depends on the operands that are tangents."""

    def residuals(*operands: Any) -> list[Any]:
        outs, linear, out_active = linearize_function(lambda *xs: bind(eqn, xs), operands, flags)
        if not any(out_active):
            return list(outs)
        zero = [jnp.zeros(v.aval.shape, v.aval.dtype) if f else None for v, f in zip(eqn.invars, flags, strict=True)]
        return open_jaxpr(jax.make_jaxpr(lambda: [t for t in linear(zero) if t is not None])())[1]

    traced, _ = open_jaxpr(jax.make_jaxpr(residuals)(*[x.aval for x in eqn.invars]))
    return any(n and f for n, f in zip(needed_inputs(traced, [True] * len(traced.outvars)), flags, strict=True))
