"""Slices that begin at a place known only as the program runs.

Dimensions that are taken or written whole are ordinary factors. One of which a single element is taken is split as for a gather (`masked`:
the shard that has it gives it, the others zeros), one of which a single element is written as for a scatter (`shifted`: only the shard that
has it writes). XLA moves a slice that would reach over the end; so do we, before the place is looked for.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ...transforms.jax_compat import JaxprEqn
from ..factors import Factor, Local, Rule
from .build import along, apply, group, no_flops, operand_shapes, types
from .indexing import wide

__all__ = ["DYNAMIC_RULES"]


def _slice_factors(eqn: JaxprEqn) -> Sequence[Factor]:
    shape, sizes, dtype = operand_shapes(eqn)[0], eqn.params["slice_sizes"], types(eqn.invars)[0].dtype
    combine = "or" if dtype == np.bool_ else "sum" if jnp.issubdtype(dtype, jnp.number) else None

    def factors() -> Iterator[Factor]:
        for dim, size in enumerate(shape):
            if sizes[dim] == size:
                yield along(eqn, {0: dim}, {0: dim}, size)
            elif sizes[dim] == 1 and combine is not None:
                yield along(eqn, {0: dim}, {}, size, combine=combine, how="masked", weak=True)

    return group(factors())


def _update_factors(eqn: JaxprEqn) -> Sequence[Factor]:
    shape, update = operand_shapes(eqn)[:2]

    def factors() -> Iterator[Factor]:
        for dim, size in enumerate(shape):
            if update[dim] == size:
                yield along(eqn, {0: dim, 1: dim}, {0: dim}, size)
            elif update[dim] == 1:
                yield along(eqn, {0: dim}, {0: dim}, size, how="shifted", weak=True)

    return group(factors())


def _located(eqn: JaxprEqn, starts: Sequence[Any], part: Sequence[int], local: Local) -> tuple[list[Any], Any]:
    """Where the slice begins as the shard counts, and whether the shard has that place; None if no such dimension is split."""
    places, here, shape = [wide(start) for start in starts], None, operand_shapes(eqn)[0]  # of one type, as the primitives demand
    for factor, axes in local.shards:
        dim = factor.operands[0]
        if factor.how and dim is not None:
            place = jnp.clip(places[dim], 0, shape[dim] - 1)
            places[dim] = place - jnp.asarray(local.index(axes) * part[dim], place.dtype)
            inside = (places[dim] >= 0) & (places[dim] < part[dim])
            here = inside if here is None else here & inside
    return places, here


def _run_slice(eqn: JaxprEqn, operands: Sequence[Any], local: Local) -> list[Any]:
    operand, *starts = operands
    places, here = _located(eqn, starts, operand.shape, local)
    (taken,) = apply(eqn, [operand, *places], slice_sizes=tuple(local.results[0]))
    return [taken if here is None else jnp.where(here, taken, jnp.zeros_like(taken))]


def _run_update(eqn: JaxprEqn, operands: Sequence[Any], local: Local) -> list[Any]:
    operand, update, *starts = operands
    places, here = _located(eqn, starts, operand.shape, local)
    (changed,) = apply(eqn, [operand, update, *places])
    return [changed if here is None else jnp.where(here, changed, operand)]


DYNAMIC_RULES: dict[str, Rule] = {
    "dynamic_slice": Rule(_slice_factors, _run_slice, no_flops),
    "dynamic_update_slice": Rule(_update_factors, _run_update, no_flops),
}
