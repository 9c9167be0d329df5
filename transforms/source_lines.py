"""Where in the user's code an equation or an error comes from: frames that are ours, JAX's or NumPyro's are left out.

Every message of this house that names a line finds it here.
"""

import os
import traceback
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

from .jax_compat import JaxprEqn, user_frames

__all__ = ["Frame", "calling_line", "equation_frames", "source_line", "user_code"]

Frame = tuple[str, int, str]
"""(file, line, function)"""

_HOUSE = Path(__file__).parents[1]
_ROOMS = ("ppl", "inference", "sharding", "transforms")


def _library_folders() -> Iterator[str]:
    for room in _ROOMS:  # in a checkout src/luciole/<room> is a link: frames may show either path
        yield str(_HOUSE / room)
        yield str((_HOUSE / room).resolve())
    for name in ("jax", "jaxlib", "numpyro"):  # found without importing them: not every program has a model
        spec = find_spec(name)
        yield from (spec.submodule_search_locations or ()) if spec else ()


_LIBRARIES = tuple(folder + os.sep for folder in _library_folders())


def user_code(frames: Iterable[Frame]) -> list[Frame]:
    """The frames that are in the user's own files, in the order given."""
    return [frame for frame in frames if not frame[0].startswith(_LIBRARIES)]


def equation_frames(eqn: JaxprEqn) -> list[Frame]:
    """The frames of the user's code that made an equation, innermost first."""
    return user_code(user_frames(eqn))


def source_line(eqn: JaxprEqn) -> str:
    """The user's line that made an equation, in words: "file:line, in function"."""
    return _in_words(equation_frames(eqn))


def calling_line() -> str:
    """The user's line that is running now, in words: for what is wrong with a call, and not with an equation."""
    stack = traceback.walk_stack(None)
    return _in_words(user_code((frame.f_code.co_filename, line, frame.f_code.co_name) for frame, line in stack))


def _in_words(frames: list[Frame]) -> str:
    for file, line, function in frames:
        return f"{file}:{line}, in {function}"
    return "at an unknown line"
