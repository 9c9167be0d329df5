"""Readers of a copy read the original, as long as both hold the same value.

At every point the slots of a function are divided into classes that hold the same value on every path to it: a forward analysis in
which paths that meet keep together only what both have together.
"""

from collections.abc import Hashable

from ...jax_compat import Literal, Var
from ..ir import Block, Call, Function, Program, Slot
from ..liveness import exit_reads, successors
from .code import Code, close_code, map_blocks, map_exit, open_code, substitute, with_functions

__all__ = ["propagate_copies"]

Values = dict[Slot, Hashable]  # slots with the same entry hold the same value; a slot that is not mentioned shares its with none


def propagate_copies(program: Program) -> Program:
    """The program in which originals are read in place of copies, in blocks and by exits.

    The copies themselves stay, unless the slot holds that very value already; `eliminate_dead_code` removes them.
    """
    return with_functions(program, (_propagate(program, function) for function in program.functions.values()))


def _propagate(program: Program, function: Function) -> Function:
    codes = {name: open_code(block) for name, block in function.blocks.items()}
    before = _available(program, function, codes)
    rank = _ranks(function, codes)
    return map_blocks(
        function, (_rewrite(block, codes[block.name], before.get(block.name, {}), rank) for block in function.blocks.values())
    )


def _rewrite(block: Block, code: Code, before: Values, rank: dict[Slot, tuple[bool, int]]) -> Block:
    after = _after_block(block, code, before)
    chosen, left = _originals(before, rank), _originals(after, rank)
    new = Code(code.consts, {}, code.equations, code.outputs)
    env: dict[Var, Var] = {}
    for slot, var in code.inputs.items():
        original = new.inputs.setdefault(chosen.get(slot, slot), var)
        if original is not var:
            env[var] = original
    if env:
        new.equations = [substitute(eqn, env) for eqn in code.equations]
        new.outputs = {s: env.get(a, a) if isinstance(a, Var) else a for s, a in code.outputs.items()}
    value = {var: before.get(slot, slot) for slot, var in new.inputs.items()}
    new.outputs = {s: a for s, a in new.outputs.items() if isinstance(a, Literal) or value.get(a) != before.get(s, s)}
    exit = map_exit(block.exit, slot=lambda s: left.get(s, s))
    if tuple(new.inputs) == block.reads and tuple(new.outputs) == block.writes and exit == block.exit:
        return block
    return close_code(block, new, exit)


def _originals(values: Values, rank: dict[Slot, tuple[bool, int]]) -> dict[Slot, Slot]:
    """For each slot the one to be read in its place: of its class that which is least often a copy, then the first."""
    best: dict[Hashable, Slot] = {}
    for slot, value in values.items():
        if value not in best or rank[slot] < rank[best[value]]:
            best[value] = slot
    return {slot: best[value] for slot, value in values.items() if best[value].type == slot.type}


def _ranks(function: Function, codes: dict[str, Code]) -> dict[Slot, tuple[bool, int]]:
    """Slots that are never written as a copy of another come first, then by the order in which they occur."""
    copied, order = set(), dict.fromkeys(function.parameters)
    for block in function.blocks.values():
        code = codes[block.name]
        order.update(dict.fromkeys((*code.inputs, *code.outputs, *exit_reads(block.exit))))
        read = set(code.inputs.values())
        copied |= {slot for slot, atom in code.outputs.items() if isinstance(atom, Var) and atom in read}
    return {slot: (slot in copied, number) for number, slot in enumerate(order)}


def _available(program: Program, function: Function, codes: dict[str, Code]) -> dict[str, Values]:
    """The classes at the entry of every block that is reached: the greatest fixpoint, first paths first."""
    before: dict[str, Values] = {function.entry: {}}
    waiting = [function.entry]
    while waiting:
        block = function.blocks[waiting.pop()]
        after = _after_block(block, codes[block.name], before[block.name])
        if isinstance(block.exit, Call):
            after = {s: v for s, v in after.items() if s not in program.functions[block.exit.callee].results}
        for target in successors(block.exit):
            met = _meet(before[target], after) if target in before else _canonical(after)
            if target not in before or met != before[target]:
                before[target] = met
                waiting.append(target)
    return before


def _after_block(block: Block, code: Code, before: Values) -> Values:
    value: dict[Var, Hashable] = {var: before.get(slot, slot) for slot, var in code.inputs.items()}
    after: dict[Slot, Hashable] = {slot: before.get(slot, slot) for slot in (*before, *code.inputs)}
    for slot, atom in code.outputs.items():
        after[slot] = (block.name, slot) if isinstance(atom, Literal) else value.get(atom, (block.name, id(atom)))
    return _canonical(after)


def _meet(one: Values, other: Values) -> Values:
    return _canonical({slot: (one[slot], other[slot]) for slot in one.keys() & other.keys()})


def _canonical(values: Values) -> Values:
    """Every class of at least two slots, called by its first in the order of names."""
    classes: dict[Hashable, list[Slot]] = {}
    for slot, value in sorted(values.items(), key=lambda item: item[0].name):
        classes.setdefault(value, []).append(slot)
    return {slot: members[0] for members in classes.values() if len(members) > 1 for slot in members}
