"""Names of axes: loops, `vmap` axes, plates, and `<name>_dim_<axis>` for the rest.

The axes of a sample site stand where its distribution puts them, and each plate counts from the right of the batch axes. A
deterministic value has no distribution that would say which of its axes are batch axes, and an argument stands in no plate: there an
axis is called like a plate if that is proved (`axes`). Where nothing is known of an axis, as of one that comes from constants, a
deterministic value is read as a batch of the plates around it, provided that it can be read in one way only.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ..transforms.jax_compat import open_jaxpr
from .axes import Axes, Label, follow, plates_by_axis
from .spec import Spec

__all__ = ["data_dims", "deterministic_dims", "site_dims"]


def site_dims(
    spec: Spec, loops: tuple[int, ...], own: Mapping[int, str] | None = None, mapped: Mapping[int, str] | None = None
) -> tuple[str, ...]:
    """Names of all axes of a site.

    Args:
        own: plates, by axis without loops and `vmap` axes; of a sample site's, where it is None.
        mapped: names of `vmap` axes that are known, by axis.
    """

    def numbered(word: str, n: int) -> list[str]:
        return [f"{spec.name}_{word}" if n == 1 else f"{spec.name}_{word}_{i}" for i in range(n)]

    own = plates_by_axis(spec) if own is None else own
    batch = [(mapped or {}).get(i, name) for i, name in enumerate(numbered("batch", len(spec.vmaps)))]
    rest = len(spec.shape) - len(spec.vmaps)
    return (*numbered("time", len(loops)), *batch, *(own.get(i, f"{spec.name}_dim_{i}") for i in range(rest)))


def deterministic_dims(jaxpr: Any, sites: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """The dims of the deterministic sites of a program that has plates, by name."""
    wanted = {n: s for n, s in sites.items() if s.kind == "deterministic" and s.spec.shape}
    if not wanted or not any(s.spec.plates for s in sites.values()):
        return {}
    axes = follow(jaxpr)
    return {n: _of_deterministic(s, axes.deterministic[n], axes, sites) for n, s in wanted.items()}


def data_dims(jaxpr: Any, sites: Mapping[str, Any]) -> list[dict[int, str]]:
    """For each constant of a program, the plates of its axes, by axis, as far as its use proves them."""
    axes = follow(jaxpr)
    sizes = {p.name: p.size for s in sites.values() for p in s.spec.plates}
    found = []
    for number, var in enumerate(open_jaxpr(jaxpr)[0].constvars):
        shape = var.aval.shape
        labels = [frozenset({("data", number, a)}) if n > 1 else frozenset() for a, n in enumerate(shape)]
        named = {a: plates for a, label in enumerate(labels) if (plates := _plates(label, axes, sites))}
        found.append(_settled({a: p for a, p in named.items() if p <= {n for n, size in sizes.items() if size == shape[a]}}, labels, {}))
    return found


def _of_deterministic(site: Any, labels: Sequence[Label], axes: Axes, sites: Mapping[str, Any]) -> tuple[str, ...]:
    spec: Spec = site.spec
    mapped = len(spec.vmaps)
    plates = {a: found for a, label in enumerate(labels) if (found := _plates(label, axes, sites))}
    by_position = {
        mapped + a: name for a, name in _by_position(spec, [plates.get(a, _known(x)) for a, x in enumerate(labels)][mapped:]).items()
    }
    named = _settled(plates, labels, by_position)
    return site_dims(
        spec, site.loops, {a - mapped: n for a, n in named.items() if a >= mapped}, {a: n for a, n in named.items() if a < mapped}
    )


def _plates(label: Label, axes: Axes, sites: Mapping[str, Any]) -> set[str]:
    """The plates that an axis may be: those marked on it; else those that what is marked on it has met."""
    marked = {mark[1] for mark in label if mark[0] == "plate"}
    if marked:
        return marked
    met: set[str] = set()
    for mark in label:
        plates = axes.met.get(mark, set())
        # an event stands inside the plates of its site, so no axis of it is one of them
        met |= plates - ({p.name for p in sites[mark[1]].spec.plates} if mark[0] == "event" else set())
    return met


def _known(label: Label) -> set[str] | None:
    """No plate, of an axis of which something is known that is none; None of one of which nothing is."""
    return None if all(mark[0] == "data" for mark in label) else set()


def _by_position(spec: Spec, plates: Sequence[set[str] | None]) -> dict[int, str]:
    """The plates around the statement, on the axes where they must be if they are on any: the one reading that fits.

    A reading is a number of event axes. Args: plates: by axis, those that it may be; None if nothing is known of it.
    """
    own = spec.shape[len(spec.vmaps) :]
    readings = []
    for events in range(len(own)):
        batch = len(own) - events
        reading = {batch + p.dim: p for p in spec.plates if batch + p.dim >= 0}
        fits = all(own[a] == 1 or (own[a] == p.size and _may_be(p.name, plates[a])) for a, p in reading.items())
        named = {a: p.name for a, p in reading.items() if own[a] == p.size}
        if fits and named:
            readings.append(named)
    return readings[0] if len(readings) == 1 else {}


def _may_be(name: str, plates: set[str] | None) -> bool:
    return plates is None or name in plates


def _settled(plates: Mapping[int, set[str]], labels: Sequence[Label], by_position: Mapping[int, str]) -> dict[int, str]:
    """One plate for each axis, and one axis for each plate: of several the one that the position tells, else none."""
    chosen = {}
    for axis in {*plates, *by_position}:
        found = plates.get(axis, set())
        if len(found) == 1:
            chosen[axis] = next(iter(found))
        elif axis in by_position:
            chosen[axis] = by_position[axis]
    settled = {}
    for axis, name in chosen.items():
        rivals = [a for a, other in chosen.items() if other == name]
        alone = [a for a in rivals if labels[a] == frozenset({("plate", name)})]
        if (
            len(rivals) == 1
            or alone == [axis]
            or (len(alone) != 1 and by_position.get(axis) == name and sum(by_position.get(a) == name for a in rivals) == 1)
        ):
            settled[axis] = name
    return settled
