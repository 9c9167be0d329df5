"""How an operation may be split: its factors, each a dimension that operands and results share.

A matrix product C[i, k] = sum_j A[i, j] B[j, k] has three: i runs along A and C, k along B and C, and j along A and B only. Splitting
i or k over devices gives parts of C; splitting j gives, on each device, a partial sum of the whole of C. A dimension that is in no
factor (the one that is sorted, say) cannot be split: a use of it gathers.

Source: Alabed et al. (2025), "PartIR: composing SPMD partitioning strategies for machine learning", section 5 (the tile-mapping registry);
a factor is a row of their table. They write one table per number of dimensions, we one factor per dimension.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..transforms.jax_compat import JaxprEqn

__all__ = ["NEUTRAL", "Factor", "Local", "Rule", "Shard"]


class Factor(NamedTuple):
    """One dimension along which an operation may be split.

    Attributes:
        operands: for each operand the dimension that the factor runs along; None where it has no part in the operand, which is then
            needed whole.
        results: the same for each result.
        size: what the number of shards must divide. It is the size of the dimensions, or, where a reshape merges dimensions, that of
            the leading one.
        combine: None if the shards' results are parts of the whole; else how the whole is made of them, elementwise: "sum", "max",
            "min", "and", "or". Then `results` holds None for each result.
        padding: what holds where the dimension is padded to a multiple of the number of shards: "free", whatever stands in the
            padding reaches the padding only; "neutral", the operands' padding must hold the neutral element of `combine` (0 for a
            sum); "never", the factor cannot be split unevenly.
        how: which variant of the local computation this is; "" for the operation as it stands.
        weak: to be chosen only where no other factor explains the layouts at hand.
    """

    operands: tuple[int | None, ...]
    results: tuple[int | None, ...]
    size: int
    combine: str | None = None
    padding: str = "free"
    how: str = ""
    weak: bool = False


class Shard(NamedTuple):
    """One factor as it is split in one operation.

    Attributes:
        factor: the factor.
        axes: the mesh axes over which it is split, major to minor.
    """

    factor: Factor
    axes: tuple[str, ...]


class Local(NamedTuple):
    """What the local computation of one operation may ask for.

    Attributes:
        shards: the factors that are split.
        results: the shapes of the results on one device.
        index: axes -> the number of this device's shard along them, an int32 scalar (traced, or concrete in a test).
        count: axes -> how many shards there are along them.
    """

    shards: tuple[Shard, ...]
    results: tuple[tuple[int, ...], ...]
    index: Callable[[tuple[str, ...]], Any]
    count: Callable[[tuple[str, ...]], int]

    def shard(self, how: str) -> Shard | None:
        """The factor of this variant, if it is split."""
        return next((shard for shard in self.shards if shard.factor.how == how), None)


class Rule(NamedTuple):
    """What is known of one primitive.

    Attributes:
        factors: equation -> its factors.
        run: (equation, the operands on one device, Local) -> the results on one device. None: the primitive is applied as it stands.
        flops: (equation, operand shapes, result shapes), on one device -> floating-point operations. None: one per element of the results.
        linear: numbers of the operands in which the operation is linear, all at once where there are several (an addition), so that it may
            act on partial sums: f(a + b) = f(a) + f(b). Empty if it is not.
        free: whether it moves no bytes (a reshape), or is made anew cheaper than it is kept (an iota).
        known: whether someone has written the rule down; False for what was found by a probe, or is taken to have no factors.
    """

    factors: Callable[[JaxprEqn], Sequence[Factor]]
    run: Callable[[JaxprEqn, Sequence[Any], Local], Sequence[Any]] | None = None
    flops: Callable[[JaxprEqn, Sequence[tuple[int, ...]], Sequence[tuple[int, ...]]], float] | None = None
    linear: tuple[int, ...] = ()
    free: bool = False
    known: bool = True


NEUTRAL: dict[str, Any] = {"sum": 0, "max": -float("inf"), "min": float("inf"), "and": True, "or": False}
"""combine -> its neutral element; for integers the least and the greatest of their type stand for the infinities."""
