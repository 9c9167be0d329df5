"""In which order the steps run in one tick of the machine, so that every member comes back to the heavy step once per tick.

The heavy step is the most expensive one on a cycle. Without it the rest of its cycle is condensed to strongly connected components:
a component that is a cycle becomes an inner loop, and in topological order every member that leaves the heavy step comes back to it
in one pass. The heavy step stands last in the tick: then, unless steps are unrolled, all members that still run stand before it
when it runs, and what it writes needs no mask. Steps before that cycle run once at the start (the prologue), steps after it once
at the end (the epilogue), when all members have arrived there.

When the heavy step is cheap compared with the tick, it and the steps of its innermost loop are repeated, and the rare ones run
once per tick; a member waits before them at most one tick.

`Unit.others` says where members may stand when a unit runs: registers that matter nowhere there are written without a mask.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod

from ..graph import components, reachable, reverse_postorder
from .cost import flops
from .frames import HALT, Frames, Step
from .ir import Call
from .masked import in_place

__all__ = ["Schedule", "Unit", "plan"]

# Twice per tick if the heavy step's share of a tick is less; measured: gains up to a share of 0.55, losses from 0.85.
_UNROLL_BELOW = 0.55
# A masked write of a register reads the mask, the old and the new value: measured on a Gaussian in 100 dimensions at 12
# operations of a matrix product per element.
_WRITE = 12


@dataclass(frozen=True)
class Unit:
    """Steps that run together.

    Attributes:
        steps: numbers; one, or a cycle in the order of its loop's body.
        loop: whether they are repeated until no member stands before any of them.
        others: numbers of steps, and HALT, before which members may stand when the unit begins or while it loops.
    """

    steps: tuple[int, ...]
    loop: bool
    others: frozenset[int] = frozenset()


@dataclass(frozen=True, eq=False)
class Schedule:
    """When steps run.

    Attributes:
        frames: the steps.
        heavy: number of the heavy step; None if the program has no loop.
        unroll: how often the heavy step runs per tick.
        prologue: run once when a member starts.
        tick: run again and again, the heavy step last.
        epilogue: run after the last tick.
        costs: modelled operations per member of every step, masked writes included.
    """

    frames: Frames
    heavy: int | None
    unroll: int
    prologue: tuple[Unit, ...]
    tick: tuple[Unit, ...]
    epilogue: tuple[Unit, ...]
    costs: tuple[float, ...]

    @property
    def share(self) -> float:
        """The heavy step's share of the modelled cost of a tick in which every step runs once."""
        tick = {n for unit in self.tick for n in unit.steps}
        return self.costs[self.heavy] / max(1, sum(self.costs[n] for n in tick)) if self.heavy is not None else 1.0

    @property
    def ticking(self) -> frozenset[int]:
        """Steps that run in a tick: members before them are not done."""
        return frozenset(n for unit in self.tick for n in unit.steps)

    def __str__(self) -> str:
        def show(units: Iterable[Unit]) -> str:
            names = [[self.frames.steps[n].block.name for n in unit.steps] for unit in units]
            return " | ".join(f"{{{', '.join(n)}}}" if u.loop else n[0] for n, u in zip(names, units, strict=True)) or "nothing"

        heavy = "none" if self.heavy is None else f"{self.frames.steps[self.heavy].block.name}, share {self.share:.2f}"
        return "\n".join(
            [
                f"heavy: {heavy}, {self.unroll} per tick",
                f"prologue: {show(self.prologue)}",
                f"tick: {show(self.tick)}",
                f"epilogue: {show(self.epilogue)}",
            ]
        )


def plan(frames: Frames, unroll: int | None = None, heavy: str | None = None) -> Schedule:
    """Orders the steps of a program.

    Args:
        frames: the steps.
        unroll: how often the heavy step runs per tick; by the cost model if None.
        heavy: name of the block that is to be the heavy one; in the marked function, or else by the cost model, if None.
    """
    successors = {step.number: frozenset(step.targets) - {HALT} for step in frames.steps}
    costs = tuple(_cost(frames, step) for step in frames.steps)
    reached = reachable(successors, [frames.entry])
    core = _core(frames, components(successors, sorted(reached)), successors, costs, heavy)
    if core is None:
        units = _ordered(successors, reached, None)
        return _with_others(Schedule(frames, None, 1, units, (), (), costs))
    number, cycle = core
    after = reachable(successors, cycle) - cycle
    before = reached - after - cycle
    light = _ordered(successors, cycle - {number}, number)
    hot = _innermost(frames, successors, cycle, number)
    schedule = Schedule(
        frames, number, 1,
        _ordered(successors, before, None), (*light, Unit((number,), False)), _ordered(successors, after, None), costs,
    )  # fmt: skip
    if unroll is None:
        unroll = 2 if schedule.share < _UNROLL_BELOW else 1
    again = (*(u for u in light if hot & set(u.steps)), Unit((number,), False))
    tick = schedule.tick + again * (unroll - 1)
    return _with_others(Schedule(frames, number, unroll, schedule.prologue, tick, schedule.epilogue, costs))


def _cost(frames: Frames, step: Step) -> float:
    """Operations of a step per member: its code, and the registers and rows that it writes."""
    after = frozenset().union(*(frames.live[target] for target in step.targets))
    parts = {step.block.writes[n] for n in in_place(step.block)}
    return flops(step.block.jaxpr) + sum(_WRITE * prod(s.shape) for s in ((step.defines & after) - parts) | set(step.pushes))


def _core(frames, cycles, successors, costs, named) -> tuple[int, frozenset[int]] | None:
    """The heavy step and the strongly connected component of the whole graph that it lies in."""
    best = None
    for component in cycles:
        if len(component) == 1 and component[0] not in successors[component[0]]:
            continue
        for number in component:
            block = frames.steps[number].block
            rank = (block.name == named, block.function == frames.program.heavy, flops(block.jaxpr), costs[number])
            if best is None or rank > best[0]:
                best = (rank, number, frozenset(component))
    return None if best is None else best[1:]


def _innermost(frames: Frames, successors: Mapping[int, frozenset[int]], cycle: frozenset[int], heavy: int) -> frozenset[int]:
    """The innermost loop around the heavy step.

    Entries of the loop are taken away until what is left is no loop. A heavy step that several places call is in a loop for each: the
    most deeply nested one counts.
    """
    best = (0, cycle)
    for through in _contexts(frames, successors, cycle, heavy):
        inside = next(frozenset(c) for c in components(through, sorted(cycle)) if heavy in c)
        best = max(best, _peeled(through, inside, heavy), key=lambda found: found[0])
    return best[1]


def _contexts(
    frames: Frames, successors: Mapping[int, frozenset[int]], cycle: frozenset[int], heavy: int
) -> list[dict[int, frozenset[int]]]:
    """The graph on the cycle, once for each call of the heavy step's function, without its other calls."""
    function = frames.steps[heavy].block.function
    numbers = {step.block.name: step.number for step in frames.steps}
    calls = {n: numbers[e.continuation] for n in cycle if isinstance(e := frames.steps[n].block.exit, Call) and e.callee == function}
    outside = {n: after for n, after in calls.items() if frames.steps[n].block.function != function}
    found = []
    for call, after in outside.items():
        silent = set(outside) - {call}
        landings = set(outside.values()) - {after}
        found.append(
            {
                n: frozenset()
                if n in silent
                else (successors[n] & cycle) - (landings if frames.steps[n].block.function == function else set())
                for n in cycle
            }
        )
    return found or [{n: successors[n] & cycle for n in cycle}]


def _peeled(successors: Mapping[int, frozenset[int]], inside: frozenset[int], heavy: int) -> tuple[int, frozenset[int]]:
    """How deeply the heavy step is nested in a loop, and the innermost loop around it."""
    depth, everything = 1, frozenset(successors)
    while True:
        entries = {n for m in everything - inside for n in successors[m] if n in inside}
        rest = inside - entries
        if heavy not in rest or not entries:
            return depth, inside
        within = {n: successors[n] & rest for n in rest}
        smaller = next(frozenset(c) for c in components(within, sorted(rest)) if heavy in c)
        if len(smaller) == 1 and heavy not in successors[heavy]:
            return depth, inside
        depth, everything, inside = depth + 1, inside, smaller


def _ordered(successors: Mapping[int, frozenset[int]], numbers: Iterable[int], heavy: int | None) -> tuple[Unit, ...]:
    """Components of the graph on `numbers` in topological order, first those that follow `heavy` closely."""
    numbers = frozenset(numbers)
    within = {n: successors[n] & numbers for n in numbers}
    starts = sorted(successors[heavy] & numbers) if heavy is not None else []
    order = starts + [n for n in sorted(numbers) if n not in starts]
    units = []
    for component in reversed(components(within, order)):
        if len(component) == 1:
            units.append(Unit(tuple(component), component[0] in within[component[0]]))
        else:
            units.append(Unit(_loop_order(successors, within, component), True))
    return tuple(units)


def _loop_order(successors, within, component) -> tuple[int, ...]:
    """Reverse postorder of a cycle from where it is entered."""
    inside = frozenset(component)
    entries = sorted({n for m in successors if m not in inside for n in successors[m] if n in inside}) or sorted(inside)
    return tuple(reverse_postorder({n: within[n] & inside for n in component}, entries))


def _with_others(schedule: Schedule) -> Schedule:
    """Fills in `Unit.others`, by following the set of places at which members may stand through the schedule until it is stable."""
    frames = schedule.frames
    first = _follow(frames, schedule.prologue, frozenset([frames.entry]), lambda unit, places: None)
    start = first | {HALT}
    while True:
        end = _follow(frames, schedule.tick, start, lambda unit, places: None)
        if end <= start:
            break
        start |= end

    def noted(units: Iterable[Unit], places: frozenset[int]) -> tuple[Unit, ...]:
        found: list[Unit] = []
        _follow(frames, units, places, lambda unit, others: found.append(Unit(unit.steps, unit.loop, others)))
        return tuple(found)

    # A member may start again while the others are anywhere between two ticks.
    prologue = noted(schedule.prologue, start | {frames.entry})
    return Schedule(
        frames, schedule.heavy, schedule.unroll, prologue, noted(schedule.tick, start), noted(schedule.epilogue, start), schedule.costs
    )  # fmt: skip


def _follow(
    frames: Frames, units: Iterable[Unit], places: frozenset[int], note: Callable[[Unit, frozenset[int]], None]
) -> frozenset[int]:  # fmt: skip
    """Where members may stand after the units; `note` is told of each unit and the places while it runs."""
    for unit in units:
        inside = frozenset(unit.steps)
        exits = frozenset(t for n in unit.steps for t in frames.steps[n].targets) - (inside if unit.loop else frozenset())
        exits |= {HALT} if any(frames.steps[n].pushing for n in unit.steps) else frozenset()  # the stack may run over
        entered = bool(places & inside)
        during = places | inside | exits if unit.loop and entered else places
        note(unit, during)
        places = (places - inside) | (exits if entered else frozenset())
    return places
