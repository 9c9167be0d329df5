"""Reductions, running reductions, sorts and windows: what works along one dimension and leaves the others alone.

A sum, maximum, minimum, "all" and "any" over a split dimension are made of the shards' own; a product, an argmax, a sort or a running sum
is not, and its dimension is no factor.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ...transforms.jax_compat import JaxprEqn
from ..factors import Factor, Rule
from .build import along, each_shape, elements, group, operand_shapes, types

__all__ = ["REDUCTION_RULES"]

_COMBINES = {"reduce_sum": "sum", "reduce_max": "max", "reduce_min": "min", "reduce_and": "and", "reduce_or": "or"}
_OF_TRUTHS = {"max": "or", "min": "and", "and": "and", "or": "or"}


def _combine(eqn: JaxprEqn) -> str | None:
    """How the shards' results make the whole; None if they do not."""
    combine, dtype = _COMBINES.get(eqn.primitive.name), types(eqn.invars)[0].dtype
    if dtype == np.bool_:
        return _OF_TRUTHS.get(combine or "")
    real = not jnp.issubdtype(dtype, jnp.complexfloating)
    return combine if combine == "sum" or (combine in ("max", "min") and real) else None


def _reduce_factors(eqn: JaxprEqn) -> Sequence[Factor]:
    reduced = eqn.params["axes"] if "axes" in eqn.params else eqn.params["dimensions"]
    shape, combine = operand_shapes(eqn)[0], _combine(eqn)
    arrays = [n for n, other in enumerate(operand_shapes(eqn)) if other == shape] if shape else []
    results = range(len(eqn.outvars))
    kept = [dim for dim in range(len(shape)) if dim not in reduced]
    factors = [along(eqn, dict.fromkeys(arrays, dim), dict.fromkeys(results, out), shape[dim]) for out, dim in enumerate(kept)]
    if combine is not None:
        factors += [along(eqn, {0: dim}, {}, shape[dim], combine=combine, padding="neutral") for dim in reduced]
    return group(factors)


def _reduce_flops(eqn: JaxprEqn, operands: Sequence[Any], results: Sequence[Any]) -> float:
    return float(elements(operands[0]) - elements(results[0]))


def _along_one(parameter: str) -> Any:
    return lambda eqn: group(each_shape(eqn, {eqn.params[parameter] % len(operand_shapes(eqn)[0])}))


def _top_factors(eqn: JaxprEqn) -> Sequence[Factor]:
    rank = len(operand_shapes(eqn)[0])
    axis = eqn.params.get("axis", eqn.params.get("reduction_dimension", -1))
    return group(each_shape(eqn, {axis % rank}))


def _sort_flops(eqn: JaxprEqn, operands: Sequence[Any], results: Sequence[Any]) -> float:
    """n log2 n comparisons, with XLA's n: that of all elements."""
    n = elements(operands[0])
    return float(n * math.log2(n)) if n > 1 else 0.0


def _window_factors(eqn: JaxprEqn) -> Sequence[Factor]:
    """The dimensions across which the window does not reach, of arrays that all have the window's rank."""
    p = eqn.params
    window, rank = p["window_dimensions"], len(p["window_dimensions"])
    one = (1,) * rank
    apart = [
        dim
        for dim in range(rank)
        if window[dim] == 1
        and p["window_strides"][dim] == 1
        and tuple(p["padding"][dim]) == (0, 0)
        and p.get("base_dilation", one)[dim] == 1
    ]
    arrays = [n for n, shape in enumerate(operand_shapes(eqn)) if len(shape) == rank and rank]
    results = range(len(eqn.outvars))
    shape = operand_shapes(eqn)[0]
    return group(along(eqn, dict.fromkeys(arrays, dim), dict.fromkeys(results, dim), shape[dim]) for dim in apart)


def _window_flops(eqn: JaxprEqn, operands: Sequence[Any], results: Sequence[Any]) -> float:
    return float(elements(results[0]) * (math.prod(eqn.params["window_dimensions"]) - 1))


def _source_flops(eqn: JaxprEqn, operands: Sequence[Any], results: Sequence[Any]) -> float:
    """Each window of the operand is searched once, and its source is added once."""
    return float(elements(operands[0]) * math.prod(eqn.params["window_dimensions"]))


def _operand_flops(eqn: JaxprEqn, operands: Sequence[Any], results: Sequence[Any]) -> float:
    return float(elements(operands[0]))


def _stack_of(names: str, rule: Rule) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


REDUCTION_RULES: dict[str, Rule] = {
    **_stack_of("reduce_max reduce_min reduce_and reduce_or reduce_prod reduce_xor reduce", Rule(_reduce_factors, flops=_reduce_flops)),
    "reduce_sum": Rule(_reduce_factors, flops=_reduce_flops, linear=(0,)),
    **_stack_of("argmax argmin", Rule(_reduce_factors, flops=_operand_flops)),
    **_stack_of("cumsum cumprod cummax cummin cumlogsumexp", Rule(_along_one("axis"), flops=_operand_flops)),
    "sort": Rule(_along_one("dimension"), flops=_sort_flops),
    **_stack_of("top_k approx_top_k", Rule(_top_factors, flops=_sort_flops)),
    **_stack_of("reduce_window reduce_window_sum reduce_window_max reduce_window_min", Rule(_window_factors, flops=_window_flops)),
    **_stack_of("select_and_scatter_add select_and_gather_add select_and_scatter", Rule(_window_factors, flops=_source_flops)),
}
