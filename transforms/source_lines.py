"""Where in the user's code an equation or an error comes from: frames of libraries, ours among them, are left out.

Every message of this house that names a line finds it here. In a notebook the place is a cell and a line of it.
"""

import os
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from .jax_compat import JaxprEqn, user_frames

__all__ = ["Frame", "calling_line", "equation_frames", "place", "source_line", "user_code"]

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


_LIBRARIES = (*(folder + os.sep for folder in _library_folders()), "<frozen ")
_STANDARD = sysconfig.get_paths()["stdlib"] + os.sep
_INSTALLED = tuple(f"{os.sep}{folder}{os.sep}" for folder in ("site-packages", "dist-packages"))


def user_code(frames: Iterable[Frame]) -> list[Frame]:
    """The frames that are in the user's own files, in the order given.

    Whatever is installed counts as a library, unless nothing else is there: then the user's model is itself in an installed package.
    """
    ours_left_out = [frame for frame in frames if not frame[0].startswith(_LIBRARIES)]
    outside = [f for f in ours_left_out if not any(folder in f[0] for folder in _INSTALLED)]
    own = [f for f in outside if not f[0].startswith(_STANDARD)]
    return own or [f for f in ours_left_out if any(folder in f[0] for folder in _INSTALLED)]


def place(file: str, line: int) -> str:
    """A line in words: "file:line", or "cell 6, line 3" of a notebook."""
    cell = _cell(file)
    return f"{file}:{line}" if cell is None else f"cell {cell}, line {line}"


def _cell(file: str) -> str | None:
    """The number of the notebook cell that was compiled under this file name, if it was."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    named = getattr(getattr(shell, "compile", None), "format_code_name", lambda file: None)(file)  # ("Cell", "In[6]") as in its tracebacks
    return named[1].removeprefix("In[").removesuffix("]") if named and named[0] == "Cell" else None


def equation_frames(eqn: JaxprEqn) -> list[Frame]:
    """The frames of the user's code that made an equation, innermost first."""
    return user_code(user_frames(eqn))


def source_line(eqn: JaxprEqn, around: Sequence[JaxprEqn] = ()) -> str:
    """The user's line that made an equation, in words: "file:line, in function".

    Equations of JAX's own compiled functions have none; theirs is the line of the innermost equation `around` that has one.
    """
    return _in_words(next((frames for frames in map(equation_frames, (eqn, *reversed(around))) if frames), []))


def calling_line() -> str:
    """The user's line that is running now, in words: for what is wrong with a call, and not with an equation."""
    stack = traceback.walk_stack(None)
    return _in_words(user_code((frame.f_code.co_filename, line, frame.f_code.co_name) for frame, line in stack))


def _in_words(frames: list[Frame]) -> str:
    for file, line, function in frames:
        return f"{place(file, line)}, in {function}"
    return "at an unknown line"
