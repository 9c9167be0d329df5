"""What is known of a fit beside the bound from it: Laplace's approximation, how far from normal the posterior is, other modes."""

from typing import NamedTuple

import numpy as np

from .fits import Fits
from .modes import OtherMode, other_mode
from .normality import pareto_k
from .plan import Plan

__all__ = ["NOTHING", "Doubts", "doubts"]

_SHARE = 0.05  # of the evidence, that another mode must have to be told of


class Doubts(NamedTuple):
    """NaN and None where it was not looked at: without a full fit.

    Attributes:
        laplace: nats; NaN too if there is no mode. pareto_k: of importance weights of the fit, inflated.
        other_mode: the best other mode that was found. converged: whether the fit did, in so many evaluations.
    """

    laplace: float
    pareto_k: float
    other_mode: OtherMode | None
    converged: bool
    evaluations: int


NOTHING = Doubts(np.nan, np.nan, None, True, 0)


def doubts(fits: Fits, plan: Plan, inflate: float, log_evidence: float) -> Doubts:
    """What speaks against a bound from a path with a full preconditioner.

    Args:
        inflate: k. log_evidence: the bound, nats.
    """
    fit, laplace = fits.variational, fits.laplace
    known = laplace.log_evidence if laplace is not None else np.nan
    if plan.start == "prior":
        return Doubts(known, np.nan, None, fit.converged, fit.evaluations)
    mean, root = fits.normal(plan.start)
    tail = pareto_k(fits.objective.program, fits.objective.layout, fits.data, mean, inflate * root)
    return Doubts(known, tail, other_mode(fits, plan.start, log_evidence, _SHARE), fit.converged, fit.evaluations)
