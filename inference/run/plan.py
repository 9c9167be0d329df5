"""What a run over a mesh costs, told before anything runs: how often devices meet and for what, what each holds, and how long it takes.

A gradient's collectives are those of the density as it was partitioned. Besides, devices that share chains meet in the sums over
coordinates. All of them are counted in the machine that will run, step by step, so that what is said is what is compiled; `RunPlan.check`
holds it against the lowered program.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import AbstractMesh

from ...sharding.explain import explain
from ...sharding.hardware import Hardware
from ...sharding.layout import Layout
from ...sharding.local import COLLECTIVES
from ...sharding.picture import plot
from ...sharding.report import Report, in_bytes, in_seconds, table
from ...sharding.tactics import ManualPartition
from ...transforms.autobatch import build_machine
from ...transforms.errors import PartitionError
from ...transforms.jax_compat import lowered_operations, named_axes, open_jaxpr, subjaxprs
from ..kernels.coordinates import Per
from ..placing.density import Placed
from ..placing.names import CHAINS
from .batching import one_chain
from .compilation import local_run, lowered_sampler
from .spec import Settings, spec_of
from .start import start_of
from .where import Where, split_run

__all__ = ["Meetings", "RunPlan", "machine_plan", "plan_run"]

_KINDS = {
    "psum": "all_reduce", "pmin": "all_reduce", "pmax": "all_reduce", "all_gather": "all_gather", "all_to_all": "all_to_all",
    "reduce_scatter": "reduce_scatter", "psum_scatter": "reduce_scatter",
}  # fmt: skip
_OPERATIONS = {f"stablehlo.{kind}": kind for kind in COLLECTIVES}

Meetings = Mapping[Per, Mapping[str, int]]
"""Collectives: how often devices meet, then the kind, then how many."""


@dataclass(frozen=True)
class RunPlan:
    """What a run costs on a mesh. `print(plan)` is a table.

    Attributes:
        mesh: axis -> size.
        chains: number of chains of each device.
        collectives: for each gradient (with its leaf's energy), turn check, coordinate, transition, start that is tried, call of the device
            and block of draws: kind -> how many, executed once for all chains of a device.
        sent: bytes that one device sends for each of these, all its chains together.
        static: function of the run ("enter", "advance", "leave") -> the collectives that stand in its lowered text.
        memory: bytes that one device holds: "data", "state" (all that the chains of a device carry, draws of a chunk included) and
            "gradient" (what is live within one, estimated).
        seconds: of a gradient of all chains of a device, estimated; good for ranking.
        reports: of the log density of one chain under each tactic; see `ls.Report`. Empty if only the chains are split.
        tactics: of the run, with what an `AutomaticPartition` chose and plates written out; they can be pasted in their place.
        homes: name of an array or a site -> for each of its dimensions the axes that it is split over; the chains too.
        lowered: () -> the functions "enter", "advance" and "leave" as JAX lowers them (`jax.stages.Lowered`) for the devices of the mesh,
            which must be there: `plan.lowered()["advance"].compile().memory_analysis()`.
        placed: the density under the tactics; None if only the chains are split.
    """

    mesh: Mapping[str, int]
    chains: int
    collectives: Meetings
    sent: Mapping[Per, int]
    static: Mapping[str, Meetings]
    memory: Mapping[str, int]
    seconds: float
    reports: tuple[Report, ...]
    tactics: tuple[ManualPartition, ...]
    homes: Mapping[str, Layout]
    lowered: Callable[[], Mapping[str, Any]]
    placed: Placed | None = None

    @property
    def conflicts(self) -> tuple[Any, ...]:
        """Operations that two layouts would split in two ways, and that were left whole."""
        return tuple(conflict for report in self.reports for conflict in report.conflicts)

    @property
    def idle_axes(self) -> tuple[str, ...]:
        """The axes over which nothing is split: the devices along them do the same work."""
        used = {axis for home in self.homes.values() for axes in home for axis in axes}
        return tuple(axis for axis in self.mesh if axis not in used)

    def explain(self, name: str) -> str:
        """Why values of this name ("sites.alpha", "data.x") lie where they lie: see `ls.Partitioned.explain`.

        Raises:
            PartitionError: there is no such name, or only the chains are split.
        """
        if self.placed is None:
            raise PartitionError(f"{name!r} lies whole on every device: only the chains are split.")
        return explain(self.placed.planner, self.placed.decided.layouts, self.placed.decided.tactics, name)

    def check(self) -> Mapping[str, Meetings]:
        """Lowers the functions of the run for the devices of the mesh, and compares; returns what stands there.

        Raises:
            PartitionError: another collective than was said; or there are fewer devices than the mesh needs.
        """
        found = {name: _in_lowered(lowered) for name, lowered in self.lowered().items()}
        if found != {name: _plain(meetings) for name, meetings in self.static.items()}:
            raise PartitionError(
                f"the plan said {self.static}, the lowered programs have {found}. This is a fault of the plan: please report it."
            )
        return found

    def plot(self, **options: Any) -> Any:
        """A picture: what is split over which axis, and live memory over the log density with its gradient. Returns a matplotlib figure.

        Args:
            **options: `axes`, two of matplotlib's to draw on.

        Raises:
            PartitionError: only the chains are split.
        """
        if not self.reports:
            raise PartitionError(
                "RunPlan.plot: only the chains are split, and each device runs the whole density: there is nothing to draw. Split data "
                "or a site too, as in ls.ManualPartition({'plate:row': 0}, axis='row')."
            )
        return plot(self.homes, self.mesh, self.reports[-1], **options)

    def __str__(self) -> str:
        axes = ", ".join(f"{axis}={size}" for axis, size in self.mesh.items())
        lines = [f"a run over {math.prod(self.mesh.values())} devices ({axes}), {self.chains} chain{'s' * (self.chains > 1)} on each"]
        if self.reports:
            lines += ["", "the log density of one chain, with its gradient", table(self.reports)]
        lines += ["", "devices meet", *(f"  {line}" for line in _rows(self))]
        lines += ["", "on one device", *(f"  {name:9} {in_bytes(size)}" for name, size in self.memory.items())]
        if self.reports:
            lines.append(f"  {'time':9} {in_seconds(self.seconds)} for a gradient of all its chains, on {self.reports[-1].hardware}")
        lines += [f"  conflict: {conflict}" for conflict in self.conflicts]
        lines += [f"  note: {note}" for note in dict.fromkeys(note for report in self.reports for note in report.notes)]
        lines += [f"  note: nothing is split over {axis!r}: its devices do the same work" for axis in self.idle_axes]
        if self.tactics:
            lines += ["", "tactics = [", *(f"    ls.{tactic}," for tactic in self.tactics), "]"]
        return "\n".join(lines)

    __repr__ = __str__


def _rows(plan: RunPlan) -> list[str]:
    """A line for each occasion on which devices meet."""
    if not plan.collectives:
        return ["never: no collective in any of its programs"]
    width = max(map(len, plan.collectives))
    rows = []
    for per, counts in plan.collectives.items():
        kinds = ", ".join(f"{n} {kind}" for kind, n in counts.items())
        rows.append(f"{per:{width}}  {kinds}; {in_bytes(plan.sent[per])} sent")
    return rows


def plan_run(kernel: Any, density: Any, settings: Settings, where: Where, hardware: Hardware | None = None) -> RunPlan:
    """What a run would cost.

    Args:
        kernel: what samples.
        density: of the model, on its data.
        settings, where: of the run.
        hardware: what times are estimated for.

    Raises:
        PartitionError, SamplerError: as the run would.
    """
    settings = settings._replace(debug=False)
    start = start_of(None, kernel, density, settings.num_chains)
    where.check(kernel)
    fitted = kernel.fit(density, np.zeros(2, np.uint32), settings.num_chains)
    split = split_run(kernel, fitted, density, settings, start, where, hardware)
    given = np.full(settings.num_chains, split.fitted.starts is not None)

    def spec(mesh: Any) -> Any:
        return spec_of(type(kernel).__name__, split.fitted, split.target, split.placement(mesh), settings, given)[0]

    sizes = where.sizes
    planned = spec(AbstractMesh(tuple(sizes.values()), tuple(sizes)))
    target, transition, chains, capacity, plan = local_run(planned)
    with named_axes(sizes):
        collectives, sent, static, state = machine_plan(one_chain(target, transition, capacity, plan), target, chains)
    memory = {"data": sum(math.prod(x.shape) * x.dtype.itemsize for x in target.data.leaves), "state": state}
    reports: tuple[Report, ...] = ()
    seconds = 0.0
    tactics = [ManualPartition({CHAINS: 0}, axis=axis) for axis in split.chain_axes]
    homes: dict[str, Layout] = {CHAINS: (split.chain_axes,)}
    if split.placed is not None:
        reports = tuple(p.report for p in split.placed.decided.plans)
        tactics += split.placed.decided.tactics
        homes |= split.placed.decided.plans[-1].homes
        cost = reports[-1]
        memory["gradient"] = max(0, cost.peak_bytes - memory["data"]) * chains
        met = sum(cost.collectives.values()) * split.placed.planner.hardware.latency
        seconds = (cost.seconds - met) * chains + met

    def lowered() -> Mapping[str, Any]:
        return lowered_sampler(spec(where.devices()))

    return RunPlan(sizes, chains, collectives, sent, static, memory, seconds, reports, tuple(tactics), homes, lowered, split.placed)


def machine_plan(chain: Any, target: Any, num_chains: int) -> tuple[Meetings, Mapping[Per, int], Mapping[str, Meetings], int]:
    """Of the machine of one device: collectives and bytes for each occasion, collectives by function, and bytes of its state.

    Args:
        chain: the chunk of one chain, `OneChain`.
        target: of one device.
        num_chains: of one device.

    To be called where the mesh's axes have names.
    """
    machine = build_machine(chain.closed.program)
    schedule = machine.schedule
    found = {step.number: list(_collectives(step.block.jaxpr)) for step in schedule.frames.steps}

    def of_units(units: Sequence[Any]) -> Counter[tuple[Per, str]]:
        return Counter((per, kind) for unit in units for number in unit.steps for per, kind, _ in found[number])

    once, constrain = (list(_collectives(program)) for program in (target.programs[0], target.programs[2]))
    per_call, per_block = (Counter((per, kind) for per, kind, _ in some) for some in (once, constrain))
    static = {
        "enter": of_units(schedule.prologue),  # what is prepared of the data is read in the tick alone
        "advance": per_call + of_units(schedule.tick) + of_units(schedule.epilogue),
        "leave": per_block,
    }
    occasions: Counter[tuple[Per, str]] = Counter()
    sent: Counter[Per] = Counter()
    for some in [*found.values(), once, constrain]:
        counts = Counter((per, kind) for per, kind, _ in some)
        for key in counts:
            check = key[0] is Per.TURN_CHECK  # it stands in two places, of which each check is one
            occasions[key] = max(occasions[key], counts[key]) if check else occasions[key] + counts[key]
        for per in {per for per, _, _ in some}:
            size = sum(size for p, _, size in some if p is per) * num_chains
            sent[per] = max(sent[per], size) if per is Per.TURN_CHECK else sent[per] + size
    arguments = [jax.ShapeDtypeStruct((num_chains, *np.shape(x)), x.dtype) for x in jax.tree.leaves(chain.arguments)]
    state = jax.eval_shape(machine.start, arguments)
    size = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(state))
    return _nested(occasions), {per: sent[per] for per in Per if per in sent}, {n: _nested(c) for n, c in static.items()}, size


def _nested(counts: Mapping[tuple[Per, str], int]) -> Meetings:
    return {per: found for per in Per if (found := {kind: counts[per, kind] for kind in COLLECTIVES if counts.get((per, kind))})}


def _plain(meetings: Meetings) -> dict[Per, dict[str, int]]:
    return {per: dict(counts) for per, counts in meetings.items()}


def _collectives(jaxpr: Any, around: str = "") -> Iterator[tuple[Per, str, int]]:
    """Occasion, kind and bytes that one device sends, of every collective of a program of one chain."""
    for eqn in open_jaxpr(jaxpr)[0].eqns:
        scope = f"{around}/{eqn.source_info.name_stack}"
        kind = _KINDS.get(eqn.primitive.name)
        if kind is not None:
            yield _occasion(scope), kind, _sent(eqn, kind)
        for inner in subjaxprs(eqn):
            yield from _collectives(inner, scope)


def _sent(eqn: Any, kind: str) -> int:
    """Bytes that one device sends, on a ring, as the simulator counts; to be called where the mesh's axes have names."""
    axes = eqn.params.get("axes", eqn.params.get("axis_name"))
    devices = math.prod(lax.axis_size(axis) for axis in ((axes,) if isinstance(axes, str) else axes))
    whole = max(_size(eqn.invars), _size(eqn.outvars)) * (2 if kind == "all_reduce" else 1)
    return whole * (devices - 1) // devices


def _size(atoms: Sequence[Any]) -> int:
    return sum(math.prod(atom.aval.shape) * atom.aval.dtype.itemsize for atom in atoms)


def _occasion(scope: str) -> Per:
    """The innermost of the scopes that `Per` names."""
    places = {per: scope.rfind(per) for per in Per}
    per = max(places, key=lambda per: places[per])
    if places[per] < 0:
        raise AssertionError(f"a collective that no scope explains: {scope!r}")
    return per


def _in_lowered(lowered: Any) -> dict[Per, dict[str, int]]:
    operations = lowered_operations(lowered)
    return _plain(_nested(Counter((_occasion(place), _OPERATIONS[name]) for name, place in operations if name in _OPERATIONS)))
