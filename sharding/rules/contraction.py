"""Contractions: products of matrices and convolutions. A dimension that is summed over is a factor whose shards give partial sums."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ...transforms.jax_compat import JaxprEqn
from ..factors import Factor, Local, Rule
from .build import along, apply, elements, group, operand_shapes, result_shapes

__all__ = ["CONTRACTION_RULES"]


def _dot_factors(eqn: JaxprEqn) -> Sequence[Factor]:
    (left, right), ((left_sum, right_sum), (left_batch, right_batch)) = operand_shapes(eqn)[:2], eqn.params["dimension_numbers"]

    def factors() -> Iterator[Factor]:
        out = 0
        for out, (i, j) in enumerate(zip(left_batch, right_batch, strict=True)):
            yield along(eqn, {0: i, 1: j}, {0: out}, left[i])
        out = len(left_batch)
        for operand, shape, taken in ((0, left, (*left_sum, *left_batch)), (1, right, (*right_sum, *right_batch))):
            for dim in (dim for dim in range(len(shape)) if dim not in taken):
                yield along(eqn, {operand: dim}, {0: out}, shape[dim])
                out += 1
        for i, j in zip(left_sum, right_sum, strict=True):
            yield along(eqn, {0: i, 1: j}, {}, left[i], combine="sum", padding="neutral")

    return group(factors())


def _dot_flops(eqn: JaxprEqn, operands: Sequence[Any], results: Sequence[Any]) -> float:
    return 2.0 * elements(results[0]) * math.prod(operands[0][dim] for dim in eqn.params["dimension_numbers"][0][0])


def _untouched_space(eqn: JaxprEqn) -> Iterator[tuple[int, int, int]]:
    """(lhs, rhs, result) dimension of the spatial dimensions that the window does not reach across."""
    p = eqn.params
    kernel, numbers = operand_shapes(eqn)[1], p["dimension_numbers"]
    spaces = zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:], strict=True)
    for (i, k, o), stride, padding, dilation in zip(spaces, p["window_strides"], p["padding"], p["lhs_dilation"], strict=True):
        if kernel[k] == 1 and stride == 1 and tuple(padding) == (0, 0) and dilation == 1:
            yield i, k, o


def _conv_factors(eqn: JaxprEqn) -> Sequence[Factor]:
    (image, kernel), numbers = operand_shapes(eqn), eqn.params["dimension_numbers"]
    lhs, rhs, out = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
    one_batch, one_group = eqn.params["batch_group_count"] == 1, eqn.params["feature_group_count"] == 1
    factors = [along(eqn, {0: i}, {0: o}, image[i]) for i, _, o in _untouched_space(eqn)]
    if one_batch:
        factors.append(along(eqn, {0: lhs[0]}, {0: out[0]}, image[lhs[0]]))
    if one_batch != one_group:  # several groups of channels, each with its own part of the kernel
        groups = max(eqn.params["batch_group_count"], eqn.params["feature_group_count"])
        grouped = lhs[1] if one_batch else lhs[0]
        factors.append(along(eqn, {0: grouped, 1: rhs[0]}, {0: out[1]}, groups, padding="never"))
    if one_batch and one_group:
        factors.append(along(eqn, {1: rhs[0]}, {0: out[1]}, kernel[rhs[0]]))
        factors.append(along(eqn, {0: lhs[1], 1: rhs[1]}, {}, image[lhs[1]], combine="sum", padding="neutral"))
    return group(factors)


def _run_conv(eqn: JaxprEqn, operands: Sequence[Any], local: Local) -> Sequence[Any]:
    """Where groups are split each shard has fewer of them."""
    p = eqn.params
    for factor, axes in local.shards:
        if factor.operands[1] == p["dimension_numbers"].rhs_spec[0] and factor.operands[0] is not None:
            counted = "feature_group_count" if p["batch_group_count"] == 1 else "batch_group_count"
            return apply(eqn, operands, **{counted: p[counted] // local.count(axes)})
    return apply(eqn, operands)


def _conv_flops(eqn: JaxprEqn, operands: Sequence[Any], results: Sequence[Any]) -> float:
    """Two per product of an element of the image and one of the kernel; what would meet padding or holes is not counted, as XLA does."""
    p, numbers = eqn.params, eqn.params["dimension_numbers"]
    flops = 2.0 * results[0][numbers.out_spec[0]] * results[0][numbers.out_spec[1]] * operands[1][numbers.rhs_spec[1]]
    for n, (i, k, o) in enumerate(zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:], strict=True)):
        starts = np.arange(results[0][o]) * p["window_strides"][n] - p["padding"][n][0]
        places = starts[:, None] + np.arange(operands[1][k]) * p["rhs_dilation"][n]
        holes = p["lhs_dilation"][n]
        flops *= int(((places >= 0) & (places <= (operands[0][i] - 1) * holes) & (places % holes == 0)).sum())
    return flops / p["batch_group_count"]


def _ragged_factors(eqn: JaxprEqn) -> Sequence[Factor]:
    """Of a product whose rows come in groups: the columns of the right operand, and what is summed over, if the groups are rows."""
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    (left_sum, right_sum), (left_batch, _) = numbers.dot_dimension_numbers
    left, right = operand_shapes(eqn)[:2]
    if left_batch or set(numbers.lhs_ragged_dimensions) & set(left_sum):
        return ()
    free = [dim for dim in range(len(right)) if dim not in (*right_sum, *numbers.rhs_group_dimensions)]
    rank = len(result_shapes(eqn)[0])
    columns = [along(eqn, {1: dim}, {0: rank - len(free) + n}, right[dim]) for n, dim in enumerate(free)]
    sums = [
        along(eqn, {0: i, 1: j}, {}, left[i], combine="sum", padding="neutral") for i, j in zip(left_sum, right_sum, strict=True)
    ]  # fmt: skip
    return group([*columns, *sums])


def _ragged_flops(eqn: JaxprEqn, operands: Sequence[Any], results: Sequence[Any]) -> float:
    (left_sum, _), _ = eqn.params["ragged_dot_dimension_numbers"].dot_dimension_numbers
    return 2.0 * elements(results[0]) * math.prod(operands[0][dim] for dim in left_sum)


CONTRACTION_RULES: dict[str, Rule] = {
    "dot_general": Rule(_dot_factors, flops=_dot_flops),
    "conv_general_dilated": Rule(_conv_factors, _run_conv, _conv_flops),
    "ragged_dot_general": Rule(_ragged_factors, flops=_ragged_flops),
}
