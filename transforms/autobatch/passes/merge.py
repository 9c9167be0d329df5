"""Blocks that always follow one another become one; blocks that do nothing are skipped.

A branch whose predicate is a literal, or whose two ways are the same, is a jump.
"""

from collections import Counter
from dataclasses import replace

import numpy as np

from ...jax_compat import Literal
from ..ir import Block, Branch, Function, Jump, Program
from ..liveness import successors
from .code import close_code, fold, map_blocks, map_exit, open_code, then, with_functions
from .unreachable import reachable

__all__ = ["merge"]


def merge(program: Program) -> Program:
    """The program with every block whose only predecessor jumps to it appended to that predecessor."""
    return with_functions(program, map(_merge, program.functions.values()))


def _merge(function: Function) -> Function:
    function = _skip_empty(map_blocks(function, map(_settle, function.blocks.values())))
    blocks = {name: block for name, block in function.blocks.items() if name in reachable(function)}
    predecessors = Counter(target for block in blocks.values() for target in successors(block.exit))
    predecessors[function.entry] += 1
    for name in list(blocks):
        if name not in blocks:
            continue
        block, code = blocks[name], None
        while isinstance(block.exit, Jump) and block.exit.target != name and predecessors[block.exit.target] == 1:
            follower = blocks.pop(block.exit.target)
            code = then(code or open_code(block), open_code(follower))
            block = replace(block, exit=follower.exit)
        if code is not None:
            blocks[name] = close_code(block, fold(code))
    return map_blocks(function, blocks.values())


def _settle(block: Block) -> Block:
    """With a jump for an exit if it always goes the same way."""
    if not isinstance(block.exit, Branch):
        return block
    if block.exit.then == block.exit.otherwise:
        return replace(block, exit=Jump(block.exit.then))
    atom = dict(zip(block.writes, block.jaxpr.outvars, strict=True)).get(block.exit.predicate)
    if isinstance(atom, Literal):
        return replace(block, exit=Jump(block.exit.then if np.asarray(atom.val) else block.exit.otherwise))
    return block


def _skip_empty(function: Function) -> Function:
    """Whoever goes on with a block that only jumps goes on with what follows it."""

    def final(name: str) -> str:
        seen = set()
        while name not in seen:
            seen.add(name)
            block = function.blocks[name]
            if block.jaxpr.eqns or block.writes or not isinstance(block.exit, Jump):
                break
            name = block.exit.target
        return name

    rerouted = (replace(block, exit=map_exit(block.exit, block=final)) for block in function.blocks.values())
    return replace(map_blocks(function, rerouted), entry=final(function.entry))
