"""What a run leaves, and what it cost."""

import math
from typing import NamedTuple

from ...ppl import ModelProgram
from ..kernels.layout import Layout
from .host import Outcome

__all__ = ["Finished", "cost_of"]


class Finished(NamedTuple):
    """What a run leaves.

    Attributes:
        outcome: draws, statistics and chains.
        names: of the values in the outcome, in program order.
        layout: of the chains' positions.
        program: the model.
        setup_seconds, compile_seconds, sampling_seconds: wall time; tracing counts as compiling, the search for starts as sampling.
        uses_gradient, in_one: of the kernel. queries: likelihoods of rows evaluated in the set-up, by kernels that count them.
        extra_fields: the names that `run` was given.
    """

    outcome: Outcome
    names: tuple[str, ...]
    layout: Layout
    program: ModelProgram
    setup_seconds: float
    compile_seconds: float
    sampling_seconds: float
    uses_gradient: bool
    in_one: bool
    queries: int | None
    extra_fields: tuple[str, ...]

    @property
    def started(self) -> bool:
        """Whether chains have made a transition, or ended a chunk without draws; False if the user interrupted before that."""
        return bool(self.outcome.counts.slots)


def cost_of(run: Finished) -> dict[str, float]:
    """What `MCMC.cost` returns; all zero for a run that was interrupted before anything was evaluated."""
    counts, rows = run.outcome.counts, _observed_rows(run.program)
    evaluations, setup = counts.evaluations, int(counts.tries.sum())
    utilisation = (counts.transitions if run.in_one else evaluations) / counts.slots if counts.slots else 0.0
    slots = round(evaluations / utilisation) if utilisation else counts.slots
    gradient = run.uses_gradient
    queries, queries_setup, queries_warmup = rows * evaluations, rows * setup, rows * counts.warmup_evaluations
    if run.queries is not None:
        queries, queries_setup, queries_warmup = run.queries + counts.queries, run.queries, counts.warmup_queries
    return {
        "setup_seconds": run.setup_seconds,
        "compile_seconds": run.compile_seconds,
        "sampling_seconds": run.sampling_seconds,
        "gradient_evaluations": evaluations if gradient else 0,
        "gradient_slots": slots if gradient else 0,
        "log_density_evaluations": 0 if gradient else evaluations,
        "log_density_slots": 0 if gradient else slots,
        "utilisation": utilisation,
        "likelihood_queries": queries,
        "likelihood_queries_setup": queries_setup,
        "likelihood_queries_warmup": queries_warmup,
    }


def _observed_rows(program: ModelProgram) -> int:
    """How many rows have a likelihood: elements of the observed sites. What enters by `factor` has no rows to count."""
    observed = [s for s in program.sites.values() if s.role == "observed"]
    return sum(math.prod(s.shape[: len(s.shape) - s.spec.event_dim]) for s in observed)
