"""A program as the compiler's stages hand it on: functions of blocks, blocks of straight-line code for one member.

The front end makes it from Python source, the passes rewrite it, the executors run it. A *slot* is a local variable of one array
leaf. What a program means is said by `interpret`, forty lines that run one member with a fresh frame of slots for every call:

* a block evaluates its jaxpr on the slots it reads, and writes its results to slots of the same frame;
* its exit says what comes next. `Jump` and `Branch` stay in the function. `Call` makes a frame for the callee, whose parameters
  are given the values of slots of the caller; when it has returned, its results stand in the caller's frame, under the callee's
  result slots, and the continuation begins. `Return` hands the values of slots of this frame back as the results.

Nothing here knows of batches. An executor may keep frames however it likes, as long as every member computes what `interpret` does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.core import eval_jaxpr

from ..errors import ProgramError
from ..jax_compat import open_jaxpr

__all__ = ["Block", "Branch", "Call", "Exit", "Function", "Jump", "Program", "Return", "Slot", "evaluate", "interpret", "trace_block"]


@dataclass(frozen=True)
class Slot:
    """A local variable of one array leaf.

    Attributes:
        name: unique in the program: function, variable, and leaf if the variable has several.
        shape, dtype: of one member's value.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    def __str__(self) -> str:
        return self.name

    @property
    def type(self) -> str:
        """As JAX prints it: float32[3]."""
        return f"{self.dtype.name}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Jump:
    """Go on with the block named `target`."""

    target: str


@dataclass(frozen=True)
class Branch:
    """Go on with block `then` if the slot `predicate`, bool of shape (), is true, else with `otherwise`."""

    predicate: Slot
    then: str
    otherwise: str


@dataclass(frozen=True)
class Call:
    """Run the function named `callee` on the values of `arguments`, one per parameter; then go on with block `continuation`.

    The continuation, and what follows it, reads the results from the callee's result slots in this frame, until a later call
    replaces them.
    """

    callee: str
    arguments: tuple[Slot, ...]
    continuation: str


@dataclass(frozen=True)
class Return:
    """Leave the function with `values`, one per result."""

    values: tuple[Slot, ...]


Exit = Jump | Branch | Call | Return


@dataclass(frozen=True, eq=False)
class Block:
    """Straight-line code.

    Attributes:
        name: unique in the program.
        function: the name of the function it belongs to.
        line: of the source, for messages.
        jaxpr, consts: the code, an open jaxpr; constants may be tracers of the trace in which the program is run.
        reads: slots whose values are its inputs.
        writes: slots that receive its outputs, each once. A slot that only the exit reads is no more than a wire.
        exit: what comes next; it reads slots after the writes.
    """

    name: str
    function: str
    line: int
    jaxpr: Any
    consts: tuple[Any, ...]
    reads: tuple[Slot, ...]
    writes: tuple[Slot, ...]
    exit: Exit

    def __str__(self) -> str:
        body = f"({', '.join(map(str, self.reads))}) -> ({', '.join(map(str, self.writes))})  {len(self.jaxpr.eqns)} equations"
        return f"{self.name}: {body}\n    {_show(self.exit)}"


@dataclass(frozen=True, eq=False)
class Function:
    """A function of the program.

    Attributes:
        name: unique in the program.
        parameters: slots that a call fills.
        results: slots by which callers read what it returned. As the front end writes it, no block of the function itself reads or
            writes them, unless it calls itself: then they are, in its frame, what the inner call returned. Passes may use them
            for other values that no inner call's results meet.
        entry: name of its first block.
        blocks: by name, in source order.
    """

    name: str
    parameters: tuple[Slot, ...]
    results: tuple[Slot, ...]
    entry: str
    blocks: dict[str, Block]

    def __str__(self) -> str:
        head = f"{self.name}({', '.join(f'{s}: {s.type}' for s in self.parameters)}) -> ({', '.join(s.type for s in self.results)})"
        return "\n".join([head, *("  " + str(b).replace("\n", "\n  ") for b in self.blocks.values())])


@dataclass(frozen=True, eq=False)
class Program:
    """Functions that call one another, and the one that is run.

    Attributes:
        functions: by name.
        main: the name of the one that is run.
    """

    functions: dict[str, Function]
    main: str

    @property
    def blocks(self) -> dict[str, Block]:
        """All blocks by name."""
        return {name: block for f in self.functions.values() for name, block in f.blocks.items()}

    def __str__(self) -> str:
        return "\n\n".join(str(f) for f in self.functions.values())


def trace_block(
    name: str, function: str, line: int, code: Any, reads: Sequence[Slot], writes: Sequence[Slot], exit: Exit
) -> Block:  # fmt: skip
    """A block from a Python function of as many arrays as `reads` to as many as `writes`.

    Raises:
        ProgramError: a result has another shape or dtype than its slot.
    """
    closed = jax.make_jaxpr(lambda *xs: tuple(code(*xs)))(*(jax.ShapeDtypeStruct(s.shape, s.dtype) for s in reads))
    jaxpr, consts = open_jaxpr(closed)
    for slot, out in zip(writes, jaxpr.outvars, strict=True):
        if (slot.shape, slot.dtype) != (tuple(out.aval.shape), out.aval.dtype):
            raise ProgramError(f"block {name}: {slot} has type {slot.type}, and {out.aval.str_short()} is written to it.")
    return Block(name, function, line, jaxpr, tuple(consts), tuple(reads), tuple(writes), exit)


def evaluate(block: Block, values: Sequence[Any]) -> list[Any]:
    """The outputs of a block's code for one member."""
    return eval_jaxpr(block.jaxpr, block.consts, *values)


def interpret(program: Program, arguments: Sequence[Any], max_depth: int = 1000) -> list[Any]:
    """Runs one member on concrete values: the meaning of a program.

    Args:
        program: what to run.
        arguments: one array per parameter of the main function.
        max_depth: calls that may be open at once.

    Returns:
        One array per result of the main function.

    Raises:
        ProgramError: more than `max_depth` calls are open.
    """

    def run(function: Function, values: Sequence[Any], depth: int) -> list[Any]:
        if depth > max_depth:
            raise ProgramError(f"{function.name}: more than {max_depth} calls are open at once; raise max_depth.")
        frame = dict(zip(function.parameters, values, strict=True))
        block = function.blocks[function.entry]
        while True:
            frame.update(zip(block.writes, evaluate(block, [frame[s] for s in block.reads]), strict=True))
            match block.exit:
                case Jump(target):
                    block = function.blocks[target]
                case Branch(predicate, then, otherwise):
                    block = function.blocks[then if frame[predicate] else otherwise]
                case Call(callee, sources, continuation):
                    inner = program.functions[callee]
                    frame.update(zip(inner.results, run(inner, [frame[s] for s in sources], depth + 1), strict=True))
                    block = function.blocks[continuation]
                case Return(sources):
                    return [frame[s] for s in sources]

    return run(program.functions[program.main], arguments, 1)


def _show(exit: Exit) -> str:
    match exit:
        case Jump(target):
            return f"jump {target}"
        case Branch(predicate, then, otherwise):
            return f"branch {predicate}: {then} else {otherwise}"
        case Call(callee, arguments, continuation):
            return f"call {callee}({', '.join(map(str, arguments))}) then {continuation}"
        case Return(values):
            return f"return {', '.join(map(str, values))}"
