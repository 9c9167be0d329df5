"""Typed blocks become the compiler's own form: slots for array leaves, and in each block only the equations that something needs.

A leaf is written where its value changes or is given the type that it has after two paths meet; where it only passes through,
nothing is said of it. Parameters and results that nobody reads are left out, but for those of the main function.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.core import eval_jaxpr

from ..equations import prune_jaxpr
from ..errors import ProgramError
from ..jax_compat import Var, open_jaxpr
from .graph import Fork, Invoke, Leave
from .ir import Block, Branch, Call, Exit, Function, Jump, Program, Return, Slot
from .lattice import Array, Value
from .trace import Traced, block_inputs
from .types import Binding, TypedBlock, TypedFunction, Typing

__all__ = ["assemble"]


@dataclass(frozen=True, eq=False)
class _Given:
    """What a slot is given in a block: an output of the block's jaxpr by number, another slot, or a known number."""

    output: int | None = None
    slot: Slot | None = None
    known: Any = None


@dataclass(frozen=True, eq=False)
class _Draft:
    """A block of which it is not yet known what is needed.

    Attributes:
        typed: its code and types.
        function: the name of its function.
        reads: slots of the jaxpr's inputs.
        gives: what each slot that a later block may read is given here; slots left out pass through.
        wires: the slots that the exit reads, and what they are given.
        hangs_on: for each output of the jaxpr, the inputs that it needs; the last entry is for equations with effects.
        after: names of the blocks of this function that come next.
        callee: the name of the function that the exit calls.
    """

    typed: TypedBlock
    function: str
    reads: list[Slot]
    gives: dict[Slot, _Given]
    wires: list[tuple[Slot, _Given]]
    hangs_on: list[frozenset[int]]
    after: tuple[str, ...]
    callee: str | None

    def needs(self, given: _Given) -> set[Slot]:
        """The slots that must be read to give this."""
        if given.slot is not None:
            return {given.slot}
        return set() if given.output is None else {self.reads[i] for i in self.hangs_on[given.output]}


def assemble(typing: Typing) -> Program:
    """The program of a typing.

    Raises:
        ProgramError: a known number does not fit the type that it takes where paths meet.
    """
    return _Assembly(typing).program()


class _Assembly:
    def __init__(self, typing: Typing) -> None:
        self.typing = typing
        self.functions = {f.name: f for f in typing.functions.values()}
        self.main = typing.main.name
        self._made: dict[Any, Slot] = {}
        self._names: set[str] = set()
        self.parameters = {f.name: self._parameters(f) for f in self.functions.values()}
        self.results = {f.name: self._value(f.name, "()", f.result.value) for f in self.functions.values() if f.result}
        self.drafts = {d.typed.code.name: d for f in self.functions.values() for d in self._drafts(f)}
        self.live = self._liveness()
        self.read = {slot for slots in self.live.values() for slot in slots}

    def program(self) -> Program:
        functions = {}
        for name, f in self.functions.items():
            blocks = {d.typed.code.name: self._block(d) for d in self.drafts.values() if d.function == name}
            parameters, results = (tuple(s for s in g[name] if self._kept(name, s)) for g in (self.parameters, self.results))
            functions[name] = Function(name, parameters, results, f.graph.entry, blocks)
        marked = [name for name, f in self.functions.items() if f.graph.program.heavy]
        return Program(functions, self.main, marked[0] if marked else None)

    def _kept(self, function: str, slot: Slot) -> bool:
        """Whether a parameter or result of a function is one in the program."""
        if function == self.main:
            return True
        return slot in (self.live[self.functions[function].graph.entry] if slot in self.parameters[function] else self.read)

    def _slot(self, function: str, variable: str, path: str, leaf: Array) -> Slot:
        """The slot of a leaf; a variable has one for each type that it takes."""
        key = (function, variable, path, leaf.shape, np.dtype(leaf.dtype))
        if key not in self._made:
            name = plain = function + (variable if variable[:1] == "(" else f".{variable}") + (f".{path}" if path else "")
            count = 1
            while name in self._names:
                count += 1
                name = f"{plain}'{count}"
            self._names.add(name)
            self._made[key] = Slot(name, leaf.shape, np.dtype(leaf.dtype))
        return self._made[key]

    def _value(self, function: str, variable: str, value: Value) -> list[Slot]:
        return [self._slot(function, variable, path, leaf) for path, leaf in value.arrays]

    def _variables(self, function: TypedFunction, block: str, name: str) -> list[Slot]:
        bound = (function.blocks[block].entry or {}).get(name)
        return self._value(function.name, name, bound.value) if isinstance(bound, Binding) else []

    def _parameters(self, f: TypedFunction) -> list[Slot]:
        return [slot for name in f.graph.parameters for slot in self._variables(f, f.graph.entry, name)]

    def _drafts(self, f: TypedFunction) -> Iterator[_Draft]:
        received = {}
        for block in f.blocks.values():
            if isinstance(block.code.exit, Invoke) and block.traced is not None:
                called = self.typing.functions[block.code.exit.callee]
                received[block.code.exit.continuation] = self.results[called.name]
        for name, block in f.blocks.items():
            if block.traced is None:
                continue
            reads = []
            for variable in block_inputs(block.code):
                reads += received[name] if variable == block.code.received else self._variables(f, name, variable)
            gives = {}
            for target in block.exits:
                for variable in sorted(f.graph.live[target] - {f.blocks[target].code.received}):
                    gives.update(self._edge(f, block, target, variable, reads))
            wires, callee = self._exit(f, block)
            hangs_on = _dependence(block.traced.jaxpr)
            yield _Draft(block, f.name, reads, gives, wires, hangs_on, block.exits, callee)

    def _edge(self, f: TypedFunction, block: TypedBlock, target: str, name: str, reads: list[Slot]) -> Iterator[tuple[Slot, _Given]]:
        """What the slots of a variable at the entry of `target` are given, where that is not what they hold already."""
        assert block.traced is not None and block.entry is not None
        after = (f.blocks[target].entry or {}).get(name)
        if not isinstance(after, Binding):
            return
        if name in block.traced.outputs:
            given = _given(block.traced.outputs[name])
        else:
            before = block.entry[name]
            assert isinstance(before, Binding)
            given = [
                _Given(slot=self._slot(f.name, name, p, x)) if isinstance(x, Array) else _Given(known=x.value)
                for p, x in zip(before.value.paths, before.value.leaves, strict=True)
            ]
        for path, leaf, source in zip(after.value.paths, after.value.leaves, given, strict=True):
            if isinstance(leaf, Array):
                slot = self._slot(f.name, name, path, leaf)
                if slot != source.slot and slot != _input(block, source, reads):
                    yield slot, source

    def _exit(self, f: TypedFunction, block: TypedBlock) -> tuple[list[tuple[Slot, _Given]], str | None]:
        assert block.traced is not None
        values = block.traced.exit
        match block.code.exit:
            case Fork() if len(block.exits) == 2:
                return [(self._slot(f.name, "if", "", Array((), np.dtype(bool), False)), _given(values[0])[0])], None
            case Invoke(callee):
                called = self.typing.functions[callee]
                wires = []
                entry = called.blocks[called.graph.entry].entry or {}
                for name, value in zip(called.graph.parameters, values, strict=True):
                    bound = entry[name]
                    assert isinstance(bound, Binding)
                    wires += self._wires(f.name, f"{called.name}({name})", bound.value, value)
                return wires, called.name
            case Leave():
                assert f.result is not None
                return self._wires(f.name, "return", f.result.value, values[0]), None
        return [], None

    def _wires(self, function: str, name: str, wanted: Value, value: Traced) -> list[tuple[Slot, _Given]]:
        leaves = zip(wanted.paths, wanted.leaves, _given(value), strict=True)
        return [(self._slot(function, name, path, leaf), given) for path, leaf, given in leaves if isinstance(leaf, Array)]

    def _wanted(self, draft: _Draft, read: set[Slot], live: dict[str, set[Slot]]) -> list[tuple[Slot, _Given]]:
        """The wires of a block's exit that somebody reads at the other end."""
        if draft.callee:
            entry = live[self.functions[draft.callee].graph.entry]
            ends = [draft.callee == self.main or s in entry for s in self.parameters[draft.callee]]
        elif isinstance(draft.typed.code.exit, Leave):
            ends = [draft.function == self.main or s in read for s in self.results[draft.function]]
        else:
            return draft.wires
        return [wire for wire, kept in zip(draft.wires, ends, strict=True) if kept]

    def _liveness(self) -> dict[str, set[Slot]]:
        """For each block the slots that are read, there or later, as they are on entry."""
        live: dict[str, set[Slot]] = {name: set() for name in self.drafts}
        changed = True
        while changed:
            changed = False
            read = {slot for slots in live.values() for slot in slots}
            for name, draft in reversed(self.drafts.items()):
                later = {s for target in draft.after for s in live[target]} - set(self.results[draft.callee] if draft.callee else ())
                new = {draft.reads[i] for i in draft.hangs_on[-1]} | {s for s in later if s not in draft.gives}
                for given in [draft.gives[s] for s in later if s in draft.gives] + [g for _, g in self._wanted(draft, read, live)]:
                    new |= draft.needs(given)
                changed |= new != live[name]
                live[name] = new
        return live

    def _block(self, draft: _Draft) -> Block:
        assert draft.typed.traced is not None
        code = draft.typed.code
        later = {s for target in draft.after for s in self.live[target]}
        writes = {slot: given for slot, given in draft.gives.items() if slot in later}
        holders: dict[Any, Slot] = {(g.output, s.shape, s.dtype): s for s, g in writes.items() if g.output is not None}
        ends = []
        for slot, given in self._wanted(draft, self.read, self.live):
            same = given.slot or _input(draft.typed, given, draft.reads)
            if same is not None and same not in writes and (same.shape, same.dtype) == (slot.shape, slot.dtype):
                ends.append(same)
            elif (held := holders.get((given.output, slot.shape, slot.dtype))) is not None:
                ends.append(held)
            else:
                writes[slot] = given
                ends.append(slot)
        jaxpr, consts, reads = self._code(draft, writes)
        return Block(code.name, draft.function, code.line, jaxpr, consts, reads, tuple(writes), self._leave(draft, ends))

    def _leave(self, draft: _Draft, ends: list[Slot]) -> Exit:
        match draft.typed.code.exit:
            case Fork(_, then, otherwise) if len(draft.after) == 2:
                return Branch(ends[0], then, otherwise)
            case Invoke(continuation=continuation):
                return Call(draft.callee or "", tuple(ends), continuation)
            case Leave():
                return Return(tuple(ends))
        return Jump(draft.after[0])

    def _code(self, draft: _Draft, writes: dict[Slot, _Given]) -> tuple[Any, tuple[Any, ...], tuple[Slot, ...]]:
        """The jaxpr of what is written, its constants and the slots of its inputs."""
        traced = draft.typed.traced
        assert traced is not None
        used = list(dict.fromkeys(g.output for g in writes.values() if g.output is not None))
        jaxpr, consts, inputs = prune_jaxpr(traced.jaxpr, traced.consts, [traced.jaxpr.outvars[i] for i in used])
        reads = [draft.reads[i] for i in inputs]
        if [g.output for g in writes.values()] == used and all(
            np.dtype(x.aval.dtype) == s.dtype for s, x in zip(writes, jaxpr.outvars, strict=True)
        ):
            return jaxpr, tuple(consts), tuple(reads)
        more = [s for s in dict.fromkeys(g.slot for g in writes.values() if g.slot is not None) if s not in reads]
        slots = [*reads, *more]

        def code(*values: Any) -> list[Any]:
            frame = dict(zip(slots, values, strict=True))
            outputs: dict[Any, Any] = dict(zip(used, eval_jaxpr(jaxpr, consts, *values[: len(reads)]), strict=True))
            return [self._converted(draft, s, g, outputs.get(g.output), frame) for s, g in writes.items()]

        closed = jax.make_jaxpr(code)(*(jax.ShapeDtypeStruct(s.shape, s.dtype) for s in slots))
        made, constants = open_jaxpr(closed)
        return made, tuple(constants), tuple(slots)

    def _converted(self, draft: _Draft, slot: Slot, given: _Given, output: Any, frame: dict[Slot, Any]) -> Any:
        value = frame[given.slot] if given.slot is not None else output if given.output is not None else given.known
        if given.slot is not None or given.output is not None:
            return lax.convert_element_type(value, slot.dtype)
        if isinstance(value, jax.Array):
            return lax.convert_element_type(value, slot.dtype)
        try:
            return np.asarray(value, slot.dtype)
        except OverflowError:
            source = self.functions[draft.function].graph.source
            line = f"{source.file}:{draft.typed.code.line}: in program {source.name}"
            raise ProgramError(f"{line}: {slot} has type {slot.type}, and {value!r} does not fit.") from None


def _given(value: Traced) -> list[_Given]:
    pairs = zip(value.value.leaves, value.atoms, strict=True)
    return [_Given(output=atom) if isinstance(leaf, Array) else _Given(known=leaf.value) for leaf, atom in pairs]


def _input(block: TypedBlock, given: _Given, reads: list[Slot]) -> Slot | None:
    """The slot of the jaxpr's input that is handed on as it is, if that is what is given."""
    if given.output is None or block.traced is None:
        return None
    jaxpr = block.traced.jaxpr
    out = jaxpr.outvars[given.output]
    return reads[jaxpr.invars.index(out)] if isinstance(out, Var) and out in jaxpr.invars else None


def _dependence(jaxpr: Any) -> list[frozenset[int]]:
    """For each output, the numbers of the inputs that it hangs on; last, those of equations with effects."""
    known: dict[Any, frozenset[int]] = {x: frozenset([i]) for i, x in enumerate(jaxpr.invars)}
    effects: frozenset[int] = frozenset()
    for eqn in jaxpr.eqns:
        inputs = frozenset().union(*(known.get(x, frozenset()) for x in eqn.invars if isinstance(x, Var)))
        known.update((x, inputs) for x in eqn.outvars)
        effects = effects | inputs if eqn.effects else effects
    return [*(known.get(x, frozenset()) if isinstance(x, Var) else frozenset() for x in jaxpr.outvars), effects]
