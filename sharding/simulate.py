"""What a device-local program costs before it runs: collectives, bytes, floating-point operations, peak memory and time.

One walk over the steps. Time is a sum of loops and collectives, none of which overlap:

    seconds = sum over loops of max(flops / F, bytes / B) + sum over collectives of volume / link + latency

with the volume that one device sends in a ring of k: 2 b (k - 1) / k for an all_reduce, b (k - 1) / k for the others, b the bytes of the
side that is whole. What is one loop, and what it reads and writes, is in `fusion.py`.

Peak memory is what is live at the worst step: the arguments throughout, as nothing is donated; each result that is made, from its step to
the last that reads it; the outputs throughout too, as they are allocated before the program starts (`liveness.py`).

Source: Alabed et al. (2025), "PartIR", appendix A.3 (one pass: live memory, operations, a table of devices); they promise the order of two
programs' times, not the times. Rings: Chan et al. (2007), "Collective communication: theory, practice, and experience".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..transforms.jax_compat import scan_layout
from .fusion import IN_PLACE, Fusion, plan_fusion
from .hardware import Hardware
from .liveness import live_bytes
from .local import COLLECTIVES, Collective, Compute, LocalProgram, Nested, Slots, Step, results_of

__all__ = ["Cost", "Counts", "simulate"]

_POINTS = 400
_UPDATES = IN_PLACE - {"sort"}  # touch only what they change
_BY_RESULT = frozenset(("dynamic_slice", "gather", "slice", "split"))  # read only as much of their operand as they give back


@dataclass
class Counts:
    """Collectives by kind.

    Attributes:
        executed: times the trips of the scans around them; a while loop's body once; of a choice the branch that takes longest.
        static: each once, all branches: what the lowered text shows.
        per_iteration: those in while loops, for one turn of the outermost; condition included.
    """

    executed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COLLECTIVES, 0))
    static: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COLLECTIVES, 0))
    per_iteration: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COLLECTIVES, 0))


@dataclass
class Cost:
    """What one device does and holds.

    Attributes:
        counts: collectives.
        collective_bytes: what the device sends.
        flops: floating-point operations.
        bytes: read from memory and written to it, collectives apart.
        seconds: estimated; a while loop's body counts once.
        peak_bytes: most that is live at once, arguments and outputs included.
        curve: (step, live bytes) in the order of the program, at most 400 points, each the worst of its stretch.
    """

    counts: Counts = field(default_factory=Counts)
    collective_bytes: float = 0.0
    flops: float = 0.0
    bytes: float = 0.0
    seconds: float = 0.0
    peak_bytes: int = 0
    curve: list[tuple[str, int]] = field(default_factory=list)


class _Walk:
    """What stays the same over all nested programs."""

    def __init__(self, slots: Slots, mesh: Mapping[str, int], hardware: Hardware) -> None:
        self.slots, self.mesh, self.hardware = slots, mesh, hardware
        self.sizes = [slot.bytes for slot in slots]

    def shape(self, operand: Any) -> tuple[int, ...]:
        return self.slots[operand].shape if type(operand) is int else tuple(getattr(getattr(operand, "aval", None), "shape", ()))

    def cost(self, program: LocalProgram, outside: frozenset[int], whole: bool = False) -> Cost:
        """Of one program; `outside` are the slots whose memory is counted around it."""
        plan, cost = plan_fusion(program), Cost()
        outside |= {plan.stored(slot) for slot in outside}
        inner = self._work(program, plan, cost)
        live = live_bytes(program, plan, self.sizes, outside, inner, whole)
        cost.peak_bytes = max(live)
        if whole:
            cost.curve = _curve(program.steps, live)
        return cost

    def _work(self, program: LocalProgram, plan: Fusion, cost: Cost) -> dict[int, int]:
        """Adds collectives, operations, bytes and seconds; returns the memory within each nested step."""
        steps = program.steps
        flops = [0.0] * (len(steps) + 1)
        moved = [0.0] * (len(steps) + 1)
        inner: dict[int, int] = {}
        for i, step in enumerate(steps):
            root = plan.root[i]
            if isinstance(step, Collective):
                self._collective(step, cost)
            elif isinstance(step, Nested):
                inner[i] = self._nested(step, cost)
            elif root >= 0:
                if isinstance(step, Compute):
                    flops[root] += self._flops(step)
                if root == i:
                    moved[i] += self._traffic(step, plan, i)
        F, B = self.hardware.flops, self.hardware.memory_bandwidth
        for f, b in zip(flops, moved, strict=True):
            cost.flops += f
            cost.bytes += b
            cost.seconds += max(f / F, b / B)
        return inner

    def _flops(self, step: Compute) -> float:
        count = step.rule.flops
        if count is None:
            return 0.0 if step.rule.free else float(sum(self.slots[r].size for r in step.results))
        shape = self.shape
        return count(step.equation, [shape(x) for x in step.operands], [shape(x) for x in step.results])

    def _traffic(self, step: Step, plan: Fusion, i: int) -> int:
        """Bytes that the loop of a root reads and writes; what it reads twice stays in the cache."""
        sizes, made = self.sizes, plan.made
        reads = {plan.stored(slot) for slot in plan.reads[i]}
        written = sum([sizes[r] for r in results_of(step)])
        if isinstance(step, Compute):
            name = step.equation.primitive.name
            if name in _BY_RESULT:
                return 2 * written
            if name in _UPDATES:
                return 2 * sum([sizes[x] for x in plan.reads[i] if x != step.operands[0]])
        return written + sum([sizes[x] for x in reads if x in made])

    def _collective(self, step: Collective, cost: Cost) -> None:
        cost.counts.executed[step.kind] += 1
        cost.counts.static[step.kind] += 1
        k = 1
        for axis in step.axes:
            k *= self.mesh[axis]
        full = self.sizes[step.result if step.kind == "all_gather" else step.operand]
        sent = full * (k - 1) / k * (2 if step.kind == "all_reduce" else 1)
        cost.collective_bytes += sent
        cost.seconds += sent / self.hardware.link_bandwidth + (self.hardware.latency if k > 1 else 0.0)

    def _nested(self, step: Nested, cost: Cost) -> int:
        """Adds a loop's or a choice's bodies; returns the memory they need on top of what is counted around them."""
        costs = [self.cost(body, _outside(step, body)) for body in step.bodies]
        taken = [max(costs, key=lambda c: c.seconds)] if step.kind == "cond" else costs
        trips = step.trips or 1
        executed = cost.counts.executed
        for part in taken:
            for name in ("collective_bytes", "flops", "bytes", "seconds"):
                setattr(cost, name, getattr(cost, name) + trips * getattr(part, name))
            for kind, number in part.counts.executed.items():
                executed[kind] += trips * number
        for part in costs:
            for kind, number in part.counts.static.items():
                cost.counts.static[kind] += number
        for part in taken[-2:]:  # of a while loop the condition and the body; what stands before it is not of an iteration
            inside = part.counts.executed if step.kind == "while" else part.counts.per_iteration
            for kind, number in inside.items():
                cost.counts.per_iteration[kind] += number
        return max(part.peak_bytes for part in costs)


def _outside(step: Nested, body: LocalProgram) -> frozenset[int]:
    """The slots of a body whose memory is an operand's or a result's of the loop."""
    if step.kind == "cond":
        return frozenset((*body.inputs, *(x for x in body.outputs if type(x) is int)))
    if step.kind == "while":
        return frozenset(body.inputs)
    return frozenset(body.inputs[: sum(scan_layout(step.equation))])


def _curve(steps: Sequence[Step], live: Sequence[int]) -> list[tuple[str, int]]:
    stride = -(-len(steps) // _POINTS) or 1
    worst = (max(range(k, min(k + stride, len(steps))), key=live.__getitem__) for k in range(0, len(steps), stride))
    return [(_label(steps[i]), live[i]) for i in worst]


def _label(step: Step) -> str:
    if isinstance(step, Compute):
        return step.equation.primitive.name
    if isinstance(step, Collective):
        return f"{step.kind} over {', '.join(step.axes)}"
    return step.kind if isinstance(step, Nested) else type(step).__name__.lower()


def simulate(program: LocalProgram, slots: Slots, mesh: Mapping[str, int], hardware: Hardware) -> Cost:
    """The cost of a program on one device.

    Args:
        program: device-local, as `lower.py` makes it.
        slots: its values.
        mesh: axis -> number of devices along it.
        hardware: what a device can do.
    """
    return _Walk(slots, mesh, hardware).cost(program, frozenset(), whole=True)
