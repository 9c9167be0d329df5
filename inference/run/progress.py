"""What a run says while it goes on: a progress bar, or the same facts for a function of the user's own."""

from collections.abc import Callable
from time import perf_counter
from typing import NamedTuple, Self

from tqdm.auto import tqdm

from ...transforms.processes import whole
from .batching import Chunk
from .observers import Observer, Seen
from .spec import Snapshot

__all__ = ["Progress", "ProgressReport", "Shown"]


class ProgressReport(NamedTuple):
    """How far a run is; what `MCMC(progress_bar=function)` hands to the function.

    Attributes:
        phase: "tracing", "compiling", "warm-up", "sampling" or "done".
        transitions: of a chain so far, warm-up included, the mean over the chains.
        total: transitions per chain that there will be.
        num_chains: number of chains.
        seconds: since the run began.
        divergences: after warm-up, so far; None for kernels that cannot diverge, and before the first chunk.
        mean_steps: evaluations of the log density per transition, lately; 0.0 before the first chunk.
        mean_depth: of the trees, lately; 0.0 without trees.
    """

    phase: str
    transitions: int
    total: int
    num_chains: int
    seconds: float
    divergences: int | None = None
    mean_steps: float = 0.0
    mean_depth: float = 0.0


class Progress:
    """A bar over the transitions of a run; a context manager. Silent when not shown.

    Args:
        total: transitions per chain.
        num_chains: number of chains.
        shown: whether there is a bar; or a function that is called with a `ProgressReport` instead.
        begun: transitions that there are already.
    """

    def __init__(self, total: int, num_chains: int, shown: bool | Callable[[ProgressReport], object], begun: int = 0):
        self._shown = shown if isinstance(shown, bool) else False
        self._tell = shown if callable(shown) else None
        self._report = ProgressReport("compiling", begun, total, num_chains, 0.0)
        self._bar, self._start = None, perf_counter()

    def __enter__(self) -> Self:
        if self._shown:
            self._bar = tqdm(total=self._report.total, initial=self._report.transitions, desc="compiling", dynamic_ncols=True)
        return self

    def __exit__(self, *error) -> None:
        if self._bar is not None:
            self._bar.close()
        if error[:1] == (None,):
            self._say(phase="done")

    def phase(self, name: str) -> None:
        """Names what happens now."""
        if self._bar is not None:
            self._bar.set_description(name)
        self._say(phase=name)

    def expect(self, total: int) -> None:
        """Says how many transitions there will be, if it was not known from the beginning."""
        self._report = self._report._replace(total=total)
        if self._bar is not None:
            self._bar.total = total
            self._bar.refresh()

    def reached(self, phase: str, transitions: int) -> None:
        """Names what happens now, warm-up or sampling, and moves the bar to `transitions` of every chain."""
        if self._bar is not None:
            if self._report.phase not in ("warm-up", "sampling"):
                self._bar.unpause()  # compiling is no part of the speed that is shown
            if phase != self._report.phase:
                self._bar.set_description(phase)
            self._bar.update(transitions - self._bar.n)
        self._say(phase=phase, transitions=transitions)

    def statistics(self, mean_depth: float, mean_steps: float, divergences: int | None) -> None:
        """Shows the size of recent transitions, and divergences so far, if there can be any."""
        size = f"mean depth {mean_depth:.1f}" if mean_depth else f"mean steps {mean_steps:.0f}"
        diverged = "" if divergences is None else f", {divergences} divergences"
        self.note(f"{self._report.num_chains} chains, {size}{diverged}")
        self._say(mean_depth=mean_depth, mean_steps=mean_steps, divergences=divergences)

    def note(self, words: str) -> None:
        """Shows something behind the bar."""
        if self._bar is not None:
            self._bar.set_postfix_str(words)

    def _say(self, **news) -> None:
        self._report = self._report._replace(seconds=perf_counter() - self._start, **news)
        if self._tell is not None:
            self._tell(self._report)


class Shown(Observer):
    """Tells a `Progress` what happens."""

    def __init__(self, progress: Progress):
        self._progress = progress

    def called(self, seen: Seen) -> None:
        self._progress.reached("warm-up" if seen.warming else "sampling", int(seen.transitions))

    def ended(self, chunk: Chunk, snapshot: Snapshot) -> Snapshot:
        counts = snapshot.counts
        made = max(1, int(whole(chunk.kept.tally.transitions).sum()))
        names, sums = list(counts.sums), whole(chunk.kept.tally.sums)[:, 0].sum(axis=0)
        lately = {name: float(sums[n]) / made for n, name in enumerate(names)}
        diverging = counts.divergences()
        total = None if diverging is None else int(diverging.sum())
        self._progress.statistics(lately.get("tree_depth", 0.0), lately.get("n_steps", 0.0), total)
        return snapshot
