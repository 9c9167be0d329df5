"""Transposition: a linear program run from its outputs to its inputs.

    <linear(t), c> = <t, transposed(c)>        for all tangents t and cotangents c

Equations that do not depend on a linear input are evaluated; the others are visited in reverse, each handing the
cotangent of its result to its operands. A value that is used twice receives the sum.
"""

from collections.abc import Sequence
from typing import Any

import jax

from ..equations import reads_any
from ..jax_compat import JaxprEqn, Literal, equation_context
from .core import Unknown, add, evaluate, fallback_rules, read, zeros
from .registry import TRANSPOSE, unknown_primitive

__all__ = ["backward", "backward_dense", "fit", "instantiate", "instantiate_all", "with_unknowns"]


def backward(jaxpr: Any, consts: Sequence[Any], operands: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
    """The transpose of a jaxpr in those of its inputs that are `Unknown`.

    Args:
        jaxpr: open, linear in its unknown inputs jointly; consts: its constants.
        operands: one per input: a value, or `Unknown`.
        cotangents: one per output, None for zero.

    Returns:
        One cotangent per input, None where it is zero or where the input is known.

    Raises:
        DerivativeError: an equation that depends on an unknown input has no transposition rule.
    """
    env = dict(zip(jaxpr.constvars, consts, strict=True))
    env.update((v, x) for v, x in zip(jaxpr.invars, operands, strict=True) if not isinstance(x, Unknown))
    linear = {v for v, x in zip(jaxpr.invars, operands, strict=True) if isinstance(x, Unknown)}
    visited: list[JaxprEqn] = []
    for eqn in jaxpr.eqns:
        if reads_any(eqn, linear):
            linear.update(eqn.outvars)
            visited.append(eqn)
        else:
            env.update(zip(eqn.outvars, evaluate(eqn, [read(env, x) for x in eqn.invars]), strict=True))
    flowing: dict[Any, Any] = {}

    def receive(atom: Any, cotangent: Any) -> None:
        if cotangent is not None and not isinstance(atom, Literal) and atom in linear:
            flowing[atom] = add(flowing.get(atom), fit(cotangent, atom.aval))

    for atom, cotangent in zip(jaxpr.outvars, cotangents, strict=True):
        receive(atom, cotangent)
    for eqn in reversed(visited):
        arriving = [flowing.pop(v, None) for v in eqn.outvars]
        if all(ct is None for ct in arriving):
            continue
        known = [Unknown(x.aval) if not isinstance(x, Literal) and x in linear else read(env, x) for x in eqn.invars]
        with equation_context(eqn):
            for atom, cotangent in zip(eqn.invars, transpose_equation(eqn, arriving, known), strict=True):
                receive(atom, cotangent)
    return [flowing.get(v) if v in linear else None for v in jaxpr.invars]


def transpose_equation(eqn: JaxprEqn, cotangents: Sequence[Any], operands: Sequence[Any]) -> Sequence[Any]:
    """The transposition rule of one equation: its own, else the fallback's, else an error that names the primitive and the line."""
    rule = TRANSPOSE.get(eqn.primitive.name)
    if rule is not None:
        return rule(eqn, cotangents, *operands)
    fallback = fallback_rules()
    if fallback is None:
        raise unknown_primitive(eqn, "transpose")
    return fallback.transpose(eqn, cotangents, *operands)


def fit(cotangent: Any, aval: Any) -> Any:
    """A cotangent summed down to the shape of the value it belongs to.

    Pointwise primitives broadcast operands of rank 0 and axes of length 1 silently; the transpose of that is a sum, done here
    once for all rules.
    """
    if cotangent.shape == aval.shape:
        return cotangent
    lead = cotangent.ndim - len(aval.shape)
    axes = (*range(lead), *(lead + i for i, n in enumerate(aval.shape) if n == 1 and cotangent.shape[lead + i] != 1))
    return jax.lax.reshape(jax.lax.reduce_sum(cotangent, axes), aval.shape)


def with_unknowns(variables: Sequence[Any], unknown: Sequence[bool], known: Sequence[Any]) -> list[Any]:
    """One operand per input variable: `Unknown` where marked, elsewhere the next of the `known` values."""
    rest = iter(known)
    return [Unknown(v.aval) if u else next(rest) for v, u in zip(variables, unknown, strict=True)]


def backward_dense(
    jaxpr: Any, consts: Sequence[Any], unknown: Sequence[bool], known: Sequence[Any], cotangents: Sequence[Any]
) -> list[Any]:
    """`backward` as the body of a transposed program: known values and cotangents -> explicit cotangents of the unknown."""
    made = backward(jaxpr, consts, with_unknowns(jaxpr.invars, unknown, known), cotangents)
    return instantiate_all(made, jaxpr.invars, unknown)


def instantiate(cotangent: Any, aval: Any) -> Any:
    """A cotangent made explicit."""
    return zeros(aval) if cotangent is None else cotangent


def instantiate_all(cotangents: Sequence[Any], variables: Sequence[Any], flags: Sequence[bool] | None = None) -> list[Any]:
    """The cotangents (or tangents) of variables, of those whose flag is set, made explicit."""
    flags = [True] * len(variables) if flags is None else flags
    return [instantiate(ct, v.aval) for ct, v, flag in zip(cotangents, variables, flags, strict=True) if flag]
