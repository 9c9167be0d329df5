"""What is known of every variable at the entry of every block: abstract evaluation to a fixpoint.

A block is evaluated as soon as all that it reads is known, and again when less is known of it than before. A call is evaluated past
as soon as some path of the callee returns; so the result of a recursive function comes from its base cases. A test whose value is
known makes its other side unreachable, and what is unreachable is not looked at.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import ProgramError
from ..graph import reachable
from .graph import CodeBlock, Fork, Goto, Graph, Invoke, Leave
from .lattice import Known, Mismatch, Value, join, widen
from .lower import lower_program
from .program import BatchProgram
from .source import Place
from .trace import Traced, TracedBlock, block_inputs, executables, trace

__all__ = ["Binding", "TypedBlock", "TypedFunction", "Typing", "infer"]


@dataclass(frozen=True)
class Binding:
    """A variable's value, and where it was given."""

    value: Value
    place: Place


@dataclass(frozen=True)
class Unassigned:
    """A variable that is not assigned on some path from the function's entry; `steps` says how its tests went."""

    steps: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Clash:
    """A variable that has two types; an error if it is read."""

    error: ProgramError


Variable = Binding | Unassigned | Clash


@dataclass(eq=False)
class TypedBlock:
    """What is known of a block.

    Attributes:
        code: its statements.
        entry: its live variables; None until the block is reached.
        traced: its jaxpr on them.
    """

    code: CodeBlock
    entry: dict[str, Variable] | None = None
    traced: TracedBlock | None = None

    @property
    def exits(self) -> tuple[str, ...]:
        """Names of the blocks of this function that can come next."""
        match self.code.exit:
            case Goto(target):
                return (target,)
            case Fork(_, then, otherwise):
                assert self.traced is not None
                known = self.traced.exit[0].value.leaves[0]
                return ((then,) if known.value else (otherwise,)) if isinstance(known, Known) else (then, otherwise)
            case Invoke(continuation=continuation):
                return (continuation,)
        return ()


@dataclass(eq=False)
class TypedFunction:
    """What is known of a function.

    Attributes:
        name: unique among the functions of a `Typing`.
        graph: its code.
        blocks: by name.
        result: the value it returns; None until some path returns.
        callers: (function, block) of the calls reached.
        recursive: whether a call of it can lead to another.
    """

    name: str
    graph: Graph
    blocks: dict[str, TypedBlock]
    result: Binding | None = None
    callers: list[tuple["TypedFunction", str]] = field(default_factory=list)
    recursive: bool = False

    def __str__(self) -> str:
        lines = [f"{self.name} -> {self.result.value if self.result else 'not reached'}"]
        for name, block in self.blocks.items():
            known = [f"{v}: {b.value}" for v, b in (block.entry or {}).items() if isinstance(b, Binding)]
            lines.append(f"  {name}: {', '.join(known)}" if block.entry is not None else f"  {name}: not reached")
        return "\n".join(lines)


@dataclass(eq=False)
class Typing:
    """What is known of a program.

    Attributes:
        functions: by program, the main one first; those never called are left out.
        main: the one that is run.
        traces: how often a block was traced.
    """

    functions: dict[BatchProgram, TypedFunction]
    main: TypedFunction
    traces: int = 0

    def __str__(self) -> str:
        return "\n\n".join(map(str, self.functions.values()))


def infer(program: BatchProgram, arguments: Sequence[Value]) -> Typing:
    """The types of everything that `program` can reach.

    Args:
        program: what is to be run.
        arguments: one value per parameter.

    Raises:
        ProgramError: a construct cannot be compiled; a variable has two types where paths meet, or may be read before it is assigned;
            no path of a function returns.
        Exception: what the user's code raises on abstract values.
    """
    inference = _Inference(program)
    main = inference.functions[program]
    inference.enter(main, [Binding(v, main.graph.source.at(main.graph.source.definition)) for v in arguments])
    inference.run()
    called = {p: f for p, f in inference.functions.items() if f.blocks[f.graph.entry].entry is not None}
    endless = [f for f in called.values() if f.result is None]
    if endless:
        others = f" (it waits for {', '.join(f.name for f in endless[1:])})" if endless[1:] else ""
        source = endless[0].graph.source
        raise source.error(
            source.definition, f"no path of {endless[0].name} returns{others}. Give it a case that calls no program that waits for it."
        )
    _check_result(main)
    return Typing(called, main, inference.traces)


class _Inference:
    def __init__(self, program: BatchProgram) -> None:
        graphs = lower_program(program)
        self.functions: dict[BatchProgram, TypedFunction] = {}
        calls = {called: graph.callees for called, graph in graphs.items()}
        for called, graph in graphs.items():
            blocks = {n: TypedBlock(b) for n, b in graph.blocks.items()}
            self.functions[called] = TypedFunction(graph.entry, graph, blocks, recursive=called in reachable(calls, calls[called]))
        self.main = self.functions[program]
        self.traces = 0
        self._code: dict[str, dict[str, Callable[..., Any]]] = {}
        self._waiting: list[tuple[bool, int, int, str]] = []
        self._numbers = {f.name: i for i, f in enumerate(self.functions.values())}

    def push(self, function: TypedFunction, name: str) -> None:
        """What follows a call waits until all else is done: the callee's base cases are known by then."""
        number = list(function.blocks).index(name)
        item = (function.blocks[name].code.received is not None, self._numbers[function.name], number, name)
        if item not in self._waiting:
            heapq.heappush(self._waiting, item)

    def run(self) -> None:
        functions = list(self.functions.values())
        while self._waiting:
            _, number, _, name = heapq.heappop(self._waiting)
            self.visit(functions[number], functions[number].blocks[name])

    def enter(self, function: TypedFunction, arguments: Sequence[Binding]) -> None:
        """Joins the arguments of a call to what is known of the parameters."""
        block = function.blocks[function.graph.entry]
        given: dict[str, Variable] = dict(zip(function.graph.parameters, arguments, strict=True))
        if block.entry is None:
            block.entry = given
            self.push(function, block.code.name)
            return
        joined = {v: _join(f"parameter `{v}` of {function.name}", block.entry[v], given[v]) for v in given}
        for variable in joined.values():
            if isinstance(variable, Clash):
                raise variable.error
        self._update(function, block, joined)

    def visit(self, function: TypedFunction, block: TypedBlock) -> None:
        """Evaluates a block, unless it has been evaluated on the same values, and passes on what it gives."""
        inputs = self._inputs(function, block)
        if block.traced is None or list(block.traced.inputs) != inputs:
            if function.name not in self._code:
                self._code[function.name] = executables(function.graph)
            code = self._code[function.name]
            block.traced = trace(function.graph, block.code, code[block.code.name], inputs)
            self.traces += 1
        match block.code.exit:
            case Invoke(callee, _, continuation, node):
                called = self.functions[callee]
                self.enter(called, [Binding(t.value, function.graph.source.at(node)) for t in block.traced.exit])
                if (function, block.code.name) not in called.callers:
                    called.callers.append((function, block.code.name))
                if called.result is not None:
                    self.flow(function, block, continuation, "")
                    self.push(function, continuation)
            case Leave(_, node):
                self._leave(function, block.traced.exit[0], function.graph.source.at(node))
            case _:
                for target in block.exits:
                    side = {True: "taken", False: "not taken"}[target == block.code.exit.then] if isinstance(block.code.exit, Fork) else ""
                    self.flow(function, block, target, side)

    def flow(self, function: TypedFunction, block: TypedBlock, name: str, side: str) -> None:
        """Joins the variables at the end of a block to what is known at the entry of a block that comes next."""
        assert block.traced is not None and block.entry is not None
        target, given = function.blocks[name], {}
        for v in function.graph.live[name] - {target.code.received}:
            if v in block.traced.outputs:
                node = block.code.assigned.get(v) or _call_before(function, block).node
                given[v] = Binding(block.traced.outputs[v].value, function.graph.source.at(node))
            else:
                before = block.entry.get(v, Unassigned(()))
                is_missing = isinstance(before, Unassigned)
                given[v] = Unassigned(before.steps + _step(function, block, side)) if is_missing else before
            if v in target.code.widened and isinstance(given[v], Binding):
                given[v] = Binding(widen(given[v].value), given[v].place)
        if target.entry is None:
            target.entry = given
            self.push(function, name)
        else:
            self._update(function, target, {v: _join(_shown(v), target.entry[v], given[v]) for v in given})

    def _update(self, function: TypedFunction, block: TypedBlock, joined: dict[str, Variable]) -> None:
        assert block.entry is not None
        if any(_differ(joined[v], block.entry[v]) for v in joined):
            block.entry = joined
            self.push(function, block.code.name)

    def _inputs(self, function: TypedFunction, block: TypedBlock) -> list[Value]:
        values = []
        for name in block_inputs(block.code):
            if name == block.code.received:
                known = self.functions[_call_before(function, block).callee].result
            else:
                known = (block.entry or {}).get(name, Unassigned(()))
            match known:
                case Binding(value):
                    values.append(value)
                case Clash(error):
                    raise error
                case Unassigned(steps):
                    path = ", then ".join(steps) or f"from line {function.graph.source.definition.lineno}"
                    found = f"`{name}` may be read here before it is assigned: it is not on the path {path}. Assign it before."
                    raise function.graph.source.error(block.code.reads[name], found)
        return values

    def _leave(self, function: TypedFunction, returned: Traced, place: Place) -> None:
        value = widen(returned.value) if function.recursive or function is self.main else returned.value
        if function.result is None:
            function.result = Binding(value, place)
        else:
            if value.tree != function.result.value.tree:
                _check_end(function, place, function.result.place)
            joined = _join(f"the result of {function.name}", function.result, Binding(value, place))
            if isinstance(joined, Clash):
                raise joined.error
            if not _differ(joined, function.result):
                return
            assert isinstance(joined, Binding)
            function.result = joined
        for caller, name in function.callers:
            self.push(caller, name)


def _shown(variable: str) -> str:
    """A variable as messages name it; the compiler's own stand for expressions."""
    return "this expression" if "#" in variable else f"`{variable}`"


def _join(what: str, old: Variable, new: Variable) -> Variable:
    if not (isinstance(old, Binding) and isinstance(new, Binding)):
        return next(x for x in (old, new) if not isinstance(x, Binding))
    try:
        value = join(old.value, new.value)
    except Mismatch as mismatch:
        lines = [f"    {b.value}  from {b.place}" for b in (old, new)]
        message = f"{what} has two types where paths meet: {mismatch}.\n" + "\n".join(lines)
        return Clash(new.place.error(message + "\n    Give it one type on every path, or use two names."))
    return old if value == old.value else Binding(value, new.place)


def _differ(a: Variable, b: Variable) -> bool:
    if isinstance(a, Binding) and isinstance(b, Binding):
        return a.value != b.value
    return type(a) is not type(b)


def _call_before(function: TypedFunction, block: TypedBlock) -> Invoke:
    """The call whose result a block receives."""
    calls = (b.exit for b in function.graph.blocks.values() if isinstance(b.exit, Invoke))
    return next(c for c in calls if c.continuation == block.code.name)


def _step(function: TypedFunction, block: TypedBlock, side: str) -> tuple[str, ...]:
    """How a path goes on at the end of a block, in words; nothing if there is no choice."""
    if not side or not isinstance(block.code.exit, Fork):
        return ()
    line = getattr(block.code.exit.condition, "lineno", block.code.line)
    return (f"line {line} (`{function.graph.source.text(line)}`) {side}",)


def _check_end(function: TypedFunction, *places: Place) -> None:
    """Raises if a function that returns values can also reach its end."""
    source = function.graph.source
    ends = [p.node is source.definition for p in places]
    if any(ends):
        value = places[ends.index(False)]
        found = f"{function.name} returns a value here, and reaches its end without `return` on another path. End it with a return."
        raise value.error(found)


def _check_result(main: TypedFunction) -> None:
    assert main.result is not None
    for leaf, path in zip(main.result.value.leaves, main.result.value.paths, strict=True):
        if isinstance(leaf, Known):
            where = f" at {path}" if path else ""
            raise main.result.place.error(f"{main.name} returns {leaf}{where}; the main program returns arrays and numbers only.")
