"""What a strategy keeps for the way back, and how often it evaluates a step: known before anything runs."""

import logging
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

from ..autodiff.checkpoints import Checkpoints
from ..errors import DerivativeError
from ..settings import choice

__all__ = ["STRATEGIES", "Choice", "Strategy", "check_strategy", "choose", "cost_of_reversal", "costs"]

_log = logging.getLogger("luciole")

Strategy = Literal["reversible", "tape", "sqrt", "tree", "auto"]

STRATEGIES = ("tape", "sqrt", "reversible", "tree")


def check_strategy(where: str, strategy: Any) -> None:
    """Refuses what is no strategy."""
    choice(where, "strategy", strategy, get_args(Strategy), error=DerivativeError)


class Choice(NamedTuple):
    """strategy: its name. kept_bytes: for the way back, at the most. evaluations: of a step, forwards and backwards."""

    strategy: str
    kept_bytes: int
    evaluations: int

    def __str__(self) -> str:
        return f'"{self.strategy}" (keeps {self.kept_bytes / 1e6:,.3g} MB, {self.evaluations:,} evaluations of a step)'


def cost_of_reversal(sizes: Sequence[int], slots: Sequence[int], words: Sequence[int], num_steps: int, segment: int) -> Choice:
    """Of undoing the steps: states and remainders in 64 bits, what they spill, the tables of the factors, the snapshots.

    Args:
        sizes: numbers in each leaf of the state. slots: in each remainder. words: of each.
        segment: steps from one snapshot to the next.
    """
    states = -(-num_steps // segment)
    if states > 1:  # and what a segment keeps that is run again
        states += Checkpoints.of("tree", segment).carries_held
    spilled = sum(2 * (w + 1) * size for w, size in zip(words, slots, strict=True))
    kept = 8 * (sum(sizes) + sum(slots)) * states + spilled + 5 * num_steps * len(slots)
    return Choice("reversible", kept, 3 * num_steps)


def costs(carry: Sequence[Any], num_steps: int, reversible: Choice | None, fanout: int) -> dict[str, Choice]:
    """By strategy; the reversible one only where steps can be undone."""
    size = sum(x.size * x.dtype.itemsize for x in carry)
    found = {}
    for name in STRATEGIES:
        if name == "reversible":
            if reversible is not None:
                found[name] = reversible
        else:
            way = Checkpoints.of(name, num_steps, fanout)
            found[name] = Choice(name, way.carries_held * size, way.evaluations())
    return found


def choose(
    where: str, strategy: str, carry: Sequence[Any], num_steps: int, reversible: Choice | None, memory_bytes: float, fanout: int
) -> Choice:
    """The strategy to take; see `reversible_loop`.

    Raises:
        DerivativeError: the reversible one is asked for and there is none; the one asked for keeps more than `memory_bytes`.
    """
    if strategy == "reversible" and reversible is None:
        raise DerivativeError(
            f'{where}: strategy="reversible" needs an update that can be undone, an `Update` of `Add` and `Multiply` as SGD with momentum '
            'is; found a function from state to state. Write strategy="tree", or "auto".'
        )
    known = costs(carry, num_steps, reversible, fanout)
    if strategy != "auto":
        chosen = known[strategy]
        if chosen.kept_bytes > memory_bytes:
            others = ", ".join(map(str, sorted((c for c in known.values() if c != chosen), key=lambda c: c.kept_bytes)))
            raise DerivativeError(
                f"{where}: {chosen} for {num_steps:,} steps, which is more than memory_bytes={memory_bytes:g}. The others: {others}. "
                "Choose one of these, or give more memory."
            )
        return chosen
    fitting = [c for c in known.values() if c.kept_bytes <= memory_bytes]
    chosen = min(fitting, key=lambda c: (c.evaluations, c.kept_bytes)) if fitting else min(known.values(), key=lambda c: c.kept_bytes)
    others = "; ".join(str(c) for c in known.values() if c != chosen)
    _log.info("%s: %d steps by the strategy %s. Not taken: %s.", where, num_steps, chosen, others)
    return chosen
