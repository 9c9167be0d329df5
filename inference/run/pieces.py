"""Which process writes which of a chunk's draws into a store, and how large its files are.

Draws are written by the process that has them. No two processes may write one file, so those of a run over several processes are cut as
its devices' shards are. Where they are not, in a store of a run that went on on another mesh, the first process writes all.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ...transforms.processes import whole

__all__ = ["Piece", "file_shape", "pieces"]

_FILE_BYTES = 2**20
_FILE_DRAWS = 2048  # of all chains; the last file of each array is written anew with every chunk


class Piece(NamedTuple):
    """A part of a chunk's draws that this process writes.

    Attributes:
        index: of the chains, and of each axis of the site.
        values: (chain, draw, ...).
    """

    index: tuple[slice, ...]
    values: np.ndarray


def file_shape(shape: Sequence[int], dtype: Any, like: Any) -> tuple[int, ...]:
    """Of an array (chain, draw, ...), how much of it is in one file.

    Args:
        shape, dtype: of the array.
        like: type of the draws, with their sharding if they are on a mesh.
    """
    chains, _, *rest = shape
    sharding = getattr(like, "sharding", None)
    if sharding is not None and not sharding.is_fully_addressable:
        chains, _, *rest = sharding.shard_shape(tuple(like.shape))
    row = max(1, math.prod((chains, *rest)) * dtype.itemsize)
    return (chains, max(1, min(_FILE_DRAWS, _FILE_BYTES // row)), *rest)


def pieces(values: Any, files: Sequence[int]) -> list[Piece]:
    """What this process writes of the draws of a chunk. Communicates where it has not all of them, and the files are not cut as they are.

    Args:
        values: (chain, draw, ...).
        files: the shape of one file.
    """
    if not isinstance(values, jax.Array) or values.is_fully_addressable:
        return [Piece(_all_of(values), np.asarray(values))]
    if _aligned(values, files):
        mine = [shard for shard in values.addressable_shards if shard.replica_id == 0]
        return [Piece((shard.index[0], *shard.index[2:]), np.asarray(shard.data)) for shard in mine]
    gathered = whole(values)
    return [Piece(_all_of(values), gathered)] if jax.process_index() == 0 else []


def _all_of(values: Any) -> tuple[slice, ...]:
    return (slice(None),) * (np.ndim(values) - 1)


def _aligned(values: jax.Array, files: Sequence[int]) -> bool:
    """Whether no two shards have part of one file; of draws each has all."""
    for index in values.sharding.devices_indices_map(values.shape).values():
        for axis, (part, size) in enumerate(zip(index or (), values.shape, strict=True)):
            start, stop, _ = part.indices(size)
            if axis != 1 and (start % files[axis] or (stop % files[axis] and stop != size)):
                return False
    return True
