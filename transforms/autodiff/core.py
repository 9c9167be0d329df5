"""Linearization: one walk over a program that carries tangents beside values.

`push` visits the equations in order. Where an operand has a tangent it asks `apply_rule` for the results and their
tangents; elsewhere it evaluates the equation. The two forward transformations differ in `apply_rule` alone:

* a forward derivative (`push_forward`) applies the linear map of each rule at once;
* linearization (`linearize_jaxpr`) writes the linear map on a tape. At the end the tape is replayed once under
  `jax.make_jaxpr`; the equations so traced are the linear program, and the values from outside that they refer to come
  out as its constants: the residuals.

A tangent that is known to be zero is None and costs nothing.

Source: the split of reverse mode into linearization and transposition is that of Radul, Paszke, Frostig, Johnson &
Maclaurin (2023), "You Only Linearize Once", POPL, section 3. We deviate in that the linear part is recorded as closures
and traced afterwards, so that no rule has to build equations.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..equations import run_equations
from ..jax_compat import JaxprEqn, Literal, bind, equation_context, open_jaxpr, varying_axes
from .registry import FORWARD, LINEARIZE, unknown_primitive

__all__ = [
    "FALLBACK",
    "Linearized",
    "Tape",
    "Unknown",
    "add",
    "evaluate",
    "evaluate_equations",
    "fallback_rules",
    "is_differentiable",
    "linearize_jaxpr",
    "literal",
    "push",
    "push_forward",
    "read",
    "tangent_aval",
    "without_fallback",
    "zeros",
]


class Unknown(NamedTuple):
    """Stands for the value of a linear operand, which transposition does not know. aval: its shape and dtype."""

    aval: Any


@dataclass(frozen=True)
class Fallback:
    """What serves primitives without a rule: linearize(eqn, active, *primals) and transpose(eqn, cotangents, *operands)."""

    linearize: Callable[..., Any]
    transpose: Callable[..., Any]


FALLBACK: list[Fallback] = []  # entered once, on import of `fallback`; empty if that file is deleted
FALLBACK_ENABLED: ContextVar[bool] = ContextVar("fallback_enabled", default=True)


def fallback_rules() -> Fallback | None:
    """The rules for primitives that have none of their own, if any are installed and not switched off."""
    return FALLBACK[0] if FALLBACK and FALLBACK_ENABLED.get() else None


@contextlib.contextmanager
def without_fallback() -> Iterator[None]:
    """Inside, a primitive without a rule raises `DerivativeError`."""
    token = FALLBACK_ENABLED.set(False)
    try:
        yield
    finally:
        FALLBACK_ENABLED.reset(token)


def is_differentiable(aval: Any) -> bool:
    """Whether values of this type have tangents: real and complex floating point numbers."""
    return jax.dtypes.issubdtype(aval.dtype, np.inexact)


def tangent_aval(aval: Any) -> Any:
    """The type of a tangent: that of the value without weak typing (shape, dtype and layout over a mesh are kept)."""
    return aval.strip_weak_type()


def zeros(aval: Any) -> Any:
    """Explicit zeros of a type."""
    out = jnp.zeros(aval.shape, aval.dtype)
    axes = tuple(sorted(varying_axes(aval)))
    return jax.lax.pcast(out, axes, to="varying") if axes else out


def add(x: Any, y: Any) -> Any:
    """x + y where None is zero."""
    if x is None:
        return y
    return x if y is None else jax.lax.add(x, y)


def literal(atom: Any) -> Any:
    """The value of a literal as an array: JAX keeps some as Python numbers, which have no shape."""
    return atom.val if hasattr(atom.val, "shape") else np.asarray(atom.val, atom.aval.dtype)


def read(env: dict[Any, Any], atom: Any) -> Any:
    """The value of a variable or literal."""
    return literal(atom) if isinstance(atom, Literal) else env[atom]


def evaluate(eqn: JaxprEqn, operands: Sequence[Any]) -> list[Any]:
    """The results of an equation that has no tangents, with its own source line."""
    with equation_context(eqn):
        return bind(eqn, operands)


def evaluate_equations(equations: Sequence[JaxprEqn], env: dict[Any, Any], outs: Sequence[Any]) -> list[Any]:
    """Evaluate equations in `env` (variable -> value, extended) and read `outs`."""
    return run_equations(equations, env, outs, evaluate, literal)


Apply = Callable[[JaxprEqn, list[Any], list[Any]], tuple[Sequence[Any], Sequence[Any]]]


def push(
    jaxpr: Any,
    consts: Sequence[Any],
    primals: Sequence[Any],
    tangents: Sequence[Any],
    apply_rule: Apply,
    overrides: Mapping[Any, Any] | None = None,
) -> tuple[list[Any], list[Any]]:
    """Values and tangents of the results of a jaxpr.

    Args:
        jaxpr: an open jaxpr; consts: its constants, which have no tangents.
        primals: one value per input.
        tangents: one per input, whatever `apply_rule` understands; None is zero.
        apply_rule: (eqn, operands, tangents) -> (results, their tangents); asked only if some tangent is not None.
        overrides: values that are known already, by variable; they take the place of what the equations compute.
    """
    value = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *primals], strict=True))
    tangent = {v: t for v, t in zip(jaxpr.invars, tangents, strict=True) if t is not None}
    for eqn in jaxpr.eqns:
        operands = [read(value, x) for x in eqn.invars]
        moved = [None if isinstance(x, Literal) else tangent.get(x) for x in eqn.invars]
        with equation_context(eqn):
            if all(t is None for t in moved):
                outs = bind(eqn, operands)
            else:
                outs, out_tangents = apply_rule(eqn, operands, moved)
                tangent.update((v, t) for v, t in zip(eqn.outvars, out_tangents, strict=True) if t is not None)
        value.update(zip(eqn.outvars, outs, strict=True))
        if overrides:
            value.update((v, overrides[v]) for v in eqn.outvars if v in overrides)
    return [read(value, x) for x in jaxpr.outvars], [None if isinstance(x, Literal) else tangent.get(x) for x in jaxpr.outvars]


def linearize_equation(eqn: JaxprEqn, active: tuple[bool, ...], primals: Sequence[Any]) -> tuple[Any, Any, Any]:
    """The rule of one equation: its own, else the fallback's, else an error that names the primitive and the line."""
    rule = LINEARIZE.get(eqn.primitive.name)
    outs, linear, out_active = rule(eqn, active, *primals) if rule is not None else (None, None, None)
    if linear is not None:
        return outs, linear, out_active
    fallback = fallback_rules()
    if fallback is None:
        raise unknown_primitive(eqn, "linearize")
    return fallback.linearize(eqn, active, *primals)


def forward_equation(eqn: JaxprEqn, primals: list[Any], tangents: list[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    """Results and tangents of one equation in forward mode."""
    rule = FORWARD.get(eqn.primitive.name)
    if rule is not None:
        return rule(eqn, primals, tangents)
    outs, linear, _ = linearize_equation(eqn, tuple(t is not None for t in tangents), primals)
    return outs, linear(tangents)


def push_forward(jaxpr: Any, consts: Sequence[Any], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The forward derivative of a jaxpr: results and their tangents (None for zero)."""
    return push(jaxpr, consts, primals, tangents, forward_equation)


class Slot:
    """The place of one tangent on the tape."""

    __slots__ = ("aval",)

    def __init__(self, aval: Any):
        self.aval = aval


class Record(NamedTuple):
    """One linear map on the tape, with the slots that it reads (None where zero) and writes."""

    eqn: JaxprEqn
    linear: Callable[[Sequence[Any]], list[Any]]
    reads: tuple[Slot | None, ...]
    writes: tuple[Slot | None, ...]


class Tape:
    """The linear maps of a program in order, as `push` met them."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    @staticmethod
    def slot(aval: Any) -> Slot:
        """A place for the tangent of a value of type `aval`."""
        return Slot(tangent_aval(aval))

    def apply_rule(self, eqn: JaxprEqn, primals: list[Any], slots: list[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        outs, linear, out_active = linearize_equation(eqn, tuple(s is not None for s in slots), primals)
        made = tuple(Slot(tangent_aval(v.aval)) if a else None for v, a in zip(eqn.outvars, out_active, strict=True))
        if any(out_active):
            self.records.append(Record(eqn, linear, tuple(slots), made))
        return outs, made

    def replay(self, inputs: Sequence[Slot], outputs: Sequence[Slot]) -> Callable[..., list[Any]]:
        """The linear program as a function of the input tangents, without the records that no output needs."""
        needed, kept = set(outputs), []
        for record in reversed(self.records):
            if any(s in needed for s in record.writes):
                needed.update(s for s in record.reads if s is not None)
                kept.append(record)

        def run(*tangents: Any) -> list[Any]:
            env: dict[Slot, Any] = dict(zip(inputs, tangents, strict=True))
            for eqn, linear, reads, writes in reversed(kept):
                with equation_context(eqn):
                    made = linear([None if s is None else env.get(s) for s in reads])
                env.update((s, t) for s, t in zip(writes, made, strict=True) if s is not None and t is not None)
            return [env[s] if s in env else zeros(s.aval) for s in outputs]

        return run


class Linearized(NamedTuple):
    """A linear program: tangents of the active inputs -> tangents of the active outputs.

    jaxpr: open; its constants are the residuals. residuals: their values.
    out_active: which outputs of the original have tangents.
    """

    jaxpr: Any
    residuals: list[Any]
    out_active: tuple[bool, ...]


def linearize_jaxpr(
    jaxpr: Any,
    consts: Sequence[Any],
    primals: Sequence[Any],
    active: Sequence[bool],
    want: Sequence[bool] | None = None,
    overrides: Mapping[Any, Any] | None = None,
) -> tuple[list[Any], Linearized]:
    """Evaluate a jaxpr and give its linear program.

    Args:
        jaxpr, consts: the program; its constants have no tangents.
        primals: one value per input.
        active: which inputs have tangents.
        want: which outputs must be outputs of the linear program, zero if they do not depend on an active input; by default
            those that do.
        overrides: as for `push`.

    Returns:
        The results, and the linear program at `primals`.
    """
    tape = Tape()
    slots = [Slot(tangent_aval(v.aval)) if a else None for v, a in zip(jaxpr.invars, active, strict=True)]
    outs, out_slots = push(jaxpr, consts, primals, slots, tape.apply_rule, overrides)
    if want is not None:
        out_slots = [(s or Slot(tangent_aval(v.aval))) if w else None for s, v, w in zip(out_slots, jaxpr.outvars, want, strict=True)]
    inputs, outputs = [s for s in slots if s is not None], [s for s in out_slots if s is not None]
    closed = jax.make_jaxpr(tape.replay(inputs, outputs))(*[s.aval for s in inputs])
    linear, residuals = open_jaxpr(closed)
    return outs, Linearized(linear, residuals, tuple(s is not None for s in out_slots))
