"""Blocks that no path from their function's entry reaches, and functions that the main one never calls, are left out."""

from ... import graph
from ..ir import Function, Program
from ..liveness import reachable_functions, successors
from .code import map_blocks, with_functions

__all__ = ["reachable", "remove_unreachable"]


def remove_unreachable(program: Program) -> Program:
    """The program without blocks and functions that are never entered."""
    trimmed = with_functions(program, map(_trim, program.functions.values()))
    called = reachable_functions(trimmed, program.main)
    return with_functions(trimmed, (f for f in trimmed.functions.values() if f.name in called))


def reachable(function: Function) -> frozenset[str]:
    """Names of the blocks on some path from the entry."""
    return graph.reachable({name: successors(block.exit) for name, block in function.blocks.items()}, [function.entry])


def _trim(function: Function) -> Function:
    kept = reachable(function)
    return map_blocks(function, (block for block in function.blocks.values() if block.name in kept))
