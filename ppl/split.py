"""Draws that are split over the devices of a mesh: what is computed for each of them is computed where it lies.

JAX places arrays evenly, so every device has as many draws as the others: a block of the leading axes. It goes through its own block in
batches, and needs nothing of the others: no collective. A draw keeps its number, and with it its random numbers, wherever it lies.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ..transforms import ModelError

__all__ = ["Split", "batches", "split_of"]


class Split(NamedTuple):
    """How draws are split; hashable, because it is part of a compiled program.

    Attributes:
        mesh: of the devices. spec: by leading axis of the draws, the axes of the mesh over which it is split.
    """

    mesh: Mesh
    spec: tuple[tuple[str, ...], ...]

    @property
    def blocks(self) -> PartitionSpec:
        """Of arrays with a leading axis of blocks, one for each device."""
        return PartitionSpec(tuple(axis for axes in self.spec for axis in axes))

    @property
    def draws(self) -> PartitionSpec:
        """Of arrays with the leading axes of the draws."""
        return PartitionSpec(*self.spec)

    def put(self, value: Any, spec: PartitionSpec) -> jax.Array:
        """The array on the devices; without a copy where it lies so already."""
        return jax.device_put(value, NamedSharding(self.mesh, spec))

    def numbers(self, lead: tuple[int, ...]) -> np.ndarray:
        """The numbers of the draws of each block, (block, draw), uint32: where they stand if the leading axes become one."""
        parts = [math.prod(self.mesh.shape[axis] for axis in axes) for axes in self.spec]
        cut = [size for whole, part in zip(lead, parts, strict=True) for size in (part, whole // part)]
        numbers = np.arange(math.prod(lead), dtype=np.uint32).reshape(cut)
        order = (*range(0, 2 * len(lead), 2), *range(1, 2 * len(lead), 2))
        return np.ascontiguousarray(numbers.transpose(order)).reshape(math.prod(parts), -1)

    def each(self, size: int, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function of batches as one that every device does for `size` of its own draws.

        Args:
            function: (data, key, numbers (size,), values (size, ...)) -> arrays (size, ...).

        Returns:
            (data, key, begin, numbers (block, draw), values (*leading axes, ...)) -> arrays (block, size, ...), of the draws from `begin`.
        """
        whole = PartitionSpec()

        def local(data, key, begin, numbers, values):
            def cut(x):
                return lax.dynamic_slice_in_dim(x, begin, size)

            flat = {n: v.reshape(numbers.shape[1], *v.shape[len(self.spec) :]) for n, v in values.items()}
            found = function(data, key, cut(numbers[0]), {n: cut(v) for n, v in flat.items()})
            return jax.tree.map(lambda v: v[None], found)

        # The key arithmetic has types that `check_vma` cannot follow; nothing here is differentiated from outside.
        in_specs = (whole, whole, whole, self.blocks, self.draws)
        return jax.shard_map(local, mesh=self.mesh, in_specs=in_specs, out_specs=self.blocks, check_vma=False)


def split_of(what: str, values: Mapping[str, Any], lead: tuple[int, ...]) -> Split | None:
    """How the draws of all sites are split; None if they are not.

    Args:
        what: the function to name in errors.
        values: by site, (*leading axes, *site shape). What is committed to no device goes where the others are.

    Raises:
        ModelError: sites are split differently, or along an axis of their own; draws lie with another process.
    """
    placed = {n: v.sharding for n, v in values.items() if getattr(v, "committed", False)}
    if all(sharding.is_fully_replicated for sharding in placed.values()):
        return None
    splits = {name: _split(what, name, sharding, values[name], len(lead)) for name, sharding in placed.items()}
    (first, split), *others = splits.items()
    for name, other in others:
        if other != split:
            raise ModelError(
                f"{what}: the samples of {first!r} are {_words(placed[first])}, and those of {name!r} {_words(placed[name])}. All draws of "
                f"one number must lie on one device; {_advice(lead)}"
            )
    return split


def _split(what: str, name: str, sharding: Any, value: Any, num_lead: int) -> Split | None:
    """How the draws of one site are split; None if they are not."""
    if not sharding.is_fully_addressable:
        raise ModelError(
            f"{what}: the samples of {name!r} lie partly with other processes, and the results are NumPy arrays in this one; give each "
            "process its own draws, and a key of its own."
        )
    if sharding.is_fully_replicated:
        return None
    mesh: Any = getattr(sharding, "mesh", None)
    if not isinstance(sharding, NamedSharding):
        raise ModelError(f"{what}: the samples of {name!r} are split by a {type(sharding).__name__}; {_advice(value.shape[:num_lead])}")
    entries = [() if e is None else (e,) if isinstance(e, str) else tuple(e) for e in sharding.spec]
    lead = tuple((*entries, *[()] * num_lead)[:num_lead])
    beyond = [axis for axis in range(num_lead, len(entries)) if math.prod(mesh.shape[a] for a in entries[axis]) > 1]
    if beyond:
        raise ModelError(
            f"{what}: the samples of {name!r}, of shape {value.shape}, are {_words(sharding)}: along axis {beyond[0]}, which is one of the "
            f"site and not of its draws; {_advice(value.shape[:num_lead])}"
        )
    # Under explicit axes the types of the model's arrays would have to say where they are.
    return Split(Mesh(mesh.devices, mesh.axis_names), lead)


def _words(sharding: Any) -> str:
    if isinstance(sharding, NamedSharding):
        sizes = ", ".join(f"{axis!r}: {size}" for axis, size in sharding.mesh.shape.items())
        devices = sorted(d.id for d in sharding.device_set)
        return f"placed by {sharding.spec} on the mesh {{{sizes}}} of the devices {devices}"
    return f"on {', '.join(sorted(map(str, sharding.device_set)))}"


def _advice(lead: tuple[int, ...]) -> str:
    draws = "draw" if len(lead) < 2 else "chain"
    return f"write jax.device_put(samples, NamedSharding(mesh, PartitionSpec(axis))), which splits the leading axis, {draws}, of all sites."


def batches(split: Split, numbers: np.ndarray, size: int) -> Iterator[tuple[int, np.ndarray]]:
    """Where each batch begins in the blocks, and the numbers of its draws, (block, size); the last ones overlap, so that all are full."""
    total = numbers.shape[1]
    for begin in range(0, total, size):
        begin = min(begin, total - size)
        yield begin, numbers[:, begin : begin + size]
