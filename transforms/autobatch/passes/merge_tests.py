"""If-conversion: a branch whose ways are cheap and meet again computes both and selects.

A batch computes both anyway; what goes away are two blocks and the writes under their masks. A way that contains a `while` stays a
block of its own: on inputs that it was not meant for it might not end. So does one with effects, one that writes a part of an array,
where a select would copy the whole, and one as dear as the heavy block.
"""

from collections import Counter

from jax import lax

from ..cost import equations, flops, has_loop
from ..ir import Block, Branch, Call, Function, Jump, Program, Slot
from ..liveness import analyse_function, successors
from ..masked import in_place
from .code import append, close_code, emit, map_blocks, open_code, value_of, with_functions
from .unreachable import remove_unreachable

__all__ = ["HEAVY_SHARE", "MAX_EQUATIONS", "MAX_FLOPS", "merge_tests"]

MAX_EQUATIONS = 64  # of one way
MAX_FLOPS, HEAVY_SHARE = 256.0, 1 / 16  # its operations: at most that many, or that share of the heaviest block of the program


def merge_tests(program: Program) -> Program:
    """The program with cheap call-free diamonds and triangles turned into selects."""
    program = remove_unreachable(program)
    limit = max(MAX_FLOPS, HEAVY_SHARE * max(flops(block.jaxpr) for block in program.blocks.values()))
    return with_functions(program, (_convert_all(program, function, limit) for function in program.functions.values()))


def _convert_all(program: Program, function: Function, limit: float) -> Function:
    ready = {name for name, block in function.blocks.items() if _is_total(block, limit)}
    for name in reversed(function.blocks):
        if name in function.blocks:
            function = _convert(program, function, function.blocks[name], ready)
    return function


def _is_total(block: Block, limit: float) -> bool:
    """Whether the block may run where it was not meant to, and costs little."""
    pure = not any(eqn.effects for eqn in block.jaxpr.eqns) and not has_loop(block.jaxpr) and not in_place(block)
    return pure and equations(block.jaxpr) <= MAX_EQUATIONS and flops(block.jaxpr) <= limit


def _convert(program: Program, function: Function, block: Block, ready: set[str]) -> Function:
    """The function with the branch at the end of `block` turned into selects, if it is one that can be."""
    found = _ways(function, block, ready)
    if found is None or not isinstance(block.exit, Branch):
        return function
    ways, target = found
    live = analyse_function(program, function)[0][target]
    written = [set() if way is None else live.intersection(function.blocks[way].writes) for way in ways]
    reads = (slot for way in ways if way is not None for slot in function.blocks[way].reads)
    if not (written[0] ^ written[1]).union(reads) <= _assigned(program, function)[block.name].union(block.writes):
        return function  # a slot is assigned only on some paths, and whoever reads it knows which
    code = open_code(block)
    predicate = value_of(code, block.exit.predicate)
    yes, no = ({} if way is None else append(code, open_code(function.blocks[way])) for way in ways)
    slots = sorted(written[0] | written[1], key=str)
    pairs = [(yes[s] if s in yes else value_of(code, s), no[s] if s in no else value_of(code, s)) for s in slots]
    chosen = emit(code, _select, [predicate, *(y for y, _ in pairs), *(n for _, n in pairs)])
    code.outputs.update(zip(slots, chosen, strict=True))
    changed = {**function.blocks, block.name: close_code(block, code, Jump(target))}
    return map_blocks(function, (b for b in changed.values() if b.name not in ways))


def _select(predicate, *values):
    half = len(values) // 2
    return [lax.select_n(predicate, no, yes) for yes, no in zip(values[:half], values[half:], strict=True)]


def _ways(function: Function, block: Block, ready: set[str]) -> tuple[tuple[str | None, str | None], str] | None:
    """The blocks between a branch and the block where its ways meet; a way may be empty."""
    if not isinstance(block.exit, Branch) or block.exit.then == block.exit.otherwise:
        return None
    predecessors = Counter([function.entry, *(name for b in function.blocks.values() for name in successors(b.exit))])

    def target(name: str) -> str | None:
        way = function.blocks[name]
        alone = predecessors[name] == 1 and name in ready and name != block.name
        return way.exit.target if alone and isinstance(way.exit, Jump) else None

    yes, no = block.exit.then, block.exit.otherwise
    after_yes, after_no = target(yes), target(no)
    if after_yes is not None and after_yes == after_no:
        return (yes, no), after_yes
    if after_yes == no:
        return (yes, None), no
    if after_no == yes:
        return (None, no), yes
    return None


def _assigned(program: Program, function: Function) -> dict[str, set[Slot]]:
    """The slots that every path to a block has assigned: the greatest fixpoint."""
    before: dict[str, set[Slot]] = {function.entry: set(function.parameters)}
    waiting = [function.entry]
    while waiting:
        block = function.blocks[waiting.pop()]
        after = before[block.name].union(block.writes)
        if isinstance(block.exit, Call):
            after = after.union(program.functions[block.exit.callee].results)
        for name in successors(block.exit):
            met = before[name] & after if name in before else after
            if met != before.get(name):
                before[name] = met
                waiting.append(name)
    return before
