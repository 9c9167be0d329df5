"""The control-flow graph of one function before it has types: blocks of statements, and which variables they read and assign.

Statements are syntax trees in which every call to a program, and every `and`, `or` and conditional expression that contains one,
has been replaced by a variable; `lower` makes them.
"""

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from .program import BatchProgram
from .source import Source

__all__ = ["CodeBlock", "Fork", "Goto", "Graph", "Invoke", "Leave", "assigned_names", "read_names", "successors"]


@dataclass(frozen=True)
class Goto:
    """Go on with block `target`."""

    target: str

    def __str__(self) -> str:
        return f"goto {self.target}"


@dataclass(frozen=True)
class Fork:
    """Go on with block `then` if the condition is true, else with `otherwise`."""

    condition: ast.expr
    then: str
    otherwise: str

    def __str__(self) -> str:
        return f"if {ast.unparse(self.condition)} goto {self.then} else {self.otherwise}"


@dataclass(frozen=True)
class Invoke:
    """Call a program with one argument for each of its parameters; go on with block `continuation`, which receives the result."""

    callee: BatchProgram
    arguments: tuple[ast.expr, ...]
    continuation: str
    node: ast.Call

    def __str__(self) -> str:
        return f"call {self.callee.name}({', '.join(map(ast.unparse, self.arguments))}) then {self.continuation}"


@dataclass(frozen=True)
class Leave:
    """Leave the function; `node` is the `return`, or the function itself if its end was reached without one."""

    value: ast.expr
    node: ast.AST

    def __str__(self) -> str:
        return f"return {ast.unparse(self.value)}"


CodeExit = Goto | Fork | Invoke | Leave


@dataclass(eq=False)
class CodeBlock:
    """Statements without branches or program calls, and what comes next.

    Attributes:
        name: unique in the graph.
        line: of the construct it stands for.
        statements: assignments, and expressions evaluated for an effect of JAX's.
        exit: what comes next.
        received: the variable that is assigned the result of the call before this block.
        widened: variables assigned in the loop that begins here; a Python number among them is made an array on entry.
        reads: variables whose value on entry is read here, by name, with the first place where that happens.
        assigned: variables assigned here, with the last place where that happens.
    """

    name: str
    line: int
    statements: list[ast.stmt] = field(default_factory=list)
    exit: Any = None
    received: str | None = None
    widened: frozenset[str] = frozenset()
    reads: dict[str, ast.AST] = field(default_factory=dict)
    assigned: dict[str, ast.AST] = field(default_factory=dict)

    def find_names(self, local: frozenset[str]) -> None:
        """Sets `reads` and `assigned`."""
        self.reads, self.assigned = {}, {}
        for node in [*self.statements, *self.exit_expressions]:
            for name in read_names(node):
                if name.id in local and name.id not in self.assigned and name.id != self.received:
                    self.reads.setdefault(name.id, name)
            for name in assigned_names(node):
                self.assigned[name.id] = name

    @property
    def exit_expressions(self) -> tuple[ast.expr, ...]:
        match self.exit:
            case Fork(condition):
                return (condition,)
            case Invoke(arguments=arguments):
                return arguments
            case Leave(value):
                return (value,)
        return ()

    def __str__(self) -> str:
        head = f"{self.name}:" + (f"  {self.received} = result" if self.received else "")
        return "\n    ".join([head, *map(ast.unparse, self.statements), str(self.exit)])


@dataclass(eq=False)
class Graph:
    """The control-flow graph of a function.

    Attributes:
        program: the function.
        source: its text.
        parameters: names, in order.
        entry: name of the first block; nothing jumps to it.
        blocks: by name, in source order.
        local: every variable of the function.
        constants: values that the blocks name and the source does not: defaults of parameters, helpers of the compiler.
    """

    program: BatchProgram
    source: Source
    parameters: tuple[str, ...]
    entry: str
    blocks: dict[str, CodeBlock]
    local: frozenset[str]
    constants: dict[str, Any]

    @cached_property
    def live(self) -> dict[str, frozenset[str]]:
        """For each block, the variables that may be read, there or later, before they are assigned again."""
        live = {name: frozenset(block.reads) for name, block in self.blocks.items()}
        changed = True
        while changed:
            changed = False
            for name, block in reversed(self.blocks.items()):
                later = frozenset().union(*(live[s] for s in successors(block.exit)))
                new = frozenset(block.reads) | (later - block.assigned.keys() - {block.received})
                changed |= new != live[name]
                live[name] = new
        return live

    @property
    def callees(self) -> list[BatchProgram]:
        """Programs that it calls."""
        return list(dict.fromkeys(b.exit.callee for b in self.blocks.values() if isinstance(b.exit, Invoke)))

    def __str__(self) -> str:
        head = f"{self.program.name}({', '.join(self.parameters)})"
        return "\n".join([head, *("  " + str(b).replace("\n", "\n  ") for b in self.blocks.values())])


def successors(exit: Any) -> tuple[str, ...]:
    """Names of the blocks that an exit may go on with."""
    match exit:
        case Goto(target):
            return (target,)
        case Fork(_, then, otherwise):
            return (then, otherwise)
        case Invoke(continuation=continuation):
            return (continuation,)
    return ()


def read_names(node: ast.AST, bound: frozenset[str] = frozenset()) -> Iterator[ast.Name]:
    """Names that a statement or expression reads, those bound by its own lambdas and comprehensions left out."""
    if isinstance(node, ast.Name):
        if isinstance(node.ctx, ast.Load) and node.id not in bound:
            yield node
        return
    outside: list[ast.AST] = []  # evaluated before the names of the inner scope exist
    if isinstance(node, ast.Lambda):
        outside = [*node.args.defaults, *(d for d in node.args.kw_defaults if d)]
    elif isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
        outside = [node.generators[0].iter]
    for child in outside:
        yield from read_names(child, bound)
    bound = bound | inner_names(node)
    for child in ast.iter_child_nodes(node):
        yield from read_names(child, bound)


def inner_names(node: ast.AST) -> frozenset[str]:
    """Names that a lambda or comprehension binds for itself."""
    if isinstance(node, ast.Lambda):
        return frozenset(a.arg for a in ast.walk(node.args) if isinstance(a, ast.arg))
    if isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
        return frozenset(n.id for g in node.generators for n in ast.walk(g.target) if isinstance(n, ast.Name))
    return frozenset()


def assigned_names(node: ast.AST) -> Iterable[ast.Name]:
    """Names that a statement assigns; those bound by comprehensions are not the function's."""
    targets: list[ast.expr] = []
    match node:
        case ast.Assign():
            targets = node.targets
        case ast.AnnAssign(target=target) | ast.AugAssign(target=target) | ast.For(target=target):
            targets = [target]
    return [n for target in targets for n in ast.walk(target) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
