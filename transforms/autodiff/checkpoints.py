"""Carries kept at intervals, and computed again between them: one algorithm, from a full tape to a tree of checkpoints.

    fanouts (f_0, .., f_{L-1}),  s_l = f_{l+1} f_{l+2} .. f_{L-1},  s_{L-1} = 1

The forward pass keeps the carry before every s_0-th turn. The backward pass visits these blocks of s_0 turns from the last
to the first; of each it computes the carries again from the one kept before it, keeps every s_1-th, and does with these
smaller blocks as it did with the large ones. Where the blocks are single turns it linearizes the turn and transposes it.
At most f_0 + .. + f_{L-1} carries are held.

    strategy    fanouts                       carries held      evaluations of a step, for n turns
    tape        (n,)                          n                 2 n
    sqrt        (ceil(n/K), K), K = sqrt n    2 sqrt n          3 n, less one in every block
    tree        (k, .., k), k^L >= n          k log_k n         (2 + (1 - 1/k) (log_k n - 1)) n

An evaluation that linearizes a turn counts as one.

Source: Griewank (1992), "Achieving logarithmic growth of temporal and spatial complexity in reverse automatic
differentiation"; the k-ary form is that of Engstrom, Ilyas, Chen, Feldmann, Moses & Madry (2025), "Optimizing ML training
with metagradient descent" (REPLAY). We deviate in that blocks are of equal length, whatever the number of turns, because
that number is not known when the program is made; turns that do not exist are not computed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import lax

from ..errors import DerivativeError
from .turns import Turn, WayBack

__all__ = ["Checkpoints"]

STRATEGIES = ("tape", "sqrt", "tree")


@dataclass(frozen=True)
class Checkpoints(WayBack):
    """See the module.

    capacity: the largest number of turns. fanouts: how many carries are kept at each level; their product is at least `capacity`.

    Raises:
        DerivativeError: a number is not positive, or there is no room for `capacity` turns.
    """

    capacity: int
    fanouts: tuple[int, ...]
    second_order: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.capacity < 1 or min(self.fanouts, default=0) < 1 or math.prod(self.fanouts) < self.capacity:
            raise DerivativeError(
                f"Checkpoints: fanouts {self.fanouts} have room for {math.prod(self.fanouts)} turns and capacity is {self.capacity}; "
                "expected positive numbers whose product is at least the capacity."
            )

    @classmethod
    def of(cls, strategy: str, capacity: int, fanout: int = 4) -> "Checkpoints":
        """The checkpoints of a strategy by name.

        Args:
            strategy: "tape", "sqrt" or "tree". capacity: the largest number of turns. fanout: k, of a tree.

        Raises:
            DerivativeError: the name is none of these, or fanout < 2.
        """
        if strategy == "tape":
            return cls(capacity, (capacity,))
        if strategy == "sqrt":
            k = math.isqrt(capacity - 1) + 1
            return cls(capacity, (-(-capacity // k), k) if k > 1 else (1,))  # a level of single turns is none
        if strategy != "tree":
            raise DerivativeError(f"checkpoint={strategy!r} is no strategy; expected one of {', '.join(map(repr, STRATEGIES))}.")
        if fanout < 2:
            raise DerivativeError(f"a tree of checkpoints needs a fanout of at least 2, found {fanout}.")
        below = 1  # turns under one child of the root
        fanouts: list[int] = []
        while below * fanout < capacity:
            below *= fanout
            fanouts.append(fanout)
        return cls(capacity, (-(-capacity // below), *fanouts))

    @property
    def spans(self) -> tuple[int, ...]:
        """Turns between two carries that are kept, per level."""
        return tuple(math.prod(self.fanouts[level + 1 :]) for level in range(len(self.fanouts)))

    @property
    def carries_held(self) -> int:
        """The largest number of carries that are held at once, those being worked on left out."""
        return sum(self.fanouts)

    def evaluations(self, n: int | None = None) -> int:
        """Evaluations of a step that a gradient through n turns takes, by default `capacity`: forward, again, and to linearize."""
        n = self.capacity if n is None else n
        return 2 * n + self._again(0, n)

    def _again(self, level: int, length: int) -> int:
        """Evaluations below one level of a block of so many turns."""
        if level + 1 == len(self.fanouts) or length == 0:
            return 0
        span = self.spans[level]
        full, rest = divmod(length, span)
        return full * self._of_block(level + 1, span) + self._of_block(level + 1, rest)

    def _of_block(self, level: int, length: int) -> int:
        """Evaluations of a block of so many turns, whose carries are kept at one level: none after the last one that is kept."""
        return max(length - 1, 0) // self.spans[level] * self.spans[level] + self._again(level, length)

    def run(self, n: Any, turn: Turn, consts: Sequence[Any], carry: Sequence[Any], params: Sequence[Any]) -> list[Any]:
        start = (jnp.zeros_like(n), list(carry))
        return lax.while_loop(lambda s: s[0] < n, lambda s: (s[0] + 1, turn.one(s[0], consts, s[1], params)), start)[1]

    def record(self, n: Any, turn: Turn, consts: Sequence[Any], carry: Sequence[Any], params: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The result, and the carry before every s_0-th turn."""
        return _Walk(self, turn, consts, params).forwards(0, jnp.zeros_like(n), n, carry)

    def backwards(
        self, n: Any, turn: Turn, consts: Sequence[Any], params: Sequence[Any], kept: Sequence[Any], carry_cts: Sequence[Any]
    ) -> tuple[list[Any], list[Any]]:
        walk = _Walk(self, turn, consts, params)
        return walk.backwards(0, jnp.zeros_like(n), n, kept, (list(carry_cts), turn.no_params_cts(params)))


@dataclass(frozen=True)
class _Walk:
    """The turns of one loop, walked through block by block."""

    way: Checkpoints
    turn: Turn
    consts: Sequence[Any]
    params: Sequence[Any]

    def forwards(self, level: int, start: Any, stop: Any, carry: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The carry before turn `stop`, and those before every s_level-th turn from `start` on, which precede it."""
        span = self.way.spans[level]

        def step(state: Any) -> Any:
            i, values, kept = state
            place = i - start
            kept = [_write(buffer, v, place // span, place % span == 0) for buffer, v in zip(kept, values, strict=True)]
            return i + 1, self.turn.one(i, self.consts, values, self.params), kept

        empty = [jnp.zeros((self.way.fanouts[level], *v.shape), v.dtype) for v in carry]
        _, outs, kept = lax.while_loop(lambda s: s[0] < stop, step, (start, list(carry), empty))
        return outs, kept

    def again(self, level: int, start: Any, stop: Any, carry: Sequence[Any]) -> list[Any]:
        """The carries kept at one level of a block of at least one turn, computed from the first; no turn after the last of them."""
        span = self.way.spans[level]
        last = (stop - 1 - start) // span
        values, kept = self.forwards(level, start, start + last * span, carry)
        return [lax.dynamic_update_index_in_dim(buffer, v, last, 0) for buffer, v in zip(kept, values, strict=True)]

    def backwards(self, level: int, start: Any, stop: Any, kept: Sequence[Any], cts: Any) -> Any:
        """Cotangents (of the carry, of the parameters) through the turns stop-1 .. start, whose carries are kept at one level."""
        span = self.way.spans[level]

        def block(state: Any) -> Any:
            b, cts = state
            first = start + b * span
            carry = [lax.dynamic_index_in_dim(buffer, b, 0, keepdims=False) for buffer in kept]
            if level + 1 == len(self.way.fanouts):
                return b - 1, self.back(first, carry, cts)
            end = jnp.minimum(first + span, stop)
            return b - 1, self.backwards(level + 1, first, end, self.again(level + 1, first, end, carry), cts)

        num_blocks = (stop - start + span - 1) // span
        return lax.while_loop(lambda s: s[0] >= 0, block, (num_blocks - 1, cts))[1]

    def back(self, i: Any, carry: Sequence[Any], cts: Any) -> Any:
        carry_cts, params_cts = cts
        carry_cts, more = self.turn.back(i, self.consts, carry, self.params, carry_cts)
        return carry_cts, [a + b for a, b in zip(params_cts, more, strict=True)]


def _write(buffer: Any, value: Any, place: Any, when: Any) -> Any:
    old = lax.dynamic_index_in_dim(buffer, place, 0, keepdims=False)
    return lax.dynamic_update_index_in_dim(buffer, jnp.where(when, value, old), place, 0)
