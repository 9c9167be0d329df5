"""What an evidence estimate leaves: the path of the bound, where it peaks, and draws from there."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ...ppl import ModelProgram
from ..export import Run, to_arviz
from .estimators import LIMITS, Order
from .plot import plot_evidence

__all__ = ["Evidence"]


@dataclass(frozen=True, repr=False, eq=False)
class Evidence:
    """A lower bound on the log evidence along the path of gradient descent; made by `lc.sgd_evidence`, which has the equations.

    Attributes:
        steps: (step,). Steps at which the bound was evaluated: 0, evaluate_every, ..., and the last.
        log_evidence: (restart, step), nats. Unbiased estimates of a lower bound on log p(data); NaN for restarts that failed.
        log_likelihood: (restart, step), nats. Of the training data, all rows.
        log_prior: (restart, step), nats. Density of u, Jacobians of the bijections included.
        entropy: (restart, step), nats. One-sample estimates of the entropy of the implicit posterior, in the coordinates u:
            -log_prior at step 0 and the estimated changes since. The three add up to `log_evidence`.
        training_loss: (restart, num_steps + 1), nats. Negative log likelihood at every step; with minibatches its estimate from one.
        test_log_likelihood: (restart, step), nats per observation of the test data; None without.
        best_step: where the mean of `log_evidence` is largest, among the steps up to `first_invalid_step`.
        samples: by site, (restart, ...), constrained: independent draws from the implicit posterior at `best_step`, deterministic
            sites included; failed restarts are left out.
        checked_steps, max_curvature: (check,). Steps at which the guard looked, and step size times the largest eigenvalue of
            the Hessian there, the largest of all restarts.
        first_invalid_step: the first of these where that is beyond `limit`; None if there is none. The bound holds up to and
            including this step, and not after.
        order, num_probes: of the estimator. num_failed: restarts left out.
        step_size: (num_steps,), per nat.
        num_observed: observations of the training data.
        key: uint32, (2,). Estimates with the same key and number of restarts share their random numbers.
        seconds: wall time, compilation included.
    """

    steps: np.ndarray
    log_likelihood: np.ndarray
    log_prior: np.ndarray
    entropy: np.ndarray
    training_loss: np.ndarray
    test_log_likelihood: np.ndarray | None
    best_step: int
    samples: dict[str, np.ndarray]
    checked_steps: np.ndarray
    max_curvature: np.ndarray
    order: Order
    num_probes: int
    step_size: np.ndarray
    key: np.ndarray
    num_observed: int
    seconds: float
    program: ModelProgram

    @cached_property
    def log_evidence(self) -> np.ndarray:
        total = self.log_likelihood + self.log_prior + self.entropy
        return np.where(np.isfinite(total).all(axis=1, keepdims=True), total, np.nan)

    @property
    def finite(self) -> np.ndarray:
        """Bool, (restart,): which did not fail."""
        return np.asarray(np.isfinite(self.log_evidence).all(axis=1))

    @property
    def num_failed(self) -> int:
        return int((~self.finite).sum())

    @property
    def mean(self) -> np.ndarray:
        """(step,), nats: the estimate of the bound, the mean over the restarts that did not fail."""
        return self.log_evidence[self.finite].mean(axis=0)

    @property
    def stderr(self) -> np.ndarray:
        """(step,), nats: the standard error of `mean`. Errors at neighbouring steps are strongly correlated."""
        kept = self.log_evidence[self.finite]
        return kept.std(axis=0, ddof=1) / np.sqrt(len(kept)) if len(kept) > 1 else np.full(len(self.steps), np.nan)

    @property
    def best(self) -> int:
        """The column of `best_step`."""
        return int(np.searchsorted(self.steps, self.best_step))

    @property
    def limit(self) -> float:
        """How large step size times curvature may be: 0.6838 for order 2, 0.8702 for order 4, 1 for the exact log-determinant."""
        return LIMITS[self.order]

    @property
    def first_invalid_step(self) -> int | None:
        beyond = self.checked_steps[self.max_curvature > self.limit]
        return int(beyond[0]) if beyond.size else None

    @property
    def valid(self) -> bool:
        """Whether the guard saw no step beyond `limit`: then the whole path estimates a lower bound."""
        return self.first_invalid_step is None

    def to_arviz(self) -> Any:
        """The samples for ArviZ, as one chain of independent draws, with `log_evidence` and `lp` at `best_step` as statistics."""
        finite, best = self.finite, self.best
        stats = {"log_evidence": self.log_evidence, "lp": self.log_likelihood + self.log_prior}
        run = Run(
            samples={name: value[None] for name, value in self.samples.items()},
            sample_stats={name: value[None, finite, best] for name, value in stats.items()},
            warmup_samples=None,
            warmup_stats=None,
            program=self.program,
            max_tree_depth=None,
            settings={
                "kernel": "sgd_evidence",
                "best_step": self.best_step,
                "order": self.order,
                "log_evidence_bound": float(self.mean[best]),
                "log_evidence_stderr": float(self.stderr[best]),
                "valid": self.valid,
                "num_failed": self.num_failed,
                "sampling_time": self.seconds,
            },
        )
        return to_arviz(run)

    def plot(self, axes: Any = None) -> Any:
        """Draws the bound with its standard error, and below it the training loss and the test log likelihood.

        Args:
            axes: two matplotlib axes; new ones by default.

        Returns:
            The axes.
        """
        return plot_evidence(self, axes)

    def __repr__(self) -> str:
        best = self.best
        lines = [
            f"log evidence >= {self.mean[best]:.6g} (standard error {self.stderr[best]:.2g}) nats: an estimated lower bound, "
            f"at its peak, step {self.best_step} of {self.steps[-1]}",
            f"{len(self.finite)} restarts, {self.num_failed} failed; order {self.order}; step size times curvature at most "
            f"{np.max(self.max_curvature):.3g} (limit {self.limit:g})",
        ]
        if not self.valid:
            lines.append(f"no bound after step {self.first_invalid_step}: the step was too long there")
        return "\n".join(lines)
