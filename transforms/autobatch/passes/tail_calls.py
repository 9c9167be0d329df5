"""A function that ends by calling itself jumps to its own beginning instead."""

from ..ir import Block, Call, Function, Jump, Program, Return
from .code import close_code, map_blocks, open_code, value_of, with_functions
from .unreachable import reachable

__all__ = ["tail_calls"]


def tail_calls(program: Program) -> Program:
    """The program in which no function calls itself only to return what that call returned.

    The frame is used again: the parameters are assigned, all at once; no other slot is read before it is written.
    """
    return with_functions(program, map(_loop, program.functions.values()))


def _loop(function: Function) -> Function:
    changed = map_blocks(function, (_jump(function, block) for block in function.blocks.values()))
    kept = reachable(changed)
    return map_blocks(changed, (block for block in changed.blocks.values() if block.name in kept))


def _jump(function: Function, block: Block) -> Block:
    call = block.exit
    if not isinstance(call, Call) or call.callee != function.name or not _returns_results(function, call.continuation):
        return block
    code = open_code(block)
    moved = [(p, a) for p, a in zip(function.parameters, call.arguments, strict=True) if p != a]
    code.outputs.update([(parameter, value_of(code, argument)) for parameter, argument in moved])
    return close_code(block, code, Jump(function.entry))


def _returns_results(function: Function, name: str) -> bool:
    """Whether the block and what it jumps to do nothing but hand back the function's own results."""
    seen: set[str] = set()
    while name not in seen:
        seen.add(name)
        block = function.blocks[name]
        if block.jaxpr.eqns or block.writes:
            return False
        if isinstance(block.exit, Return):
            return block.exit.values == function.results
        if not isinstance(block.exit, Jump):
            return False
        name = block.exit.target
    return False
