"""From a program and the layouts of its values to the device-local program.

Each value has one home, the layout that the tactics gave it. Its definition pays once to reach it: a partial sum becomes a reduce_scatter
where the home is split over the axis of the sum, else an all_reduce; what an operation computed in another layout is moved. Each
use that wants another layout pays for itself and keeps nothing. A partial sum stays one as long as only a linear operation
reads it, so that a sum of gradients is reduced once.

Source: Alabed et al. (2025), section 6 (lowering to collectives). That each value has a home, and that no gather is shared between
uses, is inferred from the counts of their table 3.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax import lax

from ..transforms.jax_compat import Literal, open_jaxpr, scan_layout
from .communicate import Held, Writer
from .factors import Shard
from .graph import Choice, Graph, Node, Region
from .layout import Layout, replicated
from .local import Collective, Compute, LocalProgram, Mask, Nested, Slots, axes_of
from .propagate import Layouts
from .rules import rule_of
from .sums import sums_of

__all__ = ["Lowered", "lower"]


class Lowered(NamedTuple):
    """A device-local program.

    Attributes:
        program: its steps.
        slots: the local type of each slot.
        inputs: the layout of each input, constants last.
        outputs: the layout of each output.
    """

    program: LocalProgram
    slots: Slots
    inputs: tuple[Layout, ...]
    outputs: tuple[Layout, ...]


def lower(graph: Graph, layouts: Layouts, outputs: Mapping[int, Layout]) -> Lowered:
    """The device-local program.

    Args:
        graph: the program.
        layouts: the homes of its values.
        outputs: number of an output -> the layout that it must have; its home where nothing is said.
    """
    lowering = _Lowering(graph, layouts)
    inputs = [lowering.enter(v) for v in graph.top.inputs]
    lowering.steps_of(graph.top)
    outs, ends = [], []
    for i, atom in enumerate(graph.top.outputs):
        layout = outputs.get(i, lowering.home(atom))
        outs.append(lowering.fetch(atom, layout))
        ends.append(layout)
    program = LocalProgram(tuple(inputs), tuple(lowering.steps), tuple(outs), tuple(lowering.constants))
    return Lowered(program, lowering.slots, tuple(lowering.home(v) for v in graph.top.inputs), tuple(ends))


class _Lowering(Writer):
    def __init__(self, graph: Graph, layouts: Layouts) -> None:
        super().__init__(graph, layouts.mesh)
        self.layouts = layouts
        self.constants: list[tuple[int, Any]] = []
        self.held: dict[int, Held] = {}
        self.homes: dict[int, Layout] = {}
        self.sums: dict[int, int] = {}

    # ---- values

    def home(self, atom: Any) -> Layout:
        if isinstance(atom, Literal):
            return ()
        home = self.homes.get(atom)
        if home is None:
            home = self.homes[atom] = self.layouts.layout(atom, len(self.graph.shapes[atom]))
        return home

    def enter(self, value: int, layout: Layout | None = None) -> int:
        """A value that comes from outside of the region, in its home or in the layout that is said."""
        layout = self.home(value) if layout is None else layout
        slot = self.slot(value, layout)
        self.held[value] = Held(slot, layout)
        return slot

    def settle(self, value: int) -> Held:
        """The value in its home; whatever that takes is done now and once."""
        held, home = self.held[value], self.home(value)
        if held.pending:
            held = self.reduce(value, held, home)
        if held.layout != home:
            held = Held(self.move(value, held.slot, held.layout, home), home)
        self.held[value] = held
        return held

    def fetch(self, atom: Any, layout: Layout) -> Any:
        """A slot that holds an atom in some layout; a literal as it is."""
        if isinstance(atom, Literal):
            return atom
        held = self.settle(atom)
        if held.layout == layout:
            return held.slot
        made = self.make_anew(atom, layout)
        return self.move(atom, held.slot, held.layout, layout) if made is None else made

    def make_anew(self, value: int, layout: Layout) -> int | None:
        """What needs no data, an iota or a constant's broadcast, is computed in the layout that is wanted."""
        node = self.graph.definition.get(value)
        if node is None or not node.rule.free or len(node.results) > 1 or any(self.home(x) for x in node.operands):
            return None
        shards = []
        for dim, axes in enumerate(layout):
            factor = next((f for f in node.factors if f.results == (dim,)), None)
            if factor is not None and axes:
                shards.append(Shard(factor, axes))
            elif axes:
                return None
        operands = tuple(self.fetch(x, ()) for x in node.operands)
        slot = self.slot(value, layout)
        self.steps.append(Compute(node.equation, node.rule, tuple(shards), operands, (slot,)))
        return slot

    # ---- steps

    def steps_of(self, region: Region) -> None:
        for value, array in region.constants.items():
            self.constants.append((self.enter(value, replicated(len(self.graph.shapes[value]))), array))
        for step in region.steps:
            if isinstance(step, Node):
                self.operation(step)
            else:
                self.choice(step)

    def operation(self, node: Node) -> None:
        shards = self.layouts.shards(node)
        self.begin_sum(node, shards)
        partial = self.partial_operands(node, shards)
        pending = self.held[partial[0]].pending if partial else ()
        if pending:  # the operation acts on the partial sums, whole over their axes
            shards = {number: kept for number, axes in shards.items() if (kept := tuple(a for a in axes if a not in pending))}
        split = tuple(Shard(node.factors[number], axes) for number, axes in shards.items())
        operands = []
        for i, atom in enumerate(node.operands):
            if atom in partial:
                operands.append(self.held[atom].slot)
            else:
                operands.append(self.masked(node, i, self.fetch(atom, self.wanted(node, i, split)), split))
        results = []
        combine = next((s.factor.combine for s in split if s.factor.combine), "sum" if pending else None)
        summed = (*pending, *(a for s in split if s.factor.combine for a in s.axes))
        for i, value in enumerate(node.results):
            layout = self.given(i, split, len(self.graph.shapes[value]))
            results.append(self.slot(value, layout))
            self.held[value] = Held(results[-1], layout, summed, combine)
        self.steps.append(Compute(node.equation, node.rule, split, tuple(operands), tuple(results)))
        for value in node.results:
            if summed and not self.may_wait(value):
                self.settle(value)

    def wanted(self, node: Node, position: int, split: Sequence[Shard]) -> Layout:
        """The layout in which an operation needs an operand."""
        atom = node.operands[position]
        rank = 0 if isinstance(atom, Literal) else len(self.graph.shapes[atom])
        return _over(split, [s.factor.operands[position] for s in split], rank)

    def given(self, position: int, split: Sequence[Shard], rank: int) -> Layout:
        """The layout in which an operation leaves a result."""
        return _over(split, [s.factor.results[position] for s in split], rank)

    def partial_operands(self, node: Node, shards: Mapping[int, tuple[str, ...]]) -> tuple[int, ...]:
        """The operands on whose partial sums a node may act: those in which it is linear, all summed over the same axes and read once."""
        positions = node.linear
        linear = tuple([node.operands[i] for i in positions])
        if not linear or any(isinstance(x, Literal) or not self.held[x].pending for x in linear) or len(set(linear)) < len(linear):
            return ()
        held = [self.held[x] for x in linear]
        pending = set(held[0].pending)
        if any(h.combine != "sum" or set(h.pending) != pending for h in held):
            return ()
        if any(self.graph.num_uses[x] > 1 for x in linear):
            return ()
        split = [Shard(node.factors[number], tuple(a for a in axes if a not in pending)) for number, axes in shards.items()]
        if any(s.factor.combine not in (None, "sum") for s in split):
            return ()
        if any(h.layout != self.wanted(node, i, split) for h, i in zip(held, positions, strict=True)):
            return ()
        return linear

    def may_wait(self, value: int) -> bool:
        """Whether a partial sum may stay one: its only reader is linear in it, or it is what a loop adds up."""
        node, reader = self.graph.definition.get(value), self.graph.reader.get(value)
        if node is not None and node.number in self.sums and self.held[self.sums[node.number]].pending:
            return True
        if self.graph.num_uses[value] != 1 or reader is None or self.held[value].combine != "sum":
            return False
        return any(reader.operands[i] == value for i in reader.linear)

    def masked(self, node: Node, position: int, slot: Any, split: Sequence[Shard]) -> Any:
        """An operand with the neutral element in its padding, where the operation combines along a padded dimension."""
        for shard in split:
            factor, dim = shard.factor, shard.factor.operands[position]
            if dim is None or factor.padding != "neutral" or factor.size % self.size(shard.axes) == 0 or isinstance(slot, Literal):
                continue
            whole, slot = slot, self.new_slot(*self.slots[slot])
            self.steps.append(Mask(shard.axes, whole, slot, dim, factor.size, factor.combine or "sum"))
        return slot

    # ---- sums over the turns of a loop

    def begin_sum(self, node: Node, shards: Mapping[int, tuple[str, ...]]) -> None:
        """If a term is a partial sum that would be reduced in every turn, let the sum so far be one too."""
        value = self.sums.get(node.number)
        if value is None:
            return
        term = next(x for x in node.operands if x != value)
        before, held = self.held[value], None if isinstance(term, Literal) else self.held[term]
        if held is None or held.combine != "sum" or any(a in held.pending for axes in before.layout for a in axes):
            return
        self.held[value] = before._replace(pending=held.pending, combine="sum")
        if not self.partial_operands(node, shards):
            self.held[value] = before

    # ---- control flow

    def inside(self, region: Region, starts: Sequence[Layout], ends: Sequence[Layout]) -> LocalProgram:
        """A nested program, its inputs in the layouts `starts` and its outputs in the layouts `ends`."""
        steps, constants = self.steps, self.constants
        self.steps, self.constants = [], []
        inputs = tuple(self.enter(v, layout) for v, layout in zip(region.inputs, starts, strict=True))
        self.steps_of(region)
        outputs = tuple(self.leave(atom, layout) for atom, layout in zip(region.outputs, ends, strict=True))
        program = LocalProgram(inputs, tuple(self.steps), outputs, tuple(self.constants))
        self.steps, self.constants = steps, constants
        return program

    def leave(self, atom: Any, layout: Layout) -> Any:
        """What a nested program gives: a sum over the turns as it is, all else in the layout that is wanted."""
        return self.held[atom].slot if self.pending_sum(atom) else self.fetch(atom, layout)

    def pending_sum(self, atom: Any) -> tuple[str, ...]:
        """The axes over which a sum over the turns is still to be reduced."""
        node = self.graph.definition.get(atom) if isinstance(atom, int) else None
        return self.held[atom].pending if node is not None and node.number in self.sums else ()

    def choice(self, step: Choice) -> None:
        operands, layouts, bodies, trips = {"scan": self.scan, "while": self.loop, "cond": self.cond}[step.kind](step)
        results = []
        for value, layout in zip(step.results, layouts, strict=True):
            results.append(self.slot(value, layout))
            self.held[value] = Held(results[-1], layout)
        self.steps.append(Nested(step.kind, step.equation, bodies, tuple(operands), tuple(results), trips))
        for value, end in zip(step.results, step.regions[0].outputs, strict=False) if step.kind == "scan" else ():
            if pending := self.pending_sum(end):
                self.held[value] = self.held[value]._replace(pending=pending, combine="sum")
                if not self.may_wait(value):
                    self.settle(value)

    def scan(self, step: Choice) -> Any:
        (body,) = step.regions
        num_consts, num_carry = scan_layout(step.equation)
        leading = num_consts + num_carry
        homes = [self.home(v) for v in body.inputs]
        scanned = [((), *home) for home in homes[leading:]]
        operands = [self.fetch(x, layout) for x, layout in zip(step.operands, [*homes[:leading], *scanned], strict=True)]
        carried = homes[num_consts:leading]
        self.sums.update(sums_of(self.graph, step, num_consts, num_carry))
        stacked = [self.home(x) for x in body.outputs[num_carry:]]
        program = self.inside(body, homes, [*carried, *stacked])
        return operands, [*carried, *(((), *home) for home in stacked)], (program,), step.equation.params["length"]

    def loop(self, step: Choice) -> Any:
        condition, body = step.regions
        of_condition, of_body = step.equation.params["cond_nconsts"], step.equation.params["body_nconsts"]
        for_condition = [self.home(v) for v in condition.inputs[:of_condition]]
        for_body = [self.home(v) for v in body.inputs[:of_body]]
        carried = [self.home(v) for v in body.inputs[of_body:]]
        rank = 0 if isinstance(condition.outputs[0], Literal) else len(self.graph.shapes[condition.outputs[0]])
        together = carried[0][:rank] if carried and all(c[:rank] == carried[0][:rank] for c in carried) else replicated(rank)
        carried = [(*together, *c[rank:]) for c in carried]
        fed = [*for_condition, *for_body, *carried]
        operands = [self.fetch(x, layout) for x, layout in zip(step.operands, fed, strict=True)]
        turn = self.inside(body, [*for_body, *carried], carried)
        if rank == 0:
            return operands, carried, (self.inside(condition, [*for_condition, *carried], [()]), turn), None
        # Under vmap each member has a predicate of its own: it is evaluated before the loop and at the end of each turn.
        first, again = (self.batched_condition(condition, [*for_condition, *carried], together, turn) for _ in range(2))
        return operands, carried, (first, again, turn), None

    def batched_condition(self, condition: Region, starts: Sequence[Layout], together: Layout, turn: LocalProgram) -> LocalProgram:
        """The predicates of a device's members, and whether any of them goes on.

        Members do not wait for one another, so neither do devices, each with its own: unless the loop communicates over the axes that
        the members are split over, when all must take as many turns.
        """
        program = self.inside(condition, starts, [together])
        steps, predicate = list(program.steps), program.outputs[0]
        value = condition.outputs[0]
        for dim, axes in enumerate(together):
            if self.padded(self.graph.shapes[value][dim], axes) is not None:
                slot, predicate = predicate, self.new_slot(*self.slots[predicate])
                steps.append(Mask(axes, slot, predicate, dim, self.graph.shapes[value][dim], "or"))
        members = jax.ShapeDtypeStruct(self.slots[predicate].shape, bool)
        traced = jax.make_jaxpr(lambda x: lax.reduce_or(x, tuple(range(x.ndim))))(members)
        any_of = open_jaxpr(traced)[0].eqns[0]
        goes_on = self.new_slot((), any_of.outvars[0].aval.dtype)
        steps.append(Compute(any_of, rule_of(any_of), (), (predicate,), (goes_on,)))
        met = tuple(a for axes in together for a in axes if a in axes_of([*program.steps, *turn.steps]))
        if met:
            slot, goes_on = goes_on, self.new_slot((), self.slots[goes_on].dtype)
            steps.append(Collective("all_reduce", met, slot, goes_on, combine="or"))
        return program._replace(steps=tuple(steps), outputs=(predicate, goes_on))

    def cond(self, step: Choice) -> Any:
        index, *rest = step.operands
        fed = [self.home(v) for v in step.regions[0].inputs]
        operands = [self.fetch(index, ()), *(self.fetch(x, layout) for x, layout in zip(rest, fed, strict=True))]
        ends = [self.home(v) for v in step.results]
        return operands, ends, tuple(self.inside(region, fed, ends) for region in step.regions), 1


def _over(split: Sequence[Shard], dims: Sequence[int | None], rank: int) -> Layout:
    """The layout of a value along whose dimensions `dims` an operation is split."""
    if not split:
        return ((),) * rank
    return tuple([tuple([a for s, d in zip(split, dims, strict=True) if d == dim for a in s.axes]) for dim in range(rank)])
