"""A density under tactics: partitioned as a function of sites and data, then run by each device on a vector of its own.

The log density with its gradient is traced on sites, not on one vector, through which no split could spread, and together with what reads
only the data, so that this is split as it is used. Of the device-local program, collectives included, what reads only data is taken out
again. Constrained values and first positions are programs apart; they follow the layouts that the density has.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...ppl import InitStrategy
from ...sharding.decide import Decided, decide
from ...sharding.hardware import HARDWARE, Hardware
from ...sharding.lower import Lowered
from ...sharding.planning import Planner
from ...transforms import value_and_grad
from ...transforms.jax_compat import named_axes
from ...transforms.keys import random_key
from ...transforms.partial import split
from ..kernels.coordinates import Per
from ..kernels.layout import Home, Layout
from ..kernels.target import Data, Target, collected
from .names import Tactic, data_names, site_names
from .programs import PartProgram, is_even, local_struct, struct_of

__all__ = ["Placed", "place_density"]


class Placed(NamedTuple):
    """A density under tactics.

    Attributes:
        target: the programs of one device, on a device's vector; its data are whole, padded where they have to be.
        leaves: how each leaf of the data is split.
        fixed: how the constrained values that a strategy brings are split, by site.
        values: how constrained and deterministic values are split, in the target's order.
        planner, decided: of the density, for reports.
    """

    target: Target
    leaves: tuple[Home, ...]
    fixed: dict[str, Home]
    values: tuple[Home, ...]
    planner: Planner
    decided: Decided


def place_density(
    density: Any,
    strategy: InitStrategy,
    num_chains: int,
    tactics: Sequence[Tactic],
    sizes: Mapping[str, int],
    uses_gradient: bool = True,
    collect: tuple[str, ...] | None = None,
    hardware: Hardware | None = None,
) -> Placed:
    """Partitions a density and its companions.

    Args:
        density: a `LogDensity`; its leaves are the data.
        strategy, num_chains, uses_gradient, collect: see `trace_target`.
        tactics: for the density alone, see `names`.
        sizes: of the mesh, axis -> size.
        hardware: what the simulator counts with.

    Raises:
        PartitionError: a name, a dimension or a size does not fit.
    """
    parts = _Parts(density, strategy, num_chains, sizes, uses_gradient, collect, hardware or HARDWARE["cpu"])
    scored, leaves = parts.scored, parts.leaves
    whole_numbers = [name for name, x in zip(parts.names, leaves, strict=False) if x.dtype.kind in "biu"]
    scored.planner.know(whole_numbers, [*leaves, *parts.values])
    scored.planner.graph.even.update(value for value in scored.planner.inputs[len(leaves) :] if value is not None)
    decided = decide(scored.planner, tactics)
    homes = scored.homes(decided.layouts)
    leaf_homes, site_homes = homes[: len(leaves)], homes[len(leaves) :]
    _, constrained = parts.constrained.follow([*leaf_homes, *site_homes])
    layouts, begun = parts.begun.follow([*leaf_homes, *(None for _ in parts.of_one_chain), None], site_homes)
    fixed_homes = dict(zip(parts.of_one_chain, parts.begun.homes(layouts)[len(leaves) : -1], strict=True))
    lowered = decided.plans[-1].lowered, constrained, begun
    for program, low in zip(parts.programs, lowered, strict=True):
        leaf_homes = [*leaf_homes, *program.constant_homes(low)]
    arrays = [*leaves, *(x for program in parts.programs for x in program.constants)]
    local = tuple(local_struct(x, home, sizes) for x, home in zip(arrays, leaf_homes, strict=True))
    layout = parts.layout.split(dict(zip(density.positions, site_homes, strict=True)), sizes)
    with named_axes(sizes):
        programs = parts.local_programs(layout, local, lowered, fixed_homes)
    whole = tuple(_padded(x, struct, home, sizes) for x, struct, home in zip(arrays, local, leaf_homes, strict=True))
    data = Data(whole, tuple(tuple(program.consts) for program in programs))
    values = tuple(constrained.outputs)
    shapes = tuple(local_struct(x, home, sizes) for x, home in zip(parts.constrained.results, values, strict=True))
    target = Target(layout, tuple(parts.value_names), shapes, programs, data, parts.fixed)
    return Placed(target, tuple(leaf_homes), fixed_homes, values, scored.planner, decided)


class _Parts:
    """The programs of a density, traced on sites.

    Attributes:
        leaves, names: of the data, and of the data and the sites.
        layout: of the whole vector.
        fixed, of_one_chain: what the strategy brings, and its types for one chain.
        scored, constrained, begun: log density with gradient, constrained values, first position.
        value_names: of the constrained values, in program order.
    """

    def __init__(
        self,
        density: Any,
        strategy: InitStrategy,
        num_chains: int,
        sizes: Mapping[str, int],
        gradient: bool,
        collect: Any,
        hardware: Hardware,
    ) -> None:
        self.leaves, treedef = jax.tree.flatten(density)
        self.layout, sites = Layout.of(density.positions), list(density.positions)
        self.fixed = dict(sorted(strategy.fixed(density.program, num_chains).items()))
        self.value_names: list[str] = []
        self._gradient, self._sizes = gradient, sizes
        self.names = [*data_names(density, self.leaves), *site_names(density)]

        def by_site(values: Sequence[Any]) -> dict[str, Any]:
            return dict(zip(sites, values, strict=True))

        def rebuilt(leaves: Sequence[Any]) -> Any:
            return jax.tree.unflatten(treedef, leaves)

        def score(leaves: Sequence[Any], values: Any) -> Any:
            def value(values: Any) -> Any:
                given = rebuilt(leaves)
                return jnp.asarray(given.evaluate(given.prepare(), by_site(values))).astype(self.layout.dtype)

            return value_and_grad(value)(values) if gradient else (value(values), ())

        def constrain(leaves: Sequence[Any], values: Sequence[Any]) -> Any:
            found = collected(rebuilt(leaves).constrain(by_site(values)), collect)
            self.value_names[:] = found
            return tuple(found.values())

        def begin(leaves: Sequence[Any], fixed: Any, words: Any) -> Any:
            position = rebuilt(leaves).init(random_key(words), strategy, fixed)
            return tuple(position[name] for name in sites)

        data = [struct_of(x) for x in self.leaves]
        self.values = tuple(density.positions.values())
        self.of_one_chain = {name: jax.ShapeDtypeStruct(value.shape[1:], value.dtype) for name, value in self.fixed.items()}
        keeps = {1 + i: len(data) + i for i in range(len(sites))} if gradient else {}
        self.scored = PartProgram(score, self.names, sizes, (data, self.values), keeps, hardware)
        self.constrained = PartProgram(constrain, self.names, sizes, (data, self.values), {}, hardware)
        begun = [*self.names[: len(data)], *(f"fixed.{name}" for name in self.fixed), "words"]
        self.begun = PartProgram(begin, begun, sizes, (data, self.of_one_chain, jax.ShapeDtypeStruct((2,), np.uint32)), {}, hardware)

    @property
    def programs(self) -> tuple[PartProgram, PartProgram, PartProgram]:
        return self.scored, self.constrained, self.begun

    def local_programs(
        self, layout: Layout, arrays: Sequence[Any], lowered: Sequence[Lowered], fixed_homes: Mapping[str, Home]
    ) -> tuple[Any, Any, Any, Any]:
        """The four programs of a `Target`, of one device; to be called where the mesh's axes have names."""
        score, constrain, begin = (self._of_arrays(program, low) for program, low in zip(self.programs, lowered, strict=True))
        sites = [name for name, _, _ in layout.sites]
        position = jax.ShapeDtypeStruct((layout.dim,), np.dtype(layout.dtype))

        def values_of(position: Any) -> list[Any]:
            return list(layout.unravel(position).values())

        by_site = jax.eval_shape(values_of, position)
        two = split(jax.make_jaxpr(lambda *xs: score(xs[: len(arrays)], xs[len(arrays) :]))(*arrays, *by_site), len(arrays))

        def prepare(*arrays: Any) -> Any:
            with jax.named_scope(Per.CALL):
                return tuple(two.prepare(arrays))

        prepared_by, prepared = jax.make_jaxpr(prepare, return_shape=True)(*arrays)

        def density(position: Any, *prepared: Any) -> Any:
            with jax.named_scope(Per.GRADIENT):
                value, *slopes = two.rest(prepared, values_of(position))
            return value, layout.ravel(dict(zip(sites, slopes, strict=True))) if self._gradient else position[:0]

        def first(words: Any, fixed: Any, *arrays: Any) -> Any:
            with jax.named_scope(Per.START):
                return layout.ravel(dict(zip(sites, begin(arrays, [*jax.tree.leaves(fixed), words]), strict=True)))

        def values(position: Any, *arrays: Any) -> Any:
            with jax.named_scope(Per.CHUNK):
                return constrain(arrays, values_of(position))

        fixed = {name: local_struct(x, fixed_homes[name], self._sizes) for name, x in self.of_one_chain.items()}
        return (
            prepared_by,
            jax.make_jaxpr(density)(position, *prepared),
            jax.make_jaxpr(values)(position, *arrays),
            jax.make_jaxpr(first)(jax.ShapeDtypeStruct((2,), np.uint32), fixed, *arrays),
        )

    def _of_arrays(self, program: PartProgram, lowered: Lowered) -> Callable[..., list[Any]]:
        """A device-local program as a function of all arrays, the data and what the three programs close over, and of the rest."""
        counts = [len(self.leaves), *(len(p.constants) for p in self.programs)]
        number = self.programs.index(program)
        start = sum(counts[: number + 1])

        def run(arrays: Sequence[Any], rest: Sequence[Any]) -> list[Any]:
            return program.run(lowered, [*arrays[: counts[0]], *rest], arrays[start : start + counts[number + 1]])

        return run


def _padded(x: Any, struct: Any, home: Home, sizes: Mapping[str, int]) -> Any:
    """A whole array, with zeros behind its own entries where its devices do not divide it."""
    if not any(home) or is_even(x.shape, home, sizes):
        return x
    shards = [int(np.prod([sizes[a] for a in axes], dtype=int)) for axes in home]
    return np.pad(np.asarray(x), [(0, n * k - m) for n, k, m in zip(struct.shape, shards, x.shape, strict=True)])
