"""Models side by side by the evidence bounds of their estimates."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...transforms import EvidenceError
from .result import Evidence

__all__ = ["Comparison", "compare_evidence"]


class Row(NamedTuple):
    """One model.

    Attributes:
        name: the user's. best_step: where its bound peaks.
        log_evidence, stderr: the bound there and its Monte-Carlo error, nats.
        difference, difference_stderr: to the model with the largest bound, nats; the latter 0 for that model itself.
        paired: whether the difference is that of restarts with common random numbers.
        num_failed, valid: of the estimate.
    """

    name: str
    best_step: int
    log_evidence: float
    stderr: float
    difference: float
    difference_stderr: float
    paired: bool
    num_failed: int
    valid: bool


@dataclass(frozen=True, repr=False)
class Comparison:
    """A table, the largest bound first; `print` shows it.

    Attributes:
        rows: one for each model. best: name of the first.
    """

    rows: tuple[Row, ...]

    @property
    def best(self) -> str:
        return self.rows[0].name

    def __getitem__(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def __repr__(self) -> str:
        cells = [("model", "log evidence >=", "MC error", "difference", "its MC error", "step", "failed", "")]
        for row in self.rows:
            error = f"{row.difference_stderr:.2f}{'' if row.paired else ' (not paired)'}"
            remark = "" if row.valid else "steps too long: no bound late in the path"
            numbers = (f"{row.log_evidence:.2f}", f"{row.stderr:.2f}", f"{row.difference:.2f}", error)
            cells.append((row.name, *numbers, str(row.best_step), str(row.num_failed), remark))
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = (
            "  ".join([r[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(r[1:-1], widths[1:-1], strict=True)), r[-1]]) for r in cells
        )
        return "\n".join(line.rstrip() for line in lines)


def compare_evidence(estimates: Mapping[str, Evidence]) -> Comparison:
    """Models side by side, by the peaks of their bounds.

    A bound that is larger by d nats is what the data favour by a factor exp(d), if both bounds are equally loose; they are looser for
    models with more parameters and where descent was stopped further from the posterior. Estimates that were made with
    the same key and number of restarts share their random numbers; the error of their difference is then that of the paired
    differences, often far smaller than their own errors.

    Args:
        estimates: by name, of models of the same data.

    Returns:
        The table; `print` it. `.best` is the name of the model with the largest bound, `[name]` a row.

    Raises:
        EvidenceError: there is nothing to compare.
    """
    if not isinstance(estimates, Mapping) or not estimates:
        raise EvidenceError(
            'compare_evidence: a dict of estimates expected; write lc.compare_evidence({"name": lc.sgd_evidence(...), ...}).'
        )
    wrong = next((n for n, e in estimates.items() if not isinstance(e, Evidence)), None)
    if wrong is not None:
        raise EvidenceError(f"compare_evidence: {wrong!r} is a {type(estimates[wrong]).__name__}, what lc.sgd_evidence returns expected.")
    order = sorted(estimates, key=lambda name: -estimates[name].mean[estimates[name].best])
    first = estimates[order[0]]
    return Comparison(tuple(_row(name, estimates[name], first) for name in order))


def _row(name: str, estimate: Evidence, first: Evidence) -> Row:
    a, b = estimate.log_evidence[:, estimate.best], first.log_evidence[:, first.best]
    paired = a.shape == b.shape and np.array_equal(estimate.key, first.key)
    if estimate is first:
        error = 0.0
    elif paired:
        both = (a - b)[np.isfinite(a) & np.isfinite(b)]
        error = float(both.std(ddof=1) / np.sqrt(both.size)) if both.size > 1 else np.nan
    else:
        error = float(np.hypot(estimate.stderr[estimate.best], first.stderr[first.best]))
    bound = float(estimate.mean[estimate.best])
    difference = bound - float(first.mean[first.best])
    stderr = float(estimate.stderr[estimate.best])
    return Row(name, estimate.best_step, bound, stderr, difference, error, paired, estimate.num_failed, estimate.valid)
