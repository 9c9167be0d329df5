"""The names of a posterior for tactics: chains or restarts, sites, data, and plates.

    "chains"            the chains of a run, split outside of the density; "restarts", the paths of an estimate
    "sites.alpha"       the unconstrained values of a latent site
    "data.x"            an array that the model was given, by parameter and path; "data.constants.0" one that the model brought along
    "plate:group"       the axis of a plate, in every site and array of which it is known to be an axis

A prefix names all below it, and "*" any stretch of a name, as everywhere in tactics.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ...ppl.dims import data_dims
from ...sharding.schedule import check_axes
from ...sharding.tactics import REPLICATED, AutomaticPartition, ManualPartition
from ...transforms.errors import PartitionError

__all__ = ["CHAINS", "PLATE", "RESTARTS", "Named", "Tactic", "data_names", "named_tactics", "plates_of", "site_names"]

CHAINS = "chains"
RESTARTS = "restarts"
PLATE = "plate:"

Tactic = ManualPartition | AutomaticPartition


class Named(NamedTuple):
    """Tactics of a run, sorted.

    Attributes:
        chain_axes: of the mesh, over which the chains or restarts are split.
        density: the tactics for the density, plates written out by site and array.
    """

    chain_axes: tuple[str, ...]
    density: tuple[Tactic, ...]


def named_tactics(
    tactics: Sequence[Tactic], mesh: Mapping[str, int], plates: Mapping[str, Mapping[str, int]] | None, chains: str = CHAINS
) -> Named:
    """What tactics say of chains, and what they say of the density.

    Args:
        tactics: the user's.
        mesh: axis -> size.
        plates: see `plates_of`; None if they are not known yet, then they stay as they are written.
        chains: what is split outside of the density, `CHAINS` or `RESTARTS`.

    Raises:
        PartitionError: an axis or a plate does not exist, or an axis is used for chains and for something else.
    """
    check_axes(tactics, mesh)
    chain_axes: list[str] = []
    rest: list[Tactic] = []
    for tactic in tactics:
        if isinstance(tactic, AutomaticPartition):
            rest.append(tactic)
            continue
        values = dict(tactic.values)
        where = values.pop(chains, None)
        if where is not None:
            _check_chains(tactic, chains, where, chain_axes)
            chain_axes.append(tactic.axis)
        if values or tactic.atomic:
            rest.append(replace(tactic, values=values if plates is None else _without_plates(tactic, values, plates)))
    for tactic in rest:
        for axis in (tactic.axes,) if isinstance(tactic.axes, str) else tactic.axes:
            if axis in chain_axes:
                raise PartitionError(
                    f"{tactic}: the {chains} are split over {axis!r} already, so that its devices have none in common. Write another "
                    f"axis of the mesh; it has {', '.join(map(repr, mesh))}."
                )
    return Named(tuple(chain_axes), tuple(rest))


def _check_chains(tactic: ManualPartition, chains: str, where: Any, before: Sequence[str]) -> None:
    if where is not REPLICATED and (isinstance(where, bool) or where != 0):
        raise PartitionError(f"{tactic}: {chains} have one dimension; write ls.ManualPartition({{{chains!r}: 0}}, axis={tactic.axis!r}).")
    if where is REPLICATED or tactic.pad:
        raise PartitionError(f"{tactic}: {chains} can be split, 0, and nothing else; leave {chains!r} out, or choose their number to fit.")
    if tactic.axis in before:
        raise PartitionError(f"{tactic}: the {chains} are split over {tactic.axis!r} already.")


def _without_plates(tactic: ManualPartition, values: Mapping[str, Any], plates: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """The entries of a tactic, each plate written out."""
    written: dict[str, Any] = {}
    for name, where in values.items():
        if not name.startswith(PLATE):
            written[name] = where
            continue
        plate = name[len(PLATE) :]
        if plate not in plates:
            near = difflib.get_close_matches(plate, plates, n=1, cutoff=0.5)
            hint = f"did you mean {PLATE + near[0]!r}?" if near else f"its plates are {', '.join(map(repr, plates)) or 'none'}."
            raise PartitionError(f"{tactic}: the model has no plate {plate!r}, or none that is known to be an axis of anything; {hint}")
        if where is not REPLICATED and (isinstance(where, bool) or where != 0):
            raise PartitionError(f"{tactic}: a plate is one axis; write {{{name!r}: 0}} or {{{name!r}: ls.REPLICATED}}, found {where!r}.")
        written |= {value: where if where is REPLICATED else dim for value, dim in plates[plate].items()}
    return written


def site_names(density: Any) -> list[str]:
    """The names of the latent sites, in program order."""
    return [f"sites.{name}" for name in density.positions]


def data_names(density: Any, leaves: Sequence[Any]) -> list[str]:
    """The names of a density's leaves: those of the model's arguments that they are."""
    arguments = getattr(density.program, "arguments", {})
    names, constants = [], 0
    for leaf in leaves:
        its = [name for name, a in arguments.items() if a.value is leaf] or [name for name, a in arguments.items() if _same(a.value, leaf)]
        name = next((f"data.{n}" for n in its if f"data.{n}" not in names), None)
        if name is None:
            name, constants = f"data.constants.{constants}", constants + 1
        names.append(name)
    return names


def _same(argument: Any, leaf: Any) -> bool:
    """Whether an argument became a leaf, perhaps in another type."""
    kinds = tuple("biuf")
    if np.shape(argument) != np.shape(leaf) or not np.shape(leaf):
        return False
    if getattr(argument.dtype, "kind", "O") not in kinds or getattr(leaf.dtype, "kind", "O") not in kinds:
        return False
    return np.array_equal(np.asarray(argument).astype(leaf.dtype), np.asarray(leaf), equal_nan=leaf.dtype.kind == "f")


def plates_of(density: Any, names: Sequence[str]) -> dict[str, dict[str, int]]:
    """By plate: the sites and arrays that it is an axis of, with the number of that axis.

    Args:
        density: of a model.
        names: of its leaves.
    """
    program = density.program
    found: dict[str, dict[str, int]] = {}
    sizes = {plate.name: plate.size for site in program.sites.values() for plate in getattr(site.spec, "plates", ())}
    for name, spec in density.positions.items():
        for dim, plate in enumerate(program.sites[name].dims if name in program.sites else ()):
            if plate in sizes and dim < len(spec.shape) and spec.shape[dim] == sizes[plate]:
                found.setdefault(plate, {})[f"sites.{name}"] = dim
    if sizes and len(names) == len(program.jaxpr.consts):
        for name, plates in zip(names, data_dims(program.jaxpr, program.sites), strict=True):
            for dim, plate in plates.items():
                found.setdefault(plate, {})[name] = dim
    return found
