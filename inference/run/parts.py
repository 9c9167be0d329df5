"""Where each array of a run lies on a mesh: by what it is, never by its shape.

Between the calls of the device every array is one of its own: the vectors of the chains in parts (`Layout.cut`), each site that is split
an array with that split. Inside each device joins them to the vectors that its programs work on.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import PartitionSpec

from ..kernels.adaptation import Adaptation, Welford
from ..kernels.layout import Home, Layout
from ..kernels.metric import Metric
from ..kernels.records import ChainState, Plan, with_vectors
from ..kernels.target import Data
from .batching import Chunk
from .chain import Begin

__all__ = ["Parts"]

WHOLE = PartitionSpec()


class Parts(NamedTuple):
    """How the arrays of a density are split over a mesh.

    Attributes:
        layout: of one device's vector.
        leaves, values: of the data, and of constrained values, in their order.
        fixed: of starting values, (site, home) each.
        options: of the kernel's options, a tree of homes, as (path, home) each.
        uses_gradient: of the kernel.
    """

    layout: Layout
    leaves: tuple[Home, ...] = ()
    values: tuple[Home, ...] = ()
    fixed: tuple[tuple[str, Home], ...] = ()
    options: tuple[tuple[str, Home], ...] = ()
    uses_gradient: bool = True

    @property
    def split(self) -> bool:
        """Whether any site is."""
        return bool(self.layout.parts)

    def cut_state(self, state: ChainState) -> ChainState:
        """The chains of one device, vectors in parts."""
        return with_vectors(state, self.layout.cut, self.uses_gradient) if self.split else state

    def join_state(self, state: ChainState) -> ChainState:
        """What `cut_state` took apart."""
        return with_vectors(state, self.layout.join, self.uses_gradient) if self.split else state

    def join_plan(self, plan: Plan) -> Plan:
        """A plan for one device's vectors, of one in parts."""
        if not self.split:
            return plan
        return plan._replace(tuning=plan.tuning._replace(inverse_mass_matrix=self.layout.join(plan.tuning.inverse_mass_matrix)))

    # ---- specs, trees of `PartitionSpec`s like the arrays, which a leading axis, that of chains, may precede

    def vector(self, *lead: Any) -> Any:
        """Of a vector over the coordinates."""
        if not self.split:
            return PartitionSpec(*lead)
        return tuple(PartitionSpec(*lead, *home) for home in ((), *(place.home for place in self.layout.places() if place.home)))

    def state(self, chains: tuple[str, ...]) -> Any:
        """Of the state of the chains, a prefix of its tree."""
        spec: Any = PartitionSpec(chains)
        if not self.split:
            return spec
        like = ChainState(spec, spec, spec, spec, Metric(spec, spec), Adaptation(spec, Welford(spec, spec, spec)), spec, spec)
        return with_vectors(like, lambda _: self.vector(chains), self.uses_gradient)

    def plan(self, plan: Plan) -> Any:
        """Of the plan."""
        specs = jax.tree.map(lambda _: WHOLE, plan)
        homes = dict(self.options)
        options = jax.tree_util.tree_map_with_path(
            lambda path, _: PartitionSpec(*homes.get(jax.tree_util.keystr(path), ())), plan.tuning.options
        )
        vector = self.vector() if self.split else specs.tuning.inverse_mass_matrix
        return specs._replace(tuning=specs.tuning._replace(inverse_mass_matrix=vector, options=options))

    def data(self) -> Any:
        """Of the data, a prefix of its tree."""
        return Data(tuple(PartitionSpec(*home) for home in self.leaves) if self.leaves else WHOLE, WHOLE)  # pyright: ignore[reportArgumentType]

    def begin(self, chains: tuple[str, ...], begin: Begin) -> Begin:
        """Of how the chains find their starts."""
        homes = dict(self.fixed)
        return Begin(PartitionSpec(chains), {name: PartitionSpec(chains, *homes.get(name, ())) for name in begin.fixed})

    def chunk(self, chains: tuple[str, ...], num_values: int) -> Any:
        """Of a chunk, a prefix of its tree."""
        by_chain = PartitionSpec(chains)
        homes = self.values or ((),) * num_values
        values = tuple(PartitionSpec(chains, None, *home) for home in homes)
        return Chunk(self.state(chains), by_chain, by_chain, values)  # pyright: ignore[reportArgumentType]

    # ---- on the host

    def whole_state(self, state: ChainState) -> ChainState:
        """NumPy arrays, vectors in program order, of the arrays of a mesh."""
        return with_vectors(state, self.layout.join_whole, self.uses_gradient) if self.split else state

    def state_of(self, whole: ChainState) -> ChainState:
        """What `whole_state` put together, in parts."""
        return with_vectors(whole, lambda v: self.layout.cut_whole(np.asarray(v)), self.uses_gradient) if self.split else whole

    def plan_of(self, whole: Plan) -> Plan:
        """A plan in parts, of one whose vectors are in program order."""
        if not self.split:
            return whole
        matrix = self.layout.cut_whole(np.asarray(whole.tuning.inverse_mass_matrix))
        return whole._replace(tuning=whole.tuning._replace(inverse_mass_matrix=matrix))
