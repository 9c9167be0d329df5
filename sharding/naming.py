"""The names of a program's values: a parameter's name, and the key path below it."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from ..transforms.errors import PartitionError

__all__ = ["argument_names", "carried", "group_name", "output_names"]


def path_name(path: Sequence[Any]) -> str:
    """A key path with dots: layers.0.qkv."""
    return ".".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def argument_names(function: Callable[..., Any], args: Sequence[Any]) -> list[str]:
    """The name of every leaf of the arguments, in the order in which they are flattened.

    Raises:
        PartitionError: the function does not take these arguments.
    """
    parameters = _parameter_names(function, args)
    return [
        ".".join(filter(None, (name, path_name(path))))
        for name, arg in zip(parameters, args, strict=True)
        for path, _ in jax.tree_util.tree_leaves_with_path(arg)
    ]


def _parameter_names(function: Callable[..., Any], args: Sequence[Any]) -> list[str]:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a builtin says nothing of its parameters
        return [f"args.{i}" for i in range(len(args))]
    try:
        signature.bind(*args)
    except TypeError as error:
        raise PartitionError(
            f"partition(fn, args, ...): {getattr(function, '__name__', function)} does not take these {len(args)} arguments: {error}. "
            "Write args as a tuple of its positional arguments."
        ) from None
    names: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}.{i}" for i in range(len(args) - len(names))]
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
    return names[: len(args)]


def group_name(name: str) -> str:
    """A name with the numbers in its path left open: layers.*.w."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name)


def output_names(tree: Any) -> list[str]:
    """The name of every leaf of what the function returns: its key path, "" if it is all that is returned."""
    return [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def carried(carry: Mapping[str, str], inputs: Sequence[str], outputs: Sequence[str]) -> dict[int, int]:
    """Number of an output -> number of the input whose layout it keeps.

    Raises:
        PartitionError: one of the two does not exist.
    """
    found = {}
    number = {name: i for i, name in enumerate(inputs)}
    for out, source in carry.items():
        below = [(i, name) for i, name in enumerate(outputs) if name == out or name.startswith(out + ".") or not out]
        if not below:
            raise PartitionError(f"carry: the function returns nothing called {out!r}; it returns {_few(outputs)}.")
        for i, name in below:
            rest = name if not out else name[len(out) :]
            wanted = source + (rest if rest.startswith(".") or not rest else "." + rest)
            if wanted not in number:
                raise PartitionError(
                    f"carry: {out!r} is to keep the layout of {source!r}, but there is no argument {wanted!r}; there are {_few(inputs)}."
                )
            found[i] = number[wanted]
    return found


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:8])
    return f"{shown}, ..." if len(names) > 8 else shown
