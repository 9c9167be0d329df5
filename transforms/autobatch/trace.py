"""One block of statements, evaluated by JAX on abstract values: its jaxpr, and what is known of the values it computes."""

import ast
import inspect
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import FunctionType, ModuleType
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from ..errors import ProgramError
from ..jax_compat import open_jaxpr
from .graph import CodeBlock, Graph, successors
from .lattice import Array, Known, Leaf, Value, value_of
from .program import tracing

__all__ = ["Traced", "TracedBlock", "block_inputs", "block_outputs", "executables", "trace"]


def block_inputs(block: CodeBlock) -> list[str]:
    """The variables whose values a block's code is given; the received one first."""
    return [*([block.received] if block.received else []), *block.reads]


def block_outputs(graph: Graph, block: CodeBlock) -> list[str]:
    """The variables that a block assigns and a later one may read."""
    assigned: list[str] = [*([block.received] if block.received else []), *block.assigned]
    later = {v for s in successors(block.exit) for v in graph.live[s]}
    return [v for v in dict.fromkeys(assigned) if v in later]


@dataclass(frozen=True)
class Traced:
    """A value that a block computed.

    Attributes:
        value: what is known of it.
        atoms: for each leaf, the number of the jaxpr's output that holds it; None where the leaf is known.
    """

    value: Value
    atoms: tuple[int | None, ...]


@dataclass(frozen=True, eq=False)
class TracedBlock:
    """A block's code.

    Attributes:
        inputs: what it was traced on, one value per name of `block_inputs`.
        jaxpr, consts: of the array leaves of the inputs, in order.
        exit: values of the exit's expressions.
        outputs: values by the names of `block_outputs`.
    """

    inputs: tuple[Value, ...]
    jaxpr: Any
    consts: tuple[Any, ...]
    exit: tuple[Traced, ...]
    outputs: dict[str, Traced]


def executables(graph: Graph) -> dict[str, Callable[..., Any]]:
    """A Python function for each block, from its inputs to (values of the exit's expressions, outputs).

    They are compiled under the file, the lines and the columns of the source, so that tracebacks show the user's own text.
    """
    definitions = []
    for block in graph.blocks.values():
        arguments = [ast.arg(name) for name in block_inputs(block)]
        outputs = [ast.Name(name, ast.Load()) for name in block_outputs(graph, block)]
        values = [ast.Tuple([*block.exit_expressions], ast.Load()), ast.Tuple([*outputs], ast.Load())]
        last = ast.Return(ast.Tuple([*values], ast.Load()))
        made = ast.parse("def block(): pass").body[0]
        assert isinstance(made, ast.FunctionDef)
        made.name, made.args.args, made.body = f"<{block.name}>", arguments, [*block.statements, last]
        anchor = block.exit_expressions[0] if block.exit_expressions else graph.source.definition
        ast.copy_location(last, anchor)
        made.lineno = made.end_lineno = block.line
        definitions.append(ast.fix_missing_locations(made))
    namespace = {**graph.source.namespace, **graph.constants}
    exec(compile(ast.Module(definitions, []), graph.source.file, "exec"), namespace)
    made = {name: namespace[f"<{name}>"] for name in graph.blocks}
    for function in made.values():
        function.__code__ = function.__code__.replace(co_name=graph.source.name)
    return made


def trace(graph: Graph, block: CodeBlock, function: Callable[..., Any], inputs: Sequence[Value]) -> TracedBlock:
    """Evaluates a block on abstract values.

    Args:
        graph, block: which block of which function.
        function: its executable.
        inputs: one value per name of `block_inputs`.

    Raises:
        ProgramError: a value that leaves the block cannot be kept, or a container was changed in place.
        Exception: whatever the user's code raises, with a note that names the program and the line.
    """
    names, names_out = block_inputs(block), block_outputs(graph, block)
    leaves = [leaf for value in inputs for _, leaf in value.arrays]
    structs = [jax.ShapeDtypeStruct(x.shape, x.dtype, weak_type=x.weak) for x in leaves]
    found: dict[str, Any] = {}

    def code(*arrays: Any) -> list[Any]:
        values = _unflatten(inputs, arrays)
        before = [jax.tree.flatten(v) for v in values]
        exits, outputs = function(*values)
        for name, value, (old, tree) in zip(names, values, before, strict=True):
            new, new_tree = jax.tree.flatten(value)
            if tree != new_tree or any(x is not y for x, y in zip(old, new, strict=True)):
                _refuse_change(graph, block, name)
        kept: list[Any] = []
        places = [*(getattr(block.exit, "node", e) for e in block.exit_expressions), *map(partial(_assignment, block), names_out)]
        words = ["value"] * len(exits) + [f"variable `{name}`" for name in names_out]
        found["values"] = [_keep(graph, p, w, v, kept) for p, w, v in zip(places, words, (*exits, *outputs), strict=True)]
        found["exits"] = len(exits)
        return kept

    try:
        with tracing(graph.program.name):
            closed = jax.make_jaxpr(code)(*structs)
    except Exception as error:
        _explain(error, graph, block)
        raise
    jaxpr, consts = open_jaxpr(closed)
    values = [_finish(paths, tree, marks, jaxpr) for paths, tree, marks in found["values"]]
    outputs = dict(zip(names_out, values[found["exits"] :], strict=True))
    return TracedBlock(tuple(inputs), jaxpr, tuple(consts), tuple(values[: found["exits"]]), outputs)


def _assignment(block: CodeBlock, name: str) -> ast.AST:
    return block.assigned.get(name, ast.Pass(lineno=block.line, col_offset=0))


def _unflatten(inputs: Sequence[Value], arrays: Sequence[Any]) -> list[Any]:
    source = iter(arrays)
    return [jax.tree.unflatten(v.tree, [next(source) if isinstance(x, Array) else x.value for x in v.leaves]) for v in inputs]


def _keep(graph: Graph, place: ast.AST, what: str, value: Any, kept: list[Any]) -> tuple[Any, Any, list[Any]]:
    """(paths, structure, for each leaf its number among `kept` or what is known of it)."""
    leaves, tree = jax.tree_util.tree_flatten_with_path(value)
    marks: list[Any] = []
    for path, leaf in leaves:
        if isinstance(leaf, (jax.Array, np.ndarray, np.generic)):
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended):
                instead = "Keep its words, jax.random.key_data(key), or a luciole Stream."
                raise graph.source.error(place, f"the {what} holds a typed random key, {leaf.dtype}. {instead}")
            marks.append(len(kept))
            kept.append(leaf)
        elif isinstance(leaf, (set, bytearray)):
            raise graph.source.error(place, f"the {what} holds a {type(leaf).__name__}, which can change. Use a tuple or an array.")
        elif _holds_tracer(leaf):
            kind = type(leaf).__name__
            name = f" at {jax.tree_util.keystr(path)}" if path else ""
            instead = "Use it in the statement that makes it, or make it a pytree (jax.tree_util.Partial, a registered dataclass)."
            raise graph.source.error(place, f"the {what}{name} holds a {kind} of traced values, which cannot be kept. {instead}")
        else:
            marks.append(Known(leaf))
    return leaves, tree, marks


def _finish(paths: Any, tree: Any, marks: list[Any], jaxpr: Any) -> Traced:
    def leaf(mark: Any) -> Leaf:
        if isinstance(mark, Known):
            return mark
        aval = jaxpr.outvars[mark].aval
        return Array(tuple(aval.shape), aval.dtype, bool(getattr(aval, "weak_type", False)))

    return Traced(value_of(paths, tree, [leaf(m) for m in marks]), tuple(None if isinstance(m, Known) else m for m in marks))


def _holds_tracer(value: Any) -> bool:
    """Whether an object that is no pytree keeps traced values of this block alive."""
    if isinstance(value, Tracer):
        return True
    parts: list[Any] = []
    if isinstance(value, FunctionType):
        parts = [*(c.cell_contents for c in value.__closure__ or ()), *(value.__defaults__ or ())]
    elif isinstance(value, partial):
        parts = [value.func, *value.args, *value.keywords.values()]
    elif inspect.ismethod(value):
        parts = [value.__self__]
    elif isinstance(value, (list, tuple, dict)):
        parts = jax.tree.leaves(value)
    elif hasattr(value, "__dict__") and not isinstance(value, (type, ModuleType)) and type(value).__module__ != "builtins":
        parts = [x for x in vars(value).values() if isinstance(x, (Tracer, list, tuple, dict))]
    return any(_holds_tracer(part) for part in parts if part is not value)


def _refuse_change(graph: Graph, block: CodeBlock, name: str) -> None:
    instead = f"Values are never changed: make a new one, as in {name} = [*{name}, v] or {name} = {{**{name}, key: v}}."
    raise graph.source.error(block.reads.get(name, graph.source.definition), f"`{name}` is changed in place. {instead}")


def _explain(error: Exception, graph: Graph, block: CodeBlock) -> None:
    """Adds a note that names the program and the innermost construct of it that the error came through.

    Raises:
        ProgramError: in the place of one that names no source.
    """
    node: ast.AST = ast.Pass(lineno=block.line, col_offset=0)
    frame = error.__traceback__
    while frame:
        code = frame.tb_frame.f_code
        if code.co_filename == graph.source.file and frame.tb_lineno in graph.source.lines:
            line, end, column, end_column = next(itertools.islice(code.co_positions(), frame.tb_lasti // 2, None))
            node = ast.Pass(lineno=line or frame.tb_lineno, end_lineno=end, col_offset=column or 0, end_col_offset=end_column or 0)
        frame = frame.tb_next
    if isinstance(error, ProgramError) and ": in program " not in str(error):
        raise graph.source.error(node, str(error)) from error
    if not (isinstance(error, ProgramError) and f": in program {graph.program.name}: " in str(error)):
        error.add_note(f"in program {graph.program.name}, {graph.source.at(node)}")
