"""Restarts split over the devices of a mesh: each device follows the paths of its own restarts, without any collective.

A restart needs nothing of the others while it descends, and its random numbers are functions of its own number. So the programs of
`descent` run on every device as they are, inside of one `shard_map`, on fewer restarts. One thing takes all of them: where a path from the
prior ends at the peak of its bound, the mean over restarts says which step that is. There devices keep no positions (`Path.peak`), the host
finds the peak, and the path is followed again up to it.

This file is where tactics are read. Names of rows, "plate:..." and "data....", are not split yet: `_refuse` is where they end.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, PartitionSpec, SingleDeviceSharding

from ...sharding import FIRST_DIVISIBLE, REPLICATED, ManualPartition
from ...sharding.schedule import check_axes
from ...sharding.tactics import matcher
from ...transforms import EvidenceError, PartitionError, SamplerError
from ...transforms.calls import nearest
from ..run.placement import Placement

__all__ = ["Spread", "on_one_device", "over_devices", "placement"]

_NAME = "restarts"
_WRITE = 'ls.ManualPartition({"restarts": 0}, axis=...)'


class Spread(NamedTuple):
    """Where restarts are split, and what every device has of the data. place: of the restarts. train, test: of the models."""

    place: Placement
    train: tuple
    test: tuple

    @classmethod
    def of(cls, place: Placement, train: tuple, test: tuple) -> "Spread":
        return cls(place, *place.put((train, test), PartitionSpec()))


def on_one_device(place: Placement | None, arrays: Any) -> Any:
    """Arrays that lie on several devices as they are on the first of the mesh: what is traced must not say where it lies, and in the end
    every device has a copy. Without a place all stay where they are."""
    if place is None or place.mesh is None:
        return arrays
    first = SingleDeviceSharding(place.mesh.devices.flat[0])  # put on a device itself, an array keeps the type that says it is split
    return jax.tree.map(lambda x: jax.device_put(x, first) if isinstance(x, jax.Array) and len(x.devices()) > 1 else x, arrays)


def over_devices(place: Placement | None, function: Callable[..., Any], in_specs: Any, out_specs: Callable[[PartitionSpec], Any]):
    """A function of one device's restarts as that of all.

    Args:
        in_specs, out_specs: from the specification of arrays with a leading axis of restarts to those of arguments and results.
    """
    if place is None:
        return function
    restarts = PartitionSpec(place.axes)
    # The key arithmetic has types that `check_vma` cannot follow; nothing is differentiated from outside.
    return jax.shard_map(function, mesh=place.mesh, in_specs=in_specs(restarts), out_specs=out_specs(restarts), check_vma=False)


def placement(mesh: Any, tactics: Any, num_restarts: int) -> Placement | None:
    """What `mesh` and `tactics` of `sgd_evidence` mean: over which axes restarts are split; None if there is no mesh.

    Raises:
        EvidenceError: `mesh` is no mesh of this process, or one of the two is missing; the restarts cannot be split evenly.
        PartitionError: a tactic names nothing that can be split, an axis that there is not, or one that has been used.
        SamplerError: a tactic names rows.
    """
    if mesh is None:
        if tactics:
            raise EvidenceError("sgd_evidence: tactics say what is split over a mesh, and mesh=None; write mesh=jax.make_mesh(...) too.")
        return None
    if not isinstance(mesh, Mesh):
        raise EvidenceError(
            f'sgd_evidence: mesh is a {type(mesh).__name__}, {mesh!r:.100}; a mesh of devices expected: jax.make_mesh((2,), ("r",)).'
        )
    if mesh.is_multi_process:
        raise EvidenceError(
            "sgd_evidence: the mesh has devices of other processes, and an estimate runs in one; write jax.make_mesh(..., "
            "devices=jax.local_devices())."
        )
    if isinstance(tactics, ManualPartition) or not isinstance(tactics, Sequence) or not tactics:
        raise EvidenceError(f"sgd_evidence: tactics are {tactics!r:.200}; a list expected that says what is split: tactics=[{_WRITE}].")
    axes = tuple(_split_axes(tactics, mesh, num_restarts))
    if not axes:
        return None
    place = Placement.over(mesh, *axes)
    if num_restarts % place.num_devices:
        raise EvidenceError(
            f"sgd_evidence: num_restarts={num_restarts} cannot be split evenly over the {place.num_devices} devices of "
            f"{' and '.join(map(repr, axes))}; write num_restarts={-(-num_restarts // place.num_devices) * place.num_devices}."
        )
    return place


def _split_axes(tactics: Sequence[Any], mesh: Mesh, num_restarts: int) -> Iterator[str]:
    """The axes over which restarts are split, in the order of the tactics."""
    check_axes(tactics, mesh.shape)
    used: dict[str, Any] = {}
    for tactic in tactics:
        if not isinstance(tactic, ManualPartition):
            raise PartitionError(f"{tactic}: sgd_evidence has nothing to search for, its restarts are split or not; write {_WRITE}.")
        if tactic.axis in used:
            raise PartitionError(f"{tactic}: the axis {tactic.axis!r} is used by {used[tactic.axis]} already; one tactic for each axis.")
        used[tactic.axis] = tactic
        chosen = None
        for pattern, where in tactic.entries():
            if not matcher(pattern)(_NAME):
                _refuse(tactic, pattern)
            where = where(_NAME, (num_restarts,)) if callable(where) else where
            if where is not None:
                chosen = where
        if chosen is None or chosen is REPLICATED:
            continue
        if chosen is not FIRST_DIVISIBLE and (isinstance(chosen, bool) or chosen not in (0, -1)):
            raise PartitionError(f"{tactic}: restarts have one dimension, 0; found {chosen!r}.")
        yield tactic.axis


def _refuse(tactic: ManualPartition, pattern: str) -> None:
    """Of a name that is not that of restarts."""
    if pattern.startswith(("plate:", "data.")) or pattern == "data":
        raise SamplerError(
            f"{tactic}: {pattern!r} means rows, and rows of sgd_evidence cannot be split over devices; write {_WRITE}, and batch_size=... "
            "where rows are too many for one step."
        )
    found = nearest(pattern, [_NAME])
    meant = f"Did you mean {found!r}?" if found else f"There is {_NAME!r}."
    raise PartitionError(f"{tactic}: sgd_evidence has nothing that is called {pattern!r}. {meant}")
