"""Which slots are needed where: registers, and what a call must keep.

An executor keeps one register per slot and member for the whole program, not one per call. A call therefore pushes the registers
that the caller still needs and that the callee may overwrite, assigns the arguments to the parameters (all at once; where both are
the same slot nothing is written) and enters the callee; a return assigns its values to the results and pops. Everything here is
computed from the program as it stands, by fixpoints that begin with nothing live: a result of an earlier analysis must never be
reused after a pass, for a slot can sustain its own liveness.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ..graph import components, reachable
from .ir import Block, Branch, Call, Exit, Function, Jump, Program, Return, Slot

__all__ = ["Liveness", "analyse", "analyse_function", "assigned", "exit_reads", "reachable_functions", "recursion_groups", "successors"]


@dataclass(frozen=True, eq=False)
class Liveness:
    """What `analyse` finds out. Blocks and functions are given by name.

    Attributes:
        entry: of a block: the slots live where it begins.
        exit: of a block: the slots live after its writes and before its exit, those that the exit itself reads included. A write
            that is not among them is dead.
        registers: slots live across some edge between blocks, and the results of the main function. Any other slot is a wire.
        may_write: of a function: the slots that may be overwritten between its entry and its return, by itself or by what it calls.
            The assignment of parameters by the call that enters it is not counted; see `assigned`.
        clobbers: of a function: those of them that may hold another value when it has returned. A slot that its inner calls overwrite
            and pop again is not among them.
        saved: of a block that ends in a call: the slots whose registers must be pushed, after the block's writes and before the
            parameters are assigned, and popped before the continuation begins. Sorted by name.
        groups: the strongly connected functions of the call graph, callees before callers.
        recursive: of a block that ends in a call: whether the callee may call the block's function again before it returns. If it
            may not, the callee's return address needs a register and no stack.
    """

    entry: Mapping[str, frozenset[Slot]]
    exit: Mapping[str, frozenset[Slot]]
    registers: frozenset[Slot]
    may_write: Mapping[str, frozenset[Slot]]
    clobbers: Mapping[str, frozenset[Slot]]
    saved: Mapping[str, tuple[Slot, ...]]
    groups: tuple[frozenset[str], ...]
    recursive: Mapping[str, bool]


def analyse(program: Program) -> Liveness:
    """Liveness of all slots of `program`, and what its calls must save.

    Args:
        program: any program; blocks that are never reached are analysed too.

    Returns:
        A `Liveness` of this program, of no use for any other.
    """
    entry: dict[str, frozenset[Slot]] = {}
    exit: dict[str, frozenset[Slot]] = {}
    for function in program.functions.values():
        inside, after = analyse_function(program, function)
        entry.update(inside)
        exit.update(after)
    groups = recursion_groups(program)
    group_of = {name: number for number, group in enumerate(groups) for name in group}
    calls = [(block.name, block.function, block.exit) for block in program.blocks.values() if isinstance(block.exit, Call)]
    needed = {name: entry[call.continuation].difference(program.functions[call.callee].results) for name, _, call in calls}
    clobbers = _written(program, needed)
    saved = {name: needed[name] & (clobbers[call.callee] | assigned(program, call)) for name, _, call in calls}
    recursive = {name: group_of[call.callee] == group_of[caller] for name, caller, call in calls}
    registers = frozenset(program.functions[program.main].results).union(*entry.values())
    ordered = {name: tuple(sorted(slots, key=str)) for name, slots in saved.items()}
    return Liveness(entry, exit, registers, _written(program, {}), clobbers, ordered, groups, recursive)


def successors(exit: Exit) -> tuple[str, ...]:
    """Names of the blocks of the same function that may follow; that of a call is its continuation."""
    match exit:
        case Jump(target):
            return (target,)
        case Branch(_, then, otherwise):
            return (then, otherwise)
        case Call(_, _, continuation):
            return (continuation,)
        case Return():
            return ()


def exit_reads(exit: Exit) -> tuple[Slot, ...]:
    """The slots that an exit reads, after the writes of its block."""
    match exit:
        case Jump():
            return ()
        case Branch(predicate, _, _):
            return (predicate,)
        case Call(_, arguments, _):
            return arguments
        case Return(values):
            return values


def assigned(program: Program, call: Call) -> frozenset[Slot]:
    """The parameters that `call` overwrites: those whose argument is another slot."""
    parameters = program.functions[call.callee].parameters
    return frozenset(p for p, a in zip(parameters, call.arguments, strict=True) if p != a)


def analyse_function(program: Program, function: Function) -> tuple[dict[str, frozenset[Slot]], dict[str, frozenset[Slot]]]:
    """Live slots of the blocks of one function: at their entry, and after their writes.

    A call defines the results of its callee: they are not live before it on account of its continuation.
    """
    nothing: frozenset[Slot] = frozenset()
    entry, exit = dict.fromkeys(function.blocks, nothing), dict.fromkeys(function.blocks, nothing)
    predecessors: dict[str, list[Block]] = {name: [] for name in function.blocks}
    for block in function.blocks.values():
        for target in successors(block.exit):
            predecessors[target].append(block)
    waiting = dict.fromkeys(function.blocks.values())  # a set in order; the last is taken first
    while waiting:
        block, _ = waiting.popitem()
        after = nothing.union(*(entry[name] for name in successors(block.exit)))
        if isinstance(block.exit, Call):
            after = after.difference(program.functions[block.exit.callee].results)
        exit[block.name] = after.union(exit_reads(block.exit))
        before = exit[block.name].difference(block.writes).union(block.reads)
        if before != entry[block.name]:
            entry[block.name] = before
            waiting.update(dict.fromkeys(predecessors[block.name]))
    return entry, exit


def reachable_functions(program: Program, start: str) -> frozenset[str]:
    """Names of the functions that a call of `start` may enter, itself included."""
    return reachable(_call_graph(program), [start])


def recursion_groups(program: Program) -> tuple[frozenset[str], ...]:
    """The strongly connected functions of the call graph, callees before callers; most are alone in theirs."""
    graph = _call_graph(program)
    group_of = {name: frozenset(group) for group in components(graph, graph) for name in group}
    groups = dict.fromkeys(group_of[name] for name in program.functions)
    return tuple(sorted(groups, key=lambda group: len(reachable(graph, group))))


def _call_graph(program: Program) -> dict[str, set[str]]:
    return {
        name: {block.exit.callee for block in function.blocks.values() if isinstance(block.exit, Call)}
        for name, function in program.functions.items()
    }


def _written(program: Program, kept: Mapping[str, frozenset[Slot]]) -> dict[str, frozenset[Slot]]:
    """Slots that a function overwrites: the least fixpoint. Those in `kept`, by name of the calling block, survive that call."""
    nothing: frozenset[Slot] = frozenset()
    own = {f.name: nothing.union(f.results, *(block.writes for block in f.blocks.values())) for f in program.functions.values()}
    calls = [(block.name, block.function, block.exit) for block in program.blocks.values() if isinstance(block.exit, Call)]
    size = -1
    while size != (size := sum(map(len, own.values()))):
        for name, caller, call in calls:
            own[caller] |= (own[call.callee] | assigned(program, call)) - kept.get(name, nothing)
    return own
