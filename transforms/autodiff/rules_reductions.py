"""Reductions that depend on the values, and sorting."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import lax

from ..jax_compat import bind
from .linear_op import linearize_function
from .registry import DECLINED, linearizes


def repeated(reduced: Any, like: Any, axes: Sequence[int]) -> Any:
    """A reduced array broadcast back along the axes that it lost."""
    return lax.broadcast_in_dim(reduced, like.shape, tuple(i for i in range(like.ndim) if i not in axes))


@linearizes("reduce_max", "reduce_min")
def reduce_extremum(eqn: Any, active: Sequence[bool], x: Any) -> Any:
    """The mean of the tangents at the places where the extremum is attained."""
    (out,) = bind(eqn, [x])
    if jax.dtypes.issubdtype(x.dtype, np.complexfloating):
        return DECLINED
    axes = tuple(eqn.params["axes"])
    attained = lax.convert_element_type(lax.eq(x, repeated(out, x, axes)), x.dtype)
    count = lax.reduce_sum(attained, axes)
    return [out], lambda ts: [lax.div(lax.reduce_sum(lax.mul(ts[0], attained), axes), count)], (True,)


@linearizes("reduce_prod")
def reduce_product(eqn: Any, active: Sequence[bool], x: Any) -> Any:
    """d prod x = sum_i (prod_{j != i} x_j) dx_i; the products are taken from both ends, so that zeros need no care."""
    axes = tuple(eqn.params["axes"])
    kept = tuple(i for i in range(x.ndim) if i not in axes)
    order = (*kept, *axes)
    lined = lax.reshape(lax.transpose(x, order), (*(x.shape[i] for i in kept), int(np.prod([x.shape[i] for i in axes], dtype=int))))
    last = lined.ndim - 1
    if lined.shape[last] == 0:
        return bind(eqn, [x]), lambda ts: [None], (False,)
    one = np.ones((), x.dtype)
    before = _shifted_products(lined, one, last, reverse=False)
    after = _shifted_products(lined, one, last, reverse=True)
    others = lax.transpose(lax.reshape(lax.mul(before, after), tuple(x.shape[i] for i in order)), tuple(np.argsort(order)))
    return bind(eqn, [x]), lambda ts: [lax.reduce_sum(lax.mul(ts[0], others), axes)], (True,)


def _shifted_products(x: Any, one: Any, axis: int, reverse: bool) -> Any:
    """The product of all entries before (or, reversed, after) each one, by log2(n) multiplications of whole arrays."""
    config = [(0, 0, 0)] * x.ndim
    n = x.shape[axis]

    def shifted(v: Any, by: int) -> Any:
        config[axis] = (-by, by, 0) if reverse else (by, -by, 0)
        return lax.pad(v, one, config)

    out, by = shifted(x, 1), 1
    while by < n:
        out, by = lax.mul(out, shifted(out, by)), 2 * by
    return out


@linearizes("cumprod")
def cumulative_product(eqn: Any, active: Sequence[bool], x: Any) -> Any:
    """The derivative of the same products taken by log2(n) multiplications of whole arrays, so that zeros need no care."""
    axis, reverse = eqn.params["axis"], eqn.params["reverse"]

    def doubled(v: Any) -> list[Any]:
        config, by = [(0, 0, 0)] * v.ndim, 1
        while by < v.shape[axis]:
            config[axis] = (-by, by, 0) if reverse else (by, -by, 0)
            v, by = lax.mul(v, lax.pad(v, np.ones((), v.dtype), config)), 2 * by
        return [v]

    _, linear, out_active = linearize_function(doubled, [x], [True])
    return bind(eqn, [x]), linear, out_active


@linearizes("sort")
def sort(eqn: Any, active: Sequence[bool], *operands: Any) -> Any:
    """The tangents permuted as the values were."""
    axis = eqn.params["dimension"]
    place = lax.broadcasted_iota(np.int32, operands[0].shape, axis)
    *outs, order = lax.sort((*operands, place), dimension=axis, is_stable=eqn.params["is_stable"], num_keys=eqn.params["num_keys"])
    shape = order.shape
    grid = [lax.broadcasted_iota(np.int32, shape, i) if i != axis else order for i in range(len(shape))]
    index = lax.concatenate([lax.reshape(g, (*shape, 1)) for g in grid], len(shape))
    numbers = lax.GatherDimensionNumbers(
        offset_dims=(), collapsed_slice_dims=tuple(range(len(shape))), start_index_map=tuple(range(len(shape)))
    )

    def linear(ts: Sequence[Any]) -> list[Any]:
        def permuted(t: Any) -> Any:
            return lax.gather(t, index, numbers, (1,) * len(shape), mode="promise_in_bounds", unique_indices=True)

        return [None if t is None else permuted(t) for t in ts]

    return outs, linear, tuple(active)
