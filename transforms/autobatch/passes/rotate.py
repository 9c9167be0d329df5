"""The test at the head of a loop moves to its end: a tick that finishes the body also learns whether there is another round."""

from ... import graph
from ..cost import equations, flops, has_loop
from ..ir import Block, Branch, Function, Jump, Program
from ..liveness import successors
from .code import close_code, fold, map_blocks, open_code, then, with_functions
from .unreachable import reachable

__all__ = ["MAX_EQUATIONS", "MAX_FLOPS", "rotate_loops"]

MAX_EQUATIONS, MAX_FLOPS = 12, 256.0  # of a test that is worth a second copy: a comparison or two, not a step of the loop


def rotate_loops(program: Program) -> Program:
    """The program in which the cheap test at a loop's head is copied to the end of every block that jumps to it."""
    return with_functions(program, map(_rotate, program.functions.values()))


def _rotate(function: Function) -> Function:
    kept = reachable(function)
    blocks = {name: block for name, block in function.blocks.items() if name in kept}
    heads = {name: blocks[name] for name in _heads(function.entry, blocks) if _is_cheap(blocks[name])}
    for name, block in blocks.items():
        if isinstance(block.exit, Jump) and block.exit.target in heads:
            head = heads[block.exit.target]
            blocks[name] = close_code(block, fold(then(open_code(block), open_code(head))), head.exit)
    changed = map_blocks(function, blocks.values())
    kept = reachable(changed)
    return map_blocks(changed, (block for block in blocks.values() if block.name in kept))


def _is_cheap(block: Block) -> bool:
    return equations(block.jaxpr) <= MAX_EQUATIONS and flops(block.jaxpr) <= MAX_FLOPS and not has_loop(block.jaxpr)


def _heads(entry: str, blocks: dict[str, Block]) -> list[str]:
    """Blocks that dominate a predecessor of theirs and may leave the loop which that closes, but are not the whole of it."""
    above = dominators(entry, blocks)
    predecessors: dict[str, list[str]] = {name: [] for name in blocks}
    for block in blocks.values():
        for target in successors(block.exit):
            predecessors[target].append(block.name)
    heads = []
    for name, block in blocks.items():
        ends = [p for p in predecessors[name] if name in above[p]]
        if not isinstance(block.exit, Branch) or not ends or name in ends:
            continue
        loop = graph.reachable(predecessors | {name: []}, [name, *ends])
        if not loop.issuperset(successors(block.exit)):
            heads.append(name)
    return heads


def dominators(entry: str, blocks: dict[str, Block]) -> dict[str, set[str]]:
    """For each block those that every path from the entry to it passes, itself included."""
    above = {name: set(blocks) for name in blocks}
    above[entry] = {entry}
    changed = True
    while changed:
        changed = False
        for block in blocks.values():
            for target in successors(block.exit):
                passed = above[target] & (above[block.name] | {target})
                if passed != above[target] and target != entry:
                    above[target], changed = passed, True
    return above
