"""Scatters: an array changed at places that are known only as the program runs.

A dimension that is written whole and a batch dimension are ordinary factors. Where the shards have different updates, each applies its own
and the whole is their sum (their maximum, minimum); the operand then counts once only. A dimension that is written one element at a time is
split in two weak ways: `shifted`, every shard sees all updates and drops those that fall outside of its part, and `aligned`, each shard's
updates fall within its part by construction (as for a gather).
"""

from collections.abc import Iterator, Sequence
from math import gcd
from typing import Any

import jax.numpy as jnp
from jax.lax import GatherScatterMode

from ...transforms.jax_compat import JaxprEqn
from ..factors import Factor, Local, Rule
from .build import along, apply, elements, group, no_flops, operand_shapes, types
from .indexing import clamped, dropped, in_range, indexed_parts, promises, shifted, wide

__all__ = ["SCATTER_RULES"]

_COMBINES = {"scatter-add": "sum", "scatter-sub": "sum", "scatter-max": "max", "scatter-min": "min"}


def _combine(eqn: JaxprEqn) -> str | None:
    dtype = types(eqn.invars)[0].dtype
    numeric = jnp.issubdtype(dtype, jnp.number)
    combine = _COMBINES.get(eqn.primitive.name) if numeric else None
    return None if combine in ("max", "min") and jnp.issubdtype(dtype, jnp.complexfloating) else combine


def _window(eqn: JaxprEqn) -> dict[int, int]:
    """Operand dimension -> update dimension, of the window."""
    numbers = eqn.params["dimension_numbers"]
    taken = {*numbers.inserted_window_dims, *numbers.operand_batching_dims}
    free = (dim for dim in range(len(operand_shapes(eqn)[0])) if dim not in taken)
    return dict(zip(free, numbers.update_window_dims, strict=True))


def _scatter_factors(eqn: JaxprEqn) -> Sequence[Factor]:
    (shape, places, update), numbers = operand_shapes(eqn), eqn.params["dimension_numbers"]
    batching = dict(zip(numbers.operand_batching_dims, numbers.scatter_indices_batching_dims, strict=True))
    of_index = dict(enumerate(u for u in range(len(update)) if u not in numbers.update_window_dims))
    free = [i for i in of_index if i not in batching.values()]
    window, combine = _window(eqn), _combine(eqn)
    single = [
        dim for dim in numbers.scatter_dims_to_operand_dims if dim in numbers.inserted_window_dims or update[window[dim]] == 1 != shape[dim]
    ]  # fmt: skip

    def factors() -> Iterator[Factor]:
        for dim, u in window.items():
            if update[u] == shape[dim]:
                yield along(eqn, {0: dim, 2: u}, {0: dim}, shape[dim])
        for dim, i in batching.items():
            yield along(eqn, {0: dim, 1: i, 2: of_index[i]}, {0: dim}, shape[dim])
        for i in free if combine is not None else ():
            yield along(eqn, {1: i, 2: of_index[i]}, {}, places[i], combine=combine, padding="neutral")
        for dim in single:
            yield along(eqn, {0: dim}, {0: dim}, shape[dim], how="shifted", weak=True)
            for i in free:
                size = gcd(shape[dim], places[i])
                yield along(eqn, {0: dim, 1: i, 2: of_index[i]}, {0: dim}, size, padding="never", how="aligned", weak=True)

    return group(factors())


def _run_scatter(eqn: JaxprEqn, operands: Sequence[Any], local: Local) -> list[Any]:
    operand, indices, updates = operands
    for axes in (axes for factor, axes in local.shards if factor.combine == "sum"):
        operand = jnp.where(local.index(axes) == 0, operand, jnp.zeros_like(operand))
    columns = list(eqn.params["dimension_numbers"].scatter_dims_to_operand_dims)
    parts = indexed_parts(local, ["shifted", "aligned"], columns, operand.shape)
    if not parts:
        return apply(eqn, (operand, indices, updates), **promises(eqn, indices, local))
    shape, update, window = operand_shapes(eqn)[0], operand_shapes(eqn)[2], _window(eqn)
    last = [shape[dim] - (update[window[dim]] if dim in window else 1) for dim in columns]
    indices = wide(indices)
    clipping = eqn.params["mode"] == GatherScatterMode.CLIP
    valid = in_range(indices, last) | clipping
    own, here = shifted(clamped(indices, last) if clipping else indices, parts)
    own = dropped(own, here & valid, parts)  # a negative index would be dropped too, but one within the padding would not
    changed = {"mode": GatherScatterMode.FILL_OR_DROP, "indices_are_sorted": False, "unique_indices": False}
    return apply(eqn, (operand, own, updates), **changed)


def _scatter_flops(eqn: JaxprEqn, operands: Sequence[Any], results: Sequence[Any]) -> float:
    return float(elements(operands[2]))


SCATTER_RULES: dict[str, Rule] = dict.fromkeys((*_COMBINES, "scatter-mul"), Rule(_scatter_factors, _run_scatter, _scatter_flops))
SCATTER_RULES["scatter"] = Rule(_scatter_factors, _run_scatter, no_flops)
