"""What a run leaves: its draws, wherever they lie, and facts about it. Made once, and never changed."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ...ppl import ModelProgram
from ...transforms.errors import SamplerError
from ..kernels.layout import Layout
from ..kernels.records import ChainState

__all__ = ["Draws", "Record", "need_latents"]


class Draws(Protocol):
    """Where draws lie: in memory, or in a store. Rows are draws, those of the warm-up, if they were kept, first."""

    @property
    def names(self) -> tuple[str, ...]:
        """Sites that have draws: latent and deterministic ones, in program order."""
        ...

    @property
    def stat_names(self) -> tuple[str, ...]: ...

    def values(self, name: str, rows: slice) -> np.ndarray:
        """Of a site, (chain, draw, *site shape), constrained."""
        ...

    def stats(self, name: str, rows: slice) -> np.ndarray:
        """Of a statistic, (chain, draw)."""
        ...


@dataclass(frozen=True)
class Record:
    """What a run leaves.

    Attributes:
        draws: in the run's order.
        num_warmup_draws, num_draws: how many there are per chain; where the run was interrupted, those of the chain that has fewest.
        offset: the row of the first draw after warm-up.
        keep_warmup: whether draws of the warm-up were asked for.
        state: of the chains after their last transition.
        started: whether chains have made a transition, or ended a chunk without draws; False if the user interrupted before that.
        layout: of the chains' positions.
        program: the model.
        model: what the kernel was given, to trace it on new data.
        pooled: whether the chains adapted together.
        max_tree_depth: of the kernel, None if it grows no trees.
        settings: of the kernel and the run, numbers and words by name.
        cost: see `MCMC.cost`.
        extra_fields: the names that `run` was given.
    """

    draws: Draws
    num_warmup_draws: int
    num_draws: int
    offset: int
    keep_warmup: bool
    state: ChainState
    started: bool
    layout: Layout
    program: ModelProgram
    model: Any
    pooled: bool
    max_tree_depth: int | None
    settings: Mapping[str, Any]
    cost: Mapping[str, float]
    extra_fields: tuple[str, ...]

    @property
    def sampling(self) -> slice:
        """Rows of the draws after warm-up."""
        return slice(self.offset, self.offset + self.num_draws)

    @property
    def warming(self) -> slice:
        """Rows of the draws in warm-up."""
        return slice(0, self.num_warmup_draws)

    def samples(self, rows: slice) -> dict[str, np.ndarray]:
        """By site, (chain, draw, ...). Nobody can write to them: they are the run's own."""
        return {name: _guarded(self.draws.values(name, rows)) for name in self.draws.names}

    def stats(self, rows: slice) -> dict[str, np.ndarray]:
        """By name, (chain, draw), as `samples`."""
        return {name: _guarded(self.draws.stats(name, rows)) for name in self.draws.stat_names}


def need_latents(what: str, program: ModelProgram, names: Collection[str]) -> None:
    """Refuses what needs the draws of all latent sites.

    Args:
        what: the method.
        program: the model.
        names: of the sites that have draws.

    Raises:
        SamplerError: `collect` left one out.
    """
    missing = [name for name in program.latents if name not in names]
    if missing:
        raise SamplerError(
            f"{what}: the run has no draws of the latent site {missing[0]!r}, which are needed: collect= left "
            f"{'it' if len(missing) == 1 else 'them'} out. Run again with {missing} in collect."
        )


def _guarded(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view
