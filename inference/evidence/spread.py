"""Restarts and rows split over the devices of a mesh.

A restart needs nothing of the others while it descends, and its random numbers are functions of its own number. So the programs of
`descent` run on every device as they are, inside of one `shard_map`, on fewer restarts. One thing takes all of them: where a path from the
prior ends at the peak of its bound, the mean over restarts says which step that is. There devices keep no positions (`Path.peak`), the host
finds the peak, and the path is followed again up to it.

Rows are left to XLA: only the axes of restarts are manual in the `shard_map`, the data lie split over the others, and every program that
reads them, fits and Hessian-vector products included, is split by the compiler, which adds the sums over devices. That is not planned as
the density of `mcmc` is, and the collectives are XLA's choice; what comes out is whole again (`over_devices`).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec, SingleDeviceSharding

from ...ppl import LogDensity
from ...sharding import ManualPartition
from ...sharding.layout import spec_of
from ...sharding.schedule import check_axes
from ...transforms import EvidenceError, PartitionError
from ...transforms.calls import nearest
from ..placing.names import PLATE, RESTARTS, data_names, named_tactics, plates_of
from ..placing.rows import split_rows
from ..run.placement import Placement

__all__ = ["Spread", "Where", "on_one_device", "over_devices", "placement"]

_WRITE = 'ls.ManualPartition({"restarts": 0}, axis=...)'
_ROWS = 'ls.ManualPartition({"plate:...": 0}, axis=...)'


class Where(NamedTuple):
    """What the user says of devices. place: of the restarts. tactics: all of them. rows: whether they name data."""

    place: Placement
    tactics: tuple[ManualPartition, ...]
    rows: bool


class Spread(NamedTuple):
    """Where restarts are split, and what every device has of the data. place: of the restarts. train, test: of the models.
    rows: whether rows are split."""

    place: Placement
    train: tuple
    test: tuple
    rows: bool

    @classmethod
    def of(cls, where: Where, density: LogDensity, test: tuple) -> "Spread":
        """The data of a model where its devices have them, its rows split; those of a test whole.

        Raises:
            PartitionError: see `split_rows`; a plate has a latent site in it.
        """
        place = where.place
        specs = _row_specs(where, density) if where.rows else [PartitionSpec()] * len(density.data)
        return cls(place, place.put(tuple(density.data), tuple(specs)), place.put(test, PartitionSpec()), where.rows)

    def of_restarts(self, number: int) -> "Spread | None":
        """Where so many restarts are split; together, if they cannot be divided evenly; None if nothing else is split."""
        if number % self.place.num_devices == 0:
            return self
        return self._replace(place=self.place._replace(axes=())) if self.rows else None


def on_one_device(where: Where | None, arrays: Any) -> Any:
    """Arrays that lie on several devices as they are on the first of the mesh, or in host memory if rows are to be split: what is traced
    must not say where it lies. Without a place all stay where they are."""
    if where is None:
        return arrays
    first = SingleDeviceSharding(where.place.mesh.devices.flat[0])  # put on a device itself, an array keeps the type that says it is split

    def one(x: Any) -> Any:
        if not isinstance(x, jax.Array) or len(x.devices()) == 1:
            return x
        on_host = where.rows and not jax.dtypes.issubdtype(x.dtype, jax.dtypes.extended)
        return np.asarray(x) if on_host else jax.device_put(x, first)

    return jax.tree.map(one, arrays)


def over_devices(place: Placement | None, function: Callable[..., Any], in_specs: Any, out_specs: Callable[[PartitionSpec], Any]):
    """A function of one device's restarts as that of all. Over other axes its results are whole, whatever XLA splits in between.

    Args:
        in_specs, out_specs: from the specification of arrays with a leading axis of restarts to those of arguments and results.
    """
    if place is None:
        return function
    restarts = PartitionSpec(place.axes) if place.axes else PartitionSpec()
    if place.axes:
        # The key arithmetic has types that `check_vma` cannot follow; nothing is differentiated from outside.
        function = jax.shard_map(
            function,
            mesh=place.mesh,
            in_specs=in_specs(restarts),
            out_specs=out_specs(restarts),
            check_vma=False,
            axis_names=frozenset(place.axes),
        )
    wanted = place.shardings(out_specs(restarts))
    return lambda *args: jax.lax.with_sharding_constraint(function(*args), wanted)


def placement(mesh: Any, tactics: Any, num_restarts: int) -> Where | None:
    """What `mesh` and `tactics` of `sgd_evidence` mean, as far as it can be checked without a model; None if there is no mesh.

    Raises:
        EvidenceError: `mesh` is no mesh of this process, or one of the two is missing; the restarts cannot be split evenly.
        PartitionError: a tactic names nothing that can be split, an axis that there is not, or one that has been used; it pads.
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
    check_axes(tactics, mesh.shape)
    for tactic in tactics:
        _check_tactic(tactic)
    named = named_tactics(tactics, mesh.shape, None, RESTARTS)
    place = Placement.over(mesh)._replace(axes=named.chain_axes)
    if num_restarts % place.num_devices:
        raise EvidenceError(
            f"sgd_evidence: num_restarts={num_restarts} cannot be split evenly over the {place.num_devices} devices of "
            f"{' and '.join(map(repr, place.axes))}; write num_restarts={-(-num_restarts // place.num_devices) * place.num_devices}."
        )
    return Where(place, tuple(tactics), bool(named.density))


def _check_tactic(tactic: Any) -> None:
    """What has no meaning here, whatever the model."""
    if not isinstance(tactic, ManualPartition):
        raise PartitionError(f"{tactic}: sgd_evidence searches for nothing, what is split is named; write {_WRITE}, or {_ROWS} for rows.")
    if tactic.pad:
        raise PartitionError(
            f"{tactic}: sgd_evidence cannot pad, pad=True: restarts and rows are split evenly. Write a number of restarts and of rows that "
            f"the axis {tactic.axis!r} divides, and leave pad out."
        )
    for pattern, _ in tactic.entries():
        if pattern == RESTARTS or pattern.startswith(PLATE) or pattern.split(".")[0] == "data":
            continue
        if pattern.split(".")[0] == "sites":
            raise _no_sites(tactic, pattern)
        found = nearest(pattern, [RESTARTS])
        meant = f"Did you mean {found!r}?" if found else "There are 'restarts', 'data.<argument>' and 'plate:<name>'."
        raise PartitionError(f"{tactic}: sgd_evidence has nothing that is called {pattern!r}. {meant}")


def _row_specs(where: Where, density: LogDensity) -> list[PartitionSpec]:
    """How each array of a model's data is split."""
    sizes, names = where.place.sizes, data_names(density, density.data)
    rows = named_tactics(where.tactics, sizes, plates_of(density, names), RESTARTS).density
    tactics = [tactic for tactic in rows if isinstance(tactic, ManualPartition)]
    for tactic in tactics:
        for name in tactic.values:
            if name.startswith("sites."):
                raise _no_sites(tactic, name)
    return [spec_of(home) for home in split_rows(tactics, names, density.data, sizes)]


def _no_sites(tactic: ManualPartition, name: str) -> PartitionError:
    return PartitionError(
        f"{tactic}: {name!r} is a latent site, and a restart of sgd_evidence has all its parameters on each of its devices; only data can "
        'be split beside restarts. Write the arrays, ls.ManualPartition({"data.<argument>": 0}, axis=...), without a plate that has latent '
        "sites in it."
    )
