"""The warnings of an evidence estimate, one class per cause, so that each can be filtered."""

from ...transforms.errors import LucioleWarning

__all__ = [
    "EvidenceFitWarning",
    "EvidenceRangeWarning",
    "FailedRestartWarning",
    "FewEffectiveDrawsWarning",
    "KinkWarning",
    "NonNormalPosteriorWarning",
    "OtherModeWarning",
    "PreconditionerWarning",
    "UnmixedChainsWarning",
]


class EvidenceRangeWarning(LucioleWarning):
    """Steps were too long for their curvature: from there on their paths are not counted in the bound."""


class FailedRestartWarning(LucioleWarning):
    """Restarts became infinite or NaN, and are not counted in the bound."""


class EvidenceFitWarning(LucioleWarning):
    """The fit at which paths start has not converged, or lies across modes: the bound is one, and may be, or is, loose."""


class KinkWarning(LucioleWarning):
    """The log density has kinks, where steps fold unseen: what was estimated is no bound."""


class NonNormalPosteriorWarning(LucioleWarning):
    """The posterior is far from the normal distribution at which paths start: the bound is one, and may be low."""


class OtherModeWarning(LucioleWarning):
    """The posterior has a further mode, which paths from one normal distribution do not cover."""


class PreconditionerWarning(LucioleWarning):
    """The model has more parameters than a full preconditioner can hold: it has a diagonal one."""


class FewEffectiveDrawsWarning(LucioleWarning):
    """An evidence estimate rests on so few effective draws, or is so noisy, that its standard error is not to be trusted."""


class UnmixedChainsWarning(LucioleWarning):
    """The chains behind an evidence estimate do not agree: they are no draws from one posterior, and its standard error means nothing."""
