"""Pytrees of tangents: None for zero, JAX's `float0` for integers, and errors that name the leaf."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ..errors import DerivativeError
from ..source_lines import calling_line
from .core import is_differentiable

__all__ = ["float0_zeros", "leaf_names", "match_leaves"]


def float0_zeros(aval: Any) -> np.ndarray:
    """The tangent of an integer, as JAX writes it."""
    return np.zeros(aval.shape, jax.dtypes.float0)


def leaf_names(tree: Any) -> list[str]:
    """How a person would write the path to each leaf of a structure."""
    paths, _ = jax.tree_util.tree_flatten_with_path(jax.tree.unflatten(tree, list(range(tree.num_leaves))))
    return [jax.tree_util.keystr(path) or "the value" for path, _ in paths]


def match_leaves(values: Any, tree: Any, avals: Sequence[Any], what: str) -> list[Any]:
    """The leaves of `values`, which must have the structure `tree` and fit `avals`; None may stand for any subtree.

    Args:
        values: a pytree of arrays. tree, avals: what it must match.
        what: "tangent" or "cotangent", for the error.

    Raises:
        DerivativeError: structure, shape or dtype differ.
    """
    leaves, found = jax.tree.flatten(values, is_leaf=lambda v: v is None)

    def mismatch() -> DerivativeError:
        structure = jax.tree.structure(values)
        return DerivativeError(f"the {what} has the structure {structure}, expected {tree} ({calling_line()}).")

    numbered = jax.tree.unflatten(tree, list(range(tree.num_leaves)))
    try:
        places = found.flatten_up_to(numbered)
    except ValueError:
        raise mismatch() from None
    matched: list[Any] = [None] * tree.num_leaves
    for leaf, place in zip(leaves, places, strict=True):
        if leaf is None:
            continue
        if not isinstance(place, int):
            raise mismatch()
        matched[place] = _check(leaf, avals[place], what, place, tree)
    return matched


def _check(leaf: Any, aval: Any, what: str, place: int, tree: Any) -> Any:
    if not is_differentiable(aval):
        if getattr(leaf, "dtype", None) == jax.dtypes.float0:
            return None
        raise DerivativeError(
            f"the {what} at {leaf_names(tree)[place]} belongs to a value of type {aval.str_short()}, which has no "
            f"derivative; write None there ({calling_line()})."
        )
    array = jax.numpy.asarray(leaf, aval.dtype) if isinstance(leaf, (bool, int, float, complex)) else leaf
    shape, dtype = np.shape(array), getattr(array, "dtype", None)
    if shape != aval.shape or dtype != aval.dtype:
        raise DerivativeError(
            f"the {what} at {leaf_names(tree)[place]} has shape {shape} and dtype {dtype}; expected those of its "
            f"value: {aval.shape} and {aval.dtype} ({calling_line()})."
        )
    return array
