"""`partition`: a program, a mesh and tactics in; a program that runs on the mesh out, and what it costs, known before it runs."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from ..transforms.errors import PartitionError
from ..transforms.jax_compat import live_jaxpr
from .check import Check, check_program
from .decide import Decided, decide
from .execute import is_key, padded_to, run_local
from .explain import explain
from .graph import graph_of
from .hardware import HARDWARE, Hardware
from .layout import Layout, local_shape, replicated, spec_of
from .naming import argument_names, carried, output_names
from .picture import plot
from .planning import Planner
from .report import Report, table
from .schedule import check_axes
from .tactics import AutomaticPartition, ManualPartition

__all__ = ["Partitioned", "axis_sizes", "mesh_of", "partition"]


def partition(
    fn: Callable[..., Any],
    args: Sequence[Any],
    mesh: Mesh | AbstractMesh | Mapping[str, int],
    tactics: ManualPartition | AutomaticPartition | Sequence[ManualPartition | AutomaticPartition] = (),
    *,
    carry: Mapping[str, str] | None = None,
    known: Sequence[str] = (),
    strict: bool = False,
    memory_bytes: float | None = None,
    hardware: Hardware | None = None,
) -> "Partitioned":
    """Split a program over the devices of a mesh, as tactics say, without a change to the program.

    Each device runs the same local program on its parts of the values, with explicit collectives. Every tactic adds to what those before
    it have split and undoes nothing. The result equals that of `fn` to rounding: sums over devices are summed in another order.

    Args:
        fn: a function of arrays, or of trees of them. Differentiate before: `fn` may hold gradients, its result has none.
        args: its positional arguments, as arrays or `jax.ShapeDtypeStruct`s; only shapes and types are read.
        mesh: a `jax.sharding.Mesh`, or sizes (an `AbstractMesh`, a dict axis -> size): then no device is needed until the result is
            called.
        tactics: applied in order.
        carry: name of an output -> name of an argument whose layout it keeps, as the state of an optimiser does. A prefix stands for all
            below it.
        known: names of arguments, given as arrays, whose numbers will be the same in every call, such as an index of groups. An index
            that stays within each device's part is then local; see `ls.sort_by_group`. What `fn` closes over is known anyway.
        strict: whether a conflict is an error; else it is in the report of its tactic.
        memory_bytes: limit for one device; a program whose estimated peak is higher is an error.
        hardware: what the simulator counts with; `ls.calibrate()` measures it.

    Returns:
        A `Partitioned`, to be called like `fn`.

    Raises:
        PartitionError: a name, axis, dimension or size does not fit, tactics conflict under `strict`, or the memory does not suffice.

    Source: Alabed et al. (2025), "PartIR". Where we deviate is said in `propagate.py` and `lower.py`.
    """
    sizes = axis_sizes(mesh)
    tactics = (tactics,) if isinstance(tactics, (ManualPartition, AutomaticPartition)) else tuple(tactics)
    check_axes(tactics, sizes)
    if not isinstance(args, (tuple, list)):
        raise PartitionError(
            f"partition(fn, args, ...): args is a {type(args).__name__}. Expected a tuple of the positional arguments; write (x,) for one."
        )
    names = argument_names(fn, args)
    closed, returned = jax.make_jaxpr(fn, return_shape=True)(*args)
    closed, kept = live_jaxpr(closed, [True] * len(jax.tree.leaves(returned)))
    keeps = carried(carry or {}, names, output_names(returned))
    planner = Planner(graph_of(closed), names, kept, keeps, sizes, hardware or HARDWARE["cpu"])
    planner.know(known, jax.tree.leaves(args))
    decided = decide(planner, tactics, strict=strict)
    decided.check_memory(planner, memory_bytes)
    return Partitioned(planner, decided, mesh if isinstance(mesh, Mesh) else sizes, args, returned)


def axis_sizes(mesh: Mesh | AbstractMesh | Mapping[str, int]) -> dict[str, int]:
    """Axis -> size.

    Raises:
        PartitionError: it is no mesh.
    """
    if isinstance(mesh, (Mesh, AbstractMesh)):
        return dict(mesh.shape)
    if not isinstance(mesh, Mapping) or not all(isinstance(n, int) and n > 0 for n in mesh.values()):
        raise PartitionError(f"mesh: expected a jax.sharding.Mesh or a dict axis -> number of devices; found {mesh!r:.100}.")
    return dict(mesh)


def mesh_of(sizes: Mapping[str, int]) -> Mesh:
    """The first devices as a mesh with axes of these sizes.

    Raises:
        PartitionError: there are fewer than it needs.
    """
    needed, present = math.prod(sizes.values()), jax.devices()
    if needed > len(present):
        raise PartitionError(
            f"the mesh {dict(sizes)} needs {needed} devices; {len(present)} are present. Its cost is known without them; to run it use a "
            f"smaller mesh, or, to try it on a CPU, set XLA_FLAGS=--xla_force_host_platform_device_count={needed} before the first use of "
            "jax."
        )
    return Mesh(np.array(present[:needed]).reshape(tuple(sizes.values())), tuple(sizes))


def _type(x: Any) -> tuple[tuple[int, ...], Any]:
    """Shape and dtype of an argument, as the program has them."""
    return tuple(jnp.shape(x)), x.dtype if is_key(x) else jax.dtypes.canonicalize_dtype(jnp.result_type(x))


class Partitioned:
    """A partitioned program. Call it like the function that it was made of; see `partition`.

    Attributes:
        reports: what the program costs, before any tactic and after each: collectives, bytes, flops, peak memory, time, conflicts.
        tactics: the schedule, with what an `AutomaticPartition` chose written as `ManualPartition`s.
    """

    def __init__(self, planner: Planner, decided: Decided, mesh: Any, args: Any, returned: Any) -> None:
        self._planner, self._layouts, self._plans, self._mesh = planner, decided.layouts, decided.plans, mesh
        self._args = jax.tree.structure(tuple(args))
        self._shapes = [_type(x) for x in jax.tree.leaves(tuple(args))]
        self._returned = jax.tree.structure(returned)
        self._out_shapes = [tuple(x.shape) for x in jax.tree.leaves(returned)]
        self.tactics = tuple(decided.tactics)

    @property
    def reports(self) -> tuple[Report, ...]:
        return tuple(plan.report for plan in self._plans)

    @functools.cached_property
    def mesh(self) -> Mesh:
        """The devices.

        Raises:
            PartitionError: there are fewer than the mesh needs.
        """
        if isinstance(self._mesh, Mesh):
            return Mesh(self._mesh.devices, self._mesh.axis_names)  # whatever the axes' types: inside of shard_map all are manual
        return mesh_of(self._mesh)

    @property
    def in_specs(self) -> Any:
        """The `PartitionSpec` of each argument, as a tree of the arguments. One that is padded lies whole until it is."""
        return jax.tree.unflatten(self._args, [spec_of(layout) for layout in self._in_layouts])

    @property
    def out_specs(self) -> Any:
        """The `PartitionSpec` of each result."""
        return jax.tree.unflatten(
            self._returned, [spec_of(self._even(s, x)) for s, x in zip(self._out_shapes, self._lowered.outputs, strict=True)]
        )

    @property
    def in_shardings(self) -> Any:
        """Where the arguments lie: `jax.device_put(args, part.in_shardings)` saves a call from moving them."""
        return jax.tree.map(
            lambda spec: NamedSharding(self.mesh, spec), self.in_specs, is_leaf=lambda x: isinstance(x, jax.sharding.PartitionSpec)
        )

    @property
    def out_shardings(self) -> Any:
        """Where the results lie."""
        return jax.tree.map(
            lambda spec: NamedSharding(self.mesh, spec), self.out_specs, is_leaf=lambda x: isinstance(x, jax.sharding.PartitionSpec)
        )

    def __call__(self, *args: Any) -> Any:
        """Run on the mesh.

        Raises:
            PartitionError: the arguments are not of the shapes and types that the program was made for, devices are missing, or it is
                being differentiated.
        """
        placed = self._placed(self._checked(args))
        traced = any(isinstance(x, Tracer) for x in placed)
        outs = self._guarded(*placed) if traced else self._jitted(*placed)
        trimmed = [x if x.shape == shape else x[tuple(slice(n) for n in shape)] for x, shape in zip(outs, self._out_shapes, strict=True)]
        return jax.tree.unflatten(self._returned, trimmed)

    def lower(self) -> Any:
        """The program as JAX lowers it (`jax.stages.Lowered`): `.as_text()`, `.compile()`."""
        return self._jitted.lower(*self._structs)

    def check(self, *, compiled: bool = False) -> Check:
        """Compare the predicted collectives with those of the lowered program, and if asked with those that the compiler leaves.

        Returns:
            The counts. `unexplained` is empty unless the compiler has merged what only it could see to be equal.

        Raises:
            PartitionError: the lowered program has others than predicted, or the compiled program has more.
        """
        return check_program(self.reports[-1].static_collectives, self._plans[-1].duplicates, self.lower(), compiled=compiled)

    def explain(self, name: str) -> str:
        """Why values of this name lie where they lie: which tactic split them, and by which operations that came about."""
        return explain(self._planner, self._layouts, self.tactics, name)

    def plot(self, **options: Any) -> Any:
        """A picture of the schedule: what is split where, and live memory over the program. Returns a matplotlib figure."""
        return plot(self._plans[-1].homes, self._planner.mesh, self.reports[-1], **options)

    def __repr__(self) -> str:
        rows = [table(self.reports), "", "tactics = [", *(f"    ls.{tactic}," for tactic in self.tactics), "]"]
        return "\n".join(rows)

    # ---- how arguments get in and results out

    @property
    def _lowered(self) -> Any:
        return self._plans[-1].lowered

    @functools.cached_property
    def _in_layouts(self) -> list[Layout]:
        layouts = iter(self._lowered.inputs)
        return [
            self._even(shape, next(layouts)) if used else replicated(len(shape))
            for (shape, _), used in zip(self._shapes, self._planner.kept, strict=True)
        ]

    def _even(self, shape: tuple[int, ...], layout: Layout) -> Layout:
        """JAX splits arrays evenly; what is padded is whole outside of the program."""
        sizes = self._planner.mesh
        even = all(n % math.prod(sizes[a] for a in axes) == 0 for n, axes in zip(shape, layout, strict=True))
        return layout if even else replicated(len(shape))

    def _global(self, shape: tuple[int, ...], layout: Layout) -> tuple[int, ...]:
        """The shape of the padded whole."""
        sizes = self._planner.mesh
        local = local_shape(shape, layout, sizes)
        return tuple(n * math.prod(sizes[a] for a in axes) for n, axes in zip(local, layout, strict=True))

    def _checked(self, args: tuple[Any, ...]) -> list[Any]:
        leaves, tree = jax.tree.flatten(args)
        if tree != self._args:
            raise PartitionError(f"the program was partitioned for arguments {self._args}; found {tree}. Partition it again for these.")
        for name, x, (shape, dtype) in zip(self._planner.arguments, leaves, self._shapes, strict=True):
            found = (x.shape, x.dtype) if isinstance(x, jax.Array) else _type(x)
            if found != (shape, dtype):
                raise PartitionError(
                    f"{name}: the program was partitioned for {dtype}{list(shape)}, found {found[1]}{list(found[0])}. Partition it again."
                )
        for i, array in self._planner.known.items():
            if leaves[i] is not array and not np.array_equal(leaves[i], array):
                raise PartitionError(
                    f"{self._planner.arguments[i]}: its numbers are not those that it was said to have (known=...). Partition it again."
                )
        return [x for x, used in zip(leaves, self._planner.kept, strict=True) if used]

    def _placed(self, leaves: Sequence[Any]) -> list[Any]:
        num = len(leaves)
        return [*map(self._put, leaves, self._places[:num]), *self._placed_constants]

    def _put(self, x: Any, place: tuple[NamedSharding, tuple[int, ...]]) -> Any:
        sharding, shape = place
        if isinstance(x, jax.Array) and x.shape == shape and getattr(x, "sharding", None) == sharding:
            return x
        for dim, size in enumerate(shape):
            x = padded_to(jnp.asarray(x), dim, size) if size != jnp.shape(x)[dim] else x
        return jax.device_put(x, sharding)

    @functools.cached_property
    def _places(self) -> list[tuple[NamedSharding, tuple[int, ...]]]:
        """Where each input of the device-local program lies, constants last, and its shape, padding included."""
        graph = self._planner.graph
        return [
            (NamedSharding(self.mesh, spec_of(layout)), self._global(graph.shapes[v], layout))
            for v, layout in zip(graph.top.inputs, self._lowered.inputs, strict=True)
        ]

    @functools.cached_property
    def _placed_constants(self) -> list[Any]:
        constants = self._planner.graph.constants
        return list(map(self._put, constants, self._places[len(self._places) - len(constants) :]))

    @property
    def _structs(self) -> list[Any]:
        dtypes = (self._planner.graph.dtypes[v] for v in self._planner.graph.top.inputs)
        return [
            jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for (sharding, shape), dtype in zip(self._places, dtypes, strict=True)
        ]

    @functools.cached_property
    def _guarded(self) -> Any:
        """The program, which says so where it is differentiated: the partial sums inside have no gradients that JAX could follow."""
        guarded = jax.custom_jvp(lambda *parts: self._jitted(*parts))

        @guarded.defjvp
        def refuse(primals: Any, tangents: Any) -> Any:
            raise PartitionError(
                "a partitioned program cannot be differentiated. Differentiate first: "
                "ls.partition(jax.value_and_grad(fn), args, mesh, tactics)."
            )

        return guarded

    @functools.cached_property
    def _jitted(self) -> Any:
        lowered, sizes = self._lowered, self._planner.mesh

        def local(*parts: Any) -> list[Any]:
            outs = run_local(lowered.program, lowered.slots, sizes, parts)
            return [x if is_key(x) else jnp.asarray(x, self._planner.output_dtype(i)) for i, x in enumerate(outs)]

        mapped = jax.shard_map(
            local,
            mesh=self.mesh,
            in_specs=tuple(spec_of(layout) for layout in lowered.inputs),
            out_specs=[spec_of(layout) for layout in lowered.outputs],
            check_vma=False,  # partial sums are ours to follow
        )
        return jax.jit(mapped)
