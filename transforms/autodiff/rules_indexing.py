"""Gather and scatter: linear in the array and the updates, not differentiable in the indices.

An index out of range is read and written as XLA does it: a gather reads the nearest element, a scatter leaves its update out. A mode that
promises that no index is out of range says nothing about those that are, and the transpose of either is the other one: it is given the mode
that keeps to the places that were read or written, so that a gradient is that of the value that was computed.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax import lax

from ..jax_compat import bind
from .core import Unknown, fallback_rules, zeros
from .registry import linearizes, transposes
from .transpose import instantiate

FILL, CLIP, PROMISE = lax.GatherScatterMode.FILL_OR_DROP, lax.GatherScatterMode.CLIP, lax.GatherScatterMode.PROMISE_IN_BOUNDS


@linearizes("gather")
def gather(eqn: Any, active: Sequence[bool], x: Any, indices: Any) -> Any:
    """The tangent gathered from the same places; one that does not exist has tangent zero, whatever its value is filled with."""
    p = eqn.params
    fill = 0 if p["mode"] == FILL else p["fill_value"]

    def linear(ts: Sequence[Any]) -> list[Any]:
        return [
            lax.gather(
                ts[0],
                indices,
                p["dimension_numbers"],
                p["slice_sizes"],
                unique_indices=p["unique_indices"],
                indices_are_sorted=p["indices_are_sorted"],
                mode=p["mode"],
                fill_value=fill,
            )
        ]

    return bind(eqn, [x, indices]), linear, (True,)


@transposes("gather")
def transpose_gather(eqn: Any, cts: Sequence[Any], x: Unknown, indices: Any) -> Any:
    """The cotangent added into zeros at the places it was read from."""
    p = eqn.params
    n = p["dimension_numbers"]
    numbers = lax.ScatterDimensionNumbers(
        update_window_dims=n.offset_dims,
        inserted_window_dims=n.collapsed_slice_dims,
        scatter_dims_to_operand_dims=n.start_index_map,
        operand_batching_dims=n.operand_batching_dims,
        scatter_indices_batching_dims=n.start_indices_batching_dims,
    )
    added = lax.scatter_add(
        zeros(x.aval),
        indices,
        cts[0],
        numbers,
        indices_are_sorted=p["indices_are_sorted"],
        unique_indices=p["unique_indices"],
        mode=CLIP if p["mode"] == PROMISE else p["mode"],
    )
    return [added, None]


@linearizes("scatter-add")
def scatter_add(eqn: Any, active: Sequence[bool], x: Any, indices: Any, updates: Any) -> Any:
    """The same equation applied to the tangents of the array and the updates."""

    def linear(ts: Sequence[Any]) -> list[Any]:
        return bind(eqn, [instantiate(ts[0], eqn.invars[0].aval), indices, instantiate(ts[2], eqn.invars[2].aval)])

    return bind(eqn, [x, indices, updates]), linear, (True,)


def _read_back(eqn: Any, array: Any, indices: Any, fill: float) -> jax.Array:
    """What stands in an array at the places that a scatter writes to, shaped like its updates; `fill` for updates that it leaves out."""
    p = eqn.params
    n, shape = p["dimension_numbers"], eqn.invars[2].aval.shape
    window = iter(shape[i] for i in n.update_window_dims)
    absent = {*n.inserted_window_dims, *n.operand_batching_dims}
    numbers = lax.GatherDimensionNumbers(
        offset_dims=n.update_window_dims,
        collapsed_slice_dims=n.inserted_window_dims,
        start_index_map=n.scatter_dims_to_operand_dims,
        operand_batching_dims=n.operand_batching_dims,
        start_indices_batching_dims=n.scatter_indices_batching_dims,
    )
    return lax.gather(
        array,
        indices,
        numbers,
        tuple(1 if i in absent else next(window) for i in range(len(eqn.invars[0].aval.shape))),
        unique_indices=p["unique_indices"],
        indices_are_sorted=p["indices_are_sorted"],
        mode=FILL if p["mode"] == PROMISE else p["mode"],
        fill_value=fill,
    )


@transposes("scatter-add")
def transpose_scatter_add(eqn: Any, cts: Sequence[Any], x: Any, indices: Any, updates: Any) -> Any:
    """The array receives the cotangent, the updates what stands at the places they were added to."""
    inner = _read_back(eqn, cts[0], indices, 0) if isinstance(updates, Unknown) else None
    return [cts[0] if isinstance(x, Unknown) else None, None, inner]


@linearizes("scatter", "scatter-mul")
def scatter(eqn: Any, active: Sequence[bool], *operands: Any) -> Any:
    """JAX's rule (the long tail's), of the equation with a mode that leaves out an update out of range, as a broken promise does."""
    fallback = fallback_rules()
    if fallback is None or eqn.params["mode"] != PROMISE:
        return None, None, None
    return fallback.linearize(eqn.replace(params={**eqn.params, "mode": FILL}), active, *operands)
