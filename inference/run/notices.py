"""The warnings of a run, one class per cause, so that each can be filtered."""

from ...transforms.errors import LucioleWarning

__all__ = ["DivergenceWarning", "InterruptWarning", "ProgramFolderWarning"]


class DivergenceWarning(LucioleWarning):
    """Transitions after warm-up diverged: the draws may miss a region of the posterior."""


class InterruptWarning(LucioleWarning):
    """The user interrupted the run: fewer draws than asked for were kept."""


class StoreWarning(LucioleWarning):
    """A stored run goes on with other versions, on a machine of another kind or on other devices: its draws may differ in the last bits."""


class ProgramFolderWarning(LucioleWarning):
    """The folder of compiled programs is not used, because others own it or may write to it; or its bound is no number."""
