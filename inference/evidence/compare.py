"""Models side by side by the evidence of their estimates."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ...transforms import EvidenceError
from .bridge import BridgeEvidence
from .remarks import USELESS
from .result import Evidence

__all__ = ["Comparison", "compare_evidence"]

_ERRORS = 3.0  # standard errors by which two estimates of one number may differ


class Row(NamedTuple):
    """One model. All numbers in nats; NaN where there is none.

    Attributes:
        name: the user's. best_step: where its bound is read.
        log_evidence, stderr: the bound and its Monte-Carlo error.
        importance_weighted, importance_stderr: tighter, where they are valid.
        bridge, bridge_stderr: from draws of MCMC, where they were given. laplace: Laplace's approximation.
        difference, difference_stderr: of the bound to the largest; the latter 0 for that model itself.
        paired: whether the difference is that of restarts with common random numbers.
        looseness: by how much the bound is low, as far as the better of the other estimates says.
        probability: of the model, if all that were compared are equally probable beforehand.
        num_failed, valid, certified: of the estimate.
        refused: why it is not ranked; empty if it is. remark: where the estimates of one model contradict each other.
        doubt: why its bound may be low.
    """

    name: str
    best_step: int
    log_evidence: float
    stderr: float
    importance_weighted: float
    importance_stderr: float
    bridge: float
    bridge_stderr: float
    laplace: float
    difference: float
    difference_stderr: float
    paired: bool
    looseness: float
    probability: float
    num_failed: int
    valid: bool
    certified: bool
    refused: str
    remark: str
    doubt: str

    @property
    def closest(self) -> float:
        """The estimate that should be nearest to the log evidence: bridge, else importance weighted, else the bound."""
        return next(value for value in (self.bridge, self.importance_weighted, self.log_evidence) if np.isfinite(value))


@dataclass(frozen=True, repr=False)
class Comparison:
    """A table, the largest bound first, what was refused last; `print` shows it.

    Attributes:
        rows: one for each model. best: name of the first. refused: by name, why a model is not ranked.
    """

    rows: tuple[Row, ...]

    @property
    def best(self) -> str:
        return self.rows[0].name

    @property
    def refused(self) -> dict[str, str]:
        return {row.name: row.refused for row in self.rows if row.refused}

    def __getitem__(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def __repr__(self) -> str:
        columns = {
            "model": [row.name for row in self.rows],
            "log evidence >=": [f"{row.log_evidence:.2f}" for row in self.rows],
            "MC error": [f"{row.stderr:.2f}" for row in self.rows],
            "difference": [_number(row.difference) for row in self.rows],
            "its MC error": [_number(row.difference_stderr) + ("" if row.paired or row.refused else " (not paired)") for row in self.rows],
            "importance": [_number(row.importance_weighted) for row in self.rows],
            "bridge": [_number(row.bridge) for row in self.rows],
            "its error": [_number(row.bridge_stderr) for row in self.rows],
            "Laplace": [_number(row.laplace) for row in self.rows],
            "probability": ["" if np.isnan(row.probability) else f"{row.probability:.3f}" for row in self.rows],
            "step": [str(row.best_step) for row in self.rows],
            "": [_remark(row) for row in self.rows],
        }
        shown = {title: [title, *cells] for title, cells in columns.items() if any(cells)}
        widths = {title: max(map(len, cells)) for title, cells in shown.items()}
        left = ("model", "")
        cells = [[c.ljust(widths[t]) if t in left else c.rjust(widths[t]) for c in column] for t, column in shown.items()]
        lines = ["  ".join(line).rstrip() for line in zip(*cells, strict=True)]
        if len(self.rows) > 1 and all(np.isnan(row.probability) for row in self.rows):
            lines.append("No probabilities of models: the differences do not exceed what the bounds may be low by, or that is not known.")
        return "\n".join(lines)


def compare_evidence(estimates: Mapping[str, Evidence], bridge: Mapping[str, BridgeEvidence] | None = None) -> Comparison:
    """Models side by side, by the bounds of their estimates.

    A bound that is larger by d nats is what the data favour by a factor exp(d), if both bounds are equally loose. By how much a bound is
    low is estimated where something better is known: by bridge sampling, or by importance weights. Where every difference exceeds what
    both bounds are low by and its errors, the table has probabilities of the models, all equally probable beforehand, from the best
    estimate of each. Estimates that were made with the same key and number of restarts share their random numbers; the error of their
    difference is then that of the paired differences, often far smaller than their own errors.

    Args:
        estimates: by name, of models of the same data.
        bridge: by name, `lc.bridge_evidence` of some of the models.

    Returns:
        The table; `print` it. `.best` is the name of the model with the largest bound, `[name]` a row. An estimate whose guard did not pass
        on every path, or whose bound was still rising when its path ended, is shown and not ranked (`.refused`).

    Raises:
        EvidenceError: there is nothing to compare; every estimate is refused.
    """
    bridges = _checked(estimates, bridge)
    reasons = {name: _why_refused(estimate) for name, estimate in estimates.items()}
    order = sorted(estimates, key=lambda name: (bool(reasons[name]), -estimates[name].bound))
    if reasons[order[0]]:
        raise EvidenceError("compare_evidence: no estimate can be ranked. " + " ".join(f"{n!r}: {r}." for n, r in reasons.items()))
    first = estimates[order[0]]
    rows = [_row(name, estimates[name], first, bridges.get(name), reasons[name]) for name in order]
    return Comparison(tuple(_with_probabilities(rows)))


def _checked(estimates: Any, bridge: Any) -> dict[str, BridgeEvidence]:
    """Refuses what is no estimate; the bridge estimates by name."""
    if not isinstance(estimates, Mapping) or not estimates:
        raise EvidenceError(
            'compare_evidence: a dict of estimates expected; write lc.compare_evidence({"name": lc.sgd_evidence(...), ...}).'
        )
    wrong = next((n for n, e in estimates.items() if not isinstance(e, Evidence)), None)
    if wrong is not None:
        kind = type(estimates[wrong]).__name__
        write = "; write bridge={name: ...} for estimates by bridge sampling" if isinstance(estimates[wrong], BridgeEvidence) else ""
        raise EvidenceError(f"compare_evidence: {wrong!r} is a {kind}, what lc.sgd_evidence returns expected{write}.")
    bridge = {} if bridge is None else bridge
    if not isinstance(bridge, Mapping) or not all(isinstance(b, BridgeEvidence) for b in bridge.values()):
        raise EvidenceError(
            "compare_evidence: bridge is no dict of what lc.bridge_evidence returns; write bridge={name: lc.bridge_evidence(mcmc)}."
        )
    unknown = next((name for name in bridge if name not in estimates), None)
    if unknown is not None:
        raise EvidenceError(f"compare_evidence: bridge has {unknown!r}, which is none of the estimates, {', '.join(map(repr, estimates))}.")
    return dict(bridge)


def _why_refused(estimate: Evidence) -> str:
    if not estimate.passed:
        counted = int(estimate.counted[:, estimate.best].sum())
        return f"the guard passed on {counted} of {len(estimate.finite)} paths only"
    if abs(estimate.unseen_curvature) > 0:  # False where it is NaN
        return "its density has kinks, where steps fold unseen"
    if estimate.rising:
        return "its bound was still rising at the last step"
    if not estimate.peaks and estimate.best_step < len(estimate.step_size):
        return "it was interrupted before the last step"
    return ""


def _row(name: str, estimate: Evidence, first: Evidence, bridge: BridgeEvidence | None, refused: str) -> Row:
    difference, error, paired = _difference(estimate, first) if not refused else (np.nan, np.nan, False)
    bridged, bridge_error = (bridge.log_evidence, bridge.stderr) if bridge is not None else (np.nan, np.nan)
    row = Row(
        name=name,
        best_step=estimate.best_step,
        log_evidence=estimate.bound,
        stderr=estimate.bound_stderr,
        importance_weighted=estimate.importance_weighted,
        importance_stderr=estimate.importance_stderr,
        bridge=bridged,
        bridge_stderr=bridge_error,
        laplace=estimate.laplace,
        difference=difference,
        difference_stderr=error,
        paired=paired,
        looseness=np.nan,
        probability=np.nan,
        num_failed=estimate.num_failed,
        valid=estimate.valid,
        certified=estimate.certified,
        refused=refused,
        remark="",
        doubt=_doubt(estimate),
    )
    known = np.isfinite(row.bridge) or np.isfinite(row.importance_weighted)
    return row._replace(looseness=max(row.closest - row.log_evidence, 0.0) if known else np.nan, remark=_contradiction(row))


def _doubt(estimate: Evidence) -> str:
    found = estimate.doubts
    if found.other_mode is not None:
        return "another mode is not covered"
    if not found.converged or found.pareto_k > USELESS:
        return "far from normal: the bound may be low"
    return ""


def _difference(estimate: Evidence, first: Evidence) -> tuple[float, float, bool]:
    """To the first, its error, and whether restarts are paired."""
    if estimate is first:
        return 0.0, 0.0, True
    a, b = (e.log_evidence[e.reporting, e.best] for e in (estimate, first))
    paired = len(estimate.reporting) == len(first.reporting) and np.array_equal(estimate.reporting, first.reporting)
    difference = estimate.bound - first.bound
    if not (paired and np.array_equal(estimate.key, first.key)):
        return difference, float(np.hypot(estimate.bound_stderr, first.bound_stderr)), False
    error = (a - b).std(ddof=1) / np.sqrt(a.size) if a.size > 1 else np.nan
    return difference, float(error), True


def _contradiction(row: Row) -> str:
    """Where two estimates of one model differ by more than their errors allow."""
    if not np.isfinite(row.bridge):
        return ""
    above = row.log_evidence - row.bridge
    if above > _ERRORS * np.hypot(row.stderr, row.bridge_stderr):
        return f"the bound is {above:.2f} above the bridge estimate: one of them is wrong"
    apart = row.importance_weighted - row.bridge
    if abs(apart) > _ERRORS * np.hypot(row.importance_stderr, row.bridge_stderr):
        return f"importance weighting and bridge differ by {abs(apart):.2f}, more than their errors"
    return ""


def _with_probabilities(rows: list[Row]) -> list[Row]:
    """Probabilities, if every ranked model differs from the first by more than both bounds may be low by."""
    ranked = [row for row in rows if not row.refused]
    first = ranked[0]
    clear = [
        -row.difference > row.looseness + first.looseness + 2 * row.difference_stderr and not row.remark for row in ranked[1:]
    ]  # False where a looseness is NaN
    if len(ranked) < 2 or first.remark or not all(clear):
        return rows
    weights = np.exp([row.closest - first.closest for row in ranked])
    shares = dict(zip((row.name for row in ranked), weights / weights.sum(), strict=True))
    return [row._replace(probability=float(shares.get(row.name, np.nan))) for row in rows]


def _remark(row: Row) -> str:
    if row.refused:
        return f"not ranked: {row.refused}"
    return row.remark or row.doubt or ("" if row.certified else "not certified")


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.2f}"
