"""The warnings of a run, one class per cause, so that each can be filtered."""

from ..transforms.errors import LucioleWarning

__all__ = ["DivergenceWarning", "InterruptWarning"]


class DivergenceWarning(LucioleWarning):
    """Transitions after warm-up diverged: the draws may miss a region of the posterior."""


class InterruptWarning(LucioleWarning):
    """The user interrupted the run: fewer draws than asked for were kept."""
