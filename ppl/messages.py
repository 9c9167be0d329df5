"""What to raise for an error from inside a model: the same with the user's line, or what it means to somebody who wrote a model."""

import os
from typing import Any

import jax
import numpy as np

from ..transforms import LucioleError, ModelError
from ..transforms.source_lines import Frame, place, user_code
from .gate import Admitted

__all__ = ["line_of", "translated_error"]

_CONVERSIONS = {"pandas": "series.to_numpy()", "xarray": "array.to_numpy()", "polars": "series.to_numpy()"}


def translated_error(error: Exception, given: Admitted) -> Exception | None:
    """What to raise for an error from inside the model: the same with the user's line, or what it means here; None to leave it as it is."""
    if isinstance(error, LucioleError):
        return _located(error, error)
    frames = _frames(error)
    library = next((name for file, _, _ in frames for name in _CONVERSIONS if f"{os.sep}{name}{os.sep}" in file), None)
    if isinstance(error, (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError)):
        if library is not None:
            return ModelError(
                f"a {library} object met a latent or traced quantity{_at(error)}, which only JAX and NumPy arrays can. Convert it before: "
                f"`{_CONVERSIONS[library]}`, or pass the column itself as an argument of the model; it is then converted by itself."
            )
        return ModelError(
            f"{_words(error)}\nThe model needs the value of a latent or traced quantity while it is being traced{_at(error)}. Use "
            "`jnp.where`, `jax.lax.cond` or `jax.lax.scan` for what depends on a sampled value; compute sizes and indices from the data "
            "with NumPy. A NumPy array that a traced index picks from has to be JAX's: `jnp.asarray(x)[index]`."
        )
    if isinstance(error, OverflowError) and "overflow" in str(error).lower():
        return ModelError(
            f"a Python integer does not fit into JAX's integers{_at(error)}: {_words(error)}. Write it as a float (`float(n)`, `3e9`), or "
            'switch 64-bit numbers on first: `jax.config.update("jax_enable_x64", True)`.'
        )
    if isinstance(error, AttributeError) and given.converted() and isinstance(getattr(error, "obj", None), (np.ndarray, jax.Array)):
        changed = ", ".join(f"{name!r} (a {kind})" for name, kind in given.converted().items())
        return ModelError(
            f"{_words(error)}{_at(error)}. These arguments were converted and reach the model as NumPy arrays: {changed}. Use them "
            "as arrays; labels and dates that the model needs are further arguments."
        )
    odd = [name for name, argument in given.arrays.items() if getattr(argument.value.dtype, "kind", "?") in "mMOUS"]
    if odd and isinstance(error, TypeError):
        kinds = ", ".join(f"{name!r} ({given.arrays[name].value.dtype})" for name in odd)
        return ModelError(
            f"{_words(error)}{_at(error)}. These arguments are arrays, but not of numbers: {kinds}. Make numbers of them "
            "for JAX: of dates `(t - t.min()) / np.timedelta64(1, 'D')`, of labels `np.unique(labels, return_inverse=True)[1]`."
        )
    name = _site_in_progress(error)
    if name is not None:
        return ModelError(f"site {name!r}: {_words(error)}{_at(error)}.")
    if isinstance(error, ValueError) and f"{os.sep}numpyro{os.sep}distributions{os.sep}" in frames[0][0]:
        return ModelError(f"{_words(error)}{_at(error)}.")
    return None


def line_of(frames: list[Frame]) -> str:
    for file, number, _ in user_code(frames):
        return place(file, number)
    return "in an unknown place"


def _frames(error: BaseException) -> list[tuple[str, int, dict[str, Any]]]:
    frames, tb = [], error.__traceback__
    while tb is not None:
        frames.append((tb.tb_frame.f_code.co_filename, tb.tb_lineno, tb.tb_frame.f_locals))
        tb = tb.tb_next
    return frames[::-1]


def _at(error: BaseException) -> str:
    line = line_of([(f, n, "") for f, n, _ in _frames(error)])
    return "" if line.startswith("in ") else f" ({line})"


def _located(error: LucioleError, cause: BaseException) -> LucioleError:
    """The same error with the user's line at its end."""
    where = _at(cause)
    return type(error)(f"{error}{where}" if where not in str(error) else str(error)).with_traceback(error.__traceback__)


def _site_in_progress(error: BaseException) -> str | None:
    """The name of the site whose `sample` statement was on the stack when NumPyro raised `error`."""
    for file, _, local in _frames(error):
        if file.endswith(("numpyro/primitives.py", "ppl/language.py")) and isinstance(local.get("name"), str):
            return local["name"]
    return None


def _words(error: BaseException) -> str:
    return str(error).split("\n")[0].rstrip(".")
