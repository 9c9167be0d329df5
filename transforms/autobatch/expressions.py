"""Expressions: calls to programs are lifted out of them in evaluation order, and tests become jumps where a call hangs on them.

What is left of an expression holds no call to a program. It is evaluated after the calls that were lifted out of it; since blocks
have no side effects but JAX's own, nobody can tell. `and`, `or`, `not`, conditional expressions and chains of comparisons that
contain no call after their first operand become calls of `operators`; the others become branches.
"""

import ast
import copy
from typing import Any

from ..errors import ProgramError
from .graph import CodeBlock, Fork, Goto, Invoke, assigned_names, inner_names
from .operators import BUILTINS
from .program import BatchProgram
from .source import Source, resolve

__all__ = ["Expressions"]

_REFUSED = {
    ast.NamedExpr: ("an assignment expression", "Assign on a line of its own."),
    ast.Yield: ("yield", "Return the values."),
    ast.YieldFrom: ("yield", "Return the values."),
    ast.Await: ("await", "Programs are not asynchronous."),
}
_SCOPES = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


class Expressions:
    """Builds the blocks of a graph from expressions; `lower` adds the statements.

    Attributes:
        source: of the function.
        name: of the function in the compiled program.
        local: its variables.
        blocks: finished and begun, by name.
        constants: values named by the blocks only.
    """

    def __init__(self, source: Source, name: str) -> None:
        definition = source.definition
        parameters = [a.arg for a in ast.walk(definition.args) if isinstance(a, ast.arg)]
        names = [name.id for node in ast.walk(definition) for name in assigned_names(node)]
        self.source = source
        self.name = name
        self.local = {*parameters, *names}
        self.blocks: dict[str, CodeBlock] = {}
        self.constants: dict[str, Any] = {}
        self._current = CodeBlock("", definition.lineno)
        self._labels: dict[str, int] = {}
        self._bound: frozenset[str] = frozenset()
        self.begin(self.label("", definition))

    def error(self, node: ast.AST, found: str, instead: str) -> ProgramError:
        """The error that refuses a construct."""
        return self.source.error(node, f"{found} cannot be compiled. {instead}")

    def label(self, kind: str, node: ast.AST) -> str:
        """A new name for a block, made of the function, the kind of construct and its line."""
        line = getattr(node, "lineno", self._current.line)
        name = f"{self.name}.{kind}{line}" if kind else self.name
        count = self._labels[name] = self._labels.get(name, 0) + 1
        return name if count == 1 else f"{name}.{count}"

    def begin(self, name: str, node: ast.AST | None = None, received: str | None = None, widened: frozenset[str] = frozenset()) -> None:
        """What follows goes to the block `name`."""
        line = getattr(node, "lineno", self._current.line)
        self._current = self.blocks[name] = CodeBlock(name, line, received=received, widened=widened)

    def end(self, exit: Any) -> None:
        """Closes the current block, unless it has been closed: then what came after was out of reach."""
        if self._current.exit is None:
            self._current.exit = exit

    def emit(self, statement: ast.stmt, like: ast.AST) -> None:
        """Adds a statement to the current block."""
        if self._current.exit is None:
            self._current.statements.append(ast.fix_missing_locations(ast.copy_location(statement, like)))

    def assign(self, name: str, value: ast.expr, like: ast.AST | None = None) -> None:
        """Adds `name = value`."""
        target = ast.copy_location(ast.Name(name, ast.Store()), like or value)
        self.emit(ast.Assign([target], value), like or value)

    def temporary(self, stem: str) -> str:
        """A new variable, under a name that no source can use."""
        count = self._labels[stem + "#"] = self._labels.get(stem + "#", 0) + 1
        name = f"{stem}#{count}"
        self.local.add(name)
        return name

    def program_at(self, node: ast.AST) -> BatchProgram | None:
        """The program that an expression names."""
        root = node
        while isinstance(root, ast.Attribute):
            root = root.value
        if not isinstance(root, ast.Name) or root.id in self.local or root.id in self._bound:
            return None
        found = resolve(self.source.namespace, node)
        return found if isinstance(found, BatchProgram) else None

    def calls(self, node: ast.AST) -> bool:
        """Whether an expression contains a call to a program."""
        return any(isinstance(n, ast.Call) and self.program_at(n.func) is not None for n in ast.walk(node))

    def lift(self, node: ast.expr) -> ast.expr:
        """The expression with its calls to programs done before it.

        Raises:
            ProgramError: it contains a construct that cannot be compiled.
        """
        self._refuse(node)
        match node:
            case ast.Call(func=func) if callee := self.program_at(func):
                return self.call(node, callee, self.temporary(callee.name))
            case ast.Call(func=ast.Name(id=name)) if name not in self.local and name not in self._bound:
                return self._builtin(name, self._children(node))
            case ast.BoolOp() if any(map(self.calls, node.values[1:])):
                return self._branching_bool(node)
            case ast.BoolOp(op=op, values=values):
                return _helper("<and>" if isinstance(op, ast.And) else "<or>", node, *map(self.lift, values))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return _helper("<not>", node, self.lift_test(operand))
            case ast.IfExp() if self.calls(node.body) or self.calls(node.orelse):
                return self._branching_if(node)
            case ast.IfExp():
                return _helper("<if>", node, self.lift_test(node.test), self.lift(node.body), self.lift(node.orelse))
            case ast.Compare() if any(map(self.calls, node.comparators[1:])):
                return self._branching_bool(self._split_chain(node))
            case ast.Compare(ops=ops) if len(ops) > 1:
                operands = [self.lift(x) for x in (node.left, *node.comparators)]
                pairs = [x for op, c in zip(ops, operands[1:], strict=True) for x in (ast.Constant(type(op).__name__), c)]
                return _helper("<compare>", node, operands[0], *pairs)
        return self._children(node)

    def lift_test(self, node: ast.expr) -> ast.expr:
        """Like `lift`, for an expression of which only the truth matters."""
        if isinstance(node, ast.BoolOp) and not any(map(self.calls, node.values[1:])):
            return _helper("<all>" if isinstance(node.op, ast.And) else "<any>", node, *map(self.lift_test, node.values))
        return self.lift(node)

    def fork(self, test: ast.expr, then: str, otherwise: str) -> None:
        """Closes the current block with a jump to `then` if the test is true, else to `otherwise`."""
        match test:
            case ast.Constant(value=value):
                self.end(Goto(then if value else otherwise))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                self.fork(operand, otherwise, then)
            case ast.Compare() if any(map(self.calls, test.comparators[1:])):
                self.fork(self._split_chain(test), then, otherwise)
            case ast.BoolOp(op=op, values=values) if any(map(self.calls, values[1:])):
                *first, last = self._groups(op, values)
                for part in first:
                    more = self.label("and" if isinstance(op, ast.And) else "or", part)
                    self.fork(part, *((more, otherwise) if isinstance(op, ast.And) else (then, more)))
                    self.begin(more, part)
                self.fork(last, then, otherwise)
            case _:
                condition = self.lift_test(test)
                self.end(Fork(_helper("<truth>", test, condition), then, otherwise))

    def call(self, node: ast.Call, callee: BatchProgram, received: str) -> ast.Name:
        """Closes the current block with a call; the block after it begins with the result in the variable `received`."""
        for argument in [*node.args, *(k for k in node.keywords if k.arg is None)]:
            if isinstance(argument, (ast.Starred, ast.keyword)):
                raise self.error(argument, f"a starred argument in the call of program {callee.name}", "Write the arguments out.")
        arguments = [self.lift(a) for a in node.args]
        keywords = {str(k.arg): self.lift(k.value) for k in node.keywords}
        try:
            bound = callee.signature.bind(*arguments, **keywords).arguments
        except TypeError as error:
            raise self.source.error(node, f"the call does not fit {callee.name}{callee.signature}: {error}.") from None
        filled = [bound.get(p.name) or self._default(node, callee, p.name, p.default) for p in callee.signature.parameters.values()]
        after = self.label(f"{callee.name}@", node)
        self.end(Invoke(callee, tuple(filled), after, node))
        self.begin(after, node, received=received)
        return ast.copy_location(ast.Name(received, ast.Load()), node)

    def _default(self, node: ast.AST, callee: BatchProgram, parameter: str, value: Any) -> ast.expr:
        name = f"<default {parameter} of {callee.name}>"
        while name in self.constants and self.constants[name] is not value:
            name += "'"
        self.constants[name] = value
        return ast.copy_location(ast.Name(name, ast.Load()), node)

    def _refuse(self, node: ast.expr) -> None:
        if type(node) in _REFUSED:
            raise self.error(node, *_REFUSED[type(node)])
        if found := self.program_at(node):
            raise self.error(
                node, f"program {found.name} used as a value", "Call it by name; to choose among programs, write an if statement."
            )
        if isinstance(node, _SCOPES):
            outer, self._bound = self._bound, self._bound | inner_names(node)
            called = next(((n, p) for n in ast.walk(node) if (p := self.program_at(n))), None)
            self._bound = outer
            if called:
                kind = "a lambda" if isinstance(node, ast.Lambda) else "a comprehension"
                raise self.error(called[0], f"program {called[1].name} in {kind}", "Write a loop, or a @program that calls it.")

    def _children(self, node: ast.expr) -> Any:
        """A copy of a node whose expressions have been lifted, in the order in which Python evaluates them."""
        outer, self._bound = self._bound, self._bound | inner_names(node)

        def lifted(x: Any) -> Any:
            if isinstance(x, ast.expr):
                return self.lift(x)
            if isinstance(x, (ast.keyword, ast.comprehension, ast.arguments)):
                return self._children(x)  # pyright: ignore[reportArgumentType]
            return [lifted(y) for y in x] if isinstance(x, list) else x

        made = copy.copy(node)
        for name, value in ast.iter_fields(node):
            setattr(made, name, lifted(value))
        self._bound = outer
        return made

    def _builtin(self, name: str, call: ast.Call) -> ast.Call:
        """A call of a function of that name: one of `operators` if it is a built-in one that asks for the truth of traced values."""
        found = resolve(self.source.namespace, call.func)
        for builtin, replacement in BUILTINS.items():
            if found is builtin:
                self.constants[f"<{name}>"] = replacement
                call.func = ast.copy_location(ast.Name(f"<{name}>", ast.Load()), call.func)
        return call

    def _groups(self, op: ast.boolop, values: list[ast.expr]) -> list[ast.expr]:
        """The operands of `and` or `or` in groups that need no branch inside: each group but the first begins with a call."""
        groups = [[values[0]]]
        for value in values[1:]:
            if self.calls(value):
                groups.append([value])
            else:
                groups[-1].append(value)
        return [g[0] if len(g) == 1 else ast.copy_location(ast.BoolOp(op, g), g[0]) for g in groups]

    def _branching_bool(self, node: ast.BoolOp) -> ast.expr:
        kind = "and" if isinstance(node.op, ast.And) else "or"
        result, done = self.temporary(kind), self.label(f"{kind}_end", node)
        for i, part in enumerate(groups := self._groups(node.op, node.values)):
            self.assign(result, self.lift(part), part)
            if i + 1 < len(groups):
                more = self.label(kind, part)
                test = _helper("<truth>", part, ast.Name(result, ast.Load()))
                self.end(Fork(test, *((more, done) if kind == "and" else (done, more))))
                self.begin(more, part)
        self.end(Goto(done))
        self.begin(done, node)
        return ast.copy_location(ast.Name(result, ast.Load()), node)

    def _branching_if(self, node: ast.IfExp) -> ast.expr:
        then, otherwise, done = (self.label(k, n) for k, n in (("then", node.body), ("else", node.orelse), ("if_end", node)))
        result = self.temporary("if")
        self.fork(node.test, then, otherwise)
        for name, value in ((then, node.body), (otherwise, node.orelse)):
            self.begin(name, value)
            self.assign(result, self.lift(value), value)
            self.end(Goto(done))
        self.begin(done, node)
        return ast.copy_location(ast.Name(result, ast.Load()), node)

    def _split_chain(self, node: ast.Compare) -> ast.BoolOp:
        """a < b < c as (a < t and t < c), with b in t: for a chain with a call in a later operand."""
        left, middle = self.lift(node.left), self.lift(node.comparators[0])
        names = []
        for value in (left, middle):
            names.append(self.temporary("compare"))
            self.assign(names[-1], value)
        load = [ast.copy_location(ast.Name(name, ast.Load()), node) for name in names]
        first = ast.copy_location(ast.Compare(load[0], node.ops[:1], [load[1]]), node)
        rest = ast.copy_location(ast.Compare(load[1], node.ops[1:], node.comparators[1:]), node)
        return ast.copy_location(ast.BoolOp(ast.And(), [first, rest]), node)


def _helper(name: str, like: ast.AST, first: ast.expr, *rest: ast.expr) -> ast.expr:
    """A call of an operator; every operand after the first is passed as a function, to be evaluated at need."""
    nothing = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
    thunks = [
        x if isinstance(x, ast.Constant) and isinstance(x.value, str) and name == "<compare>" else ast.Lambda(nothing, x) for x in rest
    ]
    call = ast.Call(ast.Name(name, ast.Load()), [first, *thunks], [])
    return ast.fix_missing_locations(ast.copy_location(call, like))
