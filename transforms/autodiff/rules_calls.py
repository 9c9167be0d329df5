"""Programs called by name: `jit`, closed calls.

Inside a trace the called program is walked in place: XLA inlines such calls anyway, and residuals need not cross a
boundary. On concrete values the walk itself is compiled, once for each (program, active inputs), so that the derivative
of a jitted function runs compiled as the function does.
"""

import functools
import weakref
from collections.abc import Sequence
from typing import Any

import jax
from jax.core import Tracer, eval_jaxpr

from ..bounded import PROGRAMS, bounded_jit
from ..equations import CALLS, body_of, dependents, reads_any, run_jaxpr
from ..jax_compat import Literal, equation_context, open_jaxpr
from ..structure import structure
from .core import Tape, Unknown, evaluate, linearize_jaxpr, literal, push, push_forward
from .loop_bodies import chosen, omitted
from .registry import forwards, linearizes, transposes
from .transpose import backward, with_unknowns


def called(eqn: Any) -> tuple[Any, list[Any]]:
    """The program that an equation calls, and its constants."""
    return open_jaxpr(body_of(eqn))


def inline_calls(jaxpr: Any, consts: Sequence[Any]) -> tuple[Any, list[Any]]:
    """The jaxpr with the called programs that depend on its inputs written in place, and its constants."""
    if not any(eqn.primitive.name in CALLS for eqn in jaxpr.eqns):
        return jaxpr, list(consts)

    def run(*values: Any) -> list[Any]:
        return _inlined(jaxpr, consts, values, [True] * len(values))

    return open_jaxpr(jax.make_jaxpr(run)(*[v.aval for v in jaxpr.invars]))


def _inlined(jaxpr: Any, consts: Sequence[Any], values: Sequence[Any], varying: Sequence[bool]) -> list[Any]:
    moving = dependents(jaxpr.eqns, chosen(jaxpr.invars, varying), effects=False)

    def apply(eqn: Any, operands: list[Any]) -> list[Any]:
        if eqn.primitive.name not in CALLS or not reads_any(eqn, moving):
            return evaluate(eqn, operands)
        with equation_context(eqn):
            return _inlined(*called(eqn), operands, [not isinstance(x, Literal) and x in moving for x in eqn.invars])

    return run_jaxpr(jaxpr, consts, values, apply, literal)


def is_concrete(values: Sequence[Any]) -> bool:
    """Whether no value belongs to a trace."""
    return not any(isinstance(v, (Tracer, Unknown)) for v in values if v is not None)


@jax.tree_util.register_pytree_node_class
class _Kept:
    """A linear program on its way out of a compiled function: residuals are its leaves, equations its structure."""

    def __init__(self, residuals: Sequence[Any], jaxpr: Any, out_active: tuple[bool, ...]):
        self.residuals, self.jaxpr, self.out_active = list(residuals), jaxpr, out_active

    def tree_flatten(self) -> tuple[list[Any], Any]:
        return self.residuals, (self.jaxpr, self.out_active)

    @classmethod
    def tree_unflatten(cls, aux: Any, residuals: Sequence[Any]) -> "_Kept":
        return cls(residuals, *aux)


# Keys of called programs, by the program: they are computed once, and go with it. A value does not refer to its key.
_keys: "weakref.WeakKeyDictionary[Any, tuple[int, Any]]" = weakref.WeakKeyDictionary()


class _Program:
    """A called program as a static argument: equal to any that computes the same, so that a function made anew finds what was compiled."""

    def __init__(self, eqn: Any):
        body = body_of(eqn)
        self.jaxpr, _ = open_jaxpr(body)
        if body not in _keys:
            key = structure(body)
            _keys[body] = hash(key), key
        self._hash, self._key = _keys[body]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Program) and (self._key is other._key or (self._hash == other._hash and self._key == other._key))

    def __hash__(self) -> int:
        return self._hash


@bounded_jit(static_argnums=(0, 1))
def _compiled_linearize(program: _Program, active: tuple[bool, ...], consts: Any, primals: Any) -> Any:
    outs, linear = linearize_jaxpr(program.jaxpr, consts, primals, active)
    return outs, _Kept(linear.residuals, linear.jaxpr, linear.out_active)


@functools.lru_cache(maxsize=PROGRAMS)
def _compiled_run(name: str, jaxpr: Any) -> Any:
    """Application of a linear program, compiled; a listing shows it by the name of the function that was linearized."""

    def run(residuals: Any, tangents: Any) -> Any:
        return eval_jaxpr(jaxpr, residuals, *tangents)

    run.__name__ = run.__qualname__ = name
    return jax.jit(run)


@bounded_jit(static_argnums=0)
def _compiled_forward(program: _Program, consts: Any, primals: Any, tangents: Any) -> Any:
    return push_forward(program.jaxpr, consts, primals, tangents)


@bounded_jit(static_argnums=(0, 1))
def _compiled_backward(program: _Program, unknown: tuple[bool, ...], consts: Any, known: Any, cotangents: Any) -> Any:
    return backward(program.jaxpr, consts, with_unknowns(program.jaxpr.invars, unknown, known), cotangents)


@linearizes(*CALLS)
def linearize_call(eqn: Any, active: Sequence[bool], *primals: Any) -> Any:
    """The rules of the called program's equations."""
    jaxpr, consts = called(eqn)
    if is_concrete(primals):
        outs, kept = _compiled_linearize(_Program(eqn), tuple(active), consts, primals)
        run_compiled = _compiled_run(eqn.params.get("name", "call"), kept.jaxpr)

        def linear(ts: Sequence[Any]) -> list[Any]:
            made = iter(run_compiled(kept.residuals, [t for t in ts if t is not None]))
            return [next(made) if a else None for a in kept.out_active]

        return outs, linear, kept.out_active
    tape = Tape()
    slots = [tape.slot(v.aval) if a else None for v, a in zip(jaxpr.invars, active, strict=True)]
    outs, out_slots = push(jaxpr, consts, primals, slots, tape.apply_rule)
    run = tape.replay([s for s in slots if s is not None], [s for s in out_slots if s is not None])

    def inline(ts: Sequence[Any]) -> list[Any]:
        made = iter(run(*(t for t in ts if t is not None)))
        return [None if s is None else next(made) for s in out_slots]

    return outs, inline, tuple(s is not None for s in out_slots)


@forwards(*CALLS)
def forward_call(eqn: Any, primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """The forward derivative of the called program."""
    jaxpr, consts = called(eqn)
    if is_concrete([*primals, *tangents]):
        return _compiled_forward(_Program(eqn), consts, primals, tangents)
    return push_forward(jaxpr, consts, primals, tangents)


@transposes(*CALLS)
def transpose_call(eqn: Any, cotangents: Sequence[Any], *operands: Any) -> Any:
    """The transpose of the called program."""
    jaxpr, consts = called(eqn)
    unknown = tuple(isinstance(x, Unknown) for x in operands)
    known = omitted(operands, unknown)
    if is_concrete([*known, *cotangents]):
        return _compiled_backward(_Program(eqn), unknown, consts, known, list(cotangents))
    return backward(jaxpr, consts, operands, cotangents)
