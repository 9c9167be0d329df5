"""What is said about an estimate that something is wrong with: errors and warnings in words."""

import warnings

import numpy as np

from ...transforms import EvidenceError
from ..notices import InterruptWarning
from .estimators import LIMITS
from .fits import Fits
from .modes import other_mode
from .notices import EvidenceFitWarning, EvidenceRangeWarning, FailedRestartWarning, OtherModeWarning
from .plan import last_length
from .result import Evidence

__all__ = ["check_some_valid", "warn"]

_SHARE = 0.05  # of the evidence, that another mode must have to be told of
_LOOSE = 1.0  # nats, by which a bound must be loose for sure to be told of


def check_some_valid(estimate: Evidence) -> None:
    """Refuses an estimate none of whose paths was valid.

    Raises:
        EvidenceError: says how much too long the steps were, and what to write.
    """
    first = estimate.first_invalid_step
    moved = estimate.counted[:, estimate.steps > 0]
    if moved.any(axis=1).any() if estimate.peaks else estimate.counted[:, estimate.best].any():
        return
    where = "" if first is None else f" At step {first} the largest eigenvalue of I - J was {estimate.max_curvature.max():.3g}."
    raise EvidenceError(
        f"sgd_evidence: on no path was there a bound: the steps of all {len(estimate.finite)} were too long for the curvature, beyond "
        f"{estimate.limit:g}, up to which order={estimate.order!r} estimates a lower bound, or ended in NaN.{where} {_advice(estimate)}"
    )


def warn(estimate: Evidence, fits: Fits, interrupted: bool) -> None:
    """Warns of what is wrong, one warning for each cause."""
    if interrupted:
        reached, asked = estimate.training_loss.shape[1] - 1, len(estimate.step_size)
        warnings.warn(f"sgd_evidence was interrupted: {reached} of {asked} steps were kept.", InterruptWarning, stacklevel=4)
    if estimate.num_failed:
        warnings.warn(
            f"sgd_evidence: {estimate.num_failed} of {len(estimate.finite)} restarts became infinite or NaN, and are not counted "
            "from there on. The bound of the others has log(counted / all) less for it. Where the density has hard limits nothing helps; "
            f"else lower {'step_size' if estimate.preconditioner is None else 'inflate'}.",
            FailedRestartWarning,
            stacklevel=4,
        )
    step = estimate.first_invalid_step
    if step is not None:
        paths = int((estimate.curvature > estimate.limit).any(axis=1).sum())
        warnings.warn(
            f"sgd_evidence: on {paths} of {len(estimate.finite)} paths steps were too long for the curvature: the largest eigenvalue of "
            f"I - J was up to {estimate.max_curvature.max():.3g}, first at step {step}, beyond {estimate.limit:g}, up to which "
            f"order={estimate.order!r} estimates a lower bound. These paths are not counted after that; the bound of the others has "
            f"log(counted / all) less for it. {_advice(estimate)}",
            EvidenceRangeWarning,
            stacklevel=4,
        )
    if estimate.preconditioner is not None and estimate.start != "laplace" and fits.poor:
        warnings.warn(
            f"sgd_evidence: the fit has not converged in {fits.variational.evaluations} evaluations. The bound is one nevertheless, and "
            "may be loose; scale the data, or compare with lc.bridge_evidence.",
            EvidenceFitWarning,
            stacklevel=4,
        )
    _warn_if_loose(estimate)
    _warn_of_modes(estimate, fits)


def _warn_if_loose(estimate: Evidence) -> None:
    """Importance sampling from the start estimates the evidence without bias: where it is far above the bound, the bound is loose."""
    seen, error = estimate.start_importance, estimate.start_importance_stderr
    if estimate.preconditioner is None or not seen - 3 * error > estimate.bound + _LOOSE:
        return
    other = 'start="laplace"' if estimate.start == "fit" and np.isfinite(estimate.laplace) else "a model without symmetric modes"
    warnings.warn(
        f"sgd_evidence: the bound, {estimate.bound:.6g}, is loose: importance sampling from the start alone, without descent, has "
        f"{seen:.6g} (standard error {error:.2g}) nats. The start lies across several modes, along a ridge, or far from the posterior. "
        f"Write {other}, or compare with lc.bridge_evidence.",
        EvidenceFitWarning,
        stacklevel=5,
    )


def _warn_of_modes(estimate: Evidence, fits: Fits) -> None:
    if estimate.preconditioner != "full" or estimate.start == "prior":
        return
    other = other_mode(fits, estimate.start, estimate.bound, _SHARE)
    if other is not None:
        warnings.warn(
            f"sgd_evidence: the posterior has another mode, {other.distance:.3g} standard deviations of the fit away, whose own evidence "
            f"is about {other.log_evidence:.6g} nats by Laplace's approximation; the bound, {estimate.bound:.6g}, is that of one mode. "
            "Order what is exchangeable (`dist.transforms.OrderedTransform`), or add the evidences of the modes.",
            OtherModeWarning,
            stacklevel=5,
        )


def _advice(estimate: Evidence) -> str:
    """What to write instead."""
    largest = estimate.max_curvature.max()
    if estimate.preconditioner is None:
        step = int(estimate.first_invalid_step or 0)
        advised = 0.3 * estimate.step_size[step] / largest
        return f"Write step_size={advised:.2g}" + (", or order=4." if estimate.order == 2 and largest < LIMITS[4] else ", or leave it out.")
    if estimate.num_steps < last_length(estimate.start):
        return 'Write num_steps="auto".'
    return (
        "No normal distribution is near the posterior: a funnel, several modes, or a ridge. Write hierarchies with non-centred parameters, "
        "or compare with lc.bridge_evidence."
    )
