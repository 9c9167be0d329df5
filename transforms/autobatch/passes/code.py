"""A block's code taken apart, so that passes can rewrite it without tracing it again.

`open_code` names inputs and outputs by slot; a pass changes that, and `close_code` makes a block of it. What is rewritten by hand is
only who reads which variable: every equation is one that JAX traced.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax.core import ShapedArray

from ...equations import has_effects, needed_equations, variables_of
from ...jax_compat import JaxprEqn, Literal, Var, assemble_jaxpr, open_jaxpr
from ..ir import Block, Branch, Call, Exit, Function, Jump, Program, Return, Slot

__all__ = [
    "Code", "append", "close_code", "emit", "fold", "fresh_name", "map_blocks", "map_exit", "open_code", "prune", "substitute", "then",
    "value_of", "with_functions",
]  # fmt: skip


@dataclass
class Code:
    """The parts of a block's jaxpr.

    Attributes:
        consts: values of constants by variable.
        inputs: variable of each slot that is read.
        equations: in order.
        outputs: variable or literal for each slot that is written.
    """

    consts: dict[Var, Any]
    inputs: dict[Slot, Var]
    equations: list[JaxprEqn]
    outputs: dict[Slot, Any]


def open_code(block: Block) -> Code:
    """The parts of a block; a slot that the block reads twice is one input."""
    jaxpr, code = block.jaxpr, Code({}, {}, [], {})
    code.consts = dict(zip(jaxpr.constvars, block.consts, strict=True))
    env = {}
    for slot, var in zip(block.reads, jaxpr.invars, strict=True):
        first = code.inputs.setdefault(slot, var)
        if first is not var:
            env[var] = first
    code.equations = [substitute(eqn, env) for eqn in jaxpr.eqns] if env else list(jaxpr.eqns)
    code.outputs = dict(zip(block.writes, (_look(env, atom) for atom in jaxpr.outvars), strict=True))
    return code


def close_code(block: Block, code: Code, exit: Exit | None = None) -> Block:
    """`block` with other code and, if given, another exit."""
    atoms = list(code.outputs.values())
    jaxpr, consts = assemble_jaxpr(block.jaxpr, code.consts, list(code.inputs.values()), atoms, code.equations)
    return replace(
        block, jaxpr=jaxpr, consts=tuple(consts), reads=tuple(code.inputs), writes=tuple(code.outputs), exit=exit or block.exit
    )  # fmt: skip


def value_of(code: Code, slot: Slot) -> Any:
    """The variable or literal that `slot` holds after the code; it becomes an input if the code does not know it yet."""
    if slot in code.outputs:
        return code.outputs[slot]
    if slot not in code.inputs:
        code.inputs[slot] = Var(ShapedArray(slot.shape, slot.dtype))
    return code.inputs[slot]


def then(first: Code, second: Code) -> Code:
    """The code that does one and then the other. Both stay as they are; the second's variables are new, so it may repeat the first."""
    joined = Code(dict(first.consts), dict(first.inputs), list(first.equations), dict(first.outputs))
    joined.outputs.update(append(joined, second))
    return joined


def append(code: Code, second: Code) -> dict[Slot, Any]:
    """Adds the equations of `second`, run on the values after `code`; gives what it would write, and writes nothing yet."""
    known = {id(value): var for var, value in code.consts.items()}
    env: dict[Var, Any] = {}
    for var, value in second.consts.items():
        env[var] = known.setdefault(id(value), Var(var.aval))
        code.consts[env[var]] = value
    env.update({var: value_of(code, slot) for slot, var in second.inputs.items()})
    _add(code, second.equations, env)
    return {slot: _look(env, atom) for slot, atom in second.outputs.items()}


def emit(code: Code, function: Callable[..., Sequence[Any]], atoms: Sequence[Any]) -> list[Any]:
    """Adds the equations of a function without constants, run on `atoms`; gives its results."""
    closed = jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype) for atom in atoms))
    jaxpr, _ = open_jaxpr(closed)
    env = dict(zip(jaxpr.invars, atoms, strict=True))
    _add(code, jaxpr.eqns, env)
    return [_look(env, atom) for atom in jaxpr.outvars]


def _add(code: Code, equations: Iterable[JaxprEqn], env: dict[Var, Any]) -> None:
    for eqn in equations:
        new = [Var(var.aval) for var in eqn.outvars]
        code.equations.append(substitute(eqn, env).replace(outvars=new))
        env.update(zip(eqn.outvars, new, strict=True))


def substitute(eqn: JaxprEqn, env: Mapping[Var, Any]) -> JaxprEqn:
    """The equation with other operands."""
    return eqn.replace(invars=[_look(env, atom) for atom in eqn.invars])


def prune(code: Code, live: Collection[Slot]) -> Code:
    """Without the writes that are not `live` or that leave a slot as it is, and what only they needed.

    Equations with effects stay.
    """
    outputs = {slot: atom for slot, atom in code.outputs.items() if slot in live and code.inputs.get(slot) is not atom}
    kept = needed_equations(code.equations, outputs.values(), also=has_effects)
    needed = variables_of(kept, outputs.values())
    inputs = {slot: var for slot, var in code.inputs.items() if var in needed}
    consts = {var: value for var, value in code.consts.items() if var in needed}
    return Code(consts, inputs, kept, outputs)


def fold(code: Code) -> Code:
    """With the comparisons and arithmetic of scalar integer and boolean literals done."""
    env: dict[Var, Any] = {}
    kept = []
    for eqn in code.equations:
        eqn = substitute(eqn, env) if env else eqn
        value = _fold(eqn)
        if value is None:
            kept.append(eqn)
        else:
            env[eqn.outvars[0]] = value
    return Code(code.consts, code.inputs, kept, {s: _look(env, a) for s, a in code.outputs.items()}) if env else code


def map_exit(exit: Exit, slot: Callable[[Slot], Slot] = lambda s: s, block: Callable[[str], str] = lambda n: n) -> Exit:
    """An exit with other slots to read and other blocks to go on with."""
    match exit:
        case Jump(target):
            return Jump(block(target))
        case Branch(predicate, yes, no):
            return Branch(slot(predicate), block(yes), block(no))
        case Call(callee, arguments, continuation):
            return Call(callee, tuple(map(slot, arguments)), block(continuation))
        case Return(values):
            return Return(tuple(map(slot, values)))


def map_blocks(function: Function, blocks: Iterable[Block]) -> Function:
    """A function with other blocks."""
    return replace(function, blocks={block.name: block for block in blocks})


def with_functions(program: Program, functions: Iterable[Function]) -> Program:
    """A program with other functions."""
    return replace(program, functions={function.name: function for function in functions})


def fresh_name(name: str, taken: set[str]) -> str:
    """`name`, or the first of name'2, name'3, ... that is not taken; it is then."""
    fresh, number = name, 1
    while fresh in taken:
        number += 1
        fresh = f"{name}'{number}"
    taken.add(fresh)
    return fresh


def _look(env: Mapping[Var, Any], atom: Any) -> Any:
    return env.get(atom, atom) if isinstance(atom, Var) else atom


def _fold(eqn: Any) -> Literal | None:
    operation = _FOLDS.get(eqn.primitive.name)
    known = all(isinstance(atom, Literal) for atom in eqn.invars)
    if operation is None or not known or not all(map(_is_scalar, (*eqn.invars, *eqn.outvars))):
        return None
    aval = eqn.outvars[0].aval
    with np.errstate(over="ignore"):
        value = operation(*(np.asarray(atom.val, atom.aval.dtype) for atom in eqn.invars))
    return Literal(np.asarray(value).astype(aval.dtype)[()], aval)


def _is_scalar(atom: Any) -> bool:
    return atom.aval.shape == () and getattr(atom.aval.dtype, "kind", "") in ("b", "i", "u")


_FOLDS: dict[str, Callable[..., Any]] = {
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "not": np.bitwise_not,
    "max": np.maximum,
    "min": np.minimum,
    "convert_element_type": lambda x: x,
}
