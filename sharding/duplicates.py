"""Collectives that a compiler may do without, so that its program may have fewer than were predicted.

They do again what one before them did, or they communicate what needs no data, a constant, that is, or they stand in a branch that is never
chosen (`lax.platform_dependent` has one for each platform).
"""

from collections.abc import Hashable, Sequence
from typing import Any

from ..transforms.jax_compat import Literal, scan_layout
from .local import COLLECTIVES, Collective, Compute, Keep, LocalProgram, Mask, Nested, Slots, Step, results_of

__all__ = ["duplicates"]


_VIEWS = frozenset("name reshape squeeze stop_gradient".split())  # the same entries in the same order


def duplicates(program: LocalProgram, slots: Slots) -> dict[str, int]:
    """At most how many collectives of each kind a compiler may do without.

    Two values are the same if the same step made them of the same values, or of views of them; what is constant in a loop may be computed
    before it.
    """
    counting = _Counting(slots)
    counting.program(program)
    return counting.counts


class _Counting:
    """Values get the number of the first that is the same."""

    def __init__(self, slots: Slots) -> None:
        self.slots, self.counts = slots, dict.fromkeys(COLLECTIVES, 0)
        self.numbers: dict[int, Any] = {}
        self.seen: dict[Hashable, Step] = {}
        self.free: set[int] = set()  # slots that need no data
        self.idle = False  # whether this may never run

    def number(self, atom: Any) -> Any:
        return (str(atom.val), str(atom.aval)) if isinstance(atom, Literal) else self.numbers.get(atom, atom)

    def needs_no_data(self, atoms: Sequence[Any]) -> bool:
        return all(isinstance(x, Literal) or x in self.free for x in atoms)

    def program(self, program: LocalProgram) -> None:
        self.numbers.update((slot, ("constant", id(array))) for slot, array in program.constants)
        for step in program.steps:
            if isinstance(step, Nested):
                self.nested(step)
            else:
                self.step(step)

    def nested(self, step: Nested) -> None:
        idle = self.idle
        self.idle = idle or (step.kind == "cond" and self.needs_no_data(step.operands[:1]))
        for body, operands in zip(step.bodies, _outside(step), strict=True):
            inside = list(zip(body.inputs, operands, strict=False))
            self.numbers.update((x, self.number(y)) for x, y in inside)
            self.free.update(x for x, y in inside if self.needs_no_data([y]))
            self.program(body)
        self.idle = idle

    def step(self, step: Compute | Collective | Keep | Mask) -> None:
        if self.needs_no_data(step.operands if isinstance(step, Compute) else [step.operand]):
            self.free.update(results_of(step))
        if isinstance(step, Compute) and self.is_view(step):
            (result,), (operand,) = step.results, step.operands
            shape, number = self.slots[result].shape, self.number(operand)
            root, its = number[1:3] if isinstance(number, tuple) and number[0] == "view" else (number, self.slots[operand].shape)
            self.numbers[result] = root if shape == its else ("view", root, its, shape)
            return
        key = self.key(step)
        if key is None:
            return
        if isinstance(step, Collective):
            self.counts[step.kind] += key in self.seen or step.operand in self.free or self.idle
        first = self.seen.setdefault(key, step)
        self.numbers.update((mine, self.number(its)) for mine, its in zip(results_of(step), results_of(first), strict=True))

    def is_view(self, step: Compute) -> bool:
        name, params = step.equation.primitive.name, step.equation.params
        if len(step.operands) != 1 or isinstance(step.operands[0], Literal) or len(step.results) != 1:
            return False
        operand, result = self.slots[step.operands[0]], self.slots[step.results[0]]
        if name == "transpose":
            moved = [dim for dim in params["permutation"] if operand.shape[dim] > 1]
            return moved == sorted(moved)
        if name == "rev":
            return all(operand.shape[dim] == 1 for dim in params["dimensions"])
        if name in ("broadcast_in_dim", "slice"):
            return operand.size == result.size
        return name in _VIEWS or (name == "convert_element_type" and operand.dtype == result.dtype)

    def key(self, step: Compute | Collective | Keep | Mask) -> Hashable | None:
        """What a step does and to which values; None if it is never the same as another."""
        if not isinstance(step, Compute):
            return type(step), step._replace(operand=self.number(step.operand), result=0)
        equation = step.equation
        if equation.effects or equation.primitive.name == "optimization_barrier":
            return None
        params = tuple(sorted(equation.params.items(), key=lambda item: item[0]))
        key = (equation.primitive.name, params, step.shards, tuple(map(self.number, step.operands)))
        try:
            hash(key)
        except TypeError:  # a parameter that cannot be compared
            return None
        return key


def _outside(step: Nested) -> list[Sequence[Any]]:
    """For each nested program what its first inputs are outside, as far as they are the same in every turn."""
    params = step.equation.params
    if step.kind == "cond":
        return [step.operands[1:]] * len(step.bodies)
    if step.kind == "scan":
        return [step.operands[: scan_layout(step.equation)[0]]]
    of_condition = params["cond_nconsts"]
    consts = of_condition + params["body_nconsts"]
    condition, body = step.operands[:of_condition], step.operands[of_condition:consts]
    if len(step.bodies) == 2:
        return [condition, body]
    return [(*condition, *step.operands[consts:]), condition, body]
