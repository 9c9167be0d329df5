"""What a loop's carries are computed from, read off its body before it is walked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...transforms.jax_compat import JaxprEqn, Literal
from ..primitives import is_site, site_names
from .sites import needed_values, operands_of_value

__all__ = ["Group", "Plan", "plan_of"]


@dataclass(frozen=True)
class Group:
    """Carries, by number, whose values at all turns are found together.

    kind: "kept" never changes; "counted" grows by `step`; "scanned" needs the turn before of its own, and no states; "shifted" is what
    the turn before made.
    """

    leaves: tuple[int, ...]
    kind: str
    step: Any = None


@dataclass(frozen=True)
class Plan:
    """at_once: whether all turns can be walked as one axis; depth: how many have to be walked before; order: of the carries."""

    at_once: bool
    depth: int
    order: tuple[Group, ...]


def plan_of(body: Any, first: int, num_carry: int, stateful: Sequence[bool], enumerated: frozenset[str]) -> Plan:
    """The plan of a loop.

    Args:
        body: an open jaxpr. first: number of its constants and inputs before the carries.
        stateful: of each constant and input, whether it depends on states.
    """
    invars = [*body.constvars, *body.invars]
    carries, outs = invars[first : first + num_carry], body.outvars[:num_carry]
    with_states = _stateful(body, invars, carries, outs, stateful, enumerated)
    reads = [_read(body, carries, out, enumerated) for out in outs]
    reach = _closure(reads)
    kept = {j for j in range(num_carry) if outs[j] is carries[j]}
    cyclic = {j for j in range(num_carry) if j in reach[j]} - kept
    groups: dict[int, Group] = {}
    for j in range(num_carry):
        if j in kept:
            groups[j] = Group((j,), "kept")
        elif j not in cyclic:
            groups[j] = Group((j,), "shifted")
        else:
            leaves = tuple(i for i in range(num_carry) if i in reach[j] and j in reach[i] and i not in kept)
            step = _step(body, carries[j], outs[j]) if leaves == (j,) else None
            groups[j] = Group(leaves, "scanned" if step is None else "counted", step)
    depth = _depths(groups, reads)
    ordered: dict[tuple[int, ...], Group] = {}
    for j in sorted(range(num_carry), key=lambda j: (len(reach[j] - set(groups[j].leaves)), j)):
        ordered.setdefault(groups[j].leaves, groups[j])
    return Plan(
        at_once=not (with_states & cyclic),
        depth=max((depth[j] for j in with_states), default=0),
        order=tuple(ordered.values()),
    )


def _stateful(
    body: Any, invars: list[Any], carries: list[Any], outs: list[Any], stateful: Sequence[bool], enumerated: frozenset[str]
) -> set[int]:
    """The carries that depend on states in any turn."""
    sources = {v for v, s in zip(invars, stateful, strict=True) if s}
    while True:
        found = set(sources)
        for eqn in body.eqns:
            if _brings(eqn, found, enumerated):
                found.update(eqn.outvars)
        more = {c for c, out in zip(carries, outs, strict=True) if not isinstance(out, Literal) and out in found} - sources
        if not more:
            return {j for j, c in enumerate(carries) if c in sources}
        sources |= more


def _brings(eqn: JaxprEqn, found: set[Any], enumerated: frozenset[str]) -> bool:
    """Whether the results of an equation depend on states, given the variables that do."""
    if not is_site(eqn):
        read = eqn.invars
        if any(name in enumerated for name in site_names(eqn)):
            return True
    elif eqn.params["spec"].name in enumerated:
        return True
    else:
        read = operands_of_value(eqn, enumerated)
    return any(not isinstance(x, Literal) and x in found for x in read)


def _read(body: Any, carries: list[Any], out: Any, enumerated: frozenset[str]) -> set[int]:
    """The carries that the new value of one is computed from."""
    needed = {out} if not isinstance(out, Literal) else set()
    for eqn in needed_values(body.eqns, [out], enumerated):
        read = operands_of_value(eqn, enumerated) if is_site(eqn) else eqn.invars
        needed.update(x for x in read if not isinstance(x, Literal))
    return {j for j, c in enumerate(carries) if c in needed}


def _closure(reads: list[set[int]]) -> list[set[int]]:
    reach = [set(r) for r in reads]
    for _ in reach:
        for r in reach:
            for j in list(r):
                r |= reach[j]
    return reach


def _depths(groups: dict[int, Group], reads: list[set[int]]) -> dict[int, int]:
    """How many turns after the first a carry may still depend on where the loop started."""
    depth = {j: 0 if g.kind != "shifted" else 1 for j, g in groups.items()}
    for _ in groups:
        for j, g in groups.items():
            if g.kind == "shifted":
                depth[j] = 1 + max((depth[i] for i in reads[j]), default=0)
    return depth


def _step(body: Any, carry: Any, out: Any) -> Any:
    """What is added to a carry in every turn, if that is all that happens and the number stands in the program."""
    for eqn in body.eqns:
        if out in eqn.outvars:
            plain = eqn.primitive.name == "add" and eqn.invars[0] is carry and isinstance(eqn.invars[1], Literal)
            return eqn.invars[1].val if plain else None
    return None
