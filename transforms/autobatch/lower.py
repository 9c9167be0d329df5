"""Statements become a control-flow graph: source -> blocks without types."""

import ast
from typing import Any

from ..graph import reachable
from .expressions import Expressions
from .graph import CodeBlock, Fork, Goto, Graph, Leave, assigned_names, successors
from .operators import OPERATORS
from .program import BatchProgram
from .source import Source, read_source, resolve

__all__ = ["lower_function", "lower_program"]

_REFUSED: dict[str, tuple[str, str]] = {
    "Try": ("try", "Nothing can be raised for one member of a batch: return a value that tells what happened."),
    "TryStar": ("try", "Nothing can be raised for one member of a batch: return a value that tells what happened."),
    "Raise": ("raise", "Nothing can be raised for one member of a batch: return a value that tells what happened."),
    "Assert": ("assert", "Nothing can be raised for one member of a batch: check arguments before the program is called."),
    "With": ("with", "Call a helper function that contains it."),
    "FunctionDef": ("a nested function", "Define it outside, and make it a @program if it calls one."),
    "ClassDef": ("a nested class", "Define it outside."),
    "Import": ("import", "Import at the top of the file."),
    "ImportFrom": ("import", "Import at the top of the file."),
    "Global": ("global", "Pass the value as an argument and return its new value."),
    "Nonlocal": ("nonlocal", "Pass the value as an argument and return its new value."),
    "Delete": ("del", "Leave the variable: what is not read again is not kept."),
    "Match": ("match", "Write if and elif."),
    "AsyncFor": ("async for", "Programs are not asynchronous."),
    "AsyncWith": ("async with", "Programs are not asynchronous."),
    "AsyncFunctionDef": ("a nested function", "Programs are not asynchronous."),
    "TypeAlias": ("a type alias", "Define it outside."),
}
_LOOP_ELSE = "Set a flag before the break and test it after the loop."


def lower_program(program: BatchProgram) -> dict[BatchProgram, Graph]:
    """The control-flow graphs of a program and of all that it can call, itself first.

    Raises:
        ProgramError: the source of one is not found, or contains a construct that cannot be compiled.
    """
    graphs: dict[BatchProgram, Graph] = {}
    names: dict[str, int] = {}
    waiting = [program]
    while waiting:
        called = waiting.pop(0)
        if called not in graphs:
            count = names[called.name] = names.get(called.name, 0) + 1
            graphs[called] = lower_function(called, called.name if count == 1 else f"{called.name}'{count}")
            waiting += graphs[called].callees
    return graphs


def lower_function(program: BatchProgram, name: str) -> Graph:
    """The control-flow graph of a program's function.

    Args:
        program: whose.
        name: of the function in the compiled program; the blocks are named after it.

    Raises:
        ProgramError: its source is not found, or contains a construct that cannot be compiled.
    """
    source = read_source(program)
    lowering = _Statements(source, name)
    lowering.body(source.definition.body)
    lowering.end(Leave(ast.copy_location(ast.Constant(None), source.definition), source.definition))
    entry = name
    blocks = _simplify(lowering.blocks, entry)
    local = frozenset(lowering.local)
    for block in blocks.values():
        block.find_names(local)
    constants = {**OPERATORS, **lowering.constants}
    return Graph(program, source, tuple(program.signature.parameters), entry, blocks, local, constants)


class _Statements(Expressions):
    def __init__(self, source: Source, name: str) -> None:
        super().__init__(source, name)
        self._loops: list[tuple[str, str]] = []  # where `continue` and `break` go, innermost last

    def body(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            self.statement(statement)

    def statement(self, node: ast.stmt) -> None:
        match node:
            case ast.Pass() | ast.Expr(value=ast.Constant()) | ast.AnnAssign(value=None):
                pass
            case ast.Expr(value=value):
                self.emit(ast.Expr(self.lift(value)), node)
            case ast.Assign(targets=targets, value=value):
                self._assign(node, targets, value)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                self._assign(node, [target], value)
            case ast.AugAssign(target=target, op=op, value=value):
                self._check_target(target)
                read = ast.copy_location(ast.Name(getattr(target, "id", ""), ast.Load()), target)
                self._assign(node, [target], ast.copy_location(ast.BinOp(read, op, value), node))
            case ast.If():
                self._if(node)
            case ast.While():
                self._while(node)
            case ast.For():
                self._for(node)
            case ast.Break() | ast.Continue():
                again, after = self._loops[-1]
                self.end(Goto(after if isinstance(node, ast.Break) else again))
            case ast.Return(value=value):
                result = self.lift(value) if value else ast.copy_location(ast.Constant(None), node)
                self.end(Leave(result, node))
            case _:
                kind = type(node).__name__
                raise self.error(node, *_REFUSED.get(kind, (f"the statement {kind}", "Write it in a helper function.")))

    def _assign(self, node: ast.stmt, targets: list[ast.expr], value: ast.expr) -> None:
        for target in targets:
            self._check_target(target)
        match value, targets:
            case ast.Call(func=func), [ast.Name(id=name)] if callee := self.program_at(func):
                self.call(value, callee, name)
            case _:
                lifted = self.lift(value)
                self.emit(ast.Assign(targets, lifted), node)

    def _check_target(self, target: ast.expr) -> None:
        match target:
            case ast.Name():
                pass
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                for part in parts:
                    self._check_target(part)
            case ast.Starred(value=value):
                self._check_target(value)
            case ast.Subscript(value=value):
                name = ast.unparse(value)
                raise self.error(target, "assignment to an element", f"Values are never changed: write {name} = {name}.at[i].set(v).")
            case ast.Attribute(value=value, attr=attr):
                name = ast.unparse(value)
                instead = f"Values are never changed: write {name} = {name}._replace({attr}=v), or dataclasses.replace({name}, {attr}=v)."
                raise self.error(target, "assignment to an attribute", instead)

    def _if(self, node: ast.If) -> None:
        then, after = self.label("then", node.body[0]), self.label("after", node)
        otherwise = self.label("else", node.orelse[0]) if node.orelse else after
        self.fork(node.test, then, otherwise)
        self.begin(then, node.body[0])
        self.body(node.body)
        self.end(Goto(after))
        if node.orelse:
            self.begin(otherwise, node.orelse[0])
            self.body(node.orelse)
            self.end(Goto(after))
        self.begin(after, node)

    def _while(self, node: ast.While) -> None:
        if node.orelse:
            raise self.error(node, "while with else", _LOOP_ELSE)
        head, inside, after = self.label("while", node), self.label("do", node.body[0]), self.label("after", node)
        self.end(Goto(head))
        self.begin(head, node, widened=_assigned_in(node))
        self.fork(node.test, inside, after)
        self._loop(node, inside, head, after)
        self.end(Goto(head))
        self.begin(after, node)

    def _loop(self, node: ast.While | ast.For, inside: str, again: str, after: str, first: ast.stmt | None = None) -> None:
        """The body of a loop, as a block that begins with `first`."""
        self.begin(inside, node.body[0], widened=_assigned_in(node))
        if first:
            self.emit(first, node)
        self._loops.append((again, after))
        self.body(node.body)
        self._loops.pop()

    def _for(self, node: ast.For) -> None:
        """The counter is a variable of its own: the loop variable keeps the last value that it had in the body."""
        if node.orelse:
            raise self.error(node, "for with else", _LOOP_ELSE)
        if not isinstance(node.target, ast.Name):
            raise self.error(node.target, "this loop variable", "Write one name.")
        start, stop, step = self._range(node)
        again, inside, after = self.label("for", node), self.label("do", node.body[0]), self.label("after", node)
        latch = self.label("next", node)
        counter = self.temporary(node.target.id)
        self.assign(counter, start, node.iter)
        numbers = [_integer(x) for x in (start, stop, step)]
        runs = None not in numbers and numbers[2] != 0 and len(range(*[int(n) for n in numbers if n is not None])) > 0
        self.end(Goto(inside if runs else again))
        widened = _assigned_in(node) | {counter}
        self.begin(again, node, widened=widened)
        test = ast.Call(ast.Name("<inside>", ast.Load()), [ast.Name(counter, ast.Load()), stop, step], [])
        self.end(Fork(ast.fix_missing_locations(ast.copy_location(test, node.iter)), inside, after))

        target = node.target.id
        self._loop(node, inside, latch, after, ast.Assign([node.target], ast.Name(counter, ast.Load())))
        self.blocks[inside].widened = widened
        self.end(Goto(latch))
        self.begin(latch, node)
        own = any(name.id == target for s in node.body for n in ast.walk(s) for name in assigned_names(n))
        if own:  # the body assigns the loop variable, so that the counter itself must be kept
            target = counter
        self.assign(counter, ast.BinOp(ast.Name(target, ast.Load()), ast.Add(), step), node.iter)
        self.end(Goto(again))
        self.begin(after, node)

    def _range(self, node: ast.For) -> list[ast.expr]:
        """Start, stop and step, each evaluated once: a literal, or the name of a variable."""
        call = node.iter
        name = getattr(call, "func", call)
        known = isinstance(name, ast.Name) and name.id not in self.local and resolve(self.source.namespace, name) is range
        if not (isinstance(call, ast.Call) and known) or call.keywords or not 1 <= len(call.args) <= 3:
            instead = "Loop over range(...) and index with the loop variable, or call jax.lax.scan in a helper function."
            raise self.error(call, "a loop over this", instead)
        bounds = [self.lift(a) for a in call.args]
        if len(bounds) == 1:
            bounds.insert(0, ast.copy_location(ast.Constant(0), call))
        if len(bounds) == 2:
            bounds.append(ast.copy_location(ast.Constant(1), call))
        for i, bound in enumerate(bounds):
            weak = ast.fix_missing_locations(ast.copy_location(ast.Call(ast.Name("<weak>", ast.Load()), [bound], []), bound))
            if i == 0 and _integer(bound) is None:
                bounds[i] = weak  # the counter itself holds it
            elif _integer(bound) is None:
                variable = self.temporary(("start", "stop", "step")[i])
                self.assign(variable, weak, bound)
                bounds[i] = ast.copy_location(ast.Name(variable, ast.Load()), bound)
        return bounds


def _integer(node: ast.expr) -> int | None:
    """The value of a literal integer."""
    match node:
        case ast.Constant(value=int(value)):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(value))):
            return -value
    return None


def _assigned_in(loop: ast.While | ast.For) -> frozenset[str]:
    return frozenset(name.id for node in ast.walk(loop) for name in assigned_names(node))


def _simplify(blocks: dict[str, CodeBlock], entry: str) -> dict[str, CodeBlock]:
    """Blocks within reach and not empty, each joined with the one after it where nothing else leads there."""
    for block in blocks.values():
        block.exit = _past_empty(blocks, block.exit)
    blocks = _reached(blocks, entry)
    into = dict.fromkeys(blocks, 0)
    for block in blocks.values():
        for target in successors(block.exit):
            into[target] += 1
    into[entry] += 1
    for block in blocks.values():
        while isinstance(block.exit, Goto) and into[block.exit.target] == 1 and block.exit.target != block.name:
            after = blocks[block.exit.target]
            block.statements, block.exit = block.statements + after.statements, after.exit
            into[after.name] = 0
    return _reached(blocks, entry)


def _past_empty(blocks: dict[str, CodeBlock], exit: Any) -> Any:
    def end(name: str) -> str:
        seen = set()
        while name not in seen and not blocks[name].statements and not blocks[name].received and isinstance(blocks[name].exit, Goto):
            seen.add(name)
            name = blocks[name].exit.target
        return name

    match exit:
        case Goto(target):
            return Goto(end(target))
        case Fork(condition, then, otherwise):
            return Fork(condition, end(then), end(otherwise))
    return exit


def _reached(blocks: dict[str, CodeBlock], entry: str) -> dict[str, CodeBlock]:
    found = reachable({name: successors(block.exit) for name, block in blocks.items()}, [entry])
    return {name: block for name, block in blocks.items() if name in found}
