"""Where a program's text comes from, and errors that point into it."""

import ast
import builtins
import inspect
import textwrap
from dataclasses import dataclass
from typing import Any

from ..errors import ProgramError
from .program import BatchProgram, program

__all__ = ["Place", "Source", "read_source", "resolve"]


@dataclass(frozen=True, eq=False)
class Place:
    """A construct in the source of a function.

    Attributes:
        source: the function's text.
        node: the construct.
    """

    source: "Source"
    node: ast.AST

    @property
    def line(self) -> int:
        return getattr(self.node, "lineno", self.source.definition.lineno)

    def __str__(self) -> str:
        return f"{self.source.file}:{self.line}: {self.source.text(self.line)}"

    def error(self, message: str) -> ProgramError:
        """The error to raise about this construct: file, line, message, the line of source, and a caret under the construct."""
        line = self.source.lines.get(self.line, "")
        start, end = (len(line.encode()[: self._column(name)].decode()) for name in ("col_offset", "end_col_offset"))
        if getattr(self.node, "end_lineno", self.line) != self.line:
            end = len(line.split("  #")[0].rstrip())
        shown = line.lstrip()
        indent = len(line) - len(shown)
        pointer = " " * (start - indent) + "^" * max(end - start, 1)
        head = f"{self.source.file}:{self.line}: in program {self.source.name}: {message}"
        return ProgramError(f"{head}\n    {shown.rstrip()}\n    {pointer}")

    def _column(self, name: str) -> int:
        return getattr(self.node, name, 0)


@dataclass(frozen=True, eq=False)
class Source:
    """The text of a function and what its global names mean.

    Attributes:
        name: of the function.
        file: as its tracebacks have it.
        lines: text by line number of the file.
        definition: its syntax tree, with the file's line numbers and columns.
        namespace: values of its globals and of the variables it closes over, as they were when the source was read.
    """

    name: str
    file: str
    lines: dict[int, str]
    definition: ast.FunctionDef
    namespace: dict[str, Any]

    def text(self, line: int) -> str:
        """A line without its indentation."""
        return self.lines.get(line, "").strip()

    def at(self, node: ast.AST) -> Place:
        """The place of a construct."""
        return Place(self, node)

    def error(self, node: ast.AST, message: str) -> ProgramError:
        """The error to raise about a construct."""
        return Place(self, node).error(message)


def read_source(read: BatchProgram) -> Source:
    """The source of a program.

    Raises:
        ProgramError: there is none (the function was typed at a prompt or made by `exec`), or other decorators stand beside @program.
    """
    function = read.function
    code = function.__code__
    try:
        lines, first = inspect.getsourcelines(function)
    except (OSError, TypeError) as error:
        raise ProgramError(
            f"{code.co_filename}:{code.co_firstlineno}: the source of program {read.name} cannot be found. "
            "The compiler reads it: write the program in a file or in a notebook's cell."
        ) from error
    text, offset = "".join(lines), first - 1
    if text[:1].isspace():
        text, offset = "if True:\n" + text, first - 2
    definition = _definition(read, text)
    ast.increment_lineno(definition, offset)
    source = Source(read.name, code.co_filename, dict(enumerate("".join(lines).splitlines(), first)), definition, _namespace(function))
    for decorator in definition.decorator_list:
        if resolve(source.namespace, decorator) is not program and _last_name(decorator) != program.__name__:
            raise source.error(decorator, "another decorator beside @program. Remove it: the compiler reads the body of the `def`.")
    return source


def _definition(read: BatchProgram, text: str) -> ast.FunctionDef:
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except SyntaxError:
        nodes = list(ast.walk(ast.parse(textwrap.dedent(text))))
    for node in nodes:
        if isinstance(node, ast.FunctionDef) and node.name == read.name:
            return node
    raise ProgramError(f"program {read.name}: no `def {read.name}` in its source; was the function renamed or made by another decorator?")


def _namespace(function: Any) -> dict[str, Any]:
    names = dict(function.__globals__)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            names[name] = cell.cell_contents
        except ValueError:  # not yet assigned: Python raises NameError where it is read, and so shall we
            names.pop(name, None)
    return names


def resolve(namespace: dict[str, Any], expression: ast.AST) -> Any:
    """What a global name, or a chain of attributes of one, stands for; None if that cannot be said without running code."""
    if isinstance(expression, ast.Name):
        return namespace.get(expression.id, getattr(builtins, expression.id, None))
    if isinstance(expression, ast.Attribute):
        owner = resolve(namespace, expression.value)
        if inspect.ismodule(owner):
            return getattr(owner, expression.attr, None)
        found = None if owner is None else inspect.getattr_static(owner, expression.attr, None)
        return found.__func__ if isinstance(found, staticmethod) else found
    return None


def _last_name(expression: ast.AST) -> str | None:
    return getattr(expression, "attr", getattr(expression, "id", None))
