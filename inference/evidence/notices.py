"""The warnings of an evidence estimate, one class per cause, so that each can be filtered."""

from ...transforms.errors import LucioleWarning

__all__ = ["EvidenceRangeWarning", "FailedRestartWarning"]


class EvidenceRangeWarning(LucioleWarning):
    """A step was too long for its curvature: from there on the estimate is no lower bound."""


class FailedRestartWarning(LucioleWarning):
    """Restarts became infinite or NaN and were left out: the mean of the others may be too high."""
