"""Blocks that no path from their function's entry reaches, and functions that the main one never calls, are left out."""

from ..ir import Function, Program
from ..liveness import reachable_functions, successors
from .code import map_blocks, with_functions

__all__ = ["reachable", "remove_unreachable"]


def remove_unreachable(program: Program) -> Program:
    """The program without blocks and functions that are never entered."""
    trimmed = with_functions(program, map(_trim, program.functions.values()))
    called = reachable_functions(trimmed, program.main)
    return with_functions(trimmed, (f for f in trimmed.functions.values() if f.name in called))


def reachable(function: Function) -> set[str]:
    """Names of the blocks on some path from the entry."""
    found, waiting = {function.entry}, [function.entry]
    while waiting:
        new = set(successors(function.blocks[waiting.pop()].exit)) - found
        found |= new
        waiting.extend(new)
    return found


def _trim(function: Function) -> Function:
    kept = reachable(function)
    return map_blocks(function, (block for block in function.blocks.values() if block.name in kept))
