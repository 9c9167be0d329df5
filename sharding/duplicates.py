"""Collectives that do again what one before them did: a compiler may merge them, so its program may have fewer than were predicted."""

from collections.abc import Hashable, Sequence
from typing import Any

from ..transforms.jax_compat import Literal
from .local import COLLECTIVES, Collective, Compute, Keep, LocalProgram, Mask, Nested, Step

__all__ = ["duplicates"]


def duplicates(program: LocalProgram) -> dict[str, int]:
    """How many collectives of each kind repeat another, in the same program or the same body of a loop.

    Two values are the same if the same step made them of the same values; each gets the number of the first of its kind.
    """
    counts = dict.fromkeys(COLLECTIVES, 0)
    _count(program, counts)
    return counts


def _count(program: LocalProgram, counts: dict[str, int]) -> None:
    number: dict[int, Any] = {slot: ("constant", id(array)) for slot, array in program.constants}
    seen: dict[Hashable, Step] = {}
    for step in program.steps:
        if isinstance(step, Nested):
            for body in step.bodies:
                _count(body, counts)
            continue
        key = _key(step, number)
        repeats = key is not None and key in seen
        if isinstance(step, Collective):
            counts[step.kind] += repeats
        if key is None:
            continue
        first = seen.setdefault(key, step)
        number.update((mine, number.get(its, its)) for mine, its in zip(_results(step), _results(first), strict=True))


def _results(step: Any) -> Sequence[int]:
    return step.results if isinstance(step, Compute) else (step.result,)


def _key(step: Compute | Collective | Keep | Mask, number: dict[int, Any]) -> Hashable | None:
    """What a step does and to which values; None if it is never the same as another."""
    if not isinstance(step, Compute):
        return type(step), step._replace(operand=number.get(step.operand, step.operand), result=0)
    equation = step.equation
    if equation.effects or equation.primitive.name == "optimization_barrier":
        return None
    operands = tuple((str(x.val), str(x.aval)) if isinstance(x, Literal) else number.get(x, x) for x in step.operands)
    key = (equation.primitive.name, tuple(sorted(equation.params.items(), key=lambda item: item[0])), step.shards, operands)
    try:
        hash(key)
    except TypeError:  # a parameter that cannot be compared
        return None
    return key
