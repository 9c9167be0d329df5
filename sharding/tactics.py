"""Tactics: what a user writes beside a program to say how it is split, and how names are found.

ManualPartition({"batch": 0}, axis="data")                                  # data parallel
ManualPartition({"p.layers.*.up": 1, "p.layers.*.down": 0}, axis="model")   # Megatron
ManualPartition({"p": REPLICATED, "opt": FIRST_DIVISIBLE}, axis="data")     # ZeRO, stage 2
"""

import difflib
import enum
import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jax.ad_checkpoint import checkpoint_name

from ..transforms.errors import PartitionError

__all__ = ["FIRST_DIVISIBLE", "REPLICATED", "AutomaticPartition", "ManualPartition", "Names", "Where", "tag"]


class _Place(enum.Enum):
    REPLICATED = "REPLICATED"
    FIRST_DIVISIBLE = "FIRST_DIVISIBLE"

    def __repr__(self) -> str:
        return f"ls.{self.value}"


REPLICATED = _Place.REPLICATED
"""The value stays whole over the tactic's axis; what spreads stops at it."""

FIRST_DIVISIBLE = _Place.FIRST_DIVISIBLE
"""The first dimension that is not split yet and whose local size the axis divides; without one the value stays whole, as is reported."""

Where = int | _Place | None | Callable[[str, tuple[int, ...]], Any]
"""A dimension, `REPLICATED`, `FIRST_DIVISIBLE`, None (say nothing), or a function (name, shape) -> one of these."""


@dataclass(frozen=True)
class ManualPartition:
    """Split named values over one axis of the mesh; the split then spreads through the program.

    Args:
        values: name -> dimension, `REPLICATED`, `FIRST_DIVISIBLE` or a function of name and shape. A name is that of a parameter and its
            key path ("p.layers.0.qkv"), or of a `tag`; a prefix names all below it, "*" any stretch of a name. Where several
            entries match, the last holds.
        axis: of the mesh.
        atomic: names of values that stay whole over the axis, like `REPLICATED`.
        pad: whether a dimension that the axis does not divide may be split, padded to a multiple; else that is an error.

    Source: Alabed et al. (2025), section 3: tactics, actions `tile` and `atomic`.
    """

    values: Mapping[str, Where]
    axis: str
    atomic: Sequence[str] = ()
    pad: bool = False

    @property
    def axes(self) -> tuple[str, ...]:
        return (self.axis,)

    def entries(self) -> list[tuple[str, Where]]:
        return [*self.values.items(), *((name, REPLICATED) for name in self.atomic)]

    def __str__(self) -> str:
        rest = f", atomic={list(self.atomic)!r}" * bool(self.atomic) + ", pad=True" * self.pad
        return f"ManualPartition({dict(self.values)!r}, axis={self.axis!r}{rest})"


@dataclass(frozen=True)
class AutomaticPartition:
    """Let the simulator choose what is split over some axes, after the tactics before it.

    A beam search over groups of names (layers.0.w and layers.1.w are one decision), in the order: within the memory first, then less time.
    Its choice is printed as `ManualPartition`s that can be written in its place.

    Args:
        axes: of the mesh; decided one after another.
        memory_bytes: the limit for one device; None for that of the hardware, if it has one.
        values: names that may be decided about; None for all arguments of the function.
        beam: how many schedules are kept at each step.
        depth: how many decisions are tried together, 1 or 2: a decision that pays off only with another is found by 2.
        max_evaluations: how many schedules are judged at most; 0 for all that the search comes upon. Reaching it is noted in the report.

    Source: Alabed et al. (2025), section 3 (`AutomaticPartition`); they search a tree by Monte Carlo, we a beam.
    """

    axes: Sequence[str]
    memory_bytes: float | None = None
    values: Sequence[str] | None = None
    beam: int = 4
    depth: int = 2
    max_evaluations: int = 2000

    def __str__(self) -> str:
        limit = "" if self.memory_bytes is None else f", memory_bytes={self.memory_bytes:g}"
        return f"AutomaticPartition(axes={list(self.axes)!r}{limit})"


def tag(value: Any, name: str) -> Any:
    """Give an internal value a name, so that a tactic can name it and `explain` can be asked about it.

    Args:
        value: an array of any shape, or a tree of them.
        name: need not be unique: a tactic that names it means all values with this name.

    Returns:
        The value. It may be differentiated, batched and compiled like any other.
    """
    return checkpoint_name(value, name)


class Names:
    """The values of a program by name.

    Args:
        named: name -> numbers of the values that have it.
    """

    def __init__(self, named: Mapping[str, Sequence[int]]) -> None:
        self.named = dict(named)
        self._found: dict[str, dict[str, Sequence[int]]] = {}

    def find(self, pattern: str) -> dict[str, Sequence[int]]:
        """The names that a pattern means, each with its values.

        Raises:
            PartitionError: it means none.
        """
        if pattern not in self._found:
            means = matcher(pattern)
            self._found[pattern] = {name: values for name, values in self.named.items() if means(name)}
        if not self._found[pattern]:
            raise PartitionError(f"no value of the program is called {pattern!r}. {nearest(pattern, self.named)}")
        return self._found[pattern]


def matcher(pattern: str) -> Callable[[str], bool]:
    """Whether a pattern names a value, or something that the value lies below."""
    expression = re.compile(fnmatch.translate(pattern.replace("[", "[[]")))

    def means(name: str) -> bool:
        parts = name.split(".")
        return any(expression.match(".".join(parts[: i + 1])) for i in range(len(parts)))

    return means


def nearest(pattern: str, names: Mapping[str, Any], none: str | None = None) -> str:
    """What could have been meant, in words; `none` if nothing is near, by default what there is."""
    prefixes = dict.fromkeys(".".join(name.split(".")[: i + 1]) for name in names for i in range(name.count(".") + 1))
    close = difflib.get_close_matches(pattern, prefixes, n=3, cutoff=0.5)
    ends = [name for name in prefixes if name.rsplit(".", 1)[-1] == pattern.rsplit(".", 1)[-1]]
    shown = list(dict.fromkeys([*close, *ends]))[:4]
    if shown:
        return f"Did you mean {' or '.join(map(repr, shown))}?"
    if none is not None:
        return none
    first = list(names)[:8]
    more = ", ..." if len(names) > len(first) else ""
    return f"There are {', '.join(map(repr, first))}{more}; `ls.tag(value, name)` names an internal value."
