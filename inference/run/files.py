"""The files of a store: how large they are, which process writes which part of them, and how metadata is replaced.

Draws are written by the process that has them. No two processes may write one file, so those of a run over several processes are cut as
its devices' shards are. Where they are not, in a store of a run that went on on another mesh, the first process writes all.
"""

import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ...transforms.processes import whole
from ..results.stored import quietly

__all__ = ["Piece", "consolidated", "file_shape", "pieces", "replace", "shortened", "zarr", "zarr_writes"]

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
    """What this process writes of the draws of a chunk. Communicates where the files are not cut as the draws are.

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


def zarr() -> Any:
    """The library; it is heavy, and only runs with a store need it."""
    import zarr

    return zarr


@contextmanager
def zarr_writes() -> Iterator[None]:
    """Zarr writes every file, also of nothing but zeros, so that one that is missing is known to be lost."""
    with quietly(), zarr().config.set({"array.write_empty_chunks": True}):
        yield


def shortened(metadata: dict[str, Any], rows: int) -> dict[str, Any]:
    """An array's metadata with that many draws, if it has draws."""
    names = metadata.get("dimension_names") or ()
    return {**metadata, "shape": [rows if name == "draw" else size for name, size in zip(names, metadata["shape"], strict=True)]}


def consolidated(metadata: dict[str, Any]) -> dict[str, Any]:
    """Of all below a group, by path, as it stands in the group's own."""
    return {"kind": "inline", "must_understand": False, "metadata": metadata}


def replace(file: Path, content: dict[str, Any]) -> None:
    """Writes a file so that there is the old one or the new one at any time."""
    draft = file.with_name(f"{file.name}.draft")
    draft.write_text(json.dumps(content))
    os.replace(draft, file)
