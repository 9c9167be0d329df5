"""The gate: whatever a user hands in becomes an array here, with its meaning kept, or is refused by name.

Arguments of a model (`admit`), observations and values inside it, and samples, starts and positions outside of it (`as_array`) all pass
here. Inside, an array is what it seems: no element of it is masked, no label is a number, no integer wraps when JAX makes it narrower.

| handed in | what becomes of it |
|---|---|
| a list of numbers; a Series or Index of pandas or polars; a tensor | a NumPy array |
| a DataArray of xarray | a NumPy array; its labels are kept for ArviZ |
| pandas' nullable numbers | NumPy's; what is missing is NaN |
| 64-bit integers that do not fit into the run's integers | floats |
| a masked array | an array, if nothing in it is masked; else refused |
| floats too large for the run's floats; categories; text or dates where a number belongs | refused |
| `lc.Graphs` | `PackedGraphs`, whose arrays are data |
| text, dates, data frames, anything else among the arguments | left as it is, for the model to read |
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Number
from typing import Any

import jax
import numpy as np

from ..transforms import ModelError
from .graphs import Graphs

__all__ = ["Admitted", "Argument", "admit", "as_array", "is_series"]


@dataclass(frozen=True)
class Argument:
    """An array among a model's arguments.

    Attributes:
        value: the array.
        dims, coords: of a DataArray: the names of its axes, and their labels by name; else empty.
        given: the type that was handed in, where it was converted: "pandas.Series"; else "".
    """

    value: Any
    dims: tuple[str, ...] = ()
    coords: Mapping[str, Any] | None = None
    given: str = ""


@dataclass(frozen=True)
class Admitted:
    """The arguments of a model behind the gate.

    Attributes:
        args, kwargs: what the model is called with.
        arrays: the arrays among them by parameter and path: "x", "data.x", "args.0".
        absent: the parameters that are None.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    arrays: dict[str, Argument]
    absent: tuple[str, ...]

    def converted(self) -> dict[str, str]:
        """The arguments that arrive as another type than they were given, by name: the type."""
        return {name: argument.given for name, argument in self.arrays.items() if argument.given}


def admit(model: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Admitted:
    """Convert and check the arguments of a model.

    Raises:
        ModelError: an argument would lose its meaning as an array; names the argument and says what to write instead.
    """
    function = _function(model)
    _check_closure(function)
    names = _parameter_names(function, args)
    arrays: dict[str, Argument] = {}
    absent: list[str] = []

    def passed(name: str, value: Any) -> Any:
        if value is None:
            absent.append(name)
        return jax.tree.map_with_path(lambda path, leaf: _leaf([name, *path], leaf, arrays), value, is_leaf=is_series)

    passed_args = tuple(passed(name, value) for name, value in zip(names, args, strict=True))
    passed_kwargs = {name: passed(name, value) for name, value in kwargs.items()}
    for name, default in _defaults(function).items():
        if name not in kwargs and name not in names:
            passed(name, default)
    return Admitted(passed_args, passed_kwargs, arrays, tuple(absent))


def as_array(value: Any, what: str) -> Any:
    """`value` as a NumPy array of a dtype that JAX keeps, or as the JAX array that it is.

    Args:
        value: a number, a list of numbers, or an array of any library.
        what: how messages name it: "site 'y': obs".

    Raises:
        ModelError: it is no number and no array of numbers, or would change its value; says what to write instead.
    """
    if isinstance(value, jax.Array):  # tracers are jax.Arrays too
        return value
    array = _plain(value, what)
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool):
        raise _no_number(value, array, what)
    return _narrowed(array, what)


def _leaf(path: Sequence[Any], leaf: Any, arrays: dict[str, Argument]) -> Any:
    """One leaf of the arguments as the model gets it; arrays are noted under the parameter's name and the path to them."""
    if isinstance(leaf, Graphs):
        return jax.tree.map_with_path(lambda inner, array: _leaf([*path, *inner], array, arrays), leaf.packed())
    name = ".".join((path[0], *map(_step, path[1:])))
    if isinstance(leaf, jax.Array):
        arrays[name] = Argument(leaf)
        return leaf
    if not (isinstance(leaf, (np.ndarray, np.generic)) or is_series(leaf)):
        return leaf
    what = f"argument {name!r}"
    array = _fitting(_plain(leaf, what), what)
    arrays[name] = Argument(array, *_labels(leaf), "" if isinstance(leaf, (np.ndarray, np.generic)) else _kind(leaf))
    if isinstance(leaf, np.generic):
        return array[()]
    # A NumPy array without axes as a JAX array: JAX would write the number of the former into the program.
    return jax.numpy.asarray(array) if array.ndim == 0 and array.dtype.kind == "f" else array


def _fitting(array: np.ndarray, what: str) -> np.ndarray:
    """The array as NumPy code in a model shall see it: of the dtype it has, unless JAX would change its values later."""
    if array.dtype.kind not in "iufc":
        return array
    narrow = _narrowed(array, what)
    return array if narrow.dtype.kind == array.dtype.kind else array.astype(float)


def _kind(value: Any) -> str:
    return f"{_library(value)}.{type(value).__name__}".lstrip(".")


def _library(value: Any) -> str:
    """The library that a value's type is from; "" for Python's own."""
    return type(value).__module__.partition(".")[0].removeprefix("builtins")


def is_series(value: Any) -> bool:
    """Whether a value is a series of numbers to its owner, and not an array to JAX; and a list of numbers."""
    library = _library(value)
    if library == "pandas":
        return type(value).__name__.endswith(("Series", "Index", "Array", "Categorical"))
    if library in ("polars", "pyarrow"):
        return type(value).__name__ in ("Series", "Array", "ChunkedArray") or type(value).__name__.endswith("Array")
    if library == "xarray":
        return type(value).__name__ == "DataArray"
    if library == "torch":
        return type(value).__name__ in ("Tensor", "Parameter")
    return isinstance(value, list) and _is_numbers(value)


def _is_numbers(value: list[Any]) -> bool:
    """Whether a list is of numbers, or of such lists; then it is data. (A tuple is a shape or a record, and stays what it is.)"""
    return bool(value) and all(
        isinstance(x, (bool, int, float, np.bool_, np.number)) or (isinstance(x, list) and _is_numbers(x)) for x in value
    )


def _plain(value: Any, what: str) -> np.ndarray:
    """A NumPy array that means what `value` means."""
    if isinstance(value, np.ma.MaskedArray):
        masked = int(np.ma.getmaskarray(value).sum())
        if masked:
            raise ModelError(
                f"{what} is a masked array with {masked} of {value.size} elements masked, and what is masked is no data. Give the "
                "plain values and the mask apart: `obs=y.filled(0), obs_mask=~y.mask` makes the missing ones latent, "
                "`numpyro.handlers.mask(mask=~y.mask)` leaves them out."
            )
        return np.asarray(value.data)
    if type(getattr(value, "dtype", None)).__name__ == "CategoricalDtype":
        raise ModelError(
            f"{what} is a {_kind(value)} of categories, whose labels are no numbers. Give their codes, which count from 0 and are -1 where "
            "a value is missing: `series.cat.codes.to_numpy()`."
        )
    try:
        array = _of_pandas(value) if _library(value) == "pandas" else np.asarray(value)
        if array.dtype == object and all(x is None or isinstance(x, Number) or type(x).__name__ == "NAType" for x in array.flat):
            missing = np.asarray([x is None or type(x).__name__ == "NAType" for x in array.flat], bool).reshape(array.shape)
            return np.where(missing, np.nan, array).astype(float)
        return array
    except (TypeError, ValueError, RuntimeError):  # a ragged list, a tensor that has a gradient or lies on a device
        raise _no_number(value, None, what) from None


def _of_pandas(value: Any) -> np.ndarray:
    dtype = getattr(value, "dtype", None)
    if not hasattr(value, "isna"):
        return np.asarray(value)
    if getattr(dtype, "kind", "O") in "iufb" and not isinstance(dtype, np.dtype):  # nullable numbers
        missing = np.asarray(value.isna())
        return value.to_numpy(dtype=float, na_value=np.nan) if missing.any() else value.to_numpy(dtype=getattr(dtype, "numpy_dtype", float))
    return np.asarray(value.to_numpy() if hasattr(value, "to_numpy") else value)


def _narrowed(array: np.ndarray, what: str) -> np.ndarray:
    """The array in the dtype that JAX will give it. Integers that do not fit become floats, which round and do not wrap."""
    dtype = jax.dtypes.canonicalize_dtype(array.dtype)
    if dtype == array.dtype:
        return array
    if array.dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if array.size and (int(array.min()) < limits.min or int(array.max()) > limits.max):
            return array.astype(jax.dtypes.canonicalize_dtype(float))
    elif array.dtype.kind in "fc" and array.size:
        with np.errstate(over="ignore"):
            narrow = array.astype(dtype)
        lost = np.isinf(narrow) & np.isfinite(array)
        if lost.any():
            place = tuple(int(i) for i in np.argwhere(lost)[0])
            raise ModelError(
                f"{what} has the value {array[place]:.6g} at index {place[0] if len(place) == 1 else place}, which is too large for "
                f"{np.dtype(dtype)} (at most {np.finfo(dtype).max:.3g}). Rescale it, or switch 64-bit numbers on first: "
                '`jax.config.update("jax_enable_x64", True)`.'
            )
        return narrow
    return array.astype(dtype, copy=False)


def _no_number(value: Any, array: np.ndarray | None, what: str) -> ModelError:
    kind = f"{type(value).__module__}.{type(value).__name__}"
    if array is not None and array.dtype.kind in "mM":
        advice = "Give numbers: for example the days since the first date, `(t - t.min()) / np.timedelta64(1, 'D')`."
        return ModelError(f"{what} is a {kind} of dates or durations ({array.dtype}); expected numbers. {advice}")
    of = "" if array is None or array.ndim == 0 else f" of {'text' if array.dtype.kind in 'US' else array.dtype}"
    advice = "Convert it first, for example `jnp.asarray(x)`, `series.to_numpy()`, or integer codes for labels"
    return ModelError(
        f"{what} is a {kind}{of}; expected a number or a numeric array. {advice} (`np.unique(labels, return_inverse=True)[1]`)."
    )


def _labels(value: Any) -> tuple[tuple[str, ...], Mapping[str, Any] | None]:
    if _library(value) != "xarray":
        return (), None
    return tuple(map(str, value.dims)), {str(d): np.asarray(value.coords[d]) for d in value.dims if d in value.coords}


def _check_closure(function: Callable[..., Any]) -> None:
    """Refuse what the model reads from around it, past the gate, where JAX would change its values without a word."""
    try:
        around = inspect.getclosurevars(inspect.unwrap(function))
    except (TypeError, ValueError):
        return
    for name, value in {**around.globals, **around.nonlocals}.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
            what = f"the array {name!r}, which the model reads from around it,"
            if _fitting(_plain(value, what), what).dtype.kind != value.dtype.kind:
                raise ModelError(
                    f"{what} has integers from {value.min()} to {value.max()}, which do not fit into JAX's 32 bits and would wrap. Write "
                    f"`{name}.astype(float)`, pass it as an argument of the model, or switch 64-bit numbers on first: "
                    '`jax.config.update("jax_enable_x64", True)`.'
                )


def _function(model: Callable[..., Any]) -> Callable[..., Any]:
    """The model behind NumPyro's handlers, which take *args and **kwargs."""
    while not inspect.isfunction(model) and callable(getattr(model, "fn", None)):
        model = model.fn  # pyright: ignore[reportFunctionMemberAccess]
    return model


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return []


def _parameter_names(function: Callable[..., Any], args: Sequence[Any]) -> list[str]:
    """A name for each positional argument: its parameter's, or "args.0" and so on."""
    names: list[str] = []
    for parameter in _parameters(function):
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
        elif parameter.kind == parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}.{i}" for i in range(len(args) - len(names))]
    return [*names, *(f"args.{i}" for i in range(len(names), len(args)))][: len(args)]


def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    return {p.name: p.default for p in _parameters(function) if p.default is not p.empty}


def _step(key: Any) -> str:
    """One step of a path through a pytree: a key, an index or an attribute's name."""
    return str(next(getattr(key, field) for field in ("key", "idx", "name") if hasattr(key, field)))
