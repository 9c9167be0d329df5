"""Where the parts of a value lie: for each dimension the mesh axes over which it is split, and how one layout becomes another."""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from jax.sharding import PartitionSpec

__all__ = ["Layout", "Move", "local_shape", "moves", "replicated", "spec_of"]

Layout = tuple[tuple[str, ...], ...]
"""For each dimension the mesh axes over which it is split, major to minor; () where every device has all of it."""


def replicated(rank: int) -> Layout:
    return ((),) * rank


def local_shape(shape: tuple[int, ...], layout: Layout, mesh: Mapping[str, int]) -> tuple[int, ...]:
    """The shape on one device; a dimension that its shards do not divide is padded."""
    if not any(layout):
        return shape
    return tuple(size if not axes else -(-size // math.prod(mesh[a] for a in axes)) for size, axes in zip(shape, layout, strict=True))


def spec_of(layout: Layout) -> PartitionSpec:
    return PartitionSpec(*(axes if len(axes) != 1 else axes[0] for axes in layout)) if any(layout) else PartitionSpec()


class Move(NamedTuple):
    """One step from a layout to another.

    Attributes:
        kind: "slice" (no communication), "all_gather" or "all_to_all".
        axes: the mesh axes that it works over; one, but for a gather, which may take several minor ones of a dimension.
        source: the dimension that stops being split over them; None for a slice.
        target: the dimension that begins to be; None for a gather.
        layout: the layout after it.
    """

    kind: str
    axes: tuple[str, ...]
    source: int | None
    target: int | None
    layout: Layout


def moves(start: Layout, end: Layout) -> Iterator[Move]:
    """The steps from one layout to another: slices as soon as they can be, an exchange where an axis changes its dimension, else gathers.

    Only the minor axis of a dimension can be removed or added, hence the order.
    """
    current = [list(axes) for axes in start]

    def frozen() -> Layout:
        return tuple(map(tuple, current))

    def wanting() -> Iterator[tuple[int, str]]:
        for dim, axes in enumerate(end):
            have = len(current[dim])
            if have < len(axes) and tuple(current[dim]) == axes[:have]:
                yield dim, axes[have]

    def unwanted(dim: int) -> int:
        """How many minor axes of a dimension do not belong there."""
        common = 0
        for a, b in zip(current[dim], end[dim], strict=False):
            if a != b:
                break
            common += 1
        return len(current[dim]) - common

    while frozen() != end:
        used = {a for axes in current for a in axes}
        target = next(((dim, a) for dim, a in wanting() if a not in used), None)
        if target is not None:
            current[target[0]].append(target[1])
            yield Move("slice", (target[1],), None, target[0], frozen())
            continue
        exchange = next(
            ((source, dim, a) for dim, a in wanting() for source in range(len(end)) if unwanted(source) and current[source][-1] == a), None
        )
        if exchange is not None:
            source, dim, a = exchange
            current[source].pop()
            current[dim].append(a)
            yield Move("all_to_all", (a,), source, dim, frozen())
            continue
        source = next(dim for dim in range(len(end)) if unwanted(dim))
        first = len(current[source]) - unwanted(source)
        axes = tuple(current[source][first:])
        del current[source][first:]
        yield Move("all_gather", axes, source, None, frozen())
