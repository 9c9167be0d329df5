"""One progress bar for any number of chains: what phase the run is in, how far, and its statistics."""

from typing import Self

from tqdm.auto import tqdm

__all__ = ["Progress"]


class Progress:
    """A bar over the transitions of a run; a context manager. Silent when not shown.

    Args:
        total: transitions per chain.
        num_chains: number of chains.
        shown: whether there is a bar.
    """

    def __init__(self, total: int, num_chains: int, shown: bool):
        self._total, self._num_chains, self._shown = total, num_chains, shown
        self._bar, self._phase = None, ""

    def __enter__(self) -> Self:
        if self._shown:
            self._bar = tqdm(total=self._total, desc="compiling", dynamic_ncols=True)
        return self

    def __exit__(self, *error) -> None:
        if self._bar is not None:
            self._bar.close()

    def expect(self, total: int) -> None:
        """Says how many transitions there will be, if it was not known from the beginning."""
        if self._bar is not None:
            self._bar.total = total
            self._bar.refresh()

    def reached(self, phase: str, transitions: int) -> None:
        """Names what happens now, warm-up or sampling, and moves the bar to `transitions` of every chain."""
        if self._bar is None:
            return
        if self._bar.n == 0:
            self._bar.unpause()  # compiling is no part of the speed that is shown
        if phase != self._phase:
            self._bar.set_description(phase)
        self._phase = phase
        self._bar.update(transitions - self._bar.n)

    def statistics(self, mean_depth: float, mean_steps: float, divergences: int | None) -> None:
        """Shows the size of recent transitions, and divergences so far, if there can be any."""
        if self._bar is None:
            return
        size = f"mean depth {mean_depth:.1f}" if mean_depth else f"mean steps {mean_steps:.0f}"
        diverged = "" if divergences is None else f", {divergences} divergences"
        self.note(f"{self._num_chains} chains, {size}{diverged}")

    def note(self, words: str) -> None:
        """Shows something behind the bar."""
        if self._bar is not None:
            self._bar.set_postfix_str(words)
