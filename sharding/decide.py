"""From tactics to layouts: each is applied in turn, an `AutomaticPartition` after a search, and the program is planned after each."""

from collections.abc import Sequence
from typing import NamedTuple

from ..transforms.errors import PartitionError
from .planning import Plan, Planner
from .propagate import Layouts
from .schedule import apply_tactic
from .search import search
from .tactics import AutomaticPartition, ManualPartition

__all__ = ["Decided", "decide"]


class Decided(NamedTuple):
    """What tactics make of a program.

    Attributes:
        layouts: of its values.
        plans: before any tactic, and after each.
        tactics: the schedule, with what an `AutomaticPartition` chose written as `ManualPartition`s.
    """

    layouts: Layouts
    plans: list[Plan]
    tactics: list[ManualPartition]

    def check_memory(self, planner: Planner, memory_bytes: float | None) -> None:
        """Refuses a program that needs more memory than there is.

        Raises:
            PartitionError: it does.
        """
        peak = self.plans[-1].report.peak_bytes
        if memory_bytes is not None and peak > memory_bytes:
            raise PartitionError(
                f"these tactics need about {peak:.4g} bytes on each device, the limit is {memory_bytes:.4g}. Split more values (the "
                f"largest are {planner.largest(self.plans[-1])}), or add "
                f"ls.AutomaticPartition(axes=[...], memory_bytes={memory_bytes:.4g})."
            )


def decide(planner: Planner, tactics: Sequence[ManualPartition | AutomaticPartition], *, strict: bool = False) -> Decided:
    """Apply tactics in order.

    Args:
        planner: of the program.
        tactics: in order.
        strict: whether a conflict is an error.

    Raises:
        PartitionError: a name, a dimension or a size does not fit, or tactics conflict under `strict`.
    """
    layouts = planner.start()
    plans = [planner.plan(layouts, "no tactic")]
    written: list[ManualPartition] = []
    for tactic in tactics:
        chosen, told = search(planner, layouts, tactic) if isinstance(tactic, AutomaticPartition) else ([tactic], [])
        found = [apply_tactic(planner.graph, layouts, planner.names, one, strict=strict) for one in chosen]
        conflicts = [conflict for some, _ in found for conflict in some]
        notes = [*told, *(note for _, some in found for note in some)]
        written += chosen
        plans.append(planner.plan(layouts, str(tactic), conflicts, notes))
    return Decided(layouts, plans, written)
