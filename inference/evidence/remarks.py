"""What is said about an estimate that something is wrong with: errors and warnings in words."""

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ...transforms import EvidenceError
from ..run.notices import InterruptWarning
from .estimators import LIMITS
from .notices import (
    EvidenceFitWarning,
    EvidenceRangeWarning,
    FailedRestartWarning,
    KinkWarning,
    NonNormalPosteriorWarning,
    OtherModeWarning,
)
from .plan import last_length

if TYPE_CHECKING:
    from .result import Evidence

__all__ = ["USELESS", "check_some_valid", "problems", "warn"]

USELESS = 0.7
"""Pareto's k beyond which importance weights are of no use."""

_HEAVY = 0.5  # beyond which they have no variance
_LOOSE = 1.0  # nats, by which a bound must be loose for sure to be told of


def check_some_valid(estimate: "Evidence") -> None:
    """Refuses an estimate none of whose paths was valid.

    Raises:
        EvidenceError: says how much too long the steps were, and what to write.
    """
    valid = estimate.counted[:, estimate.steps > 0] if estimate.peaks else estimate.counted[:, [estimate.best]]
    if valid.any():
        return
    first = estimate.first_invalid_step
    where = "" if first is None else f" At step {first} the largest eigenvalue of I - J was {estimate.max_curvature.max():.3g}."
    raise EvidenceError(
        f"sgd_evidence: on no path was there a bound: the steps of all {len(estimate.finite)} were too long for the curvature, beyond "
        f"{estimate.limit:g}, up to which order={estimate.order!r} estimates a lower bound, or ended in NaN.{where} {_advice(estimate)}"
    )


def warn(estimate: "Evidence", owner: str = "sgd_evidence") -> None:
    """Warns of what is wrong, one warning for each cause, in the name of `owner`."""
    for category, words in problems(estimate):
        if category is not None:
            warnings.warn(f"{owner}: {words}", category, stacklevel=4)


def problems(estimate: "Evidence") -> Iterator[tuple[type[Warning] | None, str]]:
    """One sentence or two for each thing that is wrong, each with its warning, if it is worth one."""
    reached, asked = estimate.training_loss.shape[1] - 1, len(estimate.step_size)
    if reached < asked:
        yield InterruptWarning, f"it was interrupted: {reached} of {asked} steps were kept."
    if estimate.num_failed:
        yield FailedRestartWarning, _of_failures(estimate)
    if not estimate.valid:
        yield EvidenceRangeWarning, _of_range(estimate)
    if abs(estimate.unseen_curvature) > 0:  # False where it is NaN
        yield KinkWarning, _of_kinks(estimate)
    if estimate.rising:
        yield None, "the bound was still rising at the last step; write a larger num_steps."
    found = estimate.doubts
    if not found.converged:
        yield (
            EvidenceFitWarning,
            f"the fit has not converged in {found.evaluations} evaluations. The bound is one nevertheless, and may be loose; scale the "
            "data, or compare with lc.bridge_evidence.",
        )
    if found.pareto_k > _HEAVY:
        words = (
            f"the posterior is far from the normal distribution at which paths start: Pareto's k of importance weights is "
            f"{found.pareto_k:.2f}. The bound is one, and may be low by more than a few tenths of a nat. Write hierarchies with "
            "non-centred parameters, or compare with lc.bridge_evidence."
        )
        yield NonNormalPosteriorWarning if found.pareto_k > USELESS else None, words
    loose = estimate.start_importance - 3 * estimate.start_importance_stderr > estimate.bound + _LOOSE
    if loose and estimate.preconditioner is not None:
        yield EvidenceFitWarning, _of_looseness(estimate)
    if found.other_mode is not None:
        distance, log_evidence = found.other_mode
        yield (
            OtherModeWarning,
            f"the posterior has another mode, {distance:.3g} standard deviations of the fit away, whose own evidence is about "
            f"{log_evidence:.6g} nats by Laplace's approximation; the bound, {estimate.bound:.6g}, is that of one mode. Order what is "
            "exchangeable (`dist.transforms.OrderedTransform`), or add the evidences of the modes.",
        )


def _of_looseness(estimate: "Evidence") -> str:
    """Importance sampling from the start estimates the evidence without bias: where it is far above the bound, the bound is loose."""
    other = 'start="laplace"' if estimate.start == "fit" and np.isfinite(estimate.laplace) else "a model without symmetric modes"
    return (
        f"the bound, {estimate.bound:.6g}, is loose: importance sampling from the start alone, without descent, has "
        f"{estimate.start_importance:.6g} (standard error {estimate.start_importance_stderr:.2g}) nats. The start lies across several "
        f"modes, along a ridge, or far from the posterior. Write {other}, or compare with lc.bridge_evidence."
    )


def _of_failures(estimate: "Evidence") -> str:
    lower = "step_size" if estimate.preconditioner is None else "inflate"
    return (
        f"{estimate.num_failed} of {len(estimate.finite)} restarts became infinite or NaN, and are not counted from there on. The bound of "
        f"the others has log(counted / all) less for it. Where the density has hard limits nothing helps; else lower {lower}."
    )


def _of_kinks(estimate: "Evidence") -> str:
    dim = sum(int(np.prod(site.unconstrained_shape)) for site in estimate.program.latents.values())
    return (
        "the log density has kinks, as of |x|, a Laplace density, ReLU or a clipped value: gradients jump there, and steps fold where no "
        f"Jacobian sees it ({estimate.unseen_curvature:.3g} of a trace of {dim} are missing from the Hessian). The number is no bound and "
        "may exceed the evidence. Use lc.bridge_evidence, .start_importance, or a density without kinks, such as dist.StudentT."
    )


def _of_range(estimate: "Evidence") -> str:
    paths = int((estimate.curvature > estimate.limit).any(axis=1).sum())
    folds = f", but {estimate.num_folds} steps fold, so that the others may overlap and count twice" if estimate.num_folds else ""
    return (
        f"on {paths} of {len(estimate.finite)} paths steps were too long for the curvature: the largest eigenvalue of I - J was up to "
        f"{estimate.max_curvature.max():.3g}, first at step {estimate.first_invalid_step}, beyond {estimate.limit:g}, up to which "
        f"order={estimate.order!r} estimates a lower bound. These paths are not counted after that; the bound of the others has "
        f"log(counted / all) less for it{folds}. {_advice(estimate)}"
    )


def _advice(estimate: "Evidence") -> str:
    """What to write instead."""
    largest = estimate.max_curvature.max(initial=0)
    if estimate.preconditioner is None:
        step = int(estimate.first_invalid_step or 0)
        advised = 0.3 * estimate.step_size[step] / largest if largest > 0 else estimate.step_size[step] / 10
        return f"Write step_size={advised:.2g}" + (", or order=4." if estimate.order == 2 and largest < LIMITS[4] else ", or leave it out.")
    if estimate.num_steps < last_length(estimate.start):
        return 'Write num_steps="auto".'
    return (
        "No normal distribution is near the posterior: a funnel, several modes, or a ridge. Write hierarchies with non-centred "
        "parameters, or compare with lc.bridge_evidence."
    )
