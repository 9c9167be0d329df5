"""A look for modes that a fit does not cover.

From some draws of the prior L-BFGS climbs the log joint density. Where it ends far from the fit, in a mode of its own, Laplace's
approximation there says what that mode is worth. It finds modes that some of these draws lead to, and no others.
"""

from typing import Literal, NamedTuple

import numpy as np

from .fit import climb_from_prior, laplace
from .fits import Fits

__all__ = ["OtherMode", "other_mode"]

_SEARCHES = 8
_FAR = 3.0  # beyond the distance that a draw from the fit has, in standard deviations


class OtherMode(NamedTuple):
    """distance: from the fit's mean, in its standard deviations. log_evidence: Laplace's of this mode alone, nats."""

    distance: float
    log_evidence: float


def other_mode(fits: Fits, start: Literal["fit", "laplace"], log_evidence: float, share: float) -> OtherMode | None:
    """The best other mode, far from the fit at which paths start, with at least a share of the evidence; None if none was found."""
    (mean, root), found = fits.normal(start), []
    for end in climb_from_prior(fits.objective, fits.data, fits.prior, _SEARCHES, full=True):
        if not _distance(mean, root, end) > np.sqrt(len(end)) + _FAR:
            continue
        there = laplace(fits.objective, fits.data, end, np.diag(fits.prior.scale))
        if there is None or there.log_evidence < log_evidence + np.log(share):
            continue
        distance = _distance(mean, root, there.mode)
        if distance > np.sqrt(len(end)) + _FAR:
            found.append(OtherMode(distance, there.log_evidence))
    return max(found, key=lambda other: other.log_evidence, default=None)


def _distance(mean: np.ndarray, root: np.ndarray, u: np.ndarray) -> float:
    """From the mean, in standard deviations of the fit."""
    return float(np.linalg.norm(np.linalg.solve(root, u - mean)))
