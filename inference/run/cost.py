"""What a run cost: the numbers of `MCMC.cost`."""

import math
from collections.abc import Sequence

from ...ppl import ModelProgram
from ...ppl.compressed import SiteRows
from ..kernels.kernel import Fitted
from .spec import Counts

__all__ = ["cost_of"]


def cost_of(
    fitted: Fitted, counts: Counts, program: ModelProgram, compressed: Sequence[SiteRows], setup_seconds: float, compile_seconds: float
) -> dict[str, float]:
    """What `MCMC.cost` returns; all zero for a run that was interrupted before anything was evaluated."""
    saved = sum(site.before - site.after for site in compressed)
    rows, gradient, slots = _observed_rows(program), fitted.transition.uses_gradient, int(counts.slots)
    setup = int(counts.tries.sum())
    evaluations = counts.total("n_steps") + setup
    utilisation = fitted.useful(counts) / slots if slots else 0.0
    slots = round(evaluations / utilisation) if utilisation else slots
    looked, rows = (rows, rows - saved) if saved else (0, rows)  # all rows are looked at once to be compressed
    queries, queries_setup, queries_warmup = looked + rows * evaluations, looked + rows * setup, rows * counts.of_warmup("n_steps")
    if fitted.setup_queries is not None:
        queries_setup = fitted.setup_queries
        queries, queries_warmup = queries_setup + counts.total("n_queries"), counts.of_warmup("n_queries")
    return {
        "setup_seconds": setup_seconds,
        "compile_seconds": compile_seconds,
        "sampling_seconds": float(counts.seconds),
        "gradient_evaluations": evaluations if gradient else 0,
        "gradient_slots": slots if gradient else 0,
        "log_density_evaluations": 0 if gradient else evaluations,
        "log_density_slots": 0 if gradient else slots,
        "utilisation": utilisation,
        "likelihood_queries": queries,
        "likelihood_queries_setup": queries_setup,
        "likelihood_queries_warmup": queries_warmup,
        "rows_compressed": saved,
    }


def _observed_rows(program: ModelProgram) -> int:
    """How many rows have a likelihood: elements of the observed sites. What enters by `factor` has no rows to count."""
    observed = [s for s in program.sites.values() if s.role == "observed"]
    return sum(math.prod(s.shape[: len(s.shape) - s.spec.event_dim]) for s in observed)
