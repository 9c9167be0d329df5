"""What an evidence estimate leaves: the path of the bound, where it is read, and draws from there."""

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from scipy.special import logsumexp

from ...ppl import ModelProgram
from ..results.export import Run, to_arviz
from .descent import CHOOSE, chooses
from .doubts import Doubts
from .estimators import LIMITS, Order
from .fits import Kind
from .plan import Start
from .plot import plot_evidence
from .remarks import problems

__all__ = ["Evidence", "Tried"]


class Tried(NamedTuple):
    """A path that was tried when the path was chosen, with restarts that only choose.

    Attributes:
        start: as in `sgd_evidence`. num_steps: T. bound: nats. curvature: the largest seen.
        kept: whether it stayed a margin below the limit.
    """

    start: str
    num_steps: int
    bound: float
    curvature: float
    kept: bool


@dataclass(frozen=True, repr=False, eq=False)
class Evidence:
    """A lower bound on the log evidence along the path of gradient descent; made by `lc.sgd_evidence`, which has the equations.

    Attributes:
        steps: (step,). Steps at which the bound was evaluated: 0, evaluate_every, ..., and the last.
        log_evidence: (restart, step), nats. Unbiased estimates of a lower bound on log p(data); NaN from where a restart failed.
        log_likelihood: (restart, step), nats. Of the training data, all rows.
        log_prior: (restart, step), nats. Density of u, Jacobians of the bijections included.
        entropy: (restart, step), nats. One-sample estimates of the entropy of the implicit posterior, in the coordinates u:
            -log q_0 at step 0 and the estimated changes since. The three add up to `log_evidence`.
        training_loss: (restart, num_steps + 1), nats. Negative log likelihood at every step; with minibatches its estimate from one.
        test_log_likelihood: (restart, step), nats per observation of the test data; None without.
        best_step: where the bound is read. From a fit the last step; from the prior the step of the largest bound, chosen by every
            fourth restart and reported by the others.
        samples: by site, (restart, ...), constrained: independent draws from the implicit posterior at `best_step`, deterministic
            sites included; restarts that do not count are left out.
        curvature: (restart, num_steps). Largest eigenvalue of I - J, of what `order="reference"` leaves of it, as far as it was seen; NaN
            where the guard did not look.
        start, preconditioner, num_steps, inflate, order, num_probes: of the path, see `sgd_evidence`; inflate is NaN from the prior.
        step_size: (num_steps,).
        unseen_curvature: trace of what the Hessian does not see where the paths end, because gradients jump there, in units in which a
            Gaussian posterior has one for each dimension; 0 for smooth densities, NaN with fewer than four restarts.
        doubts: what is known of the fit.
        tried: the paths that were tried before.
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
    curvature: np.ndarray
    start: Start
    preconditioner: Kind | None
    num_steps: int
    inflate: float
    order: Order
    num_probes: int
    step_size: np.ndarray
    unseen_curvature: float
    doubts: Doubts
    tried: tuple[Tried, ...]
    key: np.ndarray
    num_observed: int
    seconds: float
    program: ModelProgram

    @cached_property
    def log_evidence(self) -> np.ndarray:
        total = self.log_likelihood + self.log_prior + self.entropy
        return np.where(np.logical_and.accumulate(np.isfinite(total), axis=1), total, np.nan)

    @cached_property
    def counted(self) -> np.ndarray:
        """Bool, (restart, step): whether the path had been finite and one to one, as far as the guard saw, up to there."""
        too_long = np.logical_or.accumulate(self.curvature > self.limit, axis=1)  # False where the guard did not look
        before = np.concatenate([np.zeros((len(too_long), 1), bool), too_long], axis=1)
        return np.isfinite(self.log_evidence) & ~before[:, np.minimum(self.steps, too_long.shape[1])]

    @property
    def peaks(self) -> bool:
        """Whether the bound is read at its peak, and not after the last step."""
        return self.start == "prior"

    @property
    def reporting(self) -> np.ndarray:
        """Bool, (restart,): which report the bound; from the prior every fourth chooses the step instead, if there are more than four."""
        number = len(self.log_likelihood)
        return ~chooses(number) if self.peaks and number > CHOOSE else np.ones(number, bool)

    @property
    def mean(self) -> np.ndarray:
        """(step,), nats: the estimate of the bound. The mean over the reporting restarts that are counted there, and log(counted / all)."""
        return _bound(self.log_evidence[self.reporting], self.counted[self.reporting])

    @property
    def stderr(self) -> np.ndarray:
        """(step,), nats: the standard error of `mean`. Errors at neighbouring steps are strongly correlated."""
        counted = self.counted[self.reporting]
        number = counted.sum(axis=0)
        values = np.where(counted, self.log_evidence[self.reporting], np.nan)
        with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of steps at which one restart or none is counted: NaN
            variance = np.nanvar(values, axis=0, ddof=1) / number + (1 / number - 1 / len(counted))
        return np.sqrt(variance)

    @property
    def bound(self) -> float:
        """Nats: the estimate of the lower bound on log p(data), `mean` at `best_step`."""
        return float(self.mean[self.best])

    @property
    def bound_stderr(self) -> float:
        """Nats: the standard error of `bound`, from the spread of restarts."""
        return float(self.stderr[self.best])

    @property
    def importance_weighted(self) -> float:
        """Nats: log of the mean over restarts of exp(log_evidence), the log of an unbiased estimate of p(data) if every step is one to one.

        A tighter bound than `bound`, on average. NaN unless the determinants are exact (`order="exact"`) and the guard passed on every
        path: where steps fold, or determinants are estimated, it can exceed the evidence. One dominant restart makes it low; see
        `importance_stderr`.
        """
        return _log_mean_exp(self._log_weights) if self._weighs else np.nan

    @property
    def importance_stderr(self) -> float:
        """Nats: the standard error of `importance_weighted`, by the delta method; near 1 a single restart has all of the weight."""
        return _log_mean_exp_stderr(self._log_weights) if self._weighs else np.nan

    @property
    def start_importance(self) -> float:
        """Nats: importance sampling from q_0 alone, without descent: what is to be beaten."""
        return _log_mean_exp(np.where(np.isfinite(self.log_evidence[:, 0]), self.log_evidence[:, 0], -np.inf))

    @property
    def start_importance_stderr(self) -> float:
        """Nats: the standard error of `start_importance`, by the delta method."""
        values = self.log_evidence[:, 0]
        return _log_mean_exp_stderr(np.where(np.isfinite(values), values, -np.inf))

    @property
    def laplace(self) -> float:
        """Nats: Laplace's approximation; NaN without a full preconditioner, or without a mode."""
        return self.doubts.laplace

    @property
    def pareto_k(self) -> float:
        """Shape of the tail of importance weights of the start: beyond 0.7 the posterior is far from normal. NaN without a full fit."""
        return self.doubts.pareto_k

    @property
    def problems(self) -> tuple[str, ...]:
        """A sentence or two for each thing that is wrong."""
        return tuple(words for _, words in problems(self))

    @property
    def _log_weights(self) -> np.ndarray:
        return self.log_evidence[self.reporting][:, self.best]

    @property
    def _weighs(self) -> bool:
        return self.order == "exact" and self.certified

    @property
    def finite(self) -> np.ndarray:
        """Bool, (restart,): which did not fail."""
        return np.asarray(np.isfinite(self.log_evidence).all(axis=1))

    @property
    def num_failed(self) -> int:
        """Restarts that became infinite or NaN somewhere."""
        return int((~self.finite).sum())

    @property
    def num_counted(self) -> int:
        """Restarts of which `bound` is the mean."""
        return int(self.counted[self.reporting, self.best].sum())

    @property
    def num_folds(self) -> int:
        """Steps, of all restarts, that folded space as far as the guard saw: largest eigenvalue of I - J at least 1."""
        return int((self.curvature >= 1).sum())

    @property
    def best(self) -> int:
        """The column of `best_step`."""
        return int(np.searchsorted(self.steps, self.best_step))

    @property
    def limit(self) -> float:
        """How large `curvature` may be: 0.6838 for order 2 and "reference", 0.8702 for order 4, 1 for the exact determinant."""
        return LIMITS[self.order]

    @property
    def checked_steps(self) -> np.ndarray:
        """(check,). Steps at which the guard looked."""
        return np.flatnonzero(np.isfinite(self.curvature).any(axis=0))

    @property
    def max_curvature(self) -> np.ndarray:
        """(check,). The largest `curvature` of all restarts at `checked_steps`."""
        seen = self.curvature[:, self.checked_steps]
        return np.where(np.isnan(seen), -np.inf, seen).max(axis=0, initial=-np.inf)

    @property
    def largest_curvature(self) -> float:
        """The largest before `best_step`."""
        return float(self.max_curvature[self.checked_steps < self.best_step].max(initial=-np.inf))

    @property
    def first_invalid_step(self) -> int | None:
        """The first step at which a path went beyond `limit`; it is not counted after it. None if there is none."""
        beyond = self.checked_steps[self.max_curvature > self.limit]
        return int(beyond[0]) if beyond.size else None

    @property
    def valid(self) -> bool:
        """Whether the guard saw no step beyond `limit`, on the whole path."""
        return self.first_invalid_step is None

    @property
    def passed(self) -> bool:
        """Whether every restart is counted at `best_step`: none failed, and the guard saw no step beyond `limit` before."""
        return bool(self.counted[:, self.best].all())

    @property
    def certified(self) -> bool:
        """Whether `bound` estimates a lower bound as far as can be known: `passed`, the guard looked at every step before `best_step`, the
        density is smooth there, and the step was not chosen by those who report it. The guard has every eigenvalue for `order="exact"`,
        and ascends otherwise."""
        looked = np.isfinite(self.curvature[:, : self.best_step]).all()
        return bool(self.passed and looked and self.unseen_curvature == 0 and not (self.peaks and len(self.log_likelihood) <= CHOOSE))

    @property
    def rising(self) -> bool:
        """Whether the bound was still rising when the path ended; never from a fit, whose path ends where it should."""
        return self.peaks and self.best_step == self.steps[-1]

    def peak(self) -> int:
        """The step of the largest bound by those who choose."""
        return int(self.steps[int(np.argmax(np.nan_to_num(self._choosers, nan=-np.inf)))])

    def is_peak(self, step: int, relative: float) -> bool:
        """Whether the bound at a step is the largest, up to rounding of the log densities."""
        terms = np.nanmax(np.abs(self.log_likelihood)) + np.nanmax(np.abs(self.log_prior))
        return bool(self._choosers[np.searchsorted(self.steps, step)] >= np.nanmax(self._choosers) - relative * terms)

    @cached_property
    def _choosers(self) -> np.ndarray:
        mask = chooses(len(self.log_likelihood))
        return _bound(self.log_evidence[mask], self.counted[mask])

    def to_arviz(self) -> Any:
        """The samples for ArviZ, as one chain of independent draws, with `log_evidence` and `lp` at `best_step` as statistics."""
        counted, best = self.counted[:, self.best], self.best
        stats = {"log_evidence": self.log_evidence, "lp": self.log_likelihood + self.log_prior}
        run = Run(
            samples={name: value[None] for name, value in self.samples.items()},
            sample_stats={name: value[None, counted, best] for name, value in stats.items()},
            warmup_samples=None,
            warmup_stats=None,
            program=self.program,
            max_tree_depth=None,
            settings={
                "kernel": "sgd_evidence",
                "best_step": self.best_step,
                "order": str(self.order),
                "start": self.start,
                "preconditioner": str(self.preconditioner),
                "log_evidence_bound": self.bound,
                "log_evidence_stderr": self.bound_stderr,
                "valid": self.valid,
                "certified": self.certified,
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
        path = f"{self.start}, preconditioner {self.preconditioner}, order {self.order}, T {self.num_steps}"
        read = f"at its peak, step {self.best_step}" if self.peaks else f"after step {self.best_step}"
        lines = [
            f"log evidence >= {self.bound:.6g} (standard error {self.bound_stderr:.2g}) nats: an estimated lower bound, {read}",
            f"path: start {path}; {len(self.finite)} restarts, {self.num_failed} failed",
            f"largest eigenvalue of I - J {self.largest_curvature:.3g} (limit {self.limit:g}): " + self._verdict(),
        ]
        others = {"importance weighted": self.importance_weighted, "start alone, weighted": self.start_importance, "Laplace": self.laplace}
        lines.append("beside it: " + ", ".join(f"{name} {value:.6g}" for name, value in others.items() if np.isfinite(value)))
        return "\n".join([*lines, *(f"- {words}" for words in self.problems)])

    def _verdict(self) -> str:
        if self.certified:
            return "certified"
        if self.unseen_curvature != 0:
            return "not certified, the density has kinks" if np.isfinite(self.unseen_curvature) else "not certified, too few restarts"
        if not self.passed:
            left_out = int((~self.counted[:, self.best]).sum())
            return f"not certified, {left_out} restarts are not counted, which the bound pays for"
        return "not certified, the guard did not look at every step" if len(self.finite) > CHOOSE else "not certified, too few restarts"


def _bound(values: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """(step,): the mean over the restarts that count, and log(counted / all); -inf where there are none."""
    number = counted.sum(axis=0)
    total = np.where(counted, values, 0.0).sum(axis=0)
    with np.errstate(divide="ignore"):
        return np.where(number > 0, total / np.maximum(number, 1), -np.inf) + np.log(number / len(values))


def _log_mean_exp(values: np.ndarray) -> float:
    return float(logsumexp(values) - np.log(len(values)))


def _log_mean_exp_stderr(values: np.ndarray) -> float:
    weights = np.exp(values - values.max())
    return float(weights.std(ddof=1) / weights.mean() / np.sqrt(len(weights))) if len(weights) > 1 else np.nan
