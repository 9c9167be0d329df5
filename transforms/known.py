"""What a program is known to compute before it runs: values that follow from its constants alone, inside its loops too.

`visit` walks a jaxpr in order, into calls and loops, and shows every equation with what is known of its operands. A `Known` value is
computed when it is asked for, in NumPy where the primitive is in the table below, so that nothing is compiled to look at an index.
Inside a scan a value has the axes of the loops around it in front, outermost first, of size one where it does not change: one look at it
is a look at every turn.

Sharp edges: the branches of a `cond` are visited where its predicate is known, and then only the one that is taken; a carry is known if it
is a counter or never changes; what depends on a `while` is unknown.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer

from .equations import body_of
from .jax_compat import JaxprEqn, Literal, Var, bind, open_jaxpr, scan_layout
from .numpy_rules import NUMPY_RULES

__all__ = ["Known", "Unknown", "Value", "Where", "visit"]


@dataclass(frozen=True)
class Unknown:
    """A value that is known only at run time. origin: what it was read from, in the visitor's words ("" if that is not one thing)."""

    origin: str = ""


class Known:
    """A value that follows from the constants; `compute` gives it, with the axes of the loops in front."""

    __slots__ = ("_eqn", "_inputs", "_out", "_value", "depth")

    def __init__(self, depth: int, value: Any = None, eqn: Any = None, inputs: "Sequence[Known]" = (), out: int = 0):
        self.depth, self._value, self._eqn, self._inputs, self._out = depth, value, eqn, inputs, out

    @property
    def is_constant(self) -> bool:
        """Whether it is a constant of the program itself, and nothing that is computed from one."""
        return self._eqn is None and self.depth == 0

    def compute(self, compile: bool = False) -> np.ndarray | None:
        """The array, or None if a primitive has no NumPy rule and `compile` does not allow JAX to run it, or if random keys go in."""
        waiting: list[Any] = [self]
        while waiting:
            value = waiting[-1]
            pending = [] if value._eqn is None else [x for x in value._inputs if x._eqn is not None]
            if pending:
                waiting.extend(pending)
                continue
            waiting.pop()
            if value._eqn is None:
                continue
            operands = [x._value for x in value._inputs]
            made = None if any(x is None for x in operands) else _evaluate(value._eqn, operands, value.depth, compile)
            if made is None and not compile:
                return None
            value._value, value._eqn, value._inputs = None if made is None else np.asarray(made[value._out]), None, ()
        return self._value


Value = Known | Unknown


class Where(NamedTuple):
    """Where an equation stands: in how many loops, and inside which equations, outermost first."""

    depth: int = 0
    around: tuple[JaxprEqn, ...] = ()

    def inside(self, eqn: JaxprEqn, turns: int = 0) -> "Where":
        return Where(self.depth + turns, (*self.around, eqn))


Visitor = Callable[[JaxprEqn, list[Value], Where], str]
"""visitor(equation, its operands, where it stands) -> the origin of its results, "" for none"""

# What reads one value and gives it on under another shape or dtype: the origin stays.
_PASSES = {"convert_element_type", "reshape", "squeeze", "broadcast_in_dim", "copy", "expand_dims", "transpose", "slice"}


def visit(jaxpr: Any, consts: Sequence[Any], visitor: Visitor) -> None:
    """Show every equation of an open jaxpr, in order, to `visitor`.

    Args:
        jaxpr: without inputs: what it computes, it computes from its constants and from equations with effects.
        consts: values of its constants; they are not touched before a value is asked for.
        visitor: see there.
    """
    _walk(jaxpr, [Unknown() if isinstance(c, Tracer) else Known(0, c) for c in consts], visitor, Where())


def _walk(jaxpr: Any, inputs: Sequence[Value], visitor: Visitor, at: Where) -> list[Value]:
    env: dict[Var, Value] = dict(zip([*jaxpr.constvars, *jaxpr.invars], inputs, strict=True))

    def read(atom: Any) -> Value:
        return Known(at.depth, _led(atom.val, at.depth)) if isinstance(atom, Literal) else env[atom]

    for eqn in jaxpr.eqns:
        operands = [read(x) for x in eqn.invars]
        env.update(zip(eqn.outvars, _equation(eqn, operands, visitor, at), strict=True))
    return [read(x) for x in jaxpr.outvars]


def _equation(eqn: JaxprEqn, operands: list[Value], visitor: Visitor, at: Where) -> list[Value]:
    origin = visitor(eqn, operands, at)
    name = eqn.primitive.name
    if (called := body_of(eqn)) is not None:
        body, consts = open_jaxpr(called)
        return _walk(body, [*_constants(consts, at), *operands], visitor, at.inside(eqn))
    if name == "scan":
        return _scan(eqn, operands, visitor, at)
    if name == "cond":
        return _cond(eqn, operands, visitor, at)
    if name == "while":
        return _while(eqn, operands, visitor, at)
    known = [x for x in operands if isinstance(x, Known)]
    if len(known) == len(operands) and not eqn.effects:
        return [Known(at.depth, None, eqn, known, i) for i in range(len(eqn.outvars))]
    if not origin and name in _PASSES and isinstance(operands[0], Unknown):
        origin = operands[0].origin
    return [Unknown(origin)] * len(eqn.outvars)


def _constants(consts: Sequence[Any], at: Where) -> list[Known]:
    return [Known(at.depth, _led(c, at.depth)) for c in consts]


def _led(value: Any, depth: int) -> Any:
    return value if depth == 0 else np.asarray(value)[(None,) * depth]


def _scan(eqn: JaxprEqn, operands: list[Value], visitor: Visitor, at: Where) -> list[Value]:
    num_consts, num_carry = scan_layout(eqn)
    length, depth, inner = eqn.params["length"], at.depth, at.inside(eqn, turns=1)
    body, consts = open_jaxpr(eqn.params["jaxpr"])
    if length == 0:
        return [Unknown()] * len(eqn.outvars)
    kept = [_deeper(x, depth) for x in operands[:num_consts]]
    carried = body.invars[num_consts : num_consts + num_carry]
    carry = [_carry(body, var, i, x, eqn, depth) for i, (var, x) in enumerate(zip(carried, operands[num_consts:], strict=False))]
    xs = [_each_turn(x, depth) for x in operands[num_consts + num_carry :]]
    _walk(body, [*_constants(consts, inner), *kept, *carry, *xs], visitor, inner)
    return [Unknown()] * len(eqn.outvars)


def _deeper(x: Value, depth: int) -> Value:
    return Known(depth + 1, None, _Inside(depth), [x]) if isinstance(x, Known) else x


def _each_turn(x: Value, depth: int) -> Value:
    """What a loop scans over, in the order of the inputs: the axis of turns is the loop's."""
    return Known(depth + 1, None, _Turns(), [x]) if isinstance(x, Known) else x


def _carry(body: Any, var: Var, place: int, start: Value, eqn: JaxprEqn, depth: int) -> Value:
    """A carry that never changes, or one to which every turn adds the same number; else unknown."""
    if not isinstance(start, Known):
        return Unknown()
    after = body.outvars[place]
    if after is var:
        return _deeper(start, depth)
    step = next((_step(e, var) for e in body.eqns if after in e.outvars), None)
    if step is None:
        return Unknown()
    return Known(depth + 1, None, _Counting(step, eqn.params["length"], eqn.params["reverse"], depth), [start])


def _step(eqn: JaxprEqn, var: Var) -> Any:
    """What an equation adds to `var`, if that is all it does and the number stands in the program."""
    if eqn.primitive.name != "add" or eqn.invars[0] is not var or not isinstance(eqn.invars[1], Literal):
        return None
    return eqn.invars[1].val


def _cond(eqn: JaxprEqn, operands: list[Value], visitor: Visitor, at: Where) -> list[Value]:
    which = operands[0].compute() if isinstance(operands[0], Known) else None
    if which is None or np.size(which) != 1:
        return [Unknown()] * len(eqn.outvars)
    branches = eqn.params["branches"]
    body, consts = open_jaxpr(branches[int(np.clip(which.item(), 0, len(branches) - 1))])
    return _walk(body, [*_constants(consts, at), *operands[1:]], visitor, at.inside(eqn))


def _while(eqn: JaxprEqn, operands: list[Value], visitor: Visitor, at: Where) -> list[Value]:
    body, consts = open_jaxpr(eqn.params["body_jaxpr"])
    first = eqn.params["cond_nconsts"]
    given = operands[first : first + eqn.params["body_nconsts"]]
    carry = [Unknown()] * (len(body.invars) - len(given))
    _walk(body, [*_constants(consts, at), *given, *carry], visitor, at.inside(eqn))
    return [Unknown()] * len(eqn.outvars)


@dataclass(frozen=True)
class _Inside:
    """A value from around a loop, as its body sees it."""

    depth: int

    def values(self, x: np.ndarray) -> np.ndarray:
        return np.expand_dims(x, self.depth)


@dataclass(frozen=True)
class _Turns:
    """What a loop scans over, as its body sees it: its first axis becomes that of the loop."""

    def values(self, x: np.ndarray) -> np.ndarray:
        return x


@dataclass(frozen=True)
class _Counting:
    """A carry that grows by `step` in every turn; turns stand in the order of the inputs."""

    step: Any
    length: int
    reverse: bool
    depth: int

    def values(self, x: np.ndarray) -> np.ndarray:
        turns = np.arange(self.length)[:: -1 if self.reverse else 1].reshape(-1, *(1,) * (x.ndim - self.depth))
        return np.expand_dims(x, self.depth) + (turns * self.step).astype(x.dtype)


def _evaluate(eqn: Any, operands: list[Any], depth: int, compile: bool) -> list[Any] | None:
    """The results of an equation, or of a step into a loop, on arrays with `depth` loop axes in front.

    Random keys are no arrays of NumPy's: what is made of them, or gives them, has no result here.
    """
    if any(map(_is_key, (*operands, *(var.aval for var in getattr(eqn, "outvars", ()))))):
        return None
    if not isinstance(eqn, JaxprEqn):
        return [eqn.values(np.asarray(operands[0]))]
    rule = NUMPY_RULES.get(eqn.primitive.name)
    if rule is not None:
        with np.errstate(all="ignore"):
            return [rule(eqn, depth, *(np.asarray(x) for x in operands))]
    if not compile:
        return None
    with jax.ensure_compile_time_eval():
        return _run_by_jax(eqn, operands, depth)


def _is_key(x: Any) -> bool:
    return jax.dtypes.issubdtype(getattr(x, "dtype", None), jax.dtypes.extended)


def _run_by_jax(eqn: JaxprEqn, operands: list[Any], depth: int) -> list[Any]:
    if depth == 0:
        return bind(eqn, operands)

    def run(*xs: Any) -> list[Any]:
        return bind(eqn, xs)

    lead = np.broadcast_shapes((1,) * depth, *(np.shape(x)[:depth] for x in operands))
    full = [np.broadcast_to(x, (*lead, *np.shape(x)[depth:])) for x in operands]
    batched: Callable[..., Any] = run
    for size in reversed(lead):
        batched = jax.vmap(batched, axis_size=size)
    return list(batched(*full))
