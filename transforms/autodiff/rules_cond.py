"""`cond` and `switch`: linearized branch by branch; the residuals of the branch taken leave through shared slots.

A slot is shared by residuals of the same type in different branches; a branch fills the slots it does not use with zeros.
Residuals that are operands of the switch need no slot.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from jax import lax
from jax.core import eval_jaxpr

from ..jax_compat import Literal, open_jaxpr
from .activity import active_outputs
from .core import Unknown, push_forward, read, tangent_aval, zeros
from .loop_bodies import chosen, omitted, split_body, spread
from .registry import forwards, linearizes, transposes
from .transpose import backward_dense, instantiate_all


def _branches(eqn: Any, active: Sequence[bool]) -> tuple[list[Any], tuple[bool, ...]]:
    """The branches as (jaxpr, constants), and which results have a tangent in any of them."""
    each = [active_outputs(b, active) for b in eqn.params["branches"]]
    return [open_jaxpr(b) for b in eqn.params["branches"]], tuple(any(flags) for flags in zip(*each, strict=True))


@forwards("cond")
def forward_cond(eqn: Any, primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """A switch over the forward derivatives of the branches."""
    index, *values = primals
    active = [t is not None for t in tangents[1:]]
    branches, out_active = _branches(eqn, active)

    def forward(jaxpr: Any, consts: Any) -> Any:
        def run(values: Any, moving: Any) -> Any:
            outs, out_ts = push_forward(jaxpr, consts, values, spread(moving, active))
            return outs, instantiate_all(out_ts, eqn.outvars, out_active)

        return run

    outs, moved = lax.switch(index, [forward(*b) for b in branches], values, chosen(tangents[1:], active))
    return outs, spread(moved, out_active)


@linearizes("cond")
def linearize_cond(eqn: Any, active: Sequence[bool], *primals: Any) -> Any:
    """See the module."""
    index, *values = primals
    branches, out_active = _branches(eqn, active[1:])
    split = [split_body(jaxpr, consts, active[1:], out_active) for jaxpr, consts in branches]
    kinds: Counter[Any] = Counter()
    stored = []
    for body in split:
        inputs = set(body.known.invars)
        atoms = list(dict.fromkeys(x for x in body.residual_atoms if not isinstance(x, Literal) and x not in inputs))
        stored.append(atoms)
        for kind, count in Counter(_kind(x) for x in atoms).items():
            kinds[kind] = max(kinds[kind], count)
    slots = [kind for kind, count in kinds.items() for _ in range(count)]
    places = [_assign(atoms, slots) for atoms in stored]

    def known(body: Any, place: dict[Any, int]) -> Any:
        by_slot = {slot: atom for atom, slot in place.items()}

        def run(*values: Any) -> Any:
            outs = eval_jaxpr(body.known, body.consts, *values)
            atoms = zip(body.residual_atoms, outs[body.num_out :], strict=True)
            made = {x: v for x, v in atoms if not isinstance(x, Literal)}
            return outs[: body.num_out], [made[by_slot[i]] if i in by_slot else zeros(slot.aval) for i, slot in enumerate(slots)]

        return run

    outs, kept = lax.switch(index, [known(b, p) for b, p in zip(split, places, strict=True)], *values)

    given = {x for body in split for x in _positions(body)}
    needed = [v if i in given else None for i, v in enumerate(values)]

    def linear(ts: Sequence[Any]) -> list[Any]:
        def branch(body: Any, place: dict[Any, int]) -> Any:
            def run(values: Any, kept: Any, moving: Any) -> Any:
                given = dict(zip(body.known.invars, values, strict=True))
                given.update((atom, kept[i]) for atom, i in place.items())
                residuals = [read(given, x) for x in body.residual_atoms]
                return eval_jaxpr(body.linear.jaxpr, residuals, *moving)

            return run

        runs = [branch(b, p) for b, p in zip(split, places, strict=True)]
        return spread(lax.switch(index, runs, needed, kept, chosen(ts[1:], active[1:])), out_active)

    return outs, linear, out_active


def _positions(body: Any) -> list[int]:
    """Which inputs of a branch are themselves residuals."""
    wanted = {x for x in body.residual_atoms if not isinstance(x, Literal)}
    return [i for i, v in enumerate(body.known.invars) if v in wanted]


class _Slot:
    """A residual's place, by type."""

    def __init__(self, aval: Any):
        self.aval = aval

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Slot) and self.aval == other.aval

    def __hash__(self) -> int:
        return hash((self.aval.shape, str(self.aval.dtype)))


def _kind(atom: Any) -> _Slot:
    return _Slot(tangent_aval(atom.aval))


def _assign(atoms: Sequence[Any], slots: Sequence[_Slot]) -> dict[Any, int]:
    """A slot of the right type for each residual of one branch."""
    free = list(range(len(slots)))
    place = {}
    for atom in atoms:
        i = next(i for i in free if slots[i] == _kind(atom))
        free.remove(i)
        place[atom] = i
    return place


@transposes("cond")
def transpose_cond(eqn: Any, cotangents: Sequence[Any], index: Any, *operands: Any) -> Any:
    """A switch over the transposed branches."""
    unknown = [isinstance(x, Unknown) for x in operands]
    branches, out_active = _branches(eqn, unknown)
    arriving = instantiate_all(cotangents, eqn.outvars, out_active)

    def transposed(jaxpr: Any, consts: Any) -> Any:
        def run(known: Any, cts: Any) -> Any:
            return backward_dense(jaxpr, consts, unknown, known, spread(cts, out_active))

        return run

    made = lax.switch(index, [transposed(*b) for b in branches], omitted(operands, unknown), arriving)
    return [None, *spread(made, unknown)]
