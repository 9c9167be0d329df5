"""A sum of squares over many elements as one over few:

    sum_i w_i (A c + o)_i^2  =  |R (c - c0) + z0|^2 + rss,      [A | o] = Q R  in float64,  z0 = R c0 + z

R has at most as many rows as A has columns. The anchor c0, the least-squares fit rounded to the run's float type, keeps the digits: what is
added up near the posterior is small, where X'X would subtract numbers of the size of the data's squares. Where float32 would still lose
digits, because columns are far from zero or nearly equal, whole multiples of columns go from others first (`_without_multiples`). Where
elements pick their coefficients (a level for each group) the elements that pick the same ones are factored together, and go on picking.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from ..affine.rules import aval
from ..jax_compat import Var
from .elements import Refused
from .separable import Product, Sum, product, times
from .totals import Squares

__all__ = ["Coefficient", "Rows", "compressed_squares", "rounded"]

_LEAST = 20  # elements below which nothing is gained
_BLOCK = 1 << 16  # rows that are factored at a time
_PER_ROW = 10  # what a row costs besides the numbers in it, in numbers


class Coefficient(NamedTuple):
    """c: the elements of an atom (1 if it is None), times a product of scalars, in the order of the atom."""

    atom: Var | None
    factor: Product

    @property
    def size(self) -> int:
        return 1 if self.atom is None else aval(self.atom).size


@dataclass(frozen=True)
class Rows:
    """sign factor (sum_r (sum_j D[r, j] c_j + sum_k weight[r, k] c_k[index[r, k]] + z_r)^2 + rss), c less its anchor.

    Attributes:
        columns: the coefficients of D, in order. picks: those that rows pick from.
        reduced: whether whole multiples of columns were taken from others.
        arrays: dense (row, number), multiples (number, number) or (0, 0), weight (row, pick), index (row, pick), z (row,), rss (),
            anchor of D (number,), of each pick.
        before, after: number of rows.
    """

    factor: Product
    sign: float
    columns: tuple[Coefficient, ...]
    picks: tuple[Coefficient, ...]
    reduced: bool
    arrays: tuple[np.ndarray, ...]
    before: int
    after: int

    @property
    def reads(self) -> list[Var]:
        factors = [self.factor, *(c.factor for c in (*self.columns, *self.picks))]
        return [c.atom for c in (*self.columns, *self.picks) if c.atom is not None] + [v for f in factors for v, _ in f]

    def __call__(self, arrays: Sequence[Any], read: Callable[[Any], Any], scalar: Callable[[Product], Any]) -> Any:
        """The sum, of the arrays, the values of atoms and of products."""
        dense, multiples, weight, index, z, rss, anchor, *anchors = arrays

        def value(c: Coefficient) -> Any:
            values = jnp.ones(1, z.dtype) if c.atom is None else jnp.reshape(read(c.atom), -1)
            return values * scalar(c.factor) if c.factor else values

        total = z
        if self.columns:
            c = jnp.concatenate([value(c) for c in self.columns])
            moved = _reduced_difference(c, anchor, multiples) if self.reduced else c - anchor
            total += jnp.matmul(dense, moved, precision=lax.Precision.HIGHEST)
        for k, (c, at) in enumerate(zip(self.picks, anchors, strict=True)):
            total += weight[:, k] * (value(c) - at).at[index[:, k]].get(mode="promise_in_bounds")
        return self.sign * (jnp.vdot(total, total, precision=lax.Precision.HIGHEST) + rss) * scalar(self.factor)


def compressed_squares(squares: Squares, dtype: Any) -> Rows:
    """The rows of a sum of squares.

    Raises:
        Refused: too little is gained, or something is not finite.
    """
    weight = squares.weight.reshape(-1)
    kept = np.flatnonzero(weight)
    if len(kept) < _LEAST:
        raise Refused(f"it has only {len(kept)} elements")
    sign, root = float(np.sign(weight[kept[0]])), np.sqrt(np.abs(weight[kept]))
    base, offset, columns, picks = _terms(squares, kept, root)
    before = len(kept) * (len(picks) + sum(c.size for c, _ in columns) + _PER_ROW)
    chosen = min((_Choice.of(columns, picks, kept=n) for n in _kept_picks(picks)), key=lambda choice: choice.cost)
    if chosen.cost > before / 2:
        raise Refused(f"{len(kept)} rows would be {chosen.rows}, which is no gain")
    if (
        not np.isfinite(offset).all()
        or not all(np.isfinite(x).all() for _, x in columns)
        or not all(np.isfinite(x).all() for *_, x in picks)
    ):
        raise Refused("a number in it is not finite")
    return _factored(replace(squares, factor=times(squares.factor, base, 2)), chosen, offset, sign, dtype)


_Column = tuple[Coefficient, np.ndarray]  # (row, number)
_Picked = tuple[Coefficient, np.ndarray, np.ndarray]  # index (row,), weight (row,)


def _terms(squares: Squares, kept: np.ndarray, root: np.ndarray) -> tuple[Product, np.ndarray, list[_Column], list[_Picked]]:
    """The factor that is taken out, the offset, and the terms, of the elements that count, weighted."""
    value = squares.value
    base = next(iter(value.known)) if value.known else value.terms[0].factor
    columns: dict[Coefficient, np.ndarray] = {}
    picks: dict[Any, list[Any]] = {}

    def rows(array: np.ndarray) -> np.ndarray:
        return array.reshape(squares.weight.size, *array.shape[squares.weight.ndim :])[kept]

    offset = product(root, rows(value.known[base])) if base in value.known else np.zeros(len(kept))
    for factor, known in value.known.items():
        if factor != base:
            columns[Coefficient(None, times(factor, base, -1))] = product(root, rows(known))[:, None]
    for term in value.terms:
        c = Coefficient(term.atom, times(term.factor, base, -1))
        weight = product(root, rows(term.weight))
        if isinstance(term, Sum):
            found = product(weight[:, None], rows(term.matrix))
            columns[c] = columns[c] + found if c in columns else found
        elif c.size == 1:
            columns[c] = columns[c] + weight[:, None] if c in columns else weight[:, None]
        elif weight.any():
            index = rows(term.index).astype(np.int32)
            same = next((p for p in picks.values() if p[0] == c and np.array_equal(p[1], index)), None)
            if same is None:
                picks[len(picks)] = [c, index, weight]
            else:
                same[2] = same[2] + weight
    return base, offset, list(columns.items()), [(c, index, weight) for c, index, weight in picks.values()]


def _kept_picks(picks: list[_Picked]) -> Iterator[int]:
    """How many of the picks, largest first, could go on picking; the others become columns."""
    yield from sorted({0, min(1, len(picks)), len(picks)})


@dataclass(frozen=True)
class _Choice:
    """columns: dense ones. picks: the others, with the group of each element. rows: how many there will be. cost: of them, in numbers."""

    columns: list[_Column]
    picks: list[_Picked]
    group: np.ndarray | None
    rows: int
    cost: float

    @classmethod
    def of(cls, columns: list[_Column], picks: list[_Picked], kept: int) -> "_Choice":
        by_size = sorted(picks, key=lambda p: -p[0].size)
        largest, others = by_size[:kept], by_size[kept:]
        number = sum(c.size for c, _ in columns) + sum(c.size for c, *_ in others)
        if number > _WIDEST and others:
            return cls([], [], None, 0, math.inf)
        dense = [*columns, *((c, _spread(c, index, weight)) for c, index, weight in others)]
        each = number + len(largest)
        if not largest:
            return cls(dense, [], None, number, number * (number + _PER_ROW))
        group = np.unique(np.stack([index for _, index, _ in largest], 1), axis=0, return_inverse=True)[1].reshape(-1)
        rows = int(np.minimum(np.bincount(group), each).sum())
        return cls(dense, largest, group, rows, rows * (each + _PER_ROW))


_WIDEST = 256  # numbers of a row up to which picked coefficients may become columns


def _spread(c: Coefficient, index: np.ndarray, weight: np.ndarray) -> np.ndarray:
    found = np.zeros((len(index), c.size))
    found[np.arange(len(index)), index] = weight
    return found


def _factored(squares: Squares, chosen: _Choice, offset: np.ndarray, sign: float, dtype: Any) -> Rows:
    dense = np.concatenate([x for _, x in chosen.columns], 1) if chosen.columns else np.zeros((len(offset), 0))
    weights = np.stack([w for *_, w in chosen.picks], 1) if chosen.picks else np.zeros((len(offset), 0))
    table, num_picks = np.concatenate([weights, dense, offset[:, None]], 1), len(chosen.picks)
    if chosen.group is None:
        rows, rss = _triangular(table)
        index, size = np.zeros((len(rows), 0), np.int32), table.shape[1] - 1
    else:
        rows, rss, index = _by_group(table, chosen)
        size = rounded(len(rows))
    whole = _whole(rows, index, chosen)
    anchors = [a.astype(dtype).astype(float) for a in _least_squares(whole, rows[:, -1], chosen)]
    z = rows[:, -1] + whole @ np.concatenate(anchors)
    dense, multiples = _without_loss(rows[:, num_picks:-1], whole, chosen, dtype)

    def padded(array: np.ndarray) -> np.ndarray:
        return np.concatenate([array, np.zeros((size - len(array), *array.shape[1:]), array.dtype)])

    arrays = [padded(dense), multiples, padded(rows[:, :num_picks]), padded(index), padded(z), np.asarray(rss), *anchors]
    typed = tuple(x if x.dtype == np.int32 else x.astype(dtype) for x in arrays)
    columns, picks = tuple(c for c, _ in chosen.columns), tuple(c for c, *_ in chosen.picks)
    return Rows(squares.factor, sign, columns, picks, multiples.size > 0, typed, len(offset), len(rows))


def _triangular(table: np.ndarray) -> tuple[np.ndarray, float]:
    """[A | o], (row, number), as at most as many rows as A has columns; and the sum of squares that is left of o."""
    number = table.shape[1] - 1
    if len(table) <= number:
        return table, 0.0
    found: Any = table[:0]
    for start in range(0, len(table), _BLOCK):
        found = np.linalg.qr(np.concatenate([found, table[start : start + _BLOCK]]), mode="r")
    rest = found[number:, -1]
    return found[:number], float(rest @ rest)


def _of_rank(table: np.ndarray) -> tuple[np.ndarray, float]:
    """The same as as many rows as A has rank: in a group a column may be another one's multiple, an intercept for one."""
    from scipy.linalg import qr

    a, o = table[:, :-1], table[:, -1]
    if len(table) < 2 or not a.shape[1]:
        return _triangular(table)
    parts: Any = qr(a, mode="economic", pivoting=True)
    q, r, order = parts
    diagonal = np.abs(np.diagonal(r))
    rank = int((diagonal > len(table) * np.finfo(float).eps * diagonal[0]).sum())
    q, rows = q[:, :rank], np.zeros((rank, table.shape[1]))
    rows[:, order], rows[:, -1] = r[:rank], q.T @ o
    rest = o - q @ rows[:, -1]
    return rows, float(rest @ rest)


def _by_group(table: np.ndarray, chosen: _Choice) -> tuple[np.ndarray, float, np.ndarray]:
    """Rows of each group, what is left, and what each row picks."""
    assert chosen.group is not None
    order = np.argsort(chosen.group, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(chosen.group))])
    index = np.stack([i for _, i, _ in chosen.picks], 1)
    parts, rss, picked = [], 0.0, []
    for first, last in pairwise(starts):
        members = order[first:last]
        rows, rest = _of_rank(table[members])
        parts.append(rows)
        rss += rest
        picked.append(np.broadcast_to(index[members[0]], (len(rows), index.shape[1])))
    return np.concatenate(parts), rss, np.concatenate(picked)


def rounded(rows: int) -> int:
    """Up to the next of eight steps between powers of two, so that other data may have the same program."""
    step = max(1, 2 ** (max(rows - 1, 1).bit_length() - 4))
    return -(-rows // step) * step


def _whole(rows: np.ndarray, index: np.ndarray, chosen: _Choice) -> Any:
    """A with a column for every coefficient, those of D first; a sparse matrix where there are picks."""
    num_picks = len(chosen.picks)
    dense = rows[:, num_picks:-1]
    if not num_picks:
        return dense
    from scipy import sparse

    line = np.arange(len(rows))
    picked = [sparse.csr_matrix((rows[:, k], (line, index[:, k])), (len(rows), c.size)) for k, (c, *_) in enumerate(chosen.picks)]
    return sparse.hstack([sparse.csr_matrix(dense), *picked]).tocsr()


def _least_squares(whole: Any, offset: np.ndarray, chosen: _Choice) -> list[np.ndarray]:
    """The fit: coefficients of the columns, and of each pick. It need not be exact: it is where digits are kept, not a result."""
    if not chosen.picks:
        return [np.linalg.lstsq(whole, -offset, rcond=None)[0]]
    from scipy.sparse.linalg import lsqr

    found = lsqr(whole, -offset, iter_lim=200)[0]
    sizes = [sum(c.size for c, _ in chosen.columns), *(c.size for c, *_ in chosen.picks)]
    return np.split(found, np.cumsum(sizes)[:-1])


_LOSS = 1e-5  # nats, of a square, that may go by rounding
_MOST = 32  # columns up to which multiples are taken: one step for each in every evaluation
_KNOWN = 2000  # coefficients up to which the loss is computed


def _without_loss(dense: np.ndarray, whole: Any, chosen: _Choice, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """D, and the multiples that were taken, (0, 0) for none, so that rounding changes little near the posterior.

    Raises:
        Refused: it changes more.
    """
    none = np.zeros((0, 0))
    if np.finfo(dtype).eps < 1e-12 or whole.shape[1] > _KNOWN:
        return dense, none
    matrix = whole.toarray() if chosen.picks else whole
    if _loss(matrix, dtype) < _LOSS:
        return dense, none
    if chosen.picks or dense.shape[1] > _MOST:
        raise Refused("float32 would lose digits: columns are far from zero, or nearly equal; centre them")
    reduced, multiples = _without_multiples(dense)
    if _loss(reduced, dtype) > 100 * _LOSS:
        raise Refused("float32 would lose digits: columns are nearly the same")
    return reduced, multiples


def _loss(matrix: np.ndarray, dtype: Any) -> float:
    """How far rounding moves A c, in standard deviations of the noise, a posterior standard deviation from the fit."""
    deviations = np.linalg.norm(np.linalg.pinv(matrix), axis=1)
    return float(np.finfo(dtype).eps * np.max(np.abs(matrix) @ deviations, initial=0.0))


def _without_multiples(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns of a triangular matrix less whole multiples of those before, as in a lattice's size reduction, and the multiples.

    sum_j x_j c_j = sum_j x'_j c'_j,    x_j = x'_j + sum_{i < j} k_ij x_i,    c' from c by c_i += k_ij c_j, the last j first
    """
    matrix, multiples = matrix.copy(), np.zeros((matrix.shape[1],) * 2)
    for j in range(matrix.shape[1] - 1, 0, -1):
        for i in range(j - 1, -1, -1):
            k = np.round(matrix[i, j] / matrix[i, i]) if matrix[i, i] else 0.0
            matrix[:, j] -= k * matrix[:, i]
            multiples[i, j] = k
    return matrix, multiples


def _reduced_difference(c: Any, anchor: Any, multiples: Any) -> Any:
    """c - anchor for the columns less their multiples; what the difference loses by rounding is carried beside it."""
    difference = c - anchor
    there = difference - c
    lost = (c - (difference - there)) - (anchor + there)
    both = jnp.stack([difference, lost])
    for j in range(len(anchor) - 1, 0, -1):
        both += jnp.outer(both[:, j], multiples[:, j])
    return both[0] + both[1]
