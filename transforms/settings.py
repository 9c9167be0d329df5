"""Checks of settings that make no sense for any model: one for each kind of value, with one form of words.

Every check returns the value as a plain Python one, or raises an error that names the owner (a kernel, `MCMC`, a function), the
argument, what was found and what is expected.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .errors import LucioleError, SamplerError

__all__ = ["choice", "flag", "is_whole", "mapping", "number", "whole"]

Error = type[LucioleError]


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number; truth values are none."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def whole(owner: str, name: str, value: Any, least: int, most: int | None = None, *, write: str = "", error: Error = SamplerError) -> int:
    """A whole number from `least` to `most`; truth values are none."""
    if not is_whole(value) or value < least or (most is not None and value > most):
        span = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise error(_words(owner, name, value, f"a whole number {span}", write))
    return int(value)


def number(
    owner: str, name: str, value: Any, holds: Callable[[float], bool], expected: str, *, write: str = "", error: Error = SamplerError
) -> float:
    """A real number, not NaN, for which `holds`; `expected` says so in words."""
    real = _real(value)
    if real is None or not holds(real):
        raise error(_words(owner, name, value, expected, write))
    return real


def flag(owner: str, name: str, value: Any, *, error: Error = SamplerError) -> bool:
    """True or False, NumPy's included."""
    if not isinstance(value, (bool, np.bool_)):
        raise error(_words(owner, name, value, "True or False", ""))
    return bool(value)


def choice(owner: str, name: str, value: Any, choices: tuple[Any, ...], *, write: str = "", error: Error = SamplerError) -> Any:
    """One of the choices, of its very type: True is not 1."""
    for known in choices:
        if type(value) is type(known) and value == known:
            return value
    *most, last = map(repr, choices)
    expected = f"{', '.join(most)} or {last}" if len(most) < 3 else f"one of {', '.join(most)}, {last}"
    raise error(_words(owner, name, value, expected, write))


def mapping(owner: str, name: str, value: Any, *, error: Error = SamplerError) -> dict[str, Any]:
    """A dict by name."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise error(_words(owner, name, value, "a dict by name", f"write {name}={{}}"))
    return dict(value)


def _real(value: Any) -> float | None:
    """The value as a float, None if it is no real number."""
    if isinstance(value, (bool, np.bool_, str)) or np.ndim(value) != 0:
        return None
    try:
        array = np.asarray(value)
    except Exception:  # an abstract value of a transformation, or whatever an object of the user's own raises
        return None
    return float(array) if array.dtype.kind in "iuf" and array == array else None


def _words(owner: str, name: str, value: Any, expected: str, write: str) -> str:
    shown = repr(value)
    shown = shown if len(shown) <= 200 else f"{shown[:200]}..."
    return f"{owner}: {name} is {shown}, {expected} expected{'; ' + write if write else ''}."
