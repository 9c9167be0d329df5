"""Where a run stands as bytes, and back: the arrays of a snapshot one behind the other."""

import math
from typing import Any

import jax
import numpy as np

from .spec import Snapshot

__all__ = ["index_of", "packed", "unpacked"]


def _leaves(snapshot: Snapshot) -> list[tuple[str, np.ndarray]]:
    return [(jax.tree_util.keystr(path), np.asarray(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(snapshot)]


def index_of(snapshot: Snapshot) -> tuple[list[list[Any]], int]:
    """Where each array of a snapshot is, (name, dtype, shape, first byte), and how many bytes they have."""
    index, start = [], 0
    for name, array in _leaves(snapshot):
        index.append([name, str(array.dtype), list(array.shape), start])
        start += array.nbytes
    return index, start


def packed(snapshot: Snapshot, size: int) -> np.ndarray:
    """A snapshot as bytes, uint8, (size,)."""
    parts = [np.ascontiguousarray(array).reshape(-1).view(np.uint8) for _, array in _leaves(snapshot)]
    found = np.concatenate(parts)
    if found.size != size:
        raise AssertionError("a snapshot of another size than the first")
    return found


def unpacked(template: Snapshot, state: np.ndarray, index: list[list[Any]]) -> Snapshot:
    """The snapshot that was packed.

    Raises:
        ValueError: it is not like the template.
    """
    treedef = jax.tree_util.tree_structure(template)
    wanted = [[name, str(array.dtype), list(array.shape)] for name, array in _leaves(template)]
    for want, have in zip(wanted, [entry[:3] for entry in index], strict=True):
        if want != have:
            raise ValueError(f"the state of the chains has {have}, expected {want}")
    content = state.tobytes()
    found = [np.frombuffer(content, dtype, math.prod(shape), start).reshape(shape) for _, dtype, shape, start in index]
    return jax.tree_util.tree_unflatten(treedef, found)
