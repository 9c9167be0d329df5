"""The errors and warnings of the whole house, kept on its lowest floor so that every room can raise them.

Each message says what was found, what was expected and what to write instead, and names the site or the user's line.
"""


class LucioleError(Exception):
    """Base class of every error that Luciole raises on purpose."""


class ModelError(LucioleError, ValueError):
    """The model, or the data given to it, cannot be understood: names the site and the user's line."""


class InitError(LucioleError, ValueError):
    """No valid starting point was found: names the site, its value, its log probability and its gradient."""


class SamplerError(LucioleError, ValueError):
    """A sampler or a run was configured with a value that makes no sense: names the argument."""


class KeywordError(LucioleError, TypeError):
    """A call has an argument that there is not, or lacks one: names it, and what to write."""


class NoAttributeError(LucioleError, AttributeError):
    """An attribute of another library's objects that there is not here: names it, and what to write."""


class BoundError(LucioleError, ValueError):
    """A lower bound on a likelihood does not exist, cannot be proved or does not hold: names the distribution or primitive, or the row."""


class EvidenceError(LucioleError, ValueError):
    """An estimate of the evidence makes no sense as asked for, or came to nothing: names the argument, site, plate or step."""


class TrainingError(LucioleError, ValueError):
    """Training makes no sense as asked for, or failed: names the argument, the site, the plate, or the restart and step."""


class StoreError(LucioleError, OSError):
    """A store of a run cannot be written, read or gone on with: names the store, and what does not fit."""


class DerivativeError(LucioleError, ValueError):
    """A derivative does not exist, has no rule or was asked for wrongly: names the primitive and the user's line."""


class ProgramError(LucioleError, ValueError):
    """A function cannot be batched, or its stack ran over: names the function, the user's line and what to write instead."""


class PartitionError(LucioleError, ValueError):
    """A program cannot be split over a mesh as its tactics say: names the tactic, the value or the axis, and what to write instead."""


class LucioleWarning(UserWarning):
    """Base class of every warning that Luciole issues; filter it to silence them all."""
