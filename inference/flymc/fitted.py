"""Firefly Monte Carlo on data: what it counts, what it looks at after every chunk, and when it begins again."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...ppl.factors import Factor
from ...transforms.errors import BoundError
from ...transforms.processes import whole
from ..kernels.kernel import Fitted
from ..run.batching import Chunk
from ..run.observers import BeginAgain, Observer
from ..run.spec import Snapshot
from .conditional import Conditional
from .transitions import Faults

__all__ = ["FittedFlyMC"]

_log = logging.getLogger("luciole")


@dataclass(frozen=True)
class FittedFlyMC(Fitted):
    """See `Fitted`.

    Attributes:
        factor: the rows; by holding it, keeps arrays in host memory alive for the run.
        num_rows: how many there are.
        queries: likelihoods evaluated in the set-up, those of runs that had to begin again included.
        whole_transitions: whether a whole transition is one evaluation of the machine, rather than each log density of it.
    """

    factor: Factor | None = None
    num_rows: int = 0
    queries: int = 0
    whole_transitions: bool = False

    @property
    def observers(self) -> tuple[Observer, ...]:
        return (Inspection(self),)

    @property
    def found(self) -> dict[str, Any]:
        return {"capacity": self._conditional.capacity, "queries": self.queries}

    def resumed(self, found: Mapping[str, Any]) -> "FittedFlyMC":
        return self.with_buffer(self._conditional.with_capacity(int(found["capacity"])), int(found["queries"]))

    @property
    def setup_queries(self) -> int:
        return self.queries

    def useful(self, counts: Any) -> int:
        return int(counts.transitions.sum()) if self.whole_transitions else super().useful(counts)

    @property
    def _conditional(self) -> Conditional:
        transition: Any = self.transition
        return transition.conditional

    def with_buffer(self, conditional: Conditional, queries: int) -> "FittedFlyMC":
        """With another buffer of bright rows."""
        transition: Any = self.transition
        return replace(self, transition=replace(transition, conditional=conditional), queries=queries)

    def inspected(self, faults: Faults, queries: int) -> "FittedFlyMC | None":
        """The kernel with a larger buffer, if it overflowed; None if nothing is wrong.

        Args:
            faults: of all chains.
            queries: likelihoods evaluated since the beginning of the run.

        Raises:
            BoundError: a bound exceeded the likelihood; names the row.
        """
        conditional, site = self._conditional, self.factor.site if self.factor else ""
        refuted = int(whole(faults.refuted).max())
        if refuted >= 0:
            name = conditional.kind.family.distribution.__name__
            raise BoundError(
                f"FlyMC: the bound of row {refuted} of site {site!r} ({name}) exceeds its likelihood at a point that was visited: the "
                "draws would be wrong. If the bound is your own (lc.bounds.register), it must return the slope l' at the anchor and a "
                "curvature no smaller than the supremum of -l'' on the ball."
            )
        if not whole(faults.short).any():
            return None
        larger = conditional.with_larger_buffer(self.num_rows)
        _log.warning(
            "FlyMC: the buffer of bright rows of site %r overflowed: the run begins again with a capacity of %d instead of %d. "
            "kernel_options={'capacity': %d} saves this.",
            site, larger.capacity, conditional.capacity, larger.capacity,
        )  # fmt: skip
        return self.with_buffer(larger, self.queries + queries)


class Inspection(Observer):
    """Looks after every chunk whether its draws are exact; if not, lets the run begin again, or raises."""

    def __init__(self, fitted: FittedFlyMC):
        self._fitted = fitted

    def ended(self, chunk: Chunk, snapshot: Snapshot) -> Snapshot:
        again = self._fitted.inspected(snapshot.chains.auxiliary.faults, snapshot.counts.total("n_queries"))
        if again is not None:
            raise BeginAgain(again)
        return snapshot
