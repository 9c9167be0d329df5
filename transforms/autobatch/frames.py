"""Calls lowered: one set of registers for the whole program, return addresses, and what is pushed and popped where.

A program (`ir`) gives every call a fresh frame. Here every slot has one register per member, whatever the depth, and a *step* is a
block with what the calling convention adds to it:

* a call of a function that may come back to its caller's function pushes the slots that the continuation needs and the callee may
  overwrite, one row in one stack array per slot; the continuation pops them. The return address of the caller is such a slot. So
  the top of every stack is in a register, and the deepest calls, which are most calls, touch no stack;
* a call of any other function keeps such slots in second registers: no other frame of the caller can be open, so one row is enough;
* a function that is called in one place needs no return address;
* a slot that only ever holds one argument that all members share is that argument: no register, no stack.

`live` says which registers matter to a member that stands before a step, over all paths through calls and returns. Only those are
ever stored; the rest are wires inside a step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from .ir import Block, Branch, Call, Jump, Program, Return, Slot, trace_block
from .liveness import Liveness, successors

__all__ = ["HALT", "Frames", "Step", "lower_calls"]

HALT = -1
_ADDRESS = np.dtype(np.int32)


@dataclass(frozen=True, eq=False)
class Step:
    """A block and what the calling convention adds to it, in the order in which it happens.

    Attributes:
        number: what a program counter that stands before it holds.
        block: its code.
        pops: slots taken from the top row of the stacks of `group`, which is left.
        loads: (slot, second register): values kept over a call that cannot recurse.
        pushes: slots whose values after the code go to a new row of the stacks of `group`.
        moves: (slot, slot or address): assigned at once after the pushes; parameters, results, return addresses.
        targets: where it may go on; HALT among them.
        predicate: of a branch: targets are (then, otherwise).
        address: of a return: the slot that holds the number of the next step, one of the targets.
        group: name of the recursion group whose stacks it uses.
        popping, pushing: whether it leaves or makes a row (there may be no slot in it).
        callee: of a call.
    """

    number: int
    block: Block
    pops: tuple[Slot, ...]
    loads: tuple[tuple[Slot, Slot], ...]
    pushes: tuple[Slot, ...]
    moves: tuple[tuple[Slot, Slot | int], ...]
    targets: tuple[int, ...]
    predicate: Slot | None
    address: Slot | None
    group: str | None
    popping: bool
    pushing: bool
    callee: str | None

    @property
    def defines(self) -> frozenset[Slot]:
        """Slots that have another value after it than before."""
        return frozenset([*self.pops, *(s for s, _ in self.loads), *self.block.writes, *(s for s, _ in self.moves)])

    @property
    def uses(self) -> frozenset[Slot]:
        """Registers that it reads."""
        given = {*self.pops, *(s for s, _ in self.loads)}
        first = {s for s in self.block.reads if s not in given} | {kept for _, kept in self.loads}
        given |= set(self.block.writes)
        late = [*self.pushes, *(source for _, source in self.moves if isinstance(source, Slot))]
        late += [s for s in (self.predicate, self.address) if s is not None]
        return frozenset(first | {s for s in late if s not in given})

    def __str__(self) -> str:
        parts = [f"{self.number} {self.block.name}"]
        if self.popping:
            parts.append(f"pop {self.group}({', '.join(map(str, self.pops))})")
        parts += [f"{slot} = {kept}" for slot, kept in self.loads]
        parts.append(f"({', '.join(map(str, self.block.reads))}) -> ({', '.join(map(str, self.block.writes))})")
        if self.pushing:
            parts.append(f"push {self.group}({', '.join(map(str, self.pushes))})")
        parts += [f"{slot} = {source}" for slot, source in self.moves]
        choice = f"by {self.predicate or self.address}: " if self.predicate or self.address else ""
        return "; ".join(parts) + f"; to {choice}{', '.join(map(str, self.targets))}"


@dataclass(frozen=True, eq=False)
class Frames:
    """A program without calls.

    Attributes:
        program: what it was made from.
        steps: in source order; a step's number is its index.
        entry: number of the first step.
        groups: recursion groups by name (their functions, joined by commas) -> the slots that have stacks.
        shared: slot -> the shared argument that it always holds.
        live: number of a step, or HALT -> registers whose values matter there.
        addresses: return address slots of the functions that have one, by function.
    """

    program: Program
    steps: tuple[Step, ...]
    entry: int
    groups: dict[str, tuple[Slot, ...]]
    shared: dict[Slot, Slot]
    live: dict[int, frozenset[Slot]]
    addresses: dict[str, Slot]
    registers: tuple[Slot, ...] = field(init=False)

    def __post_init__(self) -> None:
        held = frozenset().union(*self.live.values()) - set(self.shared)
        object.__setattr__(self, "registers", tuple(sorted(held, key=str)))

    @property
    def parameters(self) -> tuple[Slot, ...]:
        """Of the main function."""
        return self.program.functions[self.program.main].parameters

    @property
    def results(self) -> tuple[Slot, ...]:
        """Of the main function."""
        return self.program.functions[self.program.main].results

    def __str__(self) -> str:
        lines = [str(step) for step in self.steps]
        lines += [f"stacks of {name}: {', '.join(map(str, slots)) or 'none'}" for name, slots in self.groups.items()]
        lines.append(f"registers: {', '.join(map(str, self.registers))}")
        if self.shared:
            lines.append("shared: " + ", ".join(f"{slot} = {root}" for slot, root in self.shared.items()))
        return "\n".join(lines)


def lower_calls(program: Program, liveness: Liveness, shared: Sequence[bool] = ()) -> Frames:
    """Lowers the calls of a program.

    Args:
        program: blocks and calls.
        liveness: of the program.
        shared: for every parameter of the main function, whether one value is passed for all members; none if empty.
    """
    program = _with_landings(program)
    groups = _recursion_groups(program, liveness)
    alias = _shared_slots(program, shared or [False] * len(program.functions[program.main].parameters))
    numbers = {name: number for number, name in enumerate(program.blocks)}
    returns = _return_addresses(program, numbers)
    addresses = {name: Slot(f"{name}.return", (), _ADDRESS) for name, where in returns.items() if len(where) > 1}
    before = {block.exit.continuation: block for block in program.blocks.values() if isinstance(block.exit, Call)}

    def kept(call: Block) -> tuple[list[Slot], bool]:
        """What a call keeps, and whether on stacks."""
        recursive = liveness.recursive[call.name]
        slots = [s for s in liveness.saved[call.name] if s not in alias]
        if recursive and call.function in addresses:
            slots.append(addresses[call.function])
        return sorted(set(slots), key=str), recursive

    def second(call: Block, slot: Slot) -> Slot:
        return Slot(f"{slot.name} kept by {call.name}", slot.shape, slot.dtype)

    steps = []
    for name, block in program.blocks.items():
        pops, loads, popping = [], [], False
        if name in before:
            slots, popping = kept(before[name])
            pops = slots if popping else []
            loads = [] if popping else [(s, second(before[name], s)) for s in slots]
        pushes, predicate, address, pushing, callee = [], None, None, False, None
        moves: list[tuple[Slot, Slot | int]] = []
        match block.exit:
            case Jump(target):
                targets = (numbers[target],)
            case Branch(predicate, then, otherwise):
                targets = (numbers[then], numbers[otherwise])
            case Call(callee, arguments, continuation):
                inner = program.functions[callee]
                slots, pushing = kept(block)
                pushes = slots if pushing else []
                moves += [] if pushing else [(second(block, s), s) for s in slots]
                moves += [(p, alias.get(a, a)) for p, a in zip(inner.parameters, arguments, strict=True) if p not in alias and p != a]
                if callee in addresses:
                    moves.append((addresses[callee], numbers[continuation]))
                targets = (numbers[inner.entry],)
            case Return(values):
                results = program.functions[block.function].results
                moves += [(r, alias.get(v, v)) for r, v in zip(results, values, strict=True) if r not in alias and r != v]
                targets = tuple(sorted(returns[block.function]))
                address = addresses.get(block.function)
        group = groups.get(block.function) if popping or pushing else None
        step = Step(
            numbers[name], block, tuple(pops), tuple(loads), tuple(pushes), tuple(moves), targets, predicate, address,
            group, popping, pushing, callee,
        )  # fmt: skip
        steps.append(step)
    stacks = {
        name: tuple(sorted({s for t in steps if t.group == name for s in t.pushes}, key=str)) for name in sorted(set(groups.values()))
    }
    results = program.functions[program.main].results
    live = _live(steps, frozenset(results), alias)
    entry = numbers[program.functions[program.main].entry]
    return Frames(program, tuple(steps), entry, dict(sorted(stacks.items())), alias, live, addresses)


def _with_landings(program: Program) -> Program:
    """A continuation pops what its call pushed, so it must have no other predecessor: where it has, an empty block goes between."""
    entries = {f.entry for f in program.functions.values()}
    arrivals: dict[str, int] = {}
    for block in program.blocks.values():
        for target in successors(block.exit):
            arrivals[target] = arrivals.get(target, 0) + 1
    functions = {}
    for name, function in program.functions.items():
        blocks = {}
        for block in function.blocks.values():
            blocks[block.name] = block
            if isinstance(block.exit, Call) and (arrivals[block.exit.continuation] > 1 or block.exit.continuation in entries):
                landing = f"{block.name}.landing"
                target = block.exit.continuation
                exit = Call(block.exit.callee, block.exit.arguments, landing)
                blocks[block.name] = Block(
                    block.name, name, block.line, block.jaxpr, block.consts, block.reads, block.writes, exit
                )  # fmt: skip
                blocks[landing] = trace_block(landing, name, block.line, list, [], [], Jump(target))
        functions[name] = type(function)(name, function.parameters, function.results, function.entry, blocks)
    return replace(program, functions=functions)


def _recursion_groups(program: Program, liveness: Liveness) -> dict[str, str]:
    """Function -> name of its group, for those that may call themselves, directly or through others."""
    calling = {block.function for block in program.blocks.values() if liveness.recursive.get(block.name)}
    return {name: ",".join(sorted(group)) for group in liveness.groups for name in group if name in calling}


def _return_addresses(program: Program, numbers: Mapping[str, int]) -> dict[str, set[int]]:
    """Function -> where its returns may lead."""
    found: dict[str, set[int]] = {name: set() for name in program.functions}
    found[program.main].add(HALT)
    for block in program.blocks.values():
        if isinstance(block.exit, Call):
            found[block.exit.callee].add(numbers[block.exit.continuation])
    return found


def _shared_slots(program: Program, shared: Sequence[bool]) -> dict[Slot, Slot]:
    """Slots that hold the same shared argument wherever they hold anything, with that argument.

    An optimistic fixpoint over copies: a slot starts without a value, takes the shared argument that is copied to it, and is given
    up once anything else is.
    """
    main = program.functions[program.main]
    value: dict[Slot, Slot | None] = {}
    changed = True

    def assign(slot: Slot, new: Slot | None) -> None:
        nonlocal changed
        if slot not in value or (value[slot] is not None and value[slot] != new):
            value[slot] = new if slot not in value else None
            changed = True

    def copy(slot: Slot, source: Slot) -> None:
        if source in value:
            assign(slot, value[source])

    for slot, one in zip(main.parameters, shared, strict=True):
        assign(slot, slot if one else None)
    while changed:
        changed = False
        for block in program.blocks.values():
            inputs = dict(zip(block.jaxpr.invars, block.reads, strict=True))
            for slot, out in zip(block.writes, block.jaxpr.outvars, strict=True):
                source = inputs.get(out) if not hasattr(out, "val") else None
                if source is None:
                    assign(slot, None)
                else:
                    copy(slot, source)
            if isinstance(block.exit, Call):
                for slot, source in zip(program.functions[block.exit.callee].parameters, block.exit.arguments, strict=True):
                    copy(slot, source)
            elif isinstance(block.exit, Return):
                for slot, source in zip(program.functions[block.function].results, block.exit.values, strict=True):
                    copy(slot, source)
    return {slot: root for slot, root in value.items() if root is not None}


def _live(steps: Sequence[Step], results: frozenset[Slot], shared: Mapping[Slot, Slot]) -> dict[int, frozenset[Slot]]:
    """The least fixpoint of live = uses + (live after - defines), over returns to every continuation."""
    ignored = frozenset(shared)
    live: dict[int, frozenset[Slot]] = {step.number: frozenset() for step in steps}
    live[HALT] = results - ignored
    changed = True
    while changed:
        changed = False
        for step in reversed(steps):
            after = frozenset().union(*(live[target] for target in step.targets))
            now = (step.uses | (after - step.defines)) - ignored
            if now != live[step.number]:
                live[step.number], changed = now, True
    return live
