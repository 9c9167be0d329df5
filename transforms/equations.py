"""Walks over the equations of a jaxpr that every transformation needs: evaluate them, and see what depends on what."""

from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any

import numpy as np

from .jax_compat import JaxprEqn, Literal, Var, assemble_jaxpr, bind, open_jaxpr, subjaxprs
from .structure import value_key

__all__ = [
    "BODY_PARAMETER", "CALLS", "CHECKPOINTS", "ELEMENTWISE", "body_of", "dependents", "has_effects", "merged_jaxpr", "needed_equations",
    "needed_inputs", "occurs", "prune_jaxpr", "reads_any", "run_equations", "run_jaxpr", "variables_of",
]  # fmt: skip

# Equations whose value is that of one nested program, by the parameter that holds it: calls, and what says besides how to
# differentiate, or what to keep for that, and nothing about the value.
CALLS = dict.fromkeys(("closed_call", "core_call", "core_closed_call", "eval_jaxpr"), "call_jaxpr") | {"jit": "jaxpr", "pjit": "jaxpr"}
CHECKPOINTS = {"checkpoint": "jaxpr", "remat": "jaxpr", "remat2": "jaxpr"}
BODY_PARAMETER = CALLS | CHECKPOINTS | {"custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}

_SMALL = 1000  # elements that constants are compared by; larger ones are the same if they are one object

# Each element of the result is computed from the elements at the same place of the operands, and from operands without axes.
ELEMENTWISE = frozenset(
    "abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp convert_element_type copy copy_p cos "
    "cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt igamma igammac integer_pow is_finite le lgamma log log1p "
    "logistic lt max min mul ne neg nextafter not or polygamma pow regularized_incomplete_beta rem round rsqrt select_n sign sin "
    "sinh sqrt square stop_gradient sub tan tanh xor zeta".split()
)


def _as_it_stands(literal: Any) -> Any:
    return literal.val


def run_equations(
    equations: Iterable[JaxprEqn],
    env: dict[Any, Any],
    outs: Sequence[Any],
    apply: Callable[[JaxprEqn, list[Any]], Sequence[Any]] = bind,
    literal: Callable[[Any], Any] = _as_it_stands,
) -> list[Any]:
    """Visit equations in order and read `outs`.

    Args:
        equations: in program order.
        env: variable -> value of what they read from outside; extended by their results.
        outs: variables and literals.
        apply: (equation, values of its operands) -> values of its results. By default it is evaluated.
        literal: what stands for a literal.
    """

    def read(atom: Any) -> Any:
        return literal(atom) if isinstance(atom, Literal) else env[atom]

    for eqn in equations:
        env.update(zip(eqn.outvars, apply(eqn, [read(x) for x in eqn.invars]), strict=True))
    return [read(x) for x in outs]


def run_jaxpr(
    jaxpr: Any,
    consts: Sequence[Any],
    operands: Sequence[Any],
    apply: Callable[[JaxprEqn, list[Any]], Sequence[Any]] = bind,
    literal: Callable[[Any], Any] = _as_it_stands,
) -> list[Any]:
    """`run_equations` over an open jaxpr, from the values of its constants and inputs to those of its outputs."""
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *operands], strict=True))
    return run_equations(jaxpr.eqns, env, jaxpr.outvars, apply, literal)


def reads_any(eqn: JaxprEqn, variables: Container[Var]) -> bool:
    """Whether an equation reads one of a set of variables."""
    return any(not isinstance(x, Literal) and x in variables for x in eqn.invars)


def dependents(equations: Iterable[JaxprEqn], sources: Iterable[Var], effects: bool = True) -> set[Var]:
    """`sources`, and every variable that is computed from them or (if `effects`) by an equation that has an effect."""
    found = set(sources)
    for eqn in equations:
        if (effects and eqn.effects) or reads_any(eqn, found):
            found.update(eqn.outvars)
    return found


def has_effects(eqn: JaxprEqn) -> bool:
    return bool(eqn.effects)


def needed_equations(
    equations: Sequence[JaxprEqn], outs: Iterable[Any], given: Container[Var] = (), also: Callable[[JaxprEqn], bool] | None = None
) -> list[JaxprEqn]:
    """The equations that the variables among `outs` are computed from, in order.

    Args:
        equations: in program order.
        outs: variables and literals.
        given: variables that are known.
        also: of which equations it is true, they are needed whatever `outs` are, with what they are computed from: `has_effects`.
    """
    needed, kept = {x for x in outs if not isinstance(x, Literal) and x not in given}, []
    for eqn in reversed(equations):
        if (also is not None and also(eqn)) or any(v in needed for v in eqn.outvars):
            kept.append(eqn)
            needed.update(x for x in eqn.invars if not isinstance(x, Literal) and x not in given)
    return kept[::-1]


def variables_of(equations: Iterable[JaxprEqn], outs: Iterable[Any]) -> set[Var]:
    """The variables among `outs`, and those that the equations read."""
    atoms = [*outs, *(x for eqn in equations for x in eqn.invars)]
    return {x for x in atoms if not isinstance(x, Literal)}


def prune_jaxpr(jaxpr: Any, consts: Sequence[Any], outputs: Sequence[Any]) -> tuple[Any, list[Any], list[int]]:
    """An open jaxpr of only `outputs`, which are atoms of it, with the equations that they need or that have effects.

    Returns:
        The jaxpr, the constants that it has kept, and the numbers of the inputs that it has kept.
    """
    equations = needed_equations(jaxpr.eqns, outputs, also=has_effects)
    needed = variables_of(equations, outputs)
    named = {var: value for var, value in zip(jaxpr.constvars, consts, strict=True) if var in needed}
    inputs = [i for i, x in enumerate(jaxpr.invars) if x in needed]
    pruned, kept = assemble_jaxpr(jaxpr, named, [jaxpr.invars[i] for i in inputs], outputs, equations)
    return pruned, kept, inputs


def merged_jaxpr(jaxpr: Any, consts: Sequence[Any]) -> tuple[Any, list[Any]]:
    """An open jaxpr in which equations that are equal to an earlier one, and read the same, are left out; and its constants.

    The compiler would find most of them too. It is faster not to derive, emit and compare them.
    """
    same: dict[Any, Any] = {}  # variable -> the one that stands for it
    seen: dict[Any, list[Any]] = {}
    for var, value in zip(jaxpr.constvars, consts, strict=True):
        same[var] = seen.setdefault(("constant", id(value) if np.size(value) > _SMALL else value_key(value), var.aval), [var])[0]
    kept = []
    for eqn in jaxpr.eqns:
        operands = [x if isinstance(x, Literal) else same.get(x, x) for x in eqn.invars]
        eqn = eqn.replace(invars=operands)
        key = None if eqn.effects else _equation_key(eqn)
        if key is None or key not in seen:
            kept.append(eqn)
            seen[key] = list(eqn.outvars)
        else:
            same.update(zip(eqn.outvars, seen[key], strict=True))
    outs = [x if isinstance(x, Literal) else same.get(x, x) for x in jaxpr.outvars]
    needed = needed_equations(kept, outs, also=has_effects)
    read = variables_of(needed, outs)
    named = {var: value for var, value in zip(jaxpr.constvars, consts, strict=True) if var in read}
    return assemble_jaxpr(jaxpr, named, jaxpr.invars, outs, needed)


def _equation_key(eqn: JaxprEqn) -> Any:
    """Equal for equations that compute the same; programs inside are the same only if they are one object."""

    def key(value: Any) -> Any:
        return id(value) if hasattr(value, "eqns") or hasattr(value, "jaxpr") else value_key(value)

    operands = tuple((value_key(x.val), x.aval) if isinstance(x, Literal) else x for x in eqn.invars)
    params = tuple((name, key(value)) for name, value in eqn.params.items())
    return eqn.primitive, id(eqn.ctx), operands, params, tuple(v.aval for v in eqn.outvars)


def needed_inputs(jaxpr: Any, wanted: Sequence[bool]) -> list[bool]:
    """Which inputs of an open jaxpr the outputs marked in `wanted` are computed from."""
    outs = [x for x, w in zip(jaxpr.outvars, wanted, strict=True) if w]
    read = variables_of(needed_equations(jaxpr.eqns, outs), outs)
    return [v in read for v in jaxpr.invars]


def body_of(eqn: JaxprEqn) -> Any:
    """The nested program whose value is the equation's; None if it is no call."""
    parameter = BODY_PARAMETER.get(eqn.primitive.name)
    return None if parameter is None else eqn.params[parameter]


def occurs(jaxpr: Any, holds: Callable[[JaxprEqn], bool]) -> bool:
    """Whether `holds` is true of an equation at any depth."""
    return any(holds(eqn) or any(occurs(inner, holds) for inner in subjaxprs(eqn)) for eqn in open_jaxpr(jaxpr)[0].eqns)
