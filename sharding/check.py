"""Whether the predicted collectives are those of the program: counted in the lowered text, and in what the compiler makes of it."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..transforms.errors import PartitionError
from .local import COLLECTIVES

__all__ = ["Check", "check_program", "compiled_collectives", "lowered_collectives"]

_IN_LOWERED = re.compile(r"\bstablehlo\.(all_gather|all_reduce|reduce_scatter|all_to_all|collective_permute|collective_broadcast)\b")
_IN_COMPILED = re.compile(r"= .*? (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(([^)]*)\)")


class Check(NamedTuple):
    """Collectives by kind: as predicted, in the lowered program, and (None if not asked) operands of those that the compiler left.

    Attributes:
        predicted: each counted once, however often a loop runs it.
        lowered: of StableHLO.
        compiled: of optimised HLO; it may merge several into one of many operands, hence operands are counted.
        duplicates: at most how many of each kind the compiler may do without; see `duplicates.py`.
    """

    predicted: dict[str, int]
    lowered: dict[str, int]
    compiled: dict[str, int] | None
    duplicates: dict[str, int]

    @property
    def unexplained(self) -> dict[str, int]:
        """How many of each kind the compiler did without beyond `duplicates`: it found equal what we do not, such as two loops."""
        if self.compiled is None:
            return {}
        fewer = {kind: n - self.compiled.get(kind, 0) - self.duplicates.get(kind, 0) for kind, n in self.predicted.items()}
        return {kind: n for kind, n in fewer.items() if n > 0}


def lowered_collectives(text: str) -> dict[str, int]:
    """Collectives in the text of StableHLO, by kind."""
    counts = dict.fromkeys(COLLECTIVES, 0)
    for found in _IN_LOWERED.finditer(text):
        counts[found.group(1)] = counts.get(found.group(1), 0) + 1
    return counts


def compiled_collectives(text: str) -> dict[str, int]:
    """Operands of collectives in the text of optimised HLO, by kind; an exchange of many operands counts once."""
    counts = dict.fromkeys(COLLECTIVES, 0)
    for found in _IN_COMPILED.finditer(text):
        kind = found.group(1).replace("-", "_")
        operands = found.group(2).count("%") or found.group(2).count(",") + 1
        counts[kind] = counts.get(kind, 0) + (1 if kind == "all_to_all" else operands)
    return counts


def check_program(predicted: Mapping[str, int], duplicates: Mapping[str, int], lowered: Any, *, compiled: bool) -> Check:
    """Compare; see `Partitioned.check`."""
    expected = dict.fromkeys(COLLECTIVES, 0) | {kind: int(n) for kind, n in predicted.items()}
    found = lowered_collectives(lowered.as_text())
    if found != expected:
        raise PartitionError(
            f"the prediction was {expected}, the lowered program has {found}. This is a fault of the lowering: please report it."
        )
    left = None
    if compiled:
        left = compiled_collectives(lowered.compile().as_text())
        if any(n > expected.get(kind, 0) for kind, n in left.items()):
            raise PartitionError(
                f"the prediction was {expected}, the compiled program has {left}. The compiler communicates more than it was told: please "
                "report it."
            )
    return Check(expected, found, left, dict(duplicates))
