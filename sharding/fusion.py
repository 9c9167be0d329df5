"""Which results of a device-local program are made in memory, and which a compiler fuses into the loops that read them.

A result of an elementwise operation is not made if every step that reads it is elementwise or a reduction: the reader computes it again. A
costly one (an exponential) is computed once only, so it is made if two loops read it. A reshape is another view of its operand. The steps
whose results are made are *roots*: each is one loop, which also does the work of the steps fused into it, and reads what they read.

This is the rule of XLA's instruction fusion in short; there is no limit on the size of a loop here. As XLA does, two gathers of one value
are taken for one as far as memory goes: what is gathered again for the backward pass lives from the first time on.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..transforms.equations import ELEMENTWISE
from .local import Collective, Compute, Keep, LocalProgram, Mask, Step, operands_of, results_of

__all__ = ["IN_PLACE", "WHOLE", "Fusion", "kind_of", "plan_fusion"]

VIEW, CHEAP, COSTLY, REDUCTION, WHOLE = range(5)

_VIEWS = "bitcast_convert_type copy copy_p device_put expand_dims name optimization_barrier reshape squeeze stop_gradient"
_CHEAP = (
    "abs add add_any and broadcast_in_dim ceil clamp clz complex conj convert_element_type dynamic_slice eq eq_to floor ge gt imag "
    "integer_pow iota is_finite le le_to lt lt_to max min mul mulhi ne neg not one_minus_square or pad population_count real "
    "reduce_precision rev round select_n shift_left shift_right_arithmetic shift_right_logical sign slice split square sub transpose xor"
)
_KINDS: dict[str, int] = {
    **dict.fromkeys([*ELEMENTWISE, *"concatenate gather igamma_grad_a log2 random_bits".split()], COSTLY),
    **dict.fromkeys(_CHEAP.split(), CHEAP),
    **dict.fromkeys(_VIEWS.split(), VIEW),
    **dict.fromkeys("reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or argmax argmin".split(), REDUCTION),
}
IN_PLACE = frozenset("dynamic_update_slice scatter scatter-add scatter_add scatter_mul scatter_min scatter_max sort".split())
"""What changes its first operand where it lies, if nothing else reads it."""

_MANY = -2
_NONE = -1


class Fusion(NamedTuple):
    """What becomes of each step and slot; -1 stands for "none" throughout.

    Attributes:
        root: step -> the step in whose loop its work is done: itself, or an earlier or later one that reads it; -1 if nothing reads it.
        last: slot -> the last step that needs it in memory; the number of steps for an output.
        made: slot -> whether it takes memory of its own.
        reads: step -> the slots that its loop reads, for roots; a view or what is not made stands for no memory.
        views: slot -> the slot that it is another view of.
    """

    root: list[int]
    last: dict[int, int]
    made: set[int]
    reads: dict[int, set[int]]
    views: dict[int, int]

    def stored(self, slot: int) -> int:
        """The slot whose memory a view shows."""
        while slot in self.views:
            slot = self.views[slot]
        return slot


def kind_of(step: Step) -> int:
    """How a step takes part in fusion."""
    if isinstance(step, Compute):
        return _KINDS.get(step.equation.primitive.name, WHOLE)
    return CHEAP if isinstance(step, (Keep, Mask)) else WHOLE


class _Uses:
    """Who reads a slot, as it is found going backwards: the loop that does (or that there are several), and the last of them."""

    __slots__ = ("last", "loop", "needed", "reduced")

    def __init__(self) -> None:
        self.loop: dict[int, int] = {}
        self.last: dict[int, int] = {}
        self.needed: set[int] = set()
        self.reduced: set[int] = set()

    def add(self, slot: int, loop: int, last: int) -> None:
        known = self.loop.get(slot, _NONE)
        self.loop[slot] = loop if known in (_NONE, loop) else _MANY
        if last > self.last.get(slot, _NONE):
            self.last[slot] = last


def _decide(kind: int, results: Sequence[int], uses: _Uses) -> bool:
    """Whether a step is a root."""
    if kind == WHOLE or kind == REDUCTION or len(results) != 1:
        return True
    result = results[0]
    return result in uses.needed or (uses.loop[result] == _MANY and (kind == COSTLY or result in uses.reduced))


def plan_fusion(program: LocalProgram) -> Fusion:
    """Goes backwards once: what reads a result is known before the step that makes it."""
    steps, uses = program.steps, _Uses()
    end = len(steps)
    root, made = [_NONE] * end, {*program.inputs, *(slot for slot, _ in program.constants)}
    reads: dict[int, set[int]] = {}
    views: dict[int, int] = {}
    first_loop: dict[int, int] = {}
    for slot in program.outputs:
        if type(slot) is int:
            uses.add(slot, end, end)
            uses.needed.add(slot)
    again = _gathered_again(steps)
    for i in range(end - 1, -1, -1):
        step = steps[i]
        if i in again:
            _look_through(results_of(step)[0], again[i], uses, views, first_loop)
            continue
        kind, results, operands = kind_of(step), results_of(step), operands_of(step)
        read = [r for r in results if r in uses.loop]
        if not read and isinstance(step, (Compute, Keep, Mask)):
            continue  # the compiler drops it
        if kind == VIEW:
            assert isinstance(step, Compute)
            for slot, result in zip(step.operands, results, strict=False):
                _look_through(result, slot, uses, views, first_loop)
                if step.equation.primitive.name == "optimization_barrier" and type(slot) is int:
                    uses.needed.add(slot)
            continue
        if _decide(kind, results, uses):
            root[i] = i
            made.update(results)
            reads[i] = set(operands)
            for slot in operands:
                uses.add(slot, i, i)
                first_loop[slot] = i
            if kind == WHOLE:
                uses.needed.update(operands)
            elif kind == REDUCTION:
                uses.reduced.update(operands)
            continue
        loop, last = uses.loop[results[0]], uses.last[results[0]]
        root[i] = first_loop.get(results[0], end - 1)
        into = reads.get(root[i])
        for slot in operands:
            uses.add(slot, loop, last)
            first_loop[slot] = root[i]
            if results[0] in uses.reduced:
                uses.reduced.add(slot)
            if into is not None:
                into.add(slot)
    return Fusion(root, uses.last, made, reads, views)


def _look_through(result: int, slot: Any, uses: _Uses, views: dict[int, int], first_loop: dict[int, int]) -> None:
    """What reads a view reads what it is a view of."""
    if type(slot) is int and result in uses.loop:
        views[result] = slot
        uses.add(slot, uses.loop[result], uses.last[result])
        if result in first_loop:
            first_loop[slot] = first_loop[result]
        if result in uses.needed:
            uses.needed.add(slot)
        if result in uses.reduced:
            uses.reduced.add(slot)


def _gathered_again(steps: Sequence[Step]) -> dict[int, int]:
    """For each gather of what was gathered before, the slot that it was gathered to."""
    first: dict[Any, int] = {}
    again = {}
    for i, step in enumerate(steps):
        if type(step) is Collective and step.kind == "all_gather":
            known = first.setdefault(step._replace(result=-1), step.result)
            if known != step.result:
                again[i] = known
    return again
