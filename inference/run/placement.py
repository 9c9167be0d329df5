"""Where a run takes place: one device, or the devices of a mesh.

Chains never wait for one another, so devices need not either: each runs a machine of its own on its own chains, inside of one `shard_map`,
without any collective. They leave a chunk when their own chains have ended it. What a device counts, it counts alone; the host sums.

Where data or sites are split, too, several devices have the same chains. Each runs the same machine on its own part of every chain's
vector, and they meet in the log density and in the sums over coordinates, and nowhere else: all else that they compute is the same.

This is the only file of inference/ that asks which platform there is.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from ...sharding.execute import shard_index
from ...transforms.errors import SamplerError
from ...transforms.processes import put, spans_processes, whole
from ..kernels.layout import Layout
from ..kernels.pooling import pool_chains
from ..kernels.records import ChainState, Plan
from ..kernels.target import Target
from ..placing.programs import local_struct
from .batching import Sampler
from .chain import Begin
from .parts import Parts

__all__ = ["Placement", "Specs", "chains_of_one", "over_devices", "pool_over_devices"]


class Placement(NamedTuple):
    """Where a run takes place.

    Attributes:
        platform: "cpu", "gpu" or "tpu".
        mesh: of the devices, a `Mesh`, or an `AbstractMesh` where nothing runs; None if all is on one device.
        axes: names of the mesh axes over which the chains are split.
        parts: how data and sites are split over the others.
        together: where they are, without `mesh`: the sharding of committed data; None for the default device.
    """

    platform: str
    mesh: Any = None
    axes: tuple[str, ...] = ()
    parts: Parts | None = None
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
    def over(cls, mesh: Mesh | AbstractMesh, *axes: str, parts: Parts | None = None) -> "Placement":
        """Chains split over these axes of a mesh, all of them if neither an axis is named nor parts; data and sites over others."""
        chosen = axes if axes or parts else tuple(mesh.axis_names)
        if isinstance(mesh, AbstractMesh):  # to plan with
            return cls(jax.default_backend(), mesh, chosen, parts)
        automatic = Mesh(mesh.devices, mesh.axis_names)  # under explicit axes the programs' own types would have to say where they are
        return cls(mesh.devices.flat[0].platform, automatic, chosen, parts)

    @property
    def num_devices(self) -> int:
        """How many groups of chains there are."""
        return 1 if self.mesh is None else math.prod(self.mesh.shape[axis] for axis in self.axes)

    @property
    def shared(self) -> bool:
        """Whether the devices are those of several processes, which then take every turn of the host loop in step."""
        return spans_processes(self.mesh)

    @property
    def in_common(self) -> bool:
        """Whether devices have chains in common, of whose vectors each has a part."""
        return self.mesh is not None and any(axis not in self.axes for axis in self.mesh.shape)

    @property
    def key(self) -> tuple[Any, ...]:
        """What compiled programs depend on."""
        if self.mesh is None:
            return (self.platform, self.together)
        return (
            self.platform,
            tuple(self.mesh.shape.items()),
            tuple(d.id for d in self.mesh.devices.flat),
            self.axes,
            self.parts,
            jax.process_count(),
        )

    def local(self, num_chains: int) -> int:
        """Number of chains of one device.

        Raises:
            SamplerError: the chains cannot be split evenly.
        """
        return chains_of_one(num_chains, self.axes, self.sizes)

    @property
    def sizes(self) -> dict[str, int]:
        """Of the mesh's axes."""
        return {} if self.mesh is None else dict(self.mesh.shape)

    def shardings(self, specs: Any) -> Any:
        """A tree of `PartitionSpec`s as one of shardings."""
        mesh = self.mesh
        if mesh is None:
            return self.together
        return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=lambda x: isinstance(x, PartitionSpec))

    def put(self, tree: Any, specs: Any) -> Any:
        """Arrays where this placement has them, given how they are split, a prefix of their tree; those of one device as they are."""
        if self.mesh is None:
            return tree
        spread = jax.tree.map(lambda spec, below: jax.tree.map(lambda _: spec, below), specs, tree, is_leaf=_is_spec)
        return jax.tree.map(lambda spec, x: put(x, NamedSharding(self.mesh, spec)), spread, tree, is_leaf=_is_spec)  # pyright: ignore

    def put_data(self, data: Any) -> Any:
        """The data of a target."""
        return self.put(data, self._parts.data())

    def put_plan(self, plan: Plan) -> Plan:
        """The plan of a run."""
        return self.put(plan, self._parts.plan(plan))

    def put_begin(self, begin: Begin) -> Begin:
        """How the chains find their starts."""
        return self.put(begin, self._parts.begin(self.axes, begin))

    def put_chains(self, state: ChainState) -> ChainState:
        """Chains whose vectors are in program order, or are here already."""
        if self.mesh is None or isinstance(state.position, tuple) or _is_on(state.position, self.mesh):
            return state
        return self.put(self._parts.state_of(state), self._parts.state(self.axes))

    def whole_chains(self, state: ChainState) -> ChainState:
        """Chains as NumPy arrays, vectors in program order; on one device as they are."""
        return state if self.mesh is None else self._parts.whole_state(jax.tree.map(whole, state))

    def put_vectors(self, whole: np.ndarray) -> Any:
        """The same where this placement has them."""
        return self.put(self.vectors(whole), self._parts.vector(self.axes))

    def vectors(self, whole: np.ndarray) -> Any:
        """Vectors in program order, (chain, dim), as the programs take them."""
        return self._parts.layout.cut_whole(whole) if self._parts.split else whole

    def local_target(self, target: Target) -> Target:
        """A target whose data and fixed values are the shapes of one device's parts."""
        if self.parts is None or not self.parts.leaves:
            return target
        leaves = (local_struct(x, home, self.sizes) for x, home in zip(target.data.leaves, self.parts.leaves, strict=True))
        homes = dict(self.parts.fixed)
        fixed = {name: local_struct(x, ((), *homes[name]) if homes.get(name) else (), self.sizes) for name, x in target.fixed.items()}
        return target._replace(data=target.data._replace(leaves=tuple(leaves)), fixed=fixed)

    def local_plan(self, plan: Plan) -> Plan:
        """The shapes of a plan for one device's vectors."""
        if self.parts is None or not self.parts.split:
            return plan
        homes = dict(self.parts.options)
        options = jax.tree_util.tree_map_with_path(
            lambda path, x: local_struct(x, homes.get(jax.tree_util.keystr(path), ()), self.sizes), plan.tuning.options
        )
        vector = jax.ShapeDtypeStruct((self.parts.layout.dim,), np.dtype(self.parts.layout.dtype))
        return plan._replace(tuning=plan.tuning._replace(inverse_mass_matrix=vector, options=options))

    @property
    def _parts(self) -> Parts:
        return self.parts or Parts(Layout((), "float32"))


def _is_spec(x: Any) -> bool:
    return isinstance(x, PartitionSpec)


def _is_on(x: Any, mesh: Mesh) -> bool:
    return isinstance(x, jax.Array) and isinstance(x.sharding, NamedSharding) and x.sharding.mesh == mesh


def chains_of_one(num_chains: int, axes: Sequence[str], sizes: Mapping[str, int]) -> int:
    """Number of chains of one device.

    Args:
        num_chains: of all.
        axes: over which they are split.
        sizes: of the mesh, axis -> size.

    Raises:
        SamplerError: the chains cannot be split evenly.
    """
    count = math.prod(sizes[axis] for axis in axes)
    if num_chains % count:
        raise SamplerError(
            f"MCMC: num_chains is {num_chains}, which cannot be split evenly over {count} devices ({', '.join(map(repr, axes))}); "
            f"write num_chains={max(1, num_chains // count) * count}, or another multiple of {count}."
        )
    return num_chains // count


class Specs(NamedTuple):
    """For each function of a `Sampler` how its arguments and what it returns are split: prefixes of their trees."""

    begin: tuple[Any, Any]
    enter: tuple[Any, Any]
    advance: tuple[Any, Any]
    leave: tuple[Any, Any]
    stop: tuple[Any, Any]
    pool: tuple[Any, Any]

    @classmethod
    def of(cls, placement: Placement, plan: Plan, begin: Begin, num_values: int) -> "Specs":
        """Those of a run.

        Args:
            placement: where.
            plan, begin: of the run; their trees count.
            num_values: how many constrained values a draw has.
        """
        mesh, parts, chains = placement.mesh, placement._parts, placement.axes
        assert mesh is not None
        by_chain, whole, state = PartitionSpec(chains), PartitionSpec(), parts.state(chains)
        planned, data = parts.plan(plan), parts.data()
        running = PartitionSpec(tuple(mesh.axis_names)), by_chain
        return cls(
            begin=((whole, planned, parts.vector(chains)), state),
            enter=((data, planned, parts.begin(chains, begin), state, whole, whole), running),
            advance=((running, data, planned, whole, whole), (running, by_chain)),
            leave=((running, data, planned), parts.chunk(chains, num_values)),
            stop=((running,), running),
            pool=((state, whole), state),
        )


def over_devices(sampler: Sampler, placement: Placement, specs: Specs, num_chains: int) -> Sampler:
    """The sampler of one device's chains as that of all: one `shard_map` around each function.

    What a device has for itself, its machine, gains a leading axis, one entry for each device; what it counts, ticks and the `Report`, one
    for each group of chains.
    """
    mesh, parts = placement.mesh, placement._parts
    assert mesh is not None

    def mapped(function: Any, spec: tuple[Any, Any]) -> Any:
        # The machine's key arithmetic has types that `check_vma` cannot follow; its target is differentiated before the map.
        return jax.shard_map(function, mesh=mesh, in_specs=spec[0], out_specs=spec[1], check_vma=False)

    def begin(run_key, plan, start):
        group = shard_index(placement.axes, mesh.shape)
        start = parts.layout.join(start) if parts.split else start
        return parts.cut_state(sampler.begin(run_key, parts.join_plan(plan), start, group * num_chains))

    def enter(data, plan, begin, state, fresh, until):
        return _lone(sampler.enter(data, parts.join_plan(plan), begin, parts.join_state(state), fresh, until))

    def advance(running, data, plan, turns, leave):
        running, report = sampler.advance(_own(running), data, parts.join_plan(plan), turns, leave)
        return _lone(running), _lone(report)

    def leave(running, data, plan):
        chunk = sampler.leave(_own(running), data, parts.join_plan(plan))
        return chunk._replace(state=parts.cut_state(chunk.state))

    def stop(running):
        return _lone(sampler.stop(_own(running)))

    functions = Sampler(begin, enter, advance, leave, stop)
    return Sampler(*(mapped(function, spec) for function, spec in zip(functions, specs[:5], strict=True)))


def pool_over_devices(placement: Placement, specs: Specs) -> Any:
    """`pool_chains` where chains are split: they meet by collectives."""
    parts = placement._parts

    def pool(state, tuning):
        return parts.cut_state(pool_chains(parts.join_state(state), tuning, placement.axes))

    return jax.shard_map(pool, mesh=placement.mesh, in_specs=specs.pool[0], out_specs=specs.pool[1], check_vma=False)


def _own(tree: Any) -> Any:
    return jax.tree.map(lambda x: x[0], tree)


def _lone(tree: Any) -> Any:
    return jax.tree.map(lambda x: x[None], tree)
