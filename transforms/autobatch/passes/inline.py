"""Functions outside of any recursion are copied into their callers, if that does not copy what is expensive.

A function with one call site moves; one with several is copied only if it is small, so that the heavy computation of a program, its
gradient, stays at one site.
"""

from dataclasses import replace

from ..cost import equations, flops
from ..ir import Block, Call, Function, Jump, Program, Return, Slot
from ..liveness import analyse_function, exit_reads, recursion_groups
from .code import close_code, fresh_name, map_blocks, map_exit, open_code, value_of, with_functions
from .unreachable import remove_unreachable

__all__ = ["HEAVY_SHARE", "MAX_BLOCKS", "MAX_EQUATIONS", "MAX_FLOPS", "inline"]

MAX_BLOCKS, MAX_EQUATIONS = 4, 64  # of a function that is copied to several sites
MAX_FLOPS, HEAVY_SHARE = 8.0, 1 / 16  # its operations: at most that many, or that share of the heaviest block of the program


def inline(program: Program) -> Program:
    """The program with the functions that are called once, or small, in the place of their calls; callees first."""
    program = remove_unreachable(program)
    for group in recursion_groups(program):
        (name, *others) = group
        if name != program.main and not others and not _calls(program.functions[name], name):
            function = program.functions[name]
            sites = sum(len(_calls(f, name)) for f in program.functions.values())
            if (sites == 1 or _is_small(program, function)) and not _overwrites_results(program, function):
                program = _inline(program, function)
    return program


def _calls(function: Function, callee: str) -> list[Block]:
    return [block for block in function.blocks.values() if isinstance(block.exit, Call) and block.exit.callee == callee]


def _is_small(program: Program, function: Function) -> bool:
    """Whether copies of a function are cheap; what it calls stays where it is."""
    blocks = function.blocks.values()
    heaviest = max(flops(block.jaxpr) for block in program.blocks.values())
    work, size = sum(flops(block.jaxpr) for block in blocks), sum(equations(block.jaxpr) for block in blocks)
    return len(blocks) <= MAX_BLOCKS and size <= MAX_EQUATIONS and work <= max(MAX_FLOPS, HEAVY_SHARE * heaviest)


def _overwrites_results(program: Program, function: Function) -> bool:
    """Whether a caller still needs, after the call, an earlier result of something that the function calls too."""
    inner = [f for f in program.functions.values() if _calls(function, f.name)]
    overwritten = {slot for f in inner for slot in f.results}
    for caller in program.functions.values():
        sites = _calls(caller, function.name)
        if sites and overwritten:
            entry, _ = analyse_function(program, caller)
            if any(not overwritten.isdisjoint(entry[site.exit.continuation]) for site in sites if isinstance(site.exit, Call)):
                return True
    return False


def _inline(program: Program, function: Function) -> Program:
    """The program with `function` in the place of all its calls, and gone."""
    taken = set(program.blocks) | {slot.name for block in program.blocks.values() for slot in _mentioned(block)}
    taken |= {slot.name for f in program.functions.values() for slot in (*f.parameters, *f.results)}
    functions = []
    for caller in program.functions.values():
        if caller.name == function.name:
            continue
        sites = {block.name for block in _calls(caller, function.name)}
        results = {slot: replace(slot, name=fresh_name(f"{caller.name}>{slot.name}", taken)) for slot in function.results}
        blocks = []
        for block in caller.blocks.values() if sites else ():
            block = _rename(block, results)
            blocks.extend(_splice(program, block, function, results, taken) if block.name in sites else [block])
        functions.append(map_blocks(caller, blocks) if sites else caller)
    return with_functions(program, functions)


def _splice(program: Program, site: Block, function: Function, results: dict[Slot, Slot], taken: set[str]) -> list[Block]:
    """The block that called, which now assigns the parameters, and a copy of the callee's blocks."""
    assert isinstance(site.exit, Call)
    shared = {
        slot for f in program.functions.values() if _calls(function, f.name) for slot in f.results
    }  # what calls return keeps its name
    names = {name: fresh_name(f"{site.name}>{name}", taken) for name in function.blocks}
    own = {*function.parameters, *(s for b in function.blocks.values() for s in _mentioned(b))}
    slots = {slot: replace(slot, name=fresh_name(f"{site.name}>{slot.name}", taken)) for slot in sorted(own - shared, key=str)}
    code = open_code(site)
    values = [value_of(code, argument) for argument in site.exit.arguments]
    code.outputs.update(zip((slots[p] for p in function.parameters), values, strict=True))
    copies = [close_code(site, code, Jump(names[function.entry]))]
    for block in function.blocks.values():
        copy = replace(_rename(block, slots), name=names[block.name], function=site.function)
        if isinstance(copy.exit, Return):
            code = open_code(copy)
            values = [value_of(code, value) for value in copy.exit.values]
            code.outputs.update(zip((results[r] for r in function.results), values, strict=True))
            copies.append(close_code(copy, code, Jump(site.exit.continuation)))
        else:
            copies.append(replace(copy, exit=map_exit(copy.exit, block=names.__getitem__)))
    return copies


def _mentioned(block: Block) -> tuple[Slot, ...]:
    return (*block.reads, *block.writes, *exit_reads(block.exit))


def _rename(block: Block, slots: dict[Slot, Slot]) -> Block:
    """With other slots for those that `slots` names; different slots must stay different."""

    def new(slot: Slot) -> Slot:
        return slots.get(slot, slot)

    return replace(block, reads=tuple(map(new, block.reads)), writes=tuple(map(new, block.writes)), exit=map_exit(block.exit, slot=new))
