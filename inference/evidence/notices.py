"""The warnings of an evidence estimate, one class per cause, so that each can be filtered."""

from ...transforms.errors import LucioleWarning

__all__ = ["EvidenceRangeWarning", "FailedRestartWarning", "FewEffectiveDrawsWarning", "UnmixedChainsWarning"]


class EvidenceRangeWarning(LucioleWarning):
    """A step was too long for its curvature: from there on the estimate is no lower bound."""


class FailedRestartWarning(LucioleWarning):
    """Restarts became infinite or NaN and were left out: the mean of the others may be too high."""


class FewEffectiveDrawsWarning(LucioleWarning):
    """An evidence estimate rests on so few effective draws, or is so noisy, that its standard error is not to be trusted."""


class UnmixedChainsWarning(LucioleWarning):
    """The chains behind an evidence estimate do not agree: they are no draws from one posterior, and its standard error means nothing."""
