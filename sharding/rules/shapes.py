"""Operations that move data and compute nothing: each dimension that is moved whole is a factor.

A reshape is cut into its smallest groups of dimensions of equal product; of each group the leading parts can be split together, as far as
the leading dimensions on both sides allow. A slice, a padding or an update leaves those dimensions free that it does not touch.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from ...transforms.jax_compat import JaxprEqn
from ..factors import Factor, Local, Rule
from .build import NOTHING, along, apply, each_shape, group, no_flops, operand_shapes, result_shapes, to_local_shape

__all__ = ["SHAPE_RULES", "free_of_scalar"]


def _paired(eqn: JaxprEqn, pairs: Mapping[int, int]) -> Sequence[Factor]:
    """Factors from {dimension of the one operand: dimension of every result}."""
    shape, results = operand_shapes(eqn)[0], range(len(eqn.outvars))
    return group(along(eqn, {0: dim}, dict.fromkeys(results, out), shape[dim]) for dim, out in pairs.items())


def _transpose_factors(eqn: JaxprEqn) -> Sequence[Factor]:
    return _paired(eqn, {dim: out for out, dim in enumerate(eqn.params["permutation"])})


def _without(taken: set[int], rank: int) -> dict[int, int]:
    return {dim: out for out, dim in enumerate(dim for dim in range(rank) if dim not in taken)}


def _squeeze_factors(eqn: JaxprEqn) -> Sequence[Factor]:
    return _paired(eqn, _without(set(eqn.params["dimensions"]), len(operand_shapes(eqn)[0])))


def _unstack_factors(eqn: JaxprEqn) -> Sequence[Factor]:
    return _paired(eqn, _without({eqn.params["axis"]}, len(operand_shapes(eqn)[0])))


def _stack_factors(eqn: JaxprEqn) -> Sequence[Factor]:
    shape, axis = operand_shapes(eqn)[0], eqn.params["axis"]
    operands = range(len(eqn.invars))
    return group(along(eqn, dict.fromkeys(operands, dim), {0: dim + (dim >= axis)}, size) for dim, size in enumerate(shape))


def _aligned_groups(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Smallest runs of dimensions, those of size 1 left out, with equal products on both sides."""
    ins, outs = ([dim for dim, size in enumerate(shape) if size != 1] for shape in (before, after))
    while ins and outs:
        left, right = [ins.pop(0)], [outs.pop(0)]
        while (a := math.prod(before[i] for i in left)) != (b := math.prod(after[o] for o in right)):
            (left if a < b else right).append((ins if a < b else outs).pop(0))
        yield left, right


def _reshape_factors(eqn: JaxprEqn) -> Sequence[Factor]:
    before, after = operand_shapes(eqn)[0], result_shapes(eqn)[0]
    if 0 in before or eqn.params.get("dimensions") is not None:
        return ()

    def factor(left: list[int], right: list[int]) -> Factor:
        size = math.gcd(before[left[0]], after[right[0]])
        return along(eqn, {0: left[0]}, {0: right[0]}, size, padding="free" if len(left) == len(right) == 1 else "never")

    return group(factor(left, right) for left, right in _aligned_groups(before, after))


def _broadcast_factors(eqn: JaxprEqn) -> Sequence[Factor]:
    shape, target = operand_shapes(eqn)[0], result_shapes(eqn)[0]
    source = {out: dim for dim, out in enumerate(eqn.params["broadcast_dimensions"]) if shape[dim] == target[out]}
    return group(along(eqn, {0: source[out]} if out in source else {}, {0: out}, size) for out, size in enumerate(target))


def free_of_scalar(eqn: JaxprEqn, rule: Rule) -> Rule:
    """A broadcast of a scalar is made anew, never kept or sent."""
    return rule._replace(free=not operand_shapes(eqn)[0])


def _made_factors(eqn: JaxprEqn) -> Sequence[Factor]:
    return group(along(eqn, {}, {0: dim}, size) for dim, size in enumerate(result_shapes(eqn)[0]))


def _run_iota(eqn: JaxprEqn, operands: Sequence[Any], local: Local) -> list[Any]:
    shape, dim, dtype = tuple(local.results[0]), eqn.params["dimension"], eqn.params["dtype"]
    counted = dtype if jnp.issubdtype(dtype, jnp.integer) else jnp.int32
    (numbers,) = apply(eqn, operands, shape=shape, dtype=jnp.dtype(counted))
    for axes in (axes for factor, axes in local.shards if factor.results[0] == dim):
        first = lax.convert_element_type(local.index(axes), counted) * jnp.asarray(shape[dim], counted)
        numbers = numbers + first
    return [lax.convert_element_type(numbers, dtype)]


def _slice_factors(eqn: JaxprEqn) -> Sequence[Factor]:
    shape, p = operand_shapes(eqn)[0], eqn.params
    strides = p["strides"] or (1,) * len(shape)
    whole = zip(p["start_indices"], p["limit_indices"], strides, shape, strict=True)
    touched = {dim for dim, (start, limit, stride, size) in enumerate(whole) if (start, limit, stride) != (0, size, 1)}
    return group(each_shape(eqn, touched))


def _run_slice(eqn: JaxprEqn, operands: Sequence[Any], local: Local) -> list[Any]:
    """Where the slice takes the whole dimension the limit is the local size."""
    split = {factor.operands[0] for factor, _ in local.shards}
    sizes = operands[0].shape
    limits = tuple(sizes[dim] if dim in split else limit for dim, limit in enumerate(eqn.params["limit_indices"]))
    return apply(eqn, operands, limit_indices=limits)


def _pad_factors(eqn: JaxprEqn) -> Sequence[Factor]:
    return group(each_shape(eqn, {dim for dim, config in enumerate(eqn.params["padding_config"]) if tuple(config) != (0, 0, 0)}))


def _rev_factors(eqn: JaxprEqn) -> Sequence[Factor]:
    return group(each_shape(eqn, eqn.params["dimensions"]))


def _on_axis(parameter: str) -> Any:
    return lambda eqn: group(each_shape(eqn, {eqn.params[parameter]}))


def _tile_factors(eqn: JaxprEqn) -> Sequence[Factor]:
    return group(each_shape(eqn, {dim for dim, times in enumerate(eqn.params["reps"]) if times != 1}))


SHAPE_RULES: dict[str, Rule] = {
    "broadcast_in_dim": Rule(_broadcast_factors, to_local_shape("shape"), no_flops),
    "concatenate": Rule(_on_axis("dimension"), flops=no_flops),
    "empty2": NOTHING,
    "platform_index": NOTHING,
    "empty": Rule(_made_factors, to_local_shape("shape"), no_flops, free=True),
    "iota": Rule(_made_factors, _run_iota, no_flops, free=True),
    "pad": Rule(_pad_factors, flops=no_flops),
    "reshape": Rule(_reshape_factors, to_local_shape("new_sizes"), no_flops, linear=(0,), free=True),
    "rev": Rule(_rev_factors, flops=no_flops, linear=(0,)),
    "slice": Rule(_slice_factors, _run_slice, no_flops, linear=(0,)),
    "split": Rule(_on_axis("axis"), flops=no_flops),
    "squeeze": Rule(_squeeze_factors, flops=no_flops, linear=(0,), free=True),
    "stack": Rule(_stack_factors, flops=no_flops),
    "tile": Rule(_tile_factors, flops=no_flops),
    "transpose": Rule(_transpose_factors, flops=no_flops, linear=(0,)),
    "unstack": Rule(_unstack_factors, flops=no_flops),
}
