"""Products and factorizations of matrices."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax import lax

from ..jax_compat import bind
from .core import Unknown, add
from .registry import DECLINED, linearizes, transposes


@linearizes("dot_general")
def product(eqn: Any, active: Sequence[bool], x: Any, y: Any) -> Any:
    """d(x y) = dx y + x dy."""

    def linear(ts: Sequence[Any]) -> list[Any]:
        first = None if ts[0] is None else bind(eqn, [ts[0], y])[0]
        return [add(first, None if ts[1] is None else bind(eqn, [x, ts[1]])[0])]

    return bind(eqn, [x, y]), linear, (True,)


@transposes("dot_general")
def transpose_product(eqn: Any, cts: Sequence[Any], x: Any, y: Any) -> Any:
    """The product of the cotangent with the known operand.

    Contracted over the axes which that operand alone contributed.
    """
    (contract_x, contract_y), (batch_x, batch_y) = eqn.params["dimension_numbers"]
    if isinstance(x, Unknown):
        return [_receive(eqn, cts[0], y, x, (contract_x, contract_y, batch_x, batch_y), known_last=True), None]
    return [None, _receive(eqn, cts[0], x, y, (contract_y, contract_x, batch_y, batch_x), known_last=False)]


def _receive(eqn: Any, ct: Any, known: Any, unknown: Unknown, axes: Sequence[Sequence[int]], known_last: bool) -> Any:
    """Axes of the product are batch, then those kept of its first operand, then those kept of its second."""
    contract_u, contract_k, batch_u, batch_k = (tuple(a) for a in axes)
    kept_u = [i for i in range(len(unknown.aval.shape)) if i not in contract_u and i not in batch_u]
    kept_k = [i for i in range(known.ndim) if i not in contract_k and i not in batch_k]
    num_batch = len(batch_u)
    first = num_batch + (len(kept_u) if known_last else 0)
    numbers = ((tuple(range(first, first + len(kept_k))), tuple(kept_k)), (tuple(range(num_batch)), batch_k))
    out = lax.dot_general(ct, known, numbers, precision=eqn.params["precision"], preferred_element_type=unknown.aval.dtype)
    order = [*batch_u, *kept_u, *(contract_u[i] for i in np.argsort(contract_k))]
    return lax.transpose(out, tuple(np.argsort(order)))


def _matmul(x: Any, y: Any) -> Any:
    batch = tuple(range(x.ndim - 2))
    numbers = (((x.ndim - 1,), (y.ndim - 2,)), (batch, batch))
    return lax.dot_general(x, y, numbers, precision=lax.Precision.HIGHEST)


def _transposed(x: Any) -> Any:
    return lax.transpose(x, (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))


def _triangle(x: Any, lower: bool, strict: bool = False, halved: bool = False) -> Any:
    """The lower or upper triangle, without its diagonal if strict, with half of it if halved.

    An equation linear in x.
    """
    row, col = (lax.broadcasted_iota(np.int32, x.shape, x.ndim - k) for k in (2, 1))
    mask = (lax.gt if strict else lax.ge)(*((row, col) if lower else (col, row)))
    if not halved:
        return lax.select(mask, x, lax.full_like(x, 0))
    weight = lax.select(lax.eq(row, col), lax.full_like(x, 0.5), lax.convert_element_type(mask, x.dtype))
    return lax.mul(x, weight)


class _Blocks(NamedTuple):
    """A lower triangular matrix [[first, 0], [below, second]]; first and second are split on, or whole."""

    first: "Any | _Blocks"
    below: Any
    second: "Any | _Blocks"


_SMALLEST, _DEEPEST = 32, 3  # blocks get no smaller; the program has at most 2^3 of them on the diagonal, however large the matrix


def _halves(x: Any) -> tuple[Any, Any, Any]:
    """The blocks on and below the diagonal. `split` and not `slice`: its transpose is one concatenation, no sum of padded blocks."""
    rows = x.shape[-1] // 2, x.shape[-1] - x.shape[-1] // 2
    top, bottom = lax.split(x, rows, axis=x.ndim - 2)
    below, second = lax.split(bottom, rows, axis=x.ndim - 1)
    return lax.split(top, rows, axis=x.ndim - 1)[0], below, second


def _split(factor: Any, depth: int) -> "Any | _Blocks":
    if depth == 0 or factor.shape[-1] < 2 * _SMALLEST:
        return factor
    first, below, second = _halves(factor)
    return _Blocks(_split(first, depth - 1), below, _split(second, depth - 1))


def _joined(first: Any, below: Any, second: Any) -> Any:
    columns, rows = below.ndim - 1, below.ndim - 2
    above = lax.full((*below.shape[:-2], first.shape[-1], second.shape[-1]), 0, below.dtype)
    return lax.concatenate([lax.concatenate([first, above], columns), lax.concatenate([below, second], columns)], rows)


def _solve_right(factor: "Any | _Blocks", b: Any) -> Any:
    """B L^-T."""
    if not isinstance(factor, _Blocks):
        return lax.linalg.triangular_solve(factor, b, left_side=False, lower=True, transpose_a=True)
    width = factor.below.shape[-1], factor.below.shape[-2]
    left, right = lax.split(b, width, axis=b.ndim - 1)
    x = _solve_right(factor.first, left)
    y = _solve_right(factor.second, lax.sub(right, _matmul(x, _transposed(factor.below))))
    return lax.concatenate([x, y], b.ndim - 1)


def _cholesky_tangent(factor: "Any | _Blocks", da: Any) -> Any:
    if not isinstance(factor, _Blocks):
        inner = lax.linalg.triangular_solve(factor, _solve_right(factor, da), left_side=True, lower=True)
        return _matmul(factor, _triangle(inner, lower=True, halved=True))
    da_first, da_below, da_second = _halves(da)
    first = _cholesky_tangent(factor.first, da_first)
    below = _solve_right(factor.first, lax.sub(da_below, _matmul(factor.below, _transposed(first))))
    both = _matmul(below, _transposed(factor.below))
    second = _cholesky_tangent(factor.second, lax.sub(da_second, lax.add(both, _transposed(both))))
    return _joined(first, below, second)


@linearizes("cholesky")
def cholesky(eqn: Any, active: Sequence[bool], a: Any) -> Any:
    """dL = L phi(L^-1 dA L^-T), phi taking the lower triangle with half the diagonal, for a small matrix.

    That map costs 4 n^3 flops where the factorization costs n^3 / 3. So a larger matrix is halved, dA = [[P, Q^T], [Q, R]]:

        dL_1 = the tangent at L_1 along P                        (Q, R, dL_2 likewise for the second half)
        dB   = (Q - B dL_1^T) L_1^-T                             B below the diagonal of L
        dL_2 = the tangent at L_2 along R - dB B^T - B dB^T

    at most three times over, which costs less than 0.9 n^3. A tangent is read from its lower triangle, as the factorization reads the
    matrix (JAX 0.12 does the same; JAX 0.10 agrees on symmetric tangents only, and on others differs from a finite difference). Where
    only a determinant or a Gaussian density is wanted, `likelihoods` has rules that need no product of matrices.

    Source: Murray (2016), "Differentiation of the Cholesky decomposition", arXiv:1602.07527, equation 8 and section 4; we use two
    blocks at a time, recursively, where he uses columns of blocks.
    """
    if np.issubdtype(a.dtype, np.complexfloating):
        return DECLINED
    factor = _triangle(bind(eqn, [a])[0], lower=True)  # what LAPACK leaves above the diagonal is not ours
    blocks = _split(factor, _DEEPEST)

    def linear(ts: Sequence[Any]) -> list[Any]:
        below = _triangle(ts[0], lower=True, strict=True)
        return [_cholesky_tangent(blocks, lax.add(_triangle(ts[0], lower=True), _transposed(below)))]

    return [factor], linear, (True,)


@linearizes("triangular_solve")
def triangular_solve(eqn: Any, active: Sequence[bool], a: Any, b: Any) -> Any:
    """x = op(A)^-1 B.

    Dx = op(A)^-1 (dB - op(dA) x), or with the factors in the other order if A stands on the right.
    """
    p = eqn.params
    (x,) = bind(eqn, [a, b])

    def linear(ts: Sequence[Any]) -> list[Any]:
        right = ts[1]
        if ts[0] is not None:
            da = _triangle(ts[0], p["lower"], strict=p["unit_diagonal"])
            da = _transposed(da) if p["transpose_a"] else da
            da = lax.conj(da) if p["conjugate_a"] else da
            moved = lax.neg(_matmul(da, x) if p["left_side"] else _matmul(x, da))
            right = add(right, moved)
        return bind(eqn, [a, right])

    return [x], linear, (True,)


@transposes("triangular_solve")
def transpose_triangular_solve(eqn: Any, cts: Sequence[Any], a: Any, b: Unknown) -> Any:
    """A solve with the transposed matrix."""
    p = dict(eqn.params, transpose_a=not eqn.params["transpose_a"])
    return [None, lax.linalg.triangular_solve(a, cts[0], **p)]


@linearizes("eigh")
def eigh(eqn: Any, active: Sequence[bool], a: Any) -> Any:
    """dw = diag(V^H dA V), dV = V (F o V^H dA V) with F_ij = 1 / (w_j - w_i) off the diagonal and 0 on it.

    A matrix that is not symmetric is made so first, as JAX does when it differentiates.

    Source: Giles (2008), "An extended collection of matrix derivative results", section 3.1.
    """
    subset = eqn.params.get("subset_by_index")
    if subset is not None and tuple(subset) != (0, a.shape[-1]):
        return DECLINED
    conjugate = lax.conj(_transposed(a)) if np.issubdtype(a.dtype, np.complexfloating) else _transposed(a)
    v, w = bind(eqn, [lax.mul(lax.add(a, conjugate), np.asarray(0.5, a.dtype))])
    row, col = (lax.broadcasted_iota(np.int32, a.shape, a.ndim - k) for k in (2, 1))
    diagonal = lax.eq(row, col)
    lead = tuple(range(w.ndim - 1))
    gap = lax.sub(lax.broadcast_in_dim(w, a.shape, (*lead, w.ndim)), lax.broadcast_in_dim(w, a.shape, (*lead, w.ndim - 1)))
    gaps = lax.select(diagonal, lax.full_like(gap, np.inf), gap)
    inverse = lax.convert_element_type(lax.div(lax.full_like(gaps, 1), gaps), v.dtype)
    adjoint = lax.conj(_transposed(v)) if np.issubdtype(v.dtype, np.complexfloating) else _transposed(v)

    def linear(ts: Sequence[Any]) -> list[Any]:
        turned = _matmul(_matmul(adjoint, ts[0]), v)
        on_diagonal = lax.reduce_sum(lax.select(diagonal, turned, lax.full_like(turned, 0)), (a.ndim - 1,))
        dw = lax.real(on_diagonal) if np.issubdtype(v.dtype, np.complexfloating) else on_diagonal
        return [_matmul(v, lax.mul(turned, inverse)), dw]

    return [v, w], linear, (True, True)
