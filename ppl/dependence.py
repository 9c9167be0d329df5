"""Which site depends on which: a walk over a model's jaxpr.

A value's origins are the sites it was computed from without another site between. Inside a scan a value may come from a site of the
step before; its name is then marked, and the edge it makes is `lagged`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..transforms.jax_compat import JaxprEqn, Literal, open_jaxpr, scan_layout, subjaxprs
from .primitives import is_site, site_names
from .program import ModelProgram

__all__ = ["Edge", "edges"]

Origins = frozenset[str]
_NOTHING: Origins = frozenset()
_MARK = "<"  # of the step before


@dataclass(frozen=True, order=True)
class Edge:
    """`parent` -> `child`; `lagged` if the parent belongs to the step before."""

    parent: str
    child: str
    lagged: bool = False


def edges(program: ModelProgram) -> list[Edge]:
    """All edges of a program, sorted."""
    found: set[Edge] = set()
    inner, _ = open_jaxpr(program.jaxpr)
    _walk(inner, [_NOTHING] * len(inner.constvars), found, _NOTHING)
    found = {e for e in found if program.missing.absent.isdisjoint((e.parent, e.child))}
    lagged = {(e.parent, e.child) for e in found if e.lagged}
    plain = {(e.parent, e.child) for e in found if not e.lagged}
    return sorted(Edge(p, c) for p, c in plain) + sorted(Edge(p, c, True) for p, c in lagged - plain)


def _walk(jaxpr: Any, origins: Sequence[Origins], found: set[Edge], around: Origins) -> list[Origins]:
    """Origins of the results; adds the edges met. `around`: the origins of the conditions around the jaxpr."""
    inner, _ = open_jaxpr(jaxpr)
    env = dict(zip([*inner.constvars, *inner.invars], origins, strict=True))
    for eqn in inner.eqns:
        read = [_NOTHING if isinstance(x, Literal) else env[x] for x in eqn.invars]
        for var, out in zip(eqn.outvars, _equation(eqn, read, found, around), strict=True):
            env[var] = out
    return [_NOTHING if isinstance(x, Literal) else env[x] for x in inner.outvars]


def _equation(eqn: JaxprEqn, read: list[Origins], found: set[Edge], around: Origins) -> list[Origins]:
    union = frozenset().union(*read, around)
    if is_site(eqn):
        name = eqn.params["spec"].name
        found.update(Edge(p.removeprefix(_MARK), name, p.startswith(_MARK)) for p in union)
        return [frozenset({name})]
    if eqn.primitive.name == "scan":
        return _scan(eqn, read, found, around)
    if eqn.primitive.name == "cond":
        results = [_walk(b, [_NOTHING] * len(open_jaxpr(b)[1]) + read[1:], found, around | read[0]) for b in eqn.params["branches"]]
        return [frozenset().union(*outs, read[0]) for outs in zip(*results, strict=True)]
    subs = subjaxprs(eqn)
    if len(subs) == 1 and eqn.primitive.name != "while":
        body, consts = open_jaxpr(subs[0])
        if len(body.invars) == len(read) and len(body.outvars) == len(eqn.outvars):
            return _walk(subs[0], [_NOTHING] * len(consts) + read, found, around)
    return [union] * len(eqn.outvars)


def _scan(eqn: JaxprEqn, read: list[Origins], found: set[Edge], around: Origins) -> list[Origins]:
    """A carry brings what it started from and, marked as of the step before, what the body put there: iterate to a fixpoint."""
    num_consts, num_carry = scan_layout(eqn)
    body = eqn.params["jaxpr"]
    consts, carry, xs = read[:num_consts], read[num_consts : num_consts + num_carry], read[num_consts + num_carry :]
    inside = set(site_names(eqn))
    while True:
        met: set[Edge] = set()
        outs = _walk(body, [_NOTHING] * len(open_jaxpr(body)[1]) + consts + carry + xs, met, around)
        grown = [c | {_MARK + n if n in inside else n for n in o} for c, o in zip(carry, outs[:num_carry], strict=True)]
        if grown == carry:
            found.update(met)
            last = [c | o for c, o in zip(carry, outs[:num_carry], strict=True)]
            return [frozenset(n.removeprefix(_MARK) for n in o) for o in [*last, *outs[num_carry:]]]
        carry = grown
