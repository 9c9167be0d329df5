"""The device-local program: what every device of the mesh runs, step by step, the collectives written out.

`lower.py` makes it, `execute.py` runs it under `shard_map`, `simulate.py` tells what it costs: the same records, so that what is
predicted is what is run. Values are numbered slots; a nested program (the body of a loop) has slots of the same table.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ..transforms.jax_compat import JaxprEqn
from .factors import Rule, Shard

__all__ = [
    "COLLECTIVES", "Collective", "Compute", "Keep", "LocalProgram", "Mask", "Nested", "Slot", "Slots", "Step", "axes_of", "operands_of",
    "results_of",
]  # fmt: skip

COLLECTIVES: tuple[str, ...] = ("all_gather", "all_reduce", "reduce_scatter", "all_to_all")


class Slot(NamedTuple):
    """A value on one device: its local shape, and its dtype."""

    shape: tuple[int, ...]
    dtype: Any

    @property
    def size(self) -> int:
        size = 1
        for n in self.shape:
            size *= n
        return size

    @property
    def bytes(self) -> int:
        return self.size * getattr(self.dtype, "itemsize", 8)


Slots = list[Slot]


class Compute(NamedTuple):
    """One equation on the local parts of its operands.

    Attributes:
        equation: as it was traced.
        rule: what is known of its primitive.
        shards: the factors that are split.
        operands: slots, or literals as they stand in the equation.
        results: slots.
    """

    equation: JaxprEqn
    rule: Rule
    shards: tuple[Shard, ...]
    operands: tuple[Any, ...]
    results: tuple[int, ...]


class Collective(NamedTuple):
    """A communication over mesh axes.

    Attributes:
        kind: "all_gather", "all_reduce", "reduce_scatter" or "all_to_all".
        axes: the mesh axes.
        operand, result: slots.
        source: the dimension whose parts are put together (gather, exchange); else None.
        target: the dimension that is split (scatter, exchange); else None.
        combine: "sum", "max", "min", "and", "or" of a reduction; else None.
        trim: the size to which the gathered dimension is cut, where it was padded; else None.
        pad: the size to which the scattered dimension is padded before; else None.
    """

    kind: str
    axes: tuple[str, ...]
    operand: int
    result: int
    source: int | None = None
    target: int | None = None
    combine: str | None = None
    trim: int | None = None
    pad: int | None = None


class Keep(NamedTuple):
    """The device's own part of what it has whole along a dimension, which is padded to `pad` before if that is not None."""

    axes: tuple[str, ...]
    operand: int
    result: int
    target: int
    pad: int | None = None


class Mask(NamedTuple):
    """The neutral element of `combine` wherever index along dimension `dim`, counted over all shards along `axes`, is `size` or more."""

    axes: tuple[str, ...]
    operand: int
    result: int
    dim: int
    size: int
    combine: str


class Nested(NamedTuple):
    """A scan, a while loop or a choice between branches.

    Attributes:
        kind: "scan", "while" or "cond".
        equation: as it was traced.
        bodies: (body,) of a scan; the branches of a cond; (condition, body) of a while loop, or, where members of a batch have predicates
            of their own, (condition before the loop, condition at the end of a turn, body), a condition then giving the predicates
            and whether any holds.
        operands: slots or literals, in the order of the equation's operands.
        results: slots.
        trips: how often the body runs; None if that is known only as it runs. Of a cond 1: one of the branches.
    """

    kind: str
    equation: JaxprEqn
    bodies: tuple["LocalProgram", ...]
    operands: tuple[Any, ...]
    results: tuple[int, ...]
    trips: int | None


Step = Compute | Collective | Keep | Mask | Nested


class LocalProgram(NamedTuple):
    """Steps in the order in which they run.

    Attributes:
        inputs: slots.
        steps: the steps.
        outputs: slots or literals.
        constants: (slot, array) of what a nested program closes over.
    """

    inputs: tuple[int, ...]
    steps: tuple[Step, ...]
    outputs: tuple[Any, ...]
    constants: tuple[tuple[int, Any], ...] = ()


def operands_of(step: Step) -> Sequence[Any]:
    """Slots; literals apart."""
    if isinstance(step, (Compute, Nested)):
        return [x for x in step.operands if type(x) is int]
    return (step.operand,)


def results_of(step: Step) -> Sequence[int]:
    return step.results if isinstance(step, (Compute, Nested)) else (step.result,)


def axes_of(steps: Iterable[Step]) -> set[str]:
    """The mesh axes over which a program communicates."""
    found: set[str] = set()
    for step in steps:
        if isinstance(step, Collective):
            found.update(step.axes)
        elif isinstance(step, Nested):
            found.update(*(axes_of(body.steps) for body in step.bodies))
    return found
