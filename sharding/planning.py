"""What a partitioned program is planned with: its graph, its names, and the way from layouts to a report."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ..transforms.errors import PartitionError
from ..transforms.jax_compat import Literal
from .duplicates import duplicates
from .graph import Graph
from .hardware import Hardware
from .layout import Layout
from .lower import Lowered, lower
from .propagate import Conflict, Layouts
from .report import Report
from .simulate import Cost, simulate
from .tactics import Names

__all__ = ["Plan", "Planner"]


class Plan(NamedTuple):
    """The program after one tactic.

    Attributes:
        lowered: the device-local program.
        cost: what the simulator says of it.
        report: the same in words, with conflicts and notes.
        homes: name of an argument or tag -> how it is split.
    """

    lowered: Lowered
    cost: Cost
    report: Report
    homes: Mapping[str, Layout]

    @property
    def duplicates(self) -> dict[str, int]:
        """How many collectives of each kind do again what one before them did; a compiler may merge them."""
        return duplicates(self.lowered.program, self.lowered.slots)


class Planner:
    """A program to be split.

    Args:
        graph: the program, without what its results do not need.
        arguments: the names of its arguments.
        kept: which of them it needs.
        keeps: number of an output -> number of the argument whose layout it keeps.
        mesh: axis -> size.
        hardware: what the simulator counts with.
    """

    def __init__(
        self,
        graph: Graph,
        arguments: Sequence[str],
        kept: Sequence[bool],
        keeps: Mapping[int, int],
        mesh: Mapping[str, int],
        hardware: Hardware,
    ) -> None:
        self.graph, self.arguments, self.kept, self.mesh, self.hardware = graph, list(arguments), list(kept), mesh, hardware
        values = iter(graph.top.inputs)
        self.inputs = [next(values) if used else None for used in kept]
        constants = {f"constants.{i}": [v] for i, v in enumerate(values)}
        named = {name: [] if v is None else [v] for name, v in zip(self.arguments, self.inputs, strict=True)}
        for name, tagged in graph.tags.items():
            named[name] = [*named.get(name, ()), *tagged]
        self.names = Names(named | constants)
        self.keeps = keeps
        self.known: dict[int, np.ndarray] = {}
        self._link_results()

    def know(self, patterns: Sequence[str], leaves: Sequence[Any]) -> None:
        """Take the numbers of these arguments for part of the program.

        Raises:
            PartitionError: a name means nothing, or no array was given.
        """
        for pattern in patterns:
            for name in self.names.find(pattern):
                if name not in self.arguments:
                    continue
                i = self.arguments.index(name)
                if isinstance(leaves[i], jax.ShapeDtypeStruct):
                    raise PartitionError(f"known: {name} was given as a shape; give the array, or leave it out of `known`.")
                self.known[i] = np.asarray(leaves[i])
                value = self.inputs[i]
                if value is not None:
                    self.graph.known[value] = self.known[i]

    def _link_results(self) -> None:
        """A result that keeps the layout of an argument is split with it."""
        for out, source in self.keeps.items():
            value, atom = self.inputs[source], self.graph.top.outputs[out]
            shape = () if isinstance(atom, Literal) else self.graph.shapes[atom]
            if value is None:
                continue
            if self.graph.shapes[value] != shape:
                raise PartitionError(
                    f"carry: an output of shape {list(shape)} cannot keep the layout of {self.arguments[source]}, "
                    f"{list(self.graph.shapes[value])}."
                )
            self.graph.link((value, atom), (0, 0))

    def start(self) -> Layouts:
        """Nothing is split."""
        return Layouts.of(self.graph, self.mesh)

    def lower(self, layouts: Layouts) -> Lowered:
        outputs = {}
        for out, source in self.keeps.items():
            value = self.inputs[source]
            if value is not None:
                outputs[out] = layouts.layout(value, len(self.graph.shapes[value]))
        return lower(self.graph, layouts, outputs)

    def cost(self, lowered: Lowered) -> Cost:
        return simulate(lowered.program, lowered.slots, self.mesh, self.hardware)

    def plan(self, layouts: Layouts, tactic: str, conflicts: Sequence[Conflict] = (), notes: Sequence[str] = ()) -> Plan:
        lowered = self.lower(layouts)
        cost = self.cost(lowered)
        name, limit = self.hardware.name, self.hardware.memory_bytes
        report = Report.of(tactic, cost, conflicts, [*notes, *self.unknown], hardware=name, memory_limit=limit)
        return Plan(lowered, cost, report, self.homes(layouts))

    def homes(self, layouts: Layouts) -> dict[str, Layout]:
        """How each named value is split."""
        return {name: layouts.layout(values[0], len(self.graph.shapes[values[0]])) for name, values in self.names.named.items() if values}

    @property
    def unknown(self) -> list[str]:
        """What is said of primitives that nobody has written a rule for."""
        nodes = [node for node in self.graph.nodes if node.rule is not None and not node.rule.known]
        first = {node.operation: node for node in reversed(nodes)}
        return [
            f"{name} is not in the table of rules: {'split elementwise, as a probe found' if node.factors else 'run whole by every device'}"
            f" ({node.place})"
            for name, node in first.items()
        ]

    def largest(self, plan: Plan) -> str:
        """The arguments that take most of a device's memory, in words."""
        slots = plan.lowered.slots
        sized = zip(plan.lowered.program.inputs, [name for name, used in zip(self.arguments, self.kept, strict=True) if used], strict=False)
        order = sorted(sized, key=lambda pair: -slots[pair[0]].bytes)[:3]
        return ", ".join(f"{name} with {slots[slot].bytes:.3g} bytes" for slot, name in order)

    def output_dtype(self, number: int) -> Any:
        atom: Any = self.graph.top.outputs[number]
        aval: Any = getattr(atom, "aval", None)
        return aval.dtype if isinstance(atom, Literal) else self.graph.dtypes[atom]
