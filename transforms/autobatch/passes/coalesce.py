"""Copies between slots that never hold different values while both are needed become one slot.

Two slots interfere if one is given a value where the other is live and holds another value. Slots of one function are merged when
a copy connects them and no members of the two classes interfere: a block's output that is an input or another output, an argument
of a call of the function itself and its parameter, a returned value and the function's result. A copy stays if a call that leaves
one slot alone overwrites the other: sharing would have the call save it.
"""

from collections.abc import Iterable

from ...jax_compat import Var
from ..ir import Block, Call, Function, Program, Return, Slot
from ..liveness import Liveness, analyse, analyse_function, assigned
from .code import Code, close_code, map_blocks, map_exit, open_code, substitute, with_functions

__all__ = ["coalesce"]

Interference = dict[Slot, set[Slot]]


def coalesce(program: Program) -> Program:
    """The program in which copies and their originals share a slot where they can; no two results ever do."""
    results = {slot for function in program.functions.values() for slot in function.results}
    found = analyse(program)
    return with_functions(program, (_coalesce(program, function, results, found) for function in program.functions.values()))


def _coalesce(program: Program, function: Function, results: set[Slot], found: Liveness) -> Function:
    calls = [(block.name, block.exit) for block in function.blocks.values() if isinstance(block.exit, Call)]
    hit = {name: found.clobbers[call.callee] | assigned(program, call) for name, call in calls}
    spared = {name: found.entry[call.continuation].difference(hit[name], program.functions[call.callee].results) for name, call in calls}
    codes = {name: open_code(block) for name, block in function.blocks.items()}
    apart = _interference(program, function, codes)
    classes = {slot: {slot} for slot in sorted(apart, key=str)}
    for one, other in _copies(function, codes):
        mine, theirs = classes[one], classes[other]
        both = mine | theirs
        if mine is theirs or one.type != other.type or len(both & results) > 1:
            continue
        if any(hit[name] & both and spared[name] & both for name in hit):
            continue
        if all(apart[slot].isdisjoint(theirs) for slot in mine):
            classes.update(dict.fromkeys(both, both))
    rank = {slot: (slot not in results, slot not in function.parameters, number) for number, slot in enumerate(classes)}
    new = {slot: min(members, key=rank.__getitem__) for slot, members in classes.items()}
    if all(slot == representative for slot, representative in new.items()):
        return function
    changed = map_blocks(function, (_rename(block, codes[block.name], new) for block in function.blocks.values()))
    return Function(function.name, tuple(new[p] for p in function.parameters), function.results, function.entry, changed.blocks)


def _copies(function: Function, codes: dict[str, Code]) -> Iterable[tuple[Slot, Slot]]:
    """Pairs of slots of which one is copied to the other."""
    for block in function.blocks.values():
        code = codes[block.name]
        slot_of = {var: slot for slot, var in code.inputs.items()}
        for slot, atom in code.outputs.items():
            if isinstance(atom, Var):
                if (same := slot_of.setdefault(atom, slot)) is not slot:
                    yield slot, same
        if isinstance(block.exit, Call) and block.exit.callee == function.name:
            yield from zip(function.parameters, block.exit.arguments, strict=True)
        if isinstance(block.exit, Return):
            yield from zip(function.results, block.exit.values, strict=True)


def _interference(program: Program, function: Function, codes: dict[str, Code]) -> Interference:
    """For every slot of the function's frame those that it must be kept apart from."""
    entry, exit = analyse_function(program, function)
    apart: Interference = {}

    def define(new: Iterable[Slot], live: Iterable[Slot], value: dict[Slot, object]) -> None:
        beside = {*live, *new}
        for slot in beside:
            apart.setdefault(slot, set())
        for slot in new:
            others = {o for o in beside if o != slot and (slot not in value or value[slot] is not value.get(o))}
            apart[slot] |= others
            for other in others:
                apart[other].add(slot)

    define({*function.parameters, *entry[function.entry]}, (), {})
    for slot in set(function.results).union(*entry.values(), *exit.values()):
        apart.setdefault(slot, set())
    for block in function.blocks.values():
        code = codes[block.name]
        define(code.outputs, exit[block.name], {**code.inputs, **code.outputs})
        if isinstance(block.exit, Call):
            define(program.functions[block.exit.callee].results, entry[block.exit.continuation], {})
    return apart


def _rename(block: Block, code: Code, new: dict[Slot, Slot]) -> Block:
    """With one slot for each class: reads of two members are one, and a write of what the slot already holds is none."""
    inputs: dict[Slot, Var] = {}
    env: dict[Var, Var] = {}
    for slot, var in code.inputs.items():
        env[var] = inputs.setdefault(new[slot], var)
    renamed = Code(code.consts, inputs, [substitute(eqn, env) for eqn in code.equations], {})
    for slot, atom in code.outputs.items():
        value = env.get(atom, atom) if isinstance(atom, Var) else atom
        if inputs.get(new[slot]) is not value:
            renamed.outputs[new[slot]] = value
    return close_code(block, renamed, map_exit(block.exit, slot=new.__getitem__))
