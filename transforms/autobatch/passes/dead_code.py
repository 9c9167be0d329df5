"""What nobody needs is not computed, not written, not passed and not returned.

Demand is followed through equations, blocks and calls from what must happen: branches that are taken, effects, and the results of
the main function. A loop variable that serves only its own next value is not demanded by anything, nor is an argument that the
callee never reads, nor a result that no caller does.
"""

from dataclasses import replace
from typing import Any

from ...jax_compat import Var
from ..ir import Block, Branch, Call, Function, Program, Return, Slot
from ..liveness import successors
from .code import Code, close_code, map_blocks, open_code, prune, with_functions

__all__ = ["eliminate_dead_code"]


def eliminate_dead_code(program: Program) -> Program:
    """The program without dead equations, writes, reads, arguments and results; those of the main function stay."""
    before, after, wanted = _demand(program)
    functions = []
    for f in program.functions.values():
        keep_parameters, keep_results = _kept_parameters(program, f, before), _kept_results(program, f, wanted)
        blocks = [_sweep(program, block, after[block.name], before, wanted) for block in f.blocks.values()]
        parameters = tuple(p for p, keep in zip(f.parameters, keep_parameters, strict=True) if keep)
        results = tuple(r for r, keep in zip(f.results, keep_results, strict=True) if keep)
        functions.append(replace(map_blocks(f, blocks), parameters=parameters, results=results))
    return with_functions(program, functions)


def _sweep(program: Program, block: Block, live: set[Slot], before: dict[str, set[Slot]], wanted: dict[str, set[Slot]]) -> Block:
    exit = block.exit
    if isinstance(exit, Call):
        keep = _kept_parameters(program, program.functions[exit.callee], before)
        exit = replace(exit, arguments=tuple(a for a, k in zip(exit.arguments, keep, strict=True) if k))
    elif isinstance(exit, Return):
        keep = _kept_results(program, program.functions[block.function], wanted)
        exit = replace(exit, values=tuple(v for v, k in zip(exit.values, keep, strict=True) if k))
    old = open_code(block)
    new = prune(old, live)
    changed = len(new.equations) != len(old.equations) or new.outputs.keys() != old.outputs.keys() or len(new.inputs) != len(block.reads)
    return close_code(block, new, exit) if changed else replace(block, exit=exit)


def _kept_parameters(program: Program, function: Function, before: dict[str, set[Slot]]) -> list[bool]:
    return [function.name == program.main or p in before[function.entry] for p in function.parameters]


def _kept_results(program: Program, function: Function, wanted: dict[str, set[Slot]]) -> list[bool]:
    return [function.name == program.main or r in wanted[function.name] for r in function.results]


def _demand(program: Program) -> tuple[dict[str, set[Slot]], dict[str, set[Slot]], dict[str, set[Slot]]]:
    """Slots demanded before each block, after its writes, and results demanded of each function: the least fixpoint."""
    blocks = program.blocks
    needs = {name: _needs(open_code(block)) for name, block in blocks.items()}
    before: dict[str, set[Slot]] = {name: set() for name in blocks}
    after: dict[str, set[Slot]] = {name: set() for name in blocks}
    wanted = {f.name: set(f.results) if f.name == program.main else set[Slot]() for f in program.functions.values()}
    changed = True
    while changed:
        asked = sum(map(len, wanted.values()))
        changed = False
        for name, block in reversed(blocks.items()):
            live = _after(program, block, before, wanted)
            outputs, always = needs[name]
            slots = (live - outputs.keys()).union(always, *(outputs[s] for s in live & outputs.keys()))
            changed |= slots != before[name] or live != after[name]
            before[name], after[name] = slots, live
        changed |= asked != sum(map(len, wanted.values()))
    return before, after, wanted


def _after(program: Program, block: Block, before: dict[str, set[Slot]], wanted: dict[str, set[Slot]]) -> set[Slot]:
    """Slots demanded after the writes of a block; a call also hands on the demand for results."""
    live = set().union(*(before[name] for name in successors(block.exit)))
    match block.exit:
        case Branch(predicate, _, _):
            live.add(predicate)
        case Call(name, arguments, _):
            callee = program.functions[name]
            wanted[name].update(live.intersection(callee.results))
            live.difference_update(callee.results)
            entry = before[callee.entry]
            live.update(a for a, p in zip(arguments, callee.parameters, strict=True) if p in entry or name == program.main)
        case Return(values):
            function = program.functions[block.function]
            live.update(v for v, r in zip(values, function.results, strict=True) if r in wanted[function.name])
    return live


def _needs(code: Code) -> tuple[dict[Slot, set[Slot]], set[Slot]]:
    """For each written slot the slots that its value is computed from, and those that equations with effects read."""
    slots = list(code.inputs)
    bits: dict[Any, int] = {var: 1 << number for number, var in enumerate(code.inputs.values())}
    always = 0
    for eqn in code.equations:
        used = 0
        for atom in eqn.invars:
            if isinstance(atom, Var):
                used |= bits.get(atom, 0)
        bits.update(dict.fromkeys(eqn.outvars, used))
        if eqn.effects:
            always |= used

    def named(mask: int) -> set[Slot]:
        return {slot for number, slot in enumerate(slots) if mask >> number & 1}

    return {s: named(bits.get(a, 0) if isinstance(a, Var) else 0) for s, a in code.outputs.items()}, named(always)
