"""Where a run takes place: one device, or the chains split over the devices of a mesh.

Chains never wait for one another, so devices need not either: each runs a machine of its own on its own chains, inside of one `shard_map`,
without any collective. They leave a chunk when their own chains have ended it. What a device counts, it counts alone; the host sums.

This is the only file of inference/ that asks which platform there is.
"""

import math
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from ...transforms.errors import SamplerError
from .batching import Sampler

__all__ = ["Placement", "over_devices"]


class Placement(NamedTuple):
    """Where a run takes place.

    Attributes:
        platform: "cpu", "gpu" or "tpu".
        mesh: of the devices over which chains are split; None if they are together.
        axes: names of the mesh axes over which the chains are split.
        together: where they are, without `mesh`: the sharding of committed data; None for the default device.
    """

    platform: str
    mesh: Mesh | None = None
    axes: tuple[str, ...] = ()
    together: Sharding | None = None

    @classmethod
    def of(cls, arrays: Any) -> "Placement":
        """Where these arrays are committed to, if any is, else on JAX's default device; on all devices of their mesh, if they are split.

        Raises:
            SamplerError: they are committed to different devices.
        """
        places = {frozenset(x.sharding.device_set): x for x in jax.tree.leaves(arrays) if getattr(x, "committed", False)}
        if len(places) > 1:
            found = ", ".join(f"{x.dtype}{list(x.shape)} on {sorted(map(str, devices))}" for devices, x in places.items())
            raise SamplerError(
                f"the arrays that a run is given are committed to different devices: {found}. Expected one device, or one mesh. "
                "Write jax.device_put((x, y), device) before `run`, or hand in NumPy arrays, which go where the others are."
            )
        for devices, array in places.items():
            platform = next(iter(devices)).platform
            if len(devices) == 1:
                return cls(platform, together=SingleDeviceSharding(*devices))
            sharding = array.sharding
            mesh = sharding.mesh if isinstance(sharding, NamedSharding) else Mesh(sorted(devices, key=lambda d: d.id), ("devices",))
            return cls(platform, together=NamedSharding(mesh, PartitionSpec()))
        return cls(jax.default_backend())

    @classmethod
    def over(cls, mesh: Mesh, *axes: str) -> "Placement":
        """Chains split over these axes of a mesh, all of them if none is named."""
        automatic = Mesh(mesh.devices, mesh.axis_names)  # under explicit axes the programs' own types would have to say where they are
        return cls(mesh.devices.flat[0].platform, automatic, axes or tuple(mesh.axis_names))

    @property
    def num_devices(self) -> int:
        """How many groups of chains there are."""
        return 1 if self.mesh is None else math.prod(self.mesh.shape[axis] for axis in self.axes)

    @property
    def key(self) -> tuple[Any, ...]:
        """What compiled programs depend on."""
        if self.mesh is None:
            return (self.platform, self.together)
        return (self.platform, tuple(self.mesh.shape.items()), tuple(d.id for d in self.mesh.devices.flat), self.axes, jax.process_count())

    def local(self, num_chains: int) -> int:
        """Number of chains of one device.

        Raises:
            SamplerError: the chains cannot be split evenly.
        """
        if num_chains % self.num_devices:
            raise SamplerError(
                f"MCMC: num_chains is {num_chains}, which cannot be split evenly over {self.num_devices} devices; write a multiple of that."
            )
        return num_chains // self.num_devices

    @property
    def by_chain(self) -> Sharding | None:
        """Of arrays with a leading chain axis; None on the default device."""
        return self.together if self.mesh is None else NamedSharding(self.mesh, PartitionSpec(self.axes))

    @property
    def whole(self) -> Sharding | None:
        """Of arrays that every device has; None on the default device."""
        return self.together if self.mesh is None else NamedSharding(self.mesh, PartitionSpec())

    def put(self, tree: Any, *, by_chain: bool) -> Any:
        """Arrays where this placement has them; those of chains that are together as they are."""
        return tree if self.mesh is None else jax.device_put(tree, self.by_chain if by_chain else self.whole)


def over_devices(sampler: Sampler, placement: Placement) -> Sampler:
    """The sampler of one device's chains as that of all: one `shard_map` around each function.

    What a device counts for itself, ticks and the `Report`, gains a leading axis, one entry for each device.
    """
    if placement.mesh is None:
        return sampler
    mesh, chains, whole = placement.mesh, PartitionSpec(placement.axes), PartitionSpec()

    def mapped(function: Any, *in_specs: PartitionSpec) -> Any:
        # The machine's key arithmetic has types that `check_vma` cannot follow; its target is differentiated before the map.
        return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=chains, check_vma=False)

    def enter(data, plan, begin, state, fresh, until):
        machine, ticks = sampler.enter(data, plan, begin, state, fresh, until)
        return machine, ticks[None]

    def advance(running, data, plan, turns, leave):
        machine, ticks = running
        (machine, ticks), report = sampler.advance((machine, ticks[0]), data, plan, turns, leave)
        return (machine, ticks[None]), jax.tree.map(lambda count: count[None], report)

    def leave(running, data, plan):
        machine, ticks = running
        return sampler.leave((machine, ticks[0]), data, plan)

    def stop(running):
        machine, ticks = running
        machine, ticks = sampler.stop((machine, ticks[0]))
        return machine, ticks[None]

    return Sampler(
        begin=sampler.begin,
        enter=mapped(enter, whole, whole, chains, chains, whole, whole),
        advance=mapped(advance, chains, whole, whole, whole, whole),
        leave=mapped(leave, chains, whole, whole),
        stop=mapped(stop, chains),
    )
