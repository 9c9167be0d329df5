"""The front end as one call: a program and the types of its arguments in, blocks out."""

from dataclasses import dataclass
from typing import Any

import jax

from ..errors import ProgramError
from .assemble import assemble
from .ir import Program
from .lattice import Array, Known, Value, value_of
from .program import BatchProgram
from .types import Typing, infer

__all__ = ["Lowered", "lower"]


@dataclass(frozen=True, eq=False)
class Lowered:
    """A program in the compiler's own form.

    Attributes:
        program: its parameters are the leaves of the arguments, its results the leaves of what is returned. A parameter's slot has
            the type that the argument was given, or a wider one if that was weak: cast to it.
        in_tree: structure of the tuple of arguments.
        out_tree: structure of what is returned.
        typing: what was found about every variable; it prints.
    """

    program: Program
    in_tree: Any
    out_tree: Any
    typing: Typing


def lower(program: BatchProgram, *examples: Any) -> Lowered:
    """Compiles a program for arguments of given types.

    Closed-over values are read now. If they are traced values of a computation that is being traced (`lower` was called under
    `jax.jit`), they become constants of the blocks, and the result must not outlive that computation.

    Args:
        program: what to compile.
        examples: one per parameter, pytrees of arrays, numbers or `jax.ShapeDtypeStruct`s of one member; parameters that have a
            default may be left out at the end, and are then that value.

    Raises:
        ProgramError: the program cannot be compiled, or the arguments are not what it takes.
        Exception: what the user's code raises on abstract values, with a note that names the line.
    """
    names = list(program.signature.parameters)
    try:
        bound = program.signature.bind(*examples)
    except TypeError as error:
        raise ProgramError(f"program {program.name}{program.signature}: {error}.") from None
    given = [_abstract(program, names[i], x) for i, x in enumerate(examples)]
    bound.apply_defaults()
    defaults = [_known(bound.arguments[name]) for name in names[len(examples) :]]
    typing = infer(program, [*given, *defaults])
    result = typing.main.result
    assert result is not None
    return Lowered(assemble(typing), jax.tree.structure(examples), result.value.tree, typing)


def _abstract(program: BatchProgram, name: str, example: Any) -> Value:
    paths, tree = jax.tree_util.tree_flatten_with_path(example)
    leaves: list[Array] = []
    for path, leaf in paths:
        try:
            aval = leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jax.typeof(leaf)
        except TypeError:
            where = f" at {jax.tree_util.keystr(path)}" if path else ""
            found = f"argument `{name}`{where} is a {type(leaf).__name__}"
            raise ProgramError(f"program {program.name}: {found}; pass arrays, and let the program close over the rest.") from None
        if jax.dtypes.issubdtype(aval.dtype, jax.dtypes.extended):
            instead = "Pass its words, jax.random.key_data(key), or a luciole Stream."
            raise ProgramError(f"program {program.name}: argument `{name}` holds a typed random key, {aval.dtype}. {instead}")
        leaves.append(Array(tuple(aval.shape), jax.dtypes.canonicalize_dtype(aval.dtype), bool(getattr(aval, "weak_type", False))))
    return value_of(paths, tree, leaves)


def _known(value: Any) -> Value:
    paths, tree = jax.tree_util.tree_flatten_with_path(value)
    return value_of(paths, tree, [Known(leaf) for _, leaf in paths])
