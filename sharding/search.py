"""The automatic tactic: a beam search over decisions, each judged by the simulator on the program that it leads to.

A decision is a manual tactic: one group of names (layers.0.w and layers.1.w are one), or all that lies below a name, along one dimension; or the
split of a state that a value does not share (ZeRO). The search goes axis by axis. A schedule is better than another if it needs no more
memory than the limit and the other does, else if it takes less time; of two that need too much, the one that needs less.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..transforms.errors import PartitionError
from .planning import Planner
from .propagate import Layouts
from .schedule import apply_tactic
from .tactics import FIRST_DIVISIBLE, REPLICATED, AutomaticPartition, ManualPartition, matcher

__all__ = ["search"]

_TOGETHER = 4  # how many of the best single decisions are tried together with every other


class _Schedule(NamedTuple):
    """Decisions, and where they lead.

    Attributes:
        score: (bytes above the limit, seconds); less is better.
        tactics: the decisions.
        layouts: after them.
    """

    score: tuple[float, float]
    tactics: tuple[ManualPartition, ...]
    layouts: Layouts


def search(planner: Planner, layouts: Layouts, tactic: AutomaticPartition) -> list[ManualPartition]:
    """The tactics that an `AutomaticPartition` stands for, after those that `layouts` holds; `layouts` stays as it is.

    Raises:
        PartitionError: no schedule that was found keeps within the memory.
    """
    searching = _Search(planner, tactic)
    best = searching.judge((), layouts)
    axes = (tactic.axes,) if isinstance(tactic.axes, str) else tactic.axes
    for axis in axes:
        best = searching.over(axis, best)
    if best.score[0] > 0:
        raise PartitionError(
            f"{tactic}: no schedule keeps within {searching.limit:.4g} bytes on each device. The best of {searching.num_judged} needs "
            f"{searching.limit + best.score[0]:.4g}: {[str(t) for t in best.tactics]}. Use a larger mesh or limit, or make the program need less "
            "(jax.checkpoint around its layers)."
        )
    return list(best.tactics)


class _Search:
    def __init__(self, planner: Planner, tactic: AutomaticPartition) -> None:
        self.planner, self.tactic = planner, tactic
        memory = tactic.memory_bytes if tactic.memory_bytes is not None else planner.hardware.memory_bytes
        self.limit = float("inf") if memory is None else float(memory)
        self.num_judged = 0
        self.seen: dict[tuple, _Schedule] = {}
        arguments = [name for name in planner.arguments if planner.names.named[name]]
        means = [matcher(pattern) for pattern in tactic.values] if tactic.values is not None else [lambda name: True]
        self.arguments = [name for name in arguments if any(one(name) for one in means)]

    def judge(self, tactics: tuple[ManualPartition, ...], layouts: Layouts) -> _Schedule:
        key = tuple(layouts.values), tuple(layouts.whole)
        if key not in self.seen:
            self.num_judged += 1
            cost = self.planner.cost(self.planner.lower(layouts))
            self.seen[key] = _Schedule((max(0.0, cost.peak_bytes - self.limit), cost.seconds), tactics, layouts)
        return self.seen[key]

    def after(self, schedule: _Schedule, decision: ManualPartition) -> _Schedule | None:
        """The schedule with one decision more; None if the decision cannot be taken."""
        layouts = schedule.layouts.copy()
        try:
            apply_tactic(self.planner.graph, layouts, self.planner.names, decision)
        except PartitionError:
            return None
        if layouts.values == schedule.layouts.values:
            return None
        return self.judge((*schedule.tactics, decision), layouts)

    def over(self, axis: str, start: _Schedule) -> _Schedule:
        """The best schedule with decisions over one axis."""
        decisions = list(self.decisions(axis))
        beam, best = [start], start
        while True:
            found: dict[int, _Schedule] = {}
            for schedule in beam:
                singles = [after for d in decisions if (after := self.after(schedule, d)) is not None]
                singles.sort(key=lambda s: s.score)
                pairs = self.pairs(singles, decisions) if self.tactic.depth > 1 and singles and singles[0].score >= schedule.score else []
                found.update((id(s), s) for s in (*singles, *pairs))
            beam = sorted(found.values(), key=lambda s: s.score)[: self.tactic.beam]
            if not beam or beam[0].score >= best.score:
                return best
            best = beam[0]

    def pairs(self, singles: Sequence[_Schedule], decisions: Sequence[ManualPartition]) -> list[_Schedule]:
        """Where no decision helps alone: the least harmful ones, each with every other."""
        return [after for one in singles[:_TOGETHER] for d in decisions if (after := self.after(one, d)) is not None]

    # ---- what may be decided

    def decisions(self, axis: str) -> Iterator[ManualPartition]:
        groups = dict.fromkeys(map(_group, self.arguments))
        for prefix in _prefixes(groups):
            ranks = [self.shape(name) for name in self.arguments if matcher(prefix)(name)]
            for dim in range(min(map(len, ranks))):
                if len({shape[dim] for shape in ranks}) == 1:
                    yield ManualPartition({prefix: dim}, axis=axis)
            yield ManualPartition({prefix: FIRST_DIVISIBLE}, axis=axis)
        for one in _tops(groups):
            for other in _tops(groups):
                if one != other:
                    yield ManualPartition({one: REPLICATED, other: FIRST_DIVISIBLE}, axis=axis)
        for group in groups:
            for dim in range(len(self.shape(next(name for name in self.arguments if _group(name) == group)))):
                yield ManualPartition({group: dim}, axis=axis)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.planner.graph.shapes[self.planner.names.named[name][0]]


def _group(name: str) -> str:
    """A name with the numbers in its path left open."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name)


def _tops(groups: Sequence[str] | dict[str, None]) -> list[str]:
    return list(dict.fromkeys(group.split(".")[0] for group in groups))


def _prefixes(groups: dict[str, None]) -> list[str]:
    """Names that stand for more than one group."""
    count: dict[str, int] = {}
    for group in groups:
        parts = group.split(".")
        for i in range(1, len(parts)):
            prefix = ".".join(parts[:i])
            if not prefix.endswith("*"):
                count[prefix] = count.get(prefix, 0) + 1
    return [prefix for prefix, n in count.items() if n > 1]
