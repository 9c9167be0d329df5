"""The automatic tactic: a beam search over decisions, each judged by the simulator on the program that it leads to.

A decision is a manual tactic: one group of names (layers.0.w and layers.1.w are one), or all that lies below a name, along one
dimension; or the split of a state that a value does not share (ZeRO). The search goes axis by axis, and then decides each axis once more.
On each it begins where frugal decisions lead, which save much time for little communication, and at the start. A schedule is better than
another if it needs no more memory than the limit and the other does, else if it takes less time; of two that need too much, the one that
needs less. What does not make the schedule better is dropped at the end.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ..transforms.errors import PartitionError
from .naming import group_name
from .planning import Planner
from .propagate import Layouts
from .schedule import apply_tactic
from .tactics import FIRST_DIVISIBLE, REPLICATED, AutomaticPartition, ManualPartition, matcher

__all__ = ["search"]

_TOGETHER = 4  # how many of the best single decisions are tried together with every other
_WORTH = 1e-3  # a decision must save this part of the time


class _Schedule(NamedTuple):
    """Decisions, and where they lead.

    Attributes:
        cost: peak bytes, seconds, and seconds of communication.
        tactics: the decisions.
        layouts: after them.
        key: the same for schedules that split the same values.
    """

    cost: tuple[float, float, float]
    tactics: tuple[ManualPartition, ...]
    layouts: Layouts
    key: tuple

    @property
    def seconds(self) -> float:
        return self.cost[1]


def search(planner: Planner, layouts: Layouts, tactic: AutomaticPartition) -> tuple[list[ManualPartition], list[str]]:
    """The tactics that an `AutomaticPartition` stands for, after those that `layouts` holds; `layouts` stays as it is.

    Returns:
        The tactics, and notes on how they were found.

    Raises:
        PartitionError: no schedule that was found keeps within the memory.
    """
    searching = _Search(planner, tactic)
    start = searching.judge((), layouts)
    assert start is not None  # the first is always judged
    axes = (tactic.axes,) if isinstance(tactic.axes, str) else tuple(tactic.axes)
    best = searching.along(axes, start, patient=True)
    if searching.score(best)[0] > 0 and len(axes) > 1:
        best = min((best, searching.along(axes, start, patient=False)), key=searching.score)
    above, _ = searching.score(best)
    if above > 0:
        raise PartitionError(
            f"{tactic}: no schedule keeps within {searching.limit:.4g} bytes on each device. The best of {searching.num_judged} needs "
            f"{searching.limit + above:.4g}: {[str(t) for t in best.tactics]}. Use a larger mesh or limit, or make the program need less "
            "(jax.checkpoint around its layers)."
        )
    return list(best.tactics), searching.notes(best)


class _Search:
    def __init__(self, planner: Planner, tactic: AutomaticPartition) -> None:
        self.planner, self.tactic = planner, tactic
        memory = tactic.memory_bytes if tactic.memory_bytes is not None else planner.hardware.memory_bytes
        self.limit = float("inf") if memory is None else float(memory)
        self.allowed = self.limit
        self.num_judged = 0
        self.cut = False
        self.seen: dict[tuple, tuple[float, float, float]] = {}
        arguments = [name for name in planner.arguments if planner.names.named[name]]
        means = [matcher(pattern) for pattern in tactic.values] if tactic.values is not None else [lambda name: True]
        self.arguments = [name for name in arguments if any(one(name) for one in means)]

    def judge(self, tactics: tuple[ManualPartition, ...], layouts: Layouts) -> _Schedule | None:
        """A schedule with its score; None if no more may be judged."""
        key = tuple(layouts.values), tuple(layouts.whole)
        if key not in self.seen:
            if self.num_judged and self.num_judged >= self.tactic.max_evaluations > 0:
                self.cut = True
                return None
            self.num_judged += 1
            cost = self.planner.cost(self.planner.lower(layouts))
            hardware, number = self.planner.hardware, sum(cost.counts.executed.values())
            talk = cost.collective_bytes / hardware.link_bandwidth + number * hardware.latency
            self.seen[key] = cost.peak_bytes, cost.seconds, talk
        return _Schedule(self.seen[key], tactics, layouts, key)

    def score(self, schedule: _Schedule) -> tuple[float, float]:
        """(bytes above what is allowed, seconds); less is better."""
        peak, seconds, _ = schedule.cost
        return max(0.0, peak - self.allowed), seconds

    def promise(self, schedule: _Schedule) -> float:
        """Seconds, raised where the memory is above what is allowed: more decisions may still lower it. Less is better."""
        peak, seconds, _ = schedule.cost
        return seconds * max(1.0, peak / self.allowed) ** 2

    def better(self, one: _Schedule, other: _Schedule) -> bool:
        """Whether it is by so much as to be worth a decision more."""
        (above, seconds), (other_above, other_seconds) = self.score(one), self.score(other)
        if above < other_above:
            return True
        return above == other_above and seconds < other_seconds * (1 - _WORTH)

    def along(self, axes: Sequence[str], start: _Schedule, *, patient: bool) -> _Schedule:
        """The best schedule that is found axis by axis.

        Args:
            axes: in the order in which they are decided.
            start: before.
            patient: whether the axes that come later may be counted upon to divide the memory further.
        """
        best = start
        for i, axis in enumerate(axes):
            later = math.prod(self.planner.mesh[a] for a in axes[i + 1 :])
            self.allowed = self.limit * (later if patient else 1)
            best = self.over(axis, best)
        self.allowed = self.limit
        return self.again(axes, start, self.shortened(start, best))

    def after(self, schedule: _Schedule, decision: ManualPartition) -> _Schedule | None:
        """The schedule with one decision more; None if the decision cannot be taken, or nothing comes of it."""
        named = [v for name, where in decision.values.items() if where is not REPLICATED for v in self.values(name)]
        if all(schedule.layouts.dim(v, decision.axis) is not None for v in named):
            return None
        layouts = schedule.layouts.copy()
        try:
            apply_tactic(self.planner.graph, layouts, self.planner.names, decision)
        except PartitionError:
            return None
        if layouts.values == schedule.layouts.values:
            return None
        return self.judge((*schedule.tactics, decision), layouts)

    def values(self, pattern: str) -> list[int]:
        return [v for values in self.planner.names.find(pattern).values() for v in values]

    def replay(self, start: _Schedule, tactics: Sequence[ManualPartition]) -> _Schedule | None:
        """The schedule that some tactics lead to; None if one of them cannot be applied."""
        layouts = start.layouts.copy()
        try:
            for tactic in tactics:
                apply_tactic(self.planner.graph, layouts, self.planner.names, tactic)
        except PartitionError:
            return None
        return self.judge(tuple(tactics), layouts)

    def over(self, axis: str, start: _Schedule) -> _Schedule:
        """The best schedule with decisions over one axis: from where the frugal ones lead, and from the start."""
        different: dict[tuple, ManualPartition] = {}
        decisions = [*self.single(axis), *self.together(axis)]
        for decision in decisions:
            if (after := self.after(start, decision)) is not None:
                different.setdefault(after.key, decision)  # one of those that come to the same; later they may not
        frugal = self.frugal(start, list(different.values()))
        return self.climb([start] if frugal is start else [frugal, start], decisions)

    def frugal(self, start: _Schedule, decisions: Sequence[ManualPartition]) -> _Schedule:
        """Decision after decision, each that which saves most (see `promise`) for a second of communication that it adds.

        What splits much at once saves most, but leaves nothing to be decided better: Megatron's pairs of matrices are found here.
        """
        current, floor = start, _WORTH * start.seconds

        def saving(s: _Schedule) -> float:
            return (self.promise(current) - self.promise(s)) / max(s.cost[2] - current.cost[2], floor)

        while True:
            found = [after for d in decisions if (after := self.after(current, d)) is not None]
            found = [s for s in found if self.promise(s) < self.promise(current) * (1 - _WORTH)]
            if not found:
                return current
            current = max(found, key=saving)

    def climb(self, beam: list[_Schedule], decisions: Sequence[ManualPartition]) -> _Schedule:
        """The best schedule with more decisions: a beam, until no decision betters it."""
        best = min(beam, key=self.score)
        while True:
            found: dict[tuple, _Schedule] = {}
            for schedule in beam:
                singles = [after for d in decisions if (after := self.after(schedule, d)) is not None]
                singles.sort(key=self.score)
                pairs = [] if self.tactic.depth < 2 or not singles or self.better(singles[0], schedule) else self.pairs(singles, decisions)
                for one in (*singles, *pairs):
                    found.setdefault(one.key, one)
            beam = self.kept(list(found.values()))
            if not beam or not self.better(beam[0], best):
                return best
            best = beam[0]

    def kept(self, found: Sequence[_Schedule]) -> list[_Schedule]:
        """The beam: half of it the best by score, the first of all among them, the others by promise."""
        by_score = sorted(found, key=self.score)[: -(-self.tactic.beam // 2)]
        by_promise = [s for s in sorted(found, key=self.promise) if all(s is not other for other in by_score)]
        return [*by_score, *by_promise[: self.tactic.beam - len(by_score)]]

    def pairs(self, singles: Sequence[_Schedule], decisions: Sequence[ManualPartition]) -> list[_Schedule]:
        """Where no decision helps alone: the least harmful ones, each with every other."""
        return [after for one in singles[:_TOGETHER] for d in decisions if (after := self.after(one, d)) is not None]

    def again(self, axes: Sequence[str], start: _Schedule, best: _Schedule) -> _Schedule:
        """Where there are several axes: each is decided once more, now that the others are known."""
        for axis in axes if len(axes) > 1 else ():
            others = self.replay(start, [t for t in best.tactics if t.axis != axis])
            if others is not None:
                found = self.shortened(start, self.over(axis, others))
                best = found if self.better(found, best) else best
        return best

    def shortened(self, start: _Schedule, best: _Schedule) -> _Schedule:
        """Without the decisions that do not make it better, the last of them first."""
        for tactic in reversed(best.tactics):
            without = self.replay(start, [t for t in best.tactics if t is not tactic])
            if without is not None and not self.better(best, without):
                best = without
        return best

    def notes(self, best: _Schedule) -> list[str]:
        found = []
        if not best.tactics:
            names = ", ".join(map(repr, _tops(self.arguments))) or "any argument"
            found.append(f"no split of {names} makes the program faster: it stays as it is")
        cut = f"; the search stopped there (max_evaluations={self.tactic.max_evaluations}), others may be better" if self.cut else ""
        return [*found, f"{self.num_judged} schedules were judged by their estimated time{cut}"]

    # ---- what may be decided

    def together(self, axis: str) -> Iterator[ManualPartition]:
        """All that lies below a name; and what lies below one, while another stays whole."""
        groups = dict.fromkeys(map(group_name, self.arguments))
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

    def single(self, axis: str) -> Iterator[ManualPartition]:
        """One group along one dimension."""
        for group in dict.fromkeys(map(group_name, self.arguments)):
            for dim in range(len(self.shape(next(name for name in self.arguments if group_name(name) == group)))):
                yield ManualPartition({group: dim}, axis=axis)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.planner.graph.shapes[self.planner.names.named[name][0]]


def _tops(groups: Iterable[str]) -> list[str]:
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
