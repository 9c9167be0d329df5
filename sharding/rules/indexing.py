"""Gathers: an array read at places that are known only as the program runs.

A dimension that is read whole, a batch dimension, and each dimension of the indices are ordinary factors. So is, in two weak ways, a
dimension that is read one element at a time, though no shard has all of it:

    masked    every shard reads what it has and puts zeros for the rest; the sum over the shards is the whole;
    aligned   operand, indices and result are split alike, and each shard's indices fall within its own part of the operand. Only what is
              known of the indices' values can say so.

Both subtract the shard's first index. What an index means that is outside of the array stays as the equation has it.
"""

from collections.abc import Iterator, Sequence
from math import gcd
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.lax import GatherScatterMode

from ...transforms.jax_compat import JaxprEqn
from ..factors import Factor, Local, Rule
from .build import along, apply, group, no_flops, operand_shapes, result_shapes, types

__all__ = ["GATHER_RULES", "Part", "clamped", "dropped", "in_range", "indexed_parts", "promises", "shifted", "wide"]


class Part(NamedTuple):
    """The part of an indexed dimension that a shard has.

    Attributes:
        column: which component of an index runs along the dimension.
        first: its first index, an integer scalar.
        size: how many it has, padding included.
        shard: the number of the shard, an integer scalar.
    """

    column: int
    first: Any
    size: int
    shard: Any


def wide(indices: Any) -> Any:
    """Signed integers of at least 32 bits, so that the first index of a shard can be subtracted."""
    indices = jnp.asarray(indices)
    dtype = indices.dtype
    if jnp.issubdtype(dtype, jnp.unsignedinteger) and dtype.itemsize >= 4:
        indices = jnp.minimum(indices, np.asarray(np.iinfo(np.int32).max, dtype))
    return indices if dtype in (jnp.int32, jnp.int64) else indices.astype(jnp.int32)


def indexed_parts(local: Local, hows: Sequence[str], columns: Sequence[int], shape: Sequence[int]) -> list[Part]:
    """The indexed dimensions that are split, from the shape of the operand's part; an index runs along the dimensions `columns`."""
    split = [(factor.operands[0], local.index(axes)) for factor, axes in local.shards if factor.how in hows]
    return [Part(columns.index(dim), shard * shape[dim], shape[dim], shard) for dim, shard in split if dim is not None]


def promises(eqn: JaxprEqn, indices: Any, local: Local) -> dict[str, bool]:
    """Parameters to change where indices were padded: what stands in the padding is not sorted, and repeats some index."""
    counts = [(factor.operands[1], local.count(axes)) for factor, axes in local.shards]
    whole = operand_shapes(eqn)[1]
    padded = any(dim is not None and indices.shape[dim] * count != whole[dim] for dim, count in counts)
    return {"indices_are_sorted": False, "unique_indices": False} if padded else {}


def in_range(indices: Any, last: Sequence[int]) -> Any:
    """Whether all components of each index are between 0 and `last`."""
    return jnp.all((indices >= 0) & (indices <= _row(last, indices)), axis=-1)


def clamped(indices: Any, last: Sequence[int]) -> Any:
    return jnp.clip(indices, 0, _row(last, indices))


def shifted(indices: Any, parts: Sequence[Part]) -> tuple[Any, Any]:
    """The indices as the shard counts them, and whether each falls within it."""
    here = jnp.ones(indices.shape[:-1], bool)
    for part in parts:
        indices = indices - jnp.where(_only(part, indices), jnp.asarray(part.first, indices.dtype), 0)
        column = indices[..., part.column]
        here = here & (column >= 0) & (column < part.size)
    return indices, here


def dropped(indices: Any, kept: Any, parts: Sequence[Part]) -> Any:
    """The indices with those that are not `kept` behind the end of the shard, where a scatter drops them."""
    for part in parts:
        indices = jnp.where(_only(part, indices) & ~kept[..., None], np.asarray(part.size, indices.dtype), indices)
    return indices


def _row(values: Sequence[int], indices: Any) -> np.ndarray:
    """One number for each component of an index, of the indices' rank and type."""
    return np.asarray(values, indices.dtype).reshape((1,) * (indices.ndim - 1) + (-1,))


def _only(part: Part, indices: Any) -> np.ndarray:
    return _row(range(indices.shape[-1]), indices) == part.column


def _gather_factors(eqn: JaxprEqn) -> Sequence[Factor]:
    (shape, places), out, numbers = operand_shapes(eqn), result_shapes(eqn)[0], eqn.params["dimension_numbers"]
    sizes = eqn.params["slice_sizes"]
    batching = dict(zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True))
    window = [dim for dim in range(len(shape)) if dim not in numbers.collapsed_slice_dims and dim not in batching]
    out_of_window = dict(zip(window, numbers.offset_dims, strict=True))
    of_index = dict(enumerate(o for o in range(len(out)) if o not in numbers.offset_dims))
    single = [dim for dim in numbers.start_index_map if sizes[dim] == 1 and shape[dim] > 1]
    free = [i for i in of_index if i not in batching.values()]
    dtype = types(eqn.invars)[0].dtype
    combine = "or" if dtype == np.bool_ else "sum"
    summable = dtype == np.bool_ or jnp.issubdtype(dtype, jnp.number)  # keys are not

    def factors() -> Iterator[Factor]:
        for dim, o in out_of_window.items():
            if sizes[dim] == shape[dim]:
                yield along(eqn, {0: dim}, {0: o}, shape[dim])
        for dim, i in batching.items():
            yield along(eqn, {0: dim, 1: i}, {0: of_index[i]}, shape[dim])
        for i in free:
            yield along(eqn, {1: i}, {0: of_index[i]}, places[i])
        for dim in single if summable else ():
            yield along(eqn, {0: dim}, {}, shape[dim], combine=combine, how="masked", weak=True)
            for i in free:
                size = gcd(shape[dim], places[i])
                yield along(eqn, {0: dim, 1: i}, {0: of_index[i]}, size, padding="never", how="aligned", weak=True)

    return group(factors())


def _fill_value(eqn: JaxprEqn) -> Any:
    """What stands where an index is out of range, JAX's defaults included."""
    dtype, value = types(eqn.invars)[0].dtype, eqn.params["fill_value"]
    if value is not None:
        return np.asarray(value, dtype)
    if dtype == np.bool_:
        return np.asarray(True)
    if jnp.issubdtype(dtype, jnp.inexact):
        return jnp.asarray(jnp.nan, dtype)
    return np.asarray(jnp.iinfo(dtype).min if jnp.issubdtype(dtype, jnp.signedinteger) else jnp.iinfo(dtype).max, dtype)


def _run_gather(eqn: JaxprEqn, operands: Sequence[Any], local: Local) -> list[Any]:
    operand, indices = operands
    numbers, shape = eqn.params["dimension_numbers"], operand_shapes(eqn)[0]
    split = {factor.operands[0] for factor, _ in local.shards if factor.how == ""}
    sizes = tuple(
        operand.shape[dim] if dim in split and dim not in numbers.operand_batching_dims else size
        for dim, size in enumerate(eqn.params["slice_sizes"])
    )
    columns = list(numbers.start_index_map)
    masked, aligned = (indexed_parts(local, [how], columns, operand.shape) for how in ("masked", "aligned"))
    if not masked and not aligned:
        return apply(eqn, operands, slice_sizes=sizes, **promises(eqn, indices, local))
    indices, last = wide(indices), [shape[dim] - eqn.params["slice_sizes"][dim] for dim in columns]
    filling = eqn.params["mode"] == GatherScatterMode.FILL_OR_DROP
    valid = in_range(indices, last)
    own, here = shifted(clamped(indices, last), [*masked, *aligned])
    # Every index is in range here, whatever the mode was; what belongs to another shard is overwritten below.
    (taken,) = apply(eqn, (operand, own), slice_sizes=sizes, mode=GatherScatterMode.CLIP, fill_value=None, indices_are_sorted=False)
    spread = [o for o in range(taken.ndim) if o not in numbers.offset_dims]

    def over(mask: Any) -> Any:
        return lax.broadcast_in_dim(mask, taken.shape, spread)

    if masked:
        taken = jnp.where(over(here), taken, jnp.zeros_like(taken))
    if filling:
        first = jnp.asarray(True)
        for part in masked:
            first = first & (part.shard == 0)
        taken = jnp.where(over(valid), taken, jnp.where(first, _fill_value(eqn), np.zeros((), taken.dtype)))
    return [taken]


GATHER_RULES: dict[str, Rule] = {"gather": Rule(_gather_factors, _run_gather, no_flops)}
