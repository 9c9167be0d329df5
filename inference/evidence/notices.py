"""The warnings of an evidence estimate, one class per cause, so that each can be filtered."""

from ...transforms.errors import LucioleWarning

__all__ = ["EvidenceFitWarning", "EvidenceRangeWarning", "FailedRestartWarning", "OtherModeWarning", "PreconditionerWarning"]


class EvidenceRangeWarning(LucioleWarning):
    """Steps were too long for their curvature: from there on their paths are not counted in the bound."""


class FailedRestartWarning(LucioleWarning):
    """Restarts became infinite or NaN, and are not counted in the bound."""


class EvidenceFitWarning(LucioleWarning):
    """The fit at which paths start has not converged: the bound is one, and may be loose."""


class OtherModeWarning(LucioleWarning):
    """The posterior has a further mode, which paths from one normal distribution do not cover."""


class PreconditionerWarning(LucioleWarning):
    """The model has more parameters than a full preconditioner can hold: it has a diagonal one."""
