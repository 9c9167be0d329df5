"""A traced program, and what one device of a mesh runs of it."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ...sharding.execute import is_key, run_local
from ...sharding.graph import graph_of
from ...sharding.hardware import Hardware
from ...sharding.layout import local_shape, replicated
from ...sharding.lower import Lowered, lower
from ...sharding.planning import Planner
from ...sharding.propagate import Layouts, propagate
from ...transforms.jax_compat import Literal, live_jaxpr
from ..kernels.layout import Home

__all__ = ["PartProgram", "local_struct", "struct_of"]


class PartProgram:
    """A program whose values are to be split.

    Args:
        function: of arrays, or trees of them.
        names: of the leaves of its arguments.
        sizes: of the mesh, axis -> size.
        args: shapes and dtypes.
        keeps: number of a result -> number of the argument whose layout it keeps.
        hardware: what the simulator counts with.

    Attributes:
        results: shapes and dtypes of the leaves that it returns.
        planner: to plan it with.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        names: Sequence[str],
        sizes: Mapping[str, int],
        args: Sequence[Any],
        keeps: Mapping[int, int],
        hardware: Hardware,
    ) -> None:
        closed, returned = jax.make_jaxpr(function, return_shape=True)(*args)
        self.results = jax.tree.leaves(returned)
        closed, kept = live_jaxpr(closed, [True] * len(self.results))
        self.planner = Planner(graph_of(closed), names, kept, keeps, sizes, hardware)
        self._ranks, self._sizes = [len(x.shape) for x in jax.tree.leaves(args)], sizes

    @property
    def constants(self) -> Sequence[Any]:
        """What the function closes over."""
        return self.planner.graph.constants

    def homes(self, layouts: Layouts) -> list[Home]:
        """How each argument is split."""
        inputs = zip(self.planner.inputs, self._ranks, strict=True)
        return [replicated(rank) if value is None else layouts.layout(value, rank) for value, rank in inputs]

    def follow(self, homes: Sequence[Home | None], results: Sequence[Home] = ()) -> tuple[Layouts, Lowered]:
        """The layouts and the device-local program that follow from how arguments and results are split.

        Args:
            homes: of each argument; None where it follows.
            results: of each result; none where they follow. A result that cannot be split evenly is whole.
        """
        graph, sizes = self.planner.graph, self._sizes
        layouts = self.planner.start()
        layouts.uneven = frozenset(sizes)
        wanted: list[tuple[int, Home]] = []
        for value, home in zip(self.planner.inputs, homes, strict=True):
            if value is not None and home is not None:
                layouts.whole[value] = frozenset(sizes) - {axis for axes in home for axis in axes}
                wanted.append((value, home))
        wanted += [(atom, home) for atom, home in zip(graph.top.outputs, results, strict=False) if not isinstance(atom, Literal)]
        for axis in _in_order(sizes, [home for _, home in wanted]):
            split = []
            for value, home in wanted:
                dim = next((dim for dim, axes in enumerate(home) if axis in axes), None)
                if dim is not None and layouts.dim(value, axis) is None:
                    layouts.split(value, axis, dim)
                    split.append(value)
            propagate(graph, layouts, axis, split)
        ends = dict(enumerate(results))
        for number, atom in enumerate(graph.top.outputs if not results else ()):
            if not isinstance(atom, Literal):
                shape = graph.shapes[atom]
                home = layouts.layout(atom, len(shape))
                ends[number] = home if is_even(shape, home, sizes) else replicated(len(shape))
        return layouts, lower(graph, layouts, ends)

    def run(self, lowered: Lowered, args: Sequence[Any], constants: Sequence[Any]) -> list[Any]:
        """The results on one device; to be called where the mesh's axes have names.

        Args:
            lowered: the device-local program.
            args: one device's parts of the arguments' leaves.
            constants: one device's parts of `constants`.
        """
        used = [x for x, kept in zip(args, self.planner.kept, strict=True) if kept]
        outs = run_local(lowered.program, lowered.slots, self._sizes, [*used, *constants])
        return [x if is_key(x) else jnp.asarray(x, self.planner.output_dtype(i)) for i, x in enumerate(outs)]

    def constant_homes(self, lowered: Lowered) -> list[Home]:
        """How each of `constants` is split."""
        return list(lowered.inputs[len(lowered.inputs) - len(self.constants) :])


def local_struct(x: Any, home: Home, sizes: Mapping[str, int]) -> jax.ShapeDtypeStruct:
    """Shape and dtype of a device's part; a dimension that its devices do not divide is padded."""
    whole = struct_of(x)
    return jax.ShapeDtypeStruct(local_shape(whole.shape, home or replicated(len(whole.shape)), sizes), whole.dtype)


def struct_of(x: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype of an array as JAX will have it, which knows float64 only where the user has switched it on."""
    dtype = x.dtype if is_key(x) else jax.dtypes.canonicalize_dtype(x.dtype)
    return jax.ShapeDtypeStruct(tuple(x.shape), dtype)


def is_even(shape: Sequence[int], home: Home, sizes: Mapping[str, int]) -> bool:
    """Whether the devices divide every dimension."""
    return all(n % math.prod(sizes[a] for a in axes) == 0 for n, axes in zip(shape, home, strict=True))


def _in_order(sizes: Mapping[str, int], homes: Sequence[Home]) -> list[str]:
    """The axes in which values are split: of a dimension that is split over several, the major one first."""
    depth = dict.fromkeys(sizes, -1)
    for axes in (axes for home in homes for axes in home):
        for place, axis in enumerate(axes):
            depth[axis] = max(depth[axis], place)
    return sorted((axis for axis in sizes if depth[axis] >= 0), key=lambda axis: depth[axis])
