"""Programs that close over arrays which are only known later: compiled once, on placeholders, then given the real ones.

A sampler closes over its data. The stages of the compiler run once, where the data are the inputs of a trace of which nothing but
the constants of the blocks is kept; those constants *are* the placeholders, so that a compiled program is carried over to a real
trace, or to real arrays, by exchanging them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax

from ..errors import ProgramError
from .ir import Block, Program

__all__ = ["Closed", "close"]


@dataclass(frozen=True, eq=False)
class Closed:
    """A compiled program over placeholders.

    Attributes:
        program: constants of its blocks that are placeholders belong to a trace that is over.
        places: id of a placeholder -> its number.
        tree: structure of what the program closes over.
        finish: the array results -> the program's result as a pytree.
    """

    program: Program
    places: dict[int, int]
    tree: Any
    finish: Callable[[Sequence[Any]], Any]

    def over(self, world: Any) -> Program:
        """The program over real arrays, or the tracers of a trace.

        Args:
            world: of the structure, shapes and dtypes that it was compiled for.
        """
        leaves, tree = jax.tree.flatten(world)
        if tree != self.tree:
            raise ProgramError(f"a program compiled over {self.tree} was given {tree}.")

        def real(block: Block) -> Block:
            consts = tuple(leaves[self.places[id(c)]] if id(c) in self.places else c for c in block.consts)
            return replace(block, consts=consts)

        functions = {
            name: replace(f, blocks={key: real(block) for key, block in f.blocks.items()}) for name, f in self.program.functions.items()
        }
        return replace(self.program, functions=functions)


def close(make: Callable[..., Any], world: Any, compile: Callable[[Any], tuple[Program, Callable[[Sequence[Any]], Any]]]) -> Closed:
    """Compiles a program over placeholders.

    Args:
        make: a pytree like `world` -> the program that closes over it.
        world: shapes and dtypes, a pytree with `shape` and `dtype` leaves.
        compile: the program of `make` -> its compiled form, and what puts its results together.

    Returns:
        The compiled program; it holds no value of `world`.
    """
    leaves, tree = jax.tree.flatten(world)
    kept: list[Any] = []

    def trace(*placeholders: Any) -> tuple[()]:
        program, finish = compile(make(jax.tree.unflatten(tree, placeholders)))
        kept.append((program, finish, placeholders))
        return ()

    jax.make_jaxpr(trace)(*(jax.ShapeDtypeStruct(v.shape, v.dtype) for v in leaves))
    program, finish, placeholders = kept[0]
    return Closed(program, {id(p): n for n, p in enumerate(placeholders)}, tree, finish)
