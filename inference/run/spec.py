"""A run as data: what is to be run, where, and where it stands.

`drive` (in `host`) takes a `RunSpec` and a `Snapshot` and gives a later `Snapshot`. Nothing else is needed to go on: not the Python
objects of the model or of the kernel, and not the machine that the snapshot was made on.
"""

from typing import NamedTuple

import numpy as np

from ..kernels.adaptation import warmup_schedule
from ..kernels.kernel import Fitted, Transition
from ..kernels.pooling import pooled
from ..kernels.records import ChainState, Plan
from ..kernels.target import Target
from .batching import capacity_of
from .chain import Begin, counted
from .placement import Placement

__all__ = ["Counts", "RunSpec", "Settings", "Snapshot", "first_snapshot", "spec_of"]


class Settings(NamedTuple):
    """What `MCMC` was given, checked; it has the words for users."""

    num_warmup: int
    num_samples: int
    num_chains: int
    thinning: int = 1
    keep_warmup: bool = False
    compact: bool = False
    pool_adaptation: bool = False
    debug: bool = False
    collect: tuple[str, ...] | None = None

    @property
    def total(self) -> int:
        """Transitions per chain, warm-up included."""
        return self.num_warmup + self.num_samples

    @property
    def num_warmup_kept(self) -> int:
        """Draws of the warm-up that are kept, per chain; they come first."""
        return self.num_warmup // self.thinning if self.keep_warmup else 0

    @property
    def num_kept(self) -> int:
        """Draws that are kept, per chain, those of the warm-up included."""
        return self.num_warmup_kept + self.num_samples // self.thinning

    def split(self, filled: int) -> tuple[int, int]:
        """How many of so many kept draws of a chain are of the warm-up, and how many come after it."""
        warm = min(self.num_warmup_kept, filled)
        return warm, filled - warm


class RunSpec(NamedTuple):
    """What is to be run.

    Attributes:
        target: the traced density and its data.
        transition: the kernel's static part.
        plan: warm-up, tuning and thinning, in run-time values.
        num_chains: number of chains.
        total: transitions per chain, warm-up included.
        capacity: draws that a chunk holds per chain.
        begin: how each chain finds its start, the chain axis leading.
        placement: where it runs.
        compact: whether the last chains of a chunk go on in a smaller batch.
        debug: whether devices that share chains are compared after every turn.
    """

    target: Target
    transition: Transition
    plan: Plan
    num_chains: int
    total: int
    capacity: int
    begin: Begin
    placement: Placement
    compact: bool = False
    debug: bool = False


class Counts(NamedTuple):
    """Running totals since the beginning of the run.

    Attributes:
        transitions: int64, (chain,).
        tries: int64, (chain,). Starting points that were evaluated.
        slots: int64, (). Evaluations of a log density, with gradient where the kernel uses it, that were computed, idle chains included.
        sums, warmup_sums: by whole-number statistic, int64, (chain,). Sums over all transitions, and over those in warm-up.
        seconds: float64, (). Wall time.
    """

    transitions: np.ndarray
    tries: np.ndarray
    slots: np.integer | np.ndarray
    sums: dict[str, np.ndarray]
    warmup_sums: dict[str, np.ndarray]
    seconds: np.floating | np.ndarray

    def total(self, name: str) -> int:
        """Of a statistic over all chains and transitions; 0 for kernels that do not have it."""
        return int(self.sums[name].sum()) if name in self.sums else 0

    def of_warmup(self, name: str) -> int:
        """The same over the transitions in warm-up."""
        return int(self.warmup_sums[name].sum()) if name in self.warmup_sums else 0

    def divergences(self) -> np.ndarray | None:
        """(chain,), after warm-up; None for kernels that cannot diverge."""
        return self.sums["diverging"] - self.warmup_sums["diverging"] if "diverging" in self.sums else None


class Snapshot(NamedTuple):
    """Where a run stands: a pytree of arrays, the chain axis leading.

    Attributes:
        chains: of all chains, after the last chunk; they differ in transitions if the user has interrupted it.
        counts: totals.
        filled: int64, (chain,). Draws that were kept so far.
        ok: bool, (chain,). Which chains found a start; if one did not, there are no draws.
    """

    chains: ChainState
    counts: Counts
    filled: np.ndarray
    ok: np.ndarray

    @property
    def done(self) -> int:
        """Transitions that every chain has made."""
        return int(self.counts.transitions.min())

    @property
    def started(self) -> bool:
        """Whether the chains have their starts."""
        return bool(self.counts.slots)


def spec_of(
    kernel: str, fitted: Fitted, target: Target, placement: Placement, settings: Settings, given: np.ndarray
) -> tuple[RunSpec, tuple[int, ...]]:
    """A run of a kernel, and the transitions before which all chains meet.

    Args:
        kernel: its name.
        fitted, target: the kernel and the density on their data.
        placement: where.
        settings: the user's.
        given: bool, (chain,). Whether a chain begins at the position that it is given.
    """
    plan = Plan(warmup_schedule(settings.num_warmup), fitted.tuning, np.int32(settings.thinning), np.asarray(settings.keep_warmup))
    meetings: tuple[int, ...] = ()
    if settings.pool_adaptation:
        plan, meetings = pooled(plan, settings.num_chains, kernel)
    spec = RunSpec(
        target=target,
        transition=fitted.transition,
        plan=plan if placement.parts is None else placement.parts.plan_of(plan),
        num_chains=settings.num_chains,
        total=settings.total,
        capacity=capacity_of(target, placement.local(settings.num_chains)),
        begin=Begin(given, target.fixed),
        placement=placement,
        compact=settings.compact,
        debug=settings.debug and placement.in_common,
    )
    return spec, meetings


def first_snapshot(spec: RunSpec, chains: ChainState) -> Snapshot:
    """Before the first chunk, of chains at their first positions."""

    def zeros() -> np.ndarray:
        return np.zeros(spec.num_chains, np.int64)

    names = counted(spec.transition.stats)
    counts = Counts(zeros(), zeros(), np.int64(0), {n: zeros() for n in names}, {n: zeros() for n in names}, np.float64(0.0))
    return Snapshot(chains, counts, zeros(), np.ones(spec.num_chains, bool))
