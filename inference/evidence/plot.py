"""The picture of an evidence estimate: the bound above, the losses below, one axis of steps."""

from typing import Any

import numpy as np

__all__ = ["plot_evidence"]


def plot_evidence(estimate: Any, axes: Any = None) -> Any:
    """`Evidence.plot` has the words for users."""
    from matplotlib import pyplot  # heavy, and not needed to estimate

    if axes is None:
        _, axes = pyplot.subplots(2, 1, sharex=True, figsize=(7, 6), layout="constrained")
    upper, lower = axes
    mean, stderr = estimate.mean, estimate.stderr
    upper.plot(estimate.steps, mean, label="lower bound on log evidence")
    upper.fill_between(estimate.steps, mean - stderr, mean + stderr, alpha=0.3, label="± standard error")
    upper.set_ylabel("nats")
    _losses(estimate, lower)
    where = "peak" if estimate.peaks else "read"
    for ax in axes:
        ax.axvline(estimate.best_step, color="grey", linestyle="--", label=f"{where}, step {estimate.best_step}")
        if not estimate.valid:
            ax.axvspan(estimate.first_invalid_step, estimate.steps[-1], color="red", alpha=0.1, label="no bound: step too long")
        ax.legend(loc="best", fontsize="small")
    lower.set_xlabel("step")
    return axes


def _losses(estimate: Any, ax: Any) -> None:
    per_observation = estimate.num_observed
    loss = estimate.training_loss[estimate.finite].mean(axis=0) / per_observation
    ax.plot(np.arange(loss.size), loss, label="training loss")
    if estimate.test_log_likelihood is not None:
        ax.plot(estimate.steps, -estimate.test_log_likelihood[estimate.finite].mean(axis=0), label="test loss")
    ax.set_ylabel("nats per observation" if per_observation > 1 else "nats")
