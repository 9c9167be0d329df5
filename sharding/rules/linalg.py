"""Decompositions, solves and transforms: only what they do many times over, side by side, can be split.

These are the leading dimensions, and the columns of a right-hand side. Flops are textbook counts.

Source: Golub & Van Loan (2013), "Matrix Computations", 4th edition: Cholesky 4.2.5, LU 3.4.1, triangular systems 3.1.2, QR 5.2.1, symmetric
eigenvalues 8.3.5 (9 n**3 with vectors, 4/3 n**3 without), SVD 8.6.3 (4 m**2 n + 22 n**3), Schur 7.5.6 (25 n**3, 10 n**3).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from ...transforms.jax_compat import JaxprEqn
from ..factors import Factor, Rule
from .build import along, elements, group, leading, no_flops, operand_shapes

__all__ = ["LINALG_RULES"]

Shape = tuple[int, ...]


def _batch(core: int) -> Callable[[JaxprEqn], Sequence[Factor]]:
    """The dimensions in front of the last `core` ones of the first operand."""
    return lambda eqn: leading(eqn, len(operand_shapes(eqn)[0]) - core)


def _triangular_factors(eqn: JaxprEqn) -> Sequence[Factor]:
    side = operand_shapes(eqn)[1]
    column = len(side) - (1 if eqn.params["left_side"] else 2)
    return group([*_batch(2)(eqn), along(eqn, {1: column}, {0: column}, side[column])])


def _tridiagonal_factors(eqn: JaxprEqn) -> Sequence[Factor]:
    side = operand_shapes(eqn)[3]
    return group([*_batch(1)(eqn), along(eqn, {3: len(side) - 1}, {0: len(side) - 1}, side[-1])])


def _transform_factors(eqn: JaxprEqn) -> Sequence[Factor]:
    return _batch(len(eqn.params["fft_lengths"]))(eqn)


def _transform_flops(eqn: JaxprEqn, operands: Sequence[Shape], results: Sequence[Shape]) -> float:
    """5 n log2 n for each transform of n complex numbers, half of it where one side is real."""
    lengths = eqn.params["fft_lengths"]
    n = math.prod(lengths)
    times = elements(results[0][: len(results[0]) - len(lengths)])
    real = "R" in str(getattr(eqn.params["fft_type"], "name", eqn.params["fft_type"])).upper().replace("FFT", "")
    return 5.0 * times * n * math.log2(max(n, 2)) * (0.5 if real else 1.0)


def _of_matrix(count: Callable[[int, int], float]) -> Any:
    """Flops from (rows, columns) of each matrix of the first operand."""
    return lambda eqn, operands, results: float(elements(operands[0][:-2]) * count(*operands[0][-2:]))


def _tall(count: Callable[[int, int], float]) -> Any:
    """The same for the taller of a matrix and its transpose."""
    return _of_matrix(lambda m, n: count(max(m, n), min(m, n)))


def _triangular_flops(eqn: JaxprEqn, operands: Sequence[Shape], results: Sequence[Shape]) -> float:
    return float(elements(operands[1]) * operands[0][-1])


def _tridiagonal_flops(eqn: JaxprEqn, operands: Sequence[Shape], results: Sequence[Shape]) -> float:
    return 8.0 * elements(results[0])


def _eigh_flops(eqn: JaxprEqn, operands: Sequence[Shape], results: Sequence[Shape]) -> float:
    return elements(operands[0]) * operands[0][-1] * 9.0


def _svd_flops(eqn: JaxprEqn, operands: Sequence[Shape], results: Sequence[Shape]) -> float:
    with_vectors = eqn.params.get("compute_uv", True)
    return _tall(lambda m, n: 4 * m * m * n + 22 * n**3 if with_vectors else 4 * m * n * n - 4 * n**3 / 3)(eqn, operands, results)


LINALG_RULES: dict[str, Rule] = {
    "cholesky": Rule(_batch(2), flops=_of_matrix(lambda n, _: n**3 / 3)),
    "cholesky_update": Rule(_batch(2), flops=_of_matrix(lambda n, _: 2 * n**2)),
    "eig": Rule(_batch(2), flops=_of_matrix(lambda n, _: 25 * n**3)),
    "eigh": Rule(_batch(2), flops=_eigh_flops),
    "fft": Rule(_transform_factors, flops=_transform_flops),
    "geqrf": Rule(_batch(2), flops=_tall(lambda m, n: 2 * n * n * (m - n / 3))),
    "hessenberg": Rule(_batch(2), flops=_of_matrix(lambda n, _: 10 * n**3 / 3)),
    "householder_product": Rule(_batch(2), flops=_tall(lambda m, n: 2 * n * n * (m - n / 3))),
    "lu": Rule(_batch(2), flops=_tall(lambda m, n: n * n * (m - n / 3))),
    "lu_pivots_to_permutation": Rule(_batch(1), flops=no_flops),
    "ormqr": Rule(_batch(2), flops=_tall(lambda m, n: 4 * m * m * n)),
    "qr": Rule(_batch(2), flops=_tall(lambda m, n: 4 * n * n * (m - n / 3))),
    "schur": Rule(_batch(2), flops=_of_matrix(lambda n, _: 25 * n**3)),
    "svd": Rule(_batch(2), flops=_svd_flops),
    "symmetric_product": Rule(_batch(2), flops=_of_matrix(lambda n, k: n * n * k)),
    "triangular_solve": Rule(_triangular_factors, flops=_triangular_flops),
    "tridiagonal": Rule(_batch(2), flops=_of_matrix(lambda n, _: 4 * n**3 / 3)),
    "tridiagonal_solve": Rule(_tridiagonal_factors, flops=_tridiagonal_flops),
}
