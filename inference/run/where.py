"""From a mesh and tactics to a target and a placement: what of a run is split over which devices, checked before anything compiles."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh, Mesh

from ...sharding.hardware import Hardware
from ...sharding.partition import axis_sizes, mesh_of
from ...sharding.tactics import AutomaticPartition, ManualPartition
from ...transforms.errors import PartitionError, SamplerError
from ...transforms.processes import spans_processes, whole
from ..kernels.kernel import Fitted, SplitTransition, TunedKernel, compresses
from ..kernels.target import Target, trace_target
from ..placing.density import Placed, place_density
from ..placing.names import CHAINS, Named, Tactic, data_names, named_tactics, plates_of
from .parts import Parts
from .placement import Placement, chains_of_one
from .spec import Settings
from .start import Start

__all__ = ["NOWHERE", "Split", "Where", "split_run"]


class Where(NamedTuple):
    """What the user says of devices.

    Attributes:
        mesh: of devices, or the sizes of its axes; None for one device.
        tactics: None: the chains over all axes.
    """

    mesh: Mesh | AbstractMesh | Mapping[str, int] | None = None
    tactics: tuple[Tactic, ...] | None = None

    @classmethod
    def of(cls, mesh: Any, tactics: Any) -> "Where":
        """The arguments of `MCMC`, checked as far as they can be without a model.

        Raises:
            SamplerError: tactics without a mesh, or what is given is no mesh.
            PartitionError: an axis does not exist, or what is given is no tactic.
        """
        if isinstance(tactics, (ManualPartition, AutomaticPartition)):
            tactics = (tactics,)
        if tactics is not None and (isinstance(tactics, (str, Mapping)) or not isinstance(tactics, Sequence)):
            raise SamplerError(
                f"MCMC: tactics is a {type(tactics).__name__}, a list expected; write [ls.ManualPartition({{'chains': 0}}, axis='c')]."
            )
        if mesh is None:
            if tactics:
                raise SamplerError(
                    f"MCMC: tactics is {list(tactics)!r:.100} and mesh is None; write mesh=jax.sharding.Mesh(devices, axis_names), or "
                    "mesh={'data': 8}, too."
                )
            return cls()
        _check_mesh(mesh)
        if tactics is not None and not tactics:
            raise SamplerError(
                "MCMC: tactics is [], which splits nothing over the mesh; leave it out to split the chains over all axes, or write "
                "[ls.ManualPartition({'plate:rows': 0}, axis='d')]."
            )
        where = cls(mesh, None if tactics is None else tuple(tactics))
        named_tactics(where.tactics or (), where.sizes, None)
        return where

    @property
    def sizes(self) -> dict[str, int]:
        """Of the mesh's axes."""
        return {} if self.mesh is None else axis_sizes(self.mesh)

    def on_host(self, arguments: Any) -> Any:
        """A model's arguments, those that lie on several devices as NumPy arrays: tactics say where data go, whatever they lie on."""

        def here(x: Any) -> Any:
            return whole(x) if isinstance(x, jax.Array) and len(x.sharding.device_set) > 1 else x

        return arguments if self.mesh is None else jax.tree.map(here, arguments)

    def check(self, kernel: Any) -> None:
        """Refuses, before it looks at the data, a kernel that brings a density of its own, over anything but chains.

        Raises:
            SamplerError: it does.
        """
        more = [t for t in self.tactics or () if isinstance(t, AutomaticPartition) or set(t.values) != {CHAINS} or t.atomic]
        if more and not isinstance(kernel, TunedKernel):
            raise SamplerError(
                f"MCMC: {more[0]} names data or sites, and {type(kernel).__name__} cannot be split over them: it takes the likelihood "
                "apart by itself. Split its chains, ls.ManualPartition({'chains': 0}, axis=...), or sample with NUTS or HMC."
            )

    def devices(self) -> Mesh:
        """The mesh, with its devices.

        Raises:
            PartitionError: there are fewer than it needs.
        """
        assert self.mesh is not None
        return self.mesh if isinstance(self.mesh, Mesh) else mesh_of(self.sizes)

    @property
    def shared(self) -> bool:
        """Whether these are devices of several processes.

        Raises:
            PartitionError: there are fewer devices than the mesh needs.
            SamplerError: of some of the processes only, or of another one.
        """
        if self.mesh is None or jax.process_count() == 1:
            return False
        mesh = self.devices()
        there = {device.process_index for device in mesh.devices.flat}
        if there != {jax.process_index()} and len(there) != jax.process_count():
            raise SamplerError(
                f"MCMC: the mesh has devices of {len(there)} of {jax.process_count()} processes, {sorted(there)}, and this is process "
                f"{jax.process_index()}; those of all are needed, or of this one alone. Make it of jax.devices(), or jax.local_devices()."
            )
        return spans_processes(mesh)


def _check_mesh(mesh: Any) -> None:
    if isinstance(mesh, (Mesh, AbstractMesh)):
        return
    if not isinstance(mesh, Mapping) or not mesh or not all(isinstance(n, int) and n > 0 for n in mesh.values()):
        raise SamplerError(
            f"MCMC: mesh is {mesh!r:.100}, a jax.sharding.Mesh expected, or a dict of axes and their sizes; write mesh={{'chains': 4}}, or "
            "None for one device."
        )


NOWHERE = Where()  # one device


class Split(NamedTuple):
    """A run over a mesh.

    Attributes:
        target, fitted: of one device; vectors of the tuning in program order.
        chain_axes: over which the chains are split.
        parts: how all else is; None if nothing is.
        placed: the density under tactics, for reports; None where it is whole.
    """

    target: Target
    fitted: Fitted
    chain_axes: tuple[str, ...]
    parts: Parts | None
    placed: Placed | None

    def placement(self, mesh: Mesh | AbstractMesh) -> Placement:
        """Where the run takes place, or would."""
        return Placement.over(mesh, *self.chain_axes, parts=self.parts or Parts(self.target.layout))


def split_run(
    kernel: Any, fitted: Fitted, density: Any, settings: Settings, start: Start, where: Where, hardware: Hardware | None = None
) -> Split:
    """Traces a run whose chains, data or sites are split.

    Raises:
        PartitionError: a tactic does not fit the model or the mesh.
        SamplerError: chains cannot be divided, or the kernel cannot run that way; says which and what to write.
    """
    named = _named(density, where)
    name, sizes = type(kernel).__name__, where.sizes
    _check_chains(settings, named.chain_axes, sizes)
    gradient, evaluated = fitted.transition.uses_gradient, fitted.starts is None
    if not named.density:
        asked = settings.num_chains, gradient, evaluated, settings.collect, compresses(kernel)
        target = trace_target(density, start.strategy, *asked)
        return Split(target, fitted, named.chain_axes, None, None)
    placed = place_density(density, start.strategy, settings.num_chains, named.density, sizes, gradient, settings.collect, hardware)
    layout, transition, tuning = placed.target.layout, fitted.transition, fitted.tuning
    options: tuple[Any, ...] = ()
    if layout.parts:
        _check_split(name, fitted, [site for site, _ in layout.homes])
        assert isinstance(transition, SplitTransition)
        given, homes = transition.split_options(tuning.options, layout)
        tuning = tuning._replace(options=given)
        options = tuple((jax.tree_util.keystr(path), home) for path, home in _homes(given, homes))
        fitted = Fitted(transition.over(layout), tuning)
    parts = Parts(layout, placed.leaves, placed.values, tuple(placed.fixed.items()), options, gradient)
    return Split(placed.target, fitted, named.chain_axes, parts, placed)


def _homes(options: Any, homes: Any) -> list[tuple[Any, Any]]:
    """Path and home of each array of the options."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(options)]
    return list(zip(paths, jax.tree.structure(options).flatten_up_to(homes), strict=True))


def _named(density: Any, where: Where) -> Named:
    sizes = where.sizes
    if where.tactics is None:
        return Named(tuple(sizes), ())
    plates = plates_of(density, data_names(density, jax.tree.leaves(density)))
    return named_tactics(where.tactics, sizes, plates)


def _check_chains(settings: Settings, axes: Sequence[str], sizes: Mapping[str, int]) -> None:
    of_one = chains_of_one(settings.num_chains, axes, sizes)
    if settings.compact and of_one < settings.num_chains:
        raise SamplerError(
            "MCMC: compact is True and the chains are split over devices, each of which leaves a chunk when its own chains have ended; "
            "write compact=False."
        )


def _check_split(kernel: str, fitted: Fitted, sites: Sequence[str]) -> None:
    shown = " and ".join(map(repr, sites))
    if fitted.tuning.inverse_mass_matrix.ndim == 2:
        raise SamplerError(
            f"MCMC: site {shown} is split over devices, and {kernel} has a dense inverse mass matrix, whose rows would need all of it "
            "on each of them; write dense_mass=False, or leave the site whole and split the data or the chains."
        )
    if not isinstance(fitted.transition, SplitTransition):
        raise PartitionError(
            f"MCMC: site {shown} is split over devices, and {kernel} is not written for vectors that lie in parts (its transition is no "
            f"SplitTransition). Split {CHAINS!r} or data, or sample with NUTS, HMC, Slice, RWM or EllipticalSlice."
        )
