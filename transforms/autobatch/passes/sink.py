"""A copy that only one way of a branch needs is made on that way.

What a call returned is kept under another name while its stop flag is tested; the way that stops does not need it, the way that
calls again pushes it. Sunk into that block, the copy is a wire to the push: it needs no register, and the loop over returning calls
does not write it.
"""

from collections import Counter

from ...jax_compat import Literal
from ..ir import Branch, Function, Program, Slot
from ..liveness import analyse_function, successors
from .code import Code, close_code, map_blocks, open_code, then, with_functions

__all__ = ["sink"]


def sink(program: Program) -> Program:
    """The program with copies before a branch moved to the one block after it that needs them."""
    return with_functions(program, (_sink(program, function) for function in program.functions.values()))


def _sink(program: Program, function: Function) -> Function:
    live, _ = analyse_function(program, function)
    arrivals = Counter(target for block in function.blocks.values() for target in successors(block.exit))
    arrivals[function.entry] += 1
    blocks = dict(function.blocks)
    for name in function.blocks:
        block = blocks[name]
        if not isinstance(block.exit, Branch):
            continue
        code = open_code(block)
        source = {var: slot for slot, var in code.inputs.items() if slot not in code.outputs}
        for target, other in ((block.exit.then, block.exit.otherwise), (block.exit.otherwise, block.exit.then)):
            if arrivals[target] != 1 or target == other:
                continue
            moved: dict[Slot, Slot] = {}
            for slot, atom in code.outputs.items():
                needed = slot in live[target] and slot not in live[other] and slot != block.exit.predicate
                if needed and not isinstance(atom, Literal) and atom in source:
                    moved[slot] = source[atom]
            if not moved:
                continue
            first = Code({}, {}, [], {})
            for slot, original in moved.items():
                first.inputs.setdefault(original, code.inputs[original])
                first.outputs[slot] = first.inputs[original]
                del code.outputs[slot]
            blocks[target] = close_code(blocks[target], then(first, open_code(blocks[target])))
            blocks[name] = close_code(block, code)
    return map_blocks(function, blocks.values())
