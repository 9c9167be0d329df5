"""What a device-local program holds in memory at each of its steps."""

from collections.abc import Iterable, Mapping, Sequence

from .fusion import IN_PLACE, WHOLE, Fusion, kind_of
from .local import Compute, LocalProgram, Nested, Step, results_of

__all__ = ["live_bytes"]


class _Results:
    """The memory of the program's results, there from the start: until one is written, what is as large may lie in its place."""

    def __init__(self, free: Iterable[tuple[int, int]]) -> None:
        """free: (size, the last step at which something else may lie there)."""
        self.places: dict[int, list[list[int]]] = {}
        for size, until in free:
            self.places.setdefault(size, []).append([-1, until])

    def lend(self, size: int, born: int, last: int) -> bool:
        """Whether there is room for a value from step `born` to step `last`; it is taken then."""
        for place in self.places.get(size, ()):
            if place[0] <= born and last <= place[1]:
                place[0] = last
                return True
        return False


def live_bytes(
    program: LocalProgram, plan: Fusion, sizes: Sequence[int], outside: frozenset[int], inner: Mapping[int, int], whole: bool
) -> list[int]:
    """For each step the bytes that are live while it runs; last those at the end.

    Args:
        program: one program; what is nested in it is in `inner`.
        plan: which slots are made in memory, and who reads them last.
        sizes: slot -> bytes.
        outside: slots whose memory is counted around this program.
        inner: step -> bytes that its bodies need on top of its operands and results.
        whole: whether this is the program itself, whose arguments stay, and whose results have memory from the start.
    """
    steps, last = program.steps, plan.last
    entering = {slot for slot in (*program.inputs, *(slot for slot, _ in program.constants)) if slot not in outside}
    counted = outside | entering
    dying: list[list[int]] = [[] for _ in range(len(steps) + 1)]
    live, results = sum([sizes[slot] for slot in entering]), _Results(())
    if whole:
        stored = [plan.stored(slot) for slot in program.outputs if type(slot) is int]
        free = {slot: i - (not _overwrites(step)) for i, step in enumerate(steps) if plan.root[i] == i for slot in results_of(step)}
        results = _Results((sizes[slot], free[slot]) for slot in dict.fromkeys(stored) if slot in free)
        live += sum([sizes[slot] for slot in stored])  # an argument that is given back is copied
        counted |= set(stored)
    else:
        for slot in entering:
            dying[max(last.get(slot, 0), 0)].append(slot)
    curve = []
    for i, step in enumerate(steps):
        before = live
        if plan.root[i] == i:
            for slot in results_of(step):
                end = last.get(slot, i)
                if slot not in counted and not results.lend(sizes[slot], i, end):
                    live += sizes[slot]
                    dying[end].append(slot)
        during = live
        if dying[i]:
            freed = [sizes[slot] for slot in dying[i]]
            live -= sum(freed)
            if live < during and during > before and _overwrites(step):
                during = max(before, during - _overwritten(freed, [sizes[slot] for slot in results_of(step)]))
        curve.append(during + inner.get(i, 0))
    return [*curve, live]


def _overwrites(step: Step) -> bool:
    """Whether a step may write where its operands lie."""
    if kind_of(step) != WHOLE or isinstance(step, Nested):
        return True
    return isinstance(step, Compute) and step.equation.primitive.name in IN_PLACE


def _overwritten(freed: list[int], results: Sequence[int]) -> int:
    """Bytes of the results that a loop may write over operands of the same size, which nothing reads after it."""
    total = 0
    for size in results:
        if size in freed:
            freed.remove(size)
            total += size
    return total
