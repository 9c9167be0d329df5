"""Which axis of a value is which plate: labels, followed through a model's jaxpr from the sites, where they are known.

An axis carries a set of marks: the plates, event axes and data axes whose elements stand at the same place along it. Elementwise
equations unite marks, others carry, move or drop them, and what shuffles a marked axis leaves the mark SHUFFLED. No mark at all means
that nothing is known: the values along the axis come from constants. So a mark is a proof, and an equation that is not known here
costs a name, never gives a wrong one.

Where an axis of data, or an event axis, meets the axis of a plate, in an elementwise equation or as a parameter of a site inside the
plate, that is noted: `Axes.met`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..transforms.equations import ELEMENTWISE, body_of
from ..transforms.jax_compat import JaxprEqn, Literal, open_jaxpr, scan_layout
from .primitives import is_site
from .spec import Spec, join_distribution, peel

__all__ = ["SHUFFLED", "Axes", "Label", "Mark", "follow", "plates_by_axis"]

Mark = tuple[Any, ...]
"""("plate", name), ("event", site, axis), ("data", number of the constant, axis) or SHUFFLED."""
Label = frozenset[Mark]
Labels = tuple[Label, ...]

SHUFFLED: Mark = ("shuffled",)
_FREE: Label = frozenset()


@dataclass
class Axes:
    """What a walk found.

    Attributes:
        deterministic: by site, the labels of its axes without those of the loops around it.
        met: by mark of data or of an event axis, the plates that it stood at.
    """

    deterministic: dict[str, Labels] = field(default_factory=dict)
    met: dict[Mark, set[str]] = field(default_factory=dict)

    def note(self, label: Label, plates: set[str]) -> None:
        for mark in label:
            if mark[0] in ("data", "event"):
                self.met.setdefault(mark, set()).update(plates)


def follow(jaxpr: Any) -> Axes:
    """Walk a model's jaxpr. Its constants, the data, are marked; nothing is computed."""
    found = Axes()
    inner, _ = open_jaxpr(jaxpr)
    marked = [tuple(frozenset({("data", i, a)}) for a in range(len(_shape(v)))) for i, v in enumerate(inner.constvars)]
    _walk(inner, marked, found)
    return found


def plates_by_axis(spec: Spec) -> dict[int, str]:
    """The plates of a sample site, by the axis of its value without `vmap` axes."""
    own = spec.shape[len(spec.vmaps) :]
    batch = len(own) - spec.event_dim
    return {batch + p.dim: p.name for p in spec.plates if batch + p.dim >= 0 and own[batch + p.dim] == p.size}


def _walk(jaxpr: Any, labels: Sequence[Labels], found: Axes) -> list[Labels]:
    """The labels of the results, from those of the inputs (of an open jaxpr: of its constants)."""
    inner, _ = open_jaxpr(jaxpr)
    env: dict[Any, Labels] = {v: _free(v) for v in inner.constvars}
    env.update(zip([*inner.constvars, *inner.invars][-len(labels) :] if labels else [], labels, strict=True))

    def read(atom: Any) -> Labels:
        return _free(atom) if isinstance(atom, Literal) else env[atom]

    for eqn in inner.eqns:
        env.update(zip(eqn.outvars, _equation(eqn, [read(x) for x in eqn.invars], found), strict=True))
    return [read(x) for x in inner.outvars]


def _equation(eqn: JaxprEqn, read: list[Labels], found: Axes) -> list[Labels]:
    name = eqn.primitive.name
    if is_site(eqn):
        return [_site(eqn.params["spec"], read, found)]
    if (body := body_of(eqn)) is not None:
        return _walk(body, read, found)
    if name in _CONTROL:
        return _CONTROL[name](eqn, read, found)
    if name in ELEMENTWISE:
        return [_united([r for r in read if r], found)] if any(read) else [()]
    if name in _RULES:
        out = _RULES[name](eqn, read)
        return [out] * len(eqn.outvars) if isinstance(out, tuple) else out
    known = any(label for labels in read for label in labels)
    return [(frozenset({SHUFFLED}) if known else _FREE,) * len(_shape(v)) for v in eqn.outvars]


def _united(several: Sequence[Labels], found: Axes | None = None) -> Labels:
    """The labels of values of one shape whose elements meet."""
    united = tuple(_FREE.union(*axis) for axis in zip(*several, strict=True))
    for label in united if found is not None and len(several) > 1 else ():
        plates = {mark[1] for mark in label if mark[0] == "plate"}
        if plates and found is not None:
            found.note(label, plates)
    return united


def _shape(atom: Any) -> tuple[int, ...]:
    return np.shape(atom.val) if isinstance(atom, Literal) else atom.aval.shape


def _free(atom: Any) -> Labels:
    return (_FREE,) * len(_shape(atom))


def _shuffled(label: Label) -> Label:
    return frozenset({SHUFFLED}) if label else label


# Sites


def _site(spec: Spec, read: list[Labels], found: Axes) -> Labels:
    examples = [_example(labels, [axes[i] for _, axes in spec.vmaps]) for i, labels in enumerate(read)]
    mapped = tuple(_FREE.union(*axis) for axis in zip(*(lead for lead, _ in examples), strict=True)) if examples else ()
    if spec.kind == "deterministic":
        labels = (*mapped, *examples[0][1])
        before = found.deterministic.get(spec.name, labels)
        found.deterministic[spec.name] = _united([before, labels])
        return labels
    plates = plates_by_axis(spec)
    for axis, label in _parameters(spec, [own for _, own in examples]):
        if axis in plates:
            found.note(label, {plates[axis]})
    rank = len(spec.shape) - len(spec.vmaps)
    own = [frozenset({("plate", plates[a])}) if a in plates else _FREE for a in range(rank)]
    for a in range(rank - spec.event_dim, rank):
        own[a] = frozenset({("event", spec.name, a)})
    return (*mapped, *own) if spec.vmaps else tuple(own)


def _example(labels: Labels, mapped: Sequence[int | None]) -> tuple[Labels, Labels]:
    """(the labels of the `vmap` axes, outermost first, those of one example)."""
    own, lead = list(labels), []
    for axis in reversed(mapped):
        lead.append(_FREE if axis is None else own.pop(axis))
    return tuple(lead), tuple(own)


class _Place(int):
    """Stands for an operand where a distribution is rebuilt to see which of them are its parameters."""


def _parameters(spec: Spec, operands: Sequence[Labels]) -> Iterator[tuple[int, Label]]:
    """(axis of the site's value, label there) of the axes of its parameters and observation."""
    base, _ = peel(join_distribution(spec, [_Place(i) for i in range(spec.num_leaves)]))
    batch = len(spec.shape) - len(spec.vmaps) - base.event_dim
    for name, constraint in type(base).arg_constraints.items():
        place = vars(base).get(name)
        if isinstance(place, _Place):
            labels = operands[place]
            labels = labels[: len(labels) - getattr(constraint, "event_dim", 0)]
            yield from enumerate(labels, batch - len(labels))
    if spec.observed:
        yield from enumerate(operands[spec.num_leaves])


# Equations that move axes


def _broadcast(eqn: JaxprEqn, read: list[Labels]) -> Labels:
    shape, old = _shape(eqn.outvars[0]), _shape(eqn.invars[0])
    out = [_FREE] * len(shape)
    for axis, (size, label) in enumerate(zip(old, read[0], strict=True)):
        to = eqn.params["broadcast_dimensions"][axis]
        out[to] = label if shape[to] == size else _FREE
    return tuple(out)


def _reshape(eqn: JaxprEqn, read: list[Labels]) -> Labels:
    """An axis keeps its label if the axes before it hold as many elements as before, and it is of the same size."""
    new, old = _shape(eqn.outvars[0]), _shape(eqn.invars[0])
    if 0 in old:
        return (_FREE,) * len(new)
    there = {(math.prod(old[:a]), n): read[0][a] for a, n in enumerate(old) if n != 1}
    lost = frozenset({SHUFFLED}) if any(read[0]) else _FREE
    return tuple(_FREE if n == 1 else there.get((math.prod(new[:a]), n), lost) for a, n in enumerate(new))


def _without(parameter: str) -> Callable[[JaxprEqn, list[Labels]], Labels]:
    return lambda eqn, read: tuple(label for a, label in enumerate(read[0]) if a not in eqn.params[parameter])


def _along(shuffles: Callable[[JaxprEqn, int], bool]) -> Callable[[JaxprEqn, list[Labels]], Labels]:
    """A rule for equations that leave every axis where it is, and shuffle the elements along some."""
    return lambda eqn, read: tuple(_shuffled(label) if shuffles(eqn, a) else label for a, label in enumerate(_united(read)))


def _cut(eqn: JaxprEqn, read: list[Labels]) -> Labels:
    new, old = _shape(eqn.outvars[0]), _shape(eqn.invars[0])
    return tuple(label if n == m else _shuffled(label) for label, n, m in zip(read[0], new, old, strict=True))


def _split(eqn: JaxprEqn, read: list[Labels]) -> list[Labels]:
    cut = tuple(_shuffled(label) if a == eqn.params["axis"] else label for a, label in enumerate(read[0]))
    return [cut] * len(eqn.outvars)


def _stack(eqn: JaxprEqn, read: list[Labels]) -> Labels:
    united = _united(read)
    return (*united[: eqn.params["axis"]], _FREE, *united[eqn.params["axis"] :])


def _dot_general(eqn: JaxprEqn, read: list[Labels]) -> Labels:
    (left, right), (left_batch, right_batch) = eqn.params["dimension_numbers"]
    batch = [read[0][i] | read[1][j] for i, j in zip(left_batch, right_batch, strict=True)]
    free = [x for x, used in zip(read, ((*left, *left_batch), (*right, *right_batch)), strict=True) for x in _others(x, used)]
    return (*batch, *free)


def _others(labels: Labels, used: Sequence[int]) -> list[Label]:
    return [label for a, label in enumerate(labels) if a not in used]


def _gather(eqn: JaxprEqn, read: list[Labels]) -> Labels:
    """Where the slices have the whole axis its label stays; an axis of the indices brings theirs, and not that of what is indexed."""
    n, sizes, shape = eqn.params["dimension_numbers"], eqn.params["slice_sizes"], _shape(eqn.invars[0])
    operand, indices = read[0], list(read[1][:-1])
    for a, b in zip(n.operand_batching_dims, n.start_indices_batching_dims, strict=True):
        indices[b] = indices[b] | operand[a]
    window = [a for a in range(len(shape)) if a not in (*n.collapsed_slice_dims, *n.operand_batching_dims)]
    inside = iter(operand[a] if sizes[a] == shape[a] else _shuffled(operand[a]) for a in window)
    outside = iter(indices)
    return tuple(next(inside) if a in n.offset_dims else next(outside) for a in range(len(_shape(eqn.outvars[0]))))


_RULES: dict[str, Callable[[JaxprEqn, list[Labels]], Any]] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": _along(lambda eqn, a: a == eqn.params["dimension"]),
    "dot_general": _dot_general,
    "dynamic_slice": _cut,
    "dynamic_update_slice": lambda eqn, read: read[0],
    "gather": _gather,
    "iota": lambda eqn, read: (_FREE,) * len(_shape(eqn.outvars[0])),
    "optimization_barrier": lambda eqn, read: read,
    "pad": lambda eqn, read: _along(lambda e, a: any(e.params["padding_config"][a]))(eqn, read[:1]),
    "reshape": _reshape,
    "rev": _along(lambda eqn, a: a in eqn.params["dimensions"]),
    "slice": _cut,
    "sort": lambda eqn, read: [_along(lambda e, a: a == e.params["dimension"])(eqn, read)] * len(read),
    "split": _split,
    "squeeze": _without("dimensions"),
    "stack": _stack,
    "transpose": lambda eqn, read: tuple(read[0][a] for a in eqn.params["permutation"]),
    **dict.fromkeys(("argmax", "argmin", *(f"reduce_{r}" for r in ("and", "max", "min", "or", "prod", "sum", "xor"))), _without("axes")),
    "reduce": lambda eqn, read: [_without("dimensions")(eqn, [labels]) for labels in read[: len(eqn.outvars)]],
    **dict.fromkeys(("cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum", "reduce_precision"), lambda eqn, read: read[0]),
    **dict.fromkeys(("scatter", "scatter-add", "scatter-sub", "scatter_max", "scatter_min", "scatter_mul"), lambda eqn, read: read[0]),
}


# Control flow


def _cond(eqn: JaxprEqn, read: list[Labels], found: Axes) -> list[Labels]:
    branches = [_walk(b, read[1:], found) for b in eqn.params["branches"]]
    return [_united(outs) for outs in zip(*branches, strict=True)]


def _scan(eqn: JaxprEqn, read: list[Labels], found: Axes) -> list[Labels]:
    num_consts, num_carry = scan_layout(eqn)
    consts, carry, xs = read[:num_consts], read[num_consts : num_consts + num_carry], read[num_consts + num_carry :]
    steps = _FREE.union(*(x[0] for x in xs))
    while True:
        outs = _walk(eqn.params["jaxpr"], [*consts, *carry, *(x[1:] for x in xs)], found)
        grown = [_united(pair) for pair in zip(carry, outs[:num_carry], strict=True)]
        if grown == carry:
            return [*carry, *((steps, *y) for y in outs[num_carry:])]
        carry = grown


def _while(eqn: JaxprEqn, read: list[Labels], found: Axes) -> list[Labels]:
    num_cond, num_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    consts, carry = read[num_cond : num_cond + num_body], read[num_cond + num_body :]
    while True:
        grown = [_united(pair) for pair in zip(carry, _walk(eqn.params["body_jaxpr"], [*consts, *carry], found), strict=True)]
        if grown == carry:
            return carry
        carry = grown


_CONTROL: dict[str, Callable[[JaxprEqn, list[Labels], Axes], list[Labels]]] = {"cond": _cond, "scan": _scan, "while": _while}
