"""How equations act on the blocks of a matrix: what moves elements, scales, adds, sums or contracts them keeps their form.

A rule takes, for one leaf, the block of every operand (None for those that do not depend on the leaf).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ..jax_compat import JaxprEqn, bind
from .blocks import Block, ContractBlock, DenseBlock, GatherBlock
from .linear import filling_zero
from .rules import aval

__all__ = ["POINTWISE", "Blocks", "columns_of", "contracted", "dense_block", "moved", "summed"]

Blocks = list[Any]  # per operand, its block for the leaf in hand, or None


def columns_of(block: Block) -> Array:
    """(*out, leaf size)."""
    full = block.dense()
    return full.reshape(*full.shape[: full.ndim - len(block.leaf_shape)], math.prod(block.leaf_shape))


def dense_block(columns: Array, like: Sequence[Block | None]) -> DenseBlock:
    shape = next(b.leaf_shape for b in like if b is not None)
    return DenseBlock(columns.reshape(*columns.shape[:-1], *shape), shape)


def _gathered(index: Array, weight: Array, shape: tuple[int, ...]) -> Block:
    """A gather block, or a dense one once it has as many terms as columns."""
    block = GatherBlock(index, weight, shape)
    return DenseBlock(block.dense(), shape) if index.shape[-1] >= max(2, math.prod(shape)) else block


def moved(eqn: JaxprEqn, operands: list[Any], blocks: Blocks, slots: frozenset[int]) -> list[Block] | None:
    """An equation that moves elements, applied to positions and to weights; what is not the leaf's has weight zero."""
    there: Blocks = [b for b in blocks if b is not None]
    if not all(isinstance(b, GatherBlock) for b in there):
        return None
    if eqn.primitive.name in ("copy", "copy_p"):
        return there
    terms = max(b.index.shape[-1] for b in there)

    def padded(part: Callable[[GatherBlock], Array]) -> list[Any]:
        like = part(there[0]).dtype
        shapes = [aval(var).shape for var in eqn.invars]
        return [
            jnp.zeros((*shape, terms), like) if b is None else jnp.pad(part(b), [(0, 0)] * len(shape) + [(0, terms - b.index.shape[-1])])
            for b, shape in zip(blocks, shapes, strict=True)
        ]

    plain = filling_zero(eqn)

    def applied(parts: list[Any]) -> list[Any]:
        chosen = [part if i in slots else x for i, (part, x) in enumerate(zip(parts, operands, strict=True))]
        return bind(plain, chosen)

    indices = jax.vmap(applied, -1, -1)(padded(lambda b: b.index))
    weights = jax.vmap(applied, -1, -1)(padded(lambda b: b.weight))
    return [GatherBlock(i, w, there[0].leaf_shape) for i, w in zip(indices, weights, strict=True)]


def _spread(part: Array, shape: tuple[int, ...]) -> Array:
    """(*in, terms) -> (*shape, terms), where `in` is of rank 0 or broadcasts axis by axis, as pointwise primitives allow."""
    lead = part.shape[:-1] or (1,) * len(shape)
    return jnp.broadcast_to(part.reshape(*lead, part.shape[-1]), (*shape, part.shape[-1]))


def _scaled(by: Callable[[Array, Array], Array]) -> Callable[..., Block]:
    def rule(eqn: JaxprEqn, operands: list[Any], blocks: Blocks) -> Block:
        at = 0 if blocks[0] is not None else 1
        block, out = blocks[at], aval(eqn.outvars[0])
        other = _spread(jnp.asarray(operands[1 - at], aval(eqn.invars[1 - at]).dtype)[..., None], out.shape)
        if isinstance(block, GatherBlock):
            weight = by(_spread(block.weight, out.shape), other).astype(out.dtype)
            return GatherBlock(_spread(block.index, out.shape), weight, block.leaf_shape)
        return dense_block(by(_spread(columns_of(block), out.shape), other).astype(out.dtype), [block])

    return rule


def _mapped(by: Callable[[Array, Any], Array]) -> Callable[..., Block]:
    def rule(eqn: JaxprEqn, operands: list[Any], blocks: Blocks) -> Block:
        return _weights(blocks[0], lambda a: by(a, aval(eqn.outvars[0]).dtype), eqn.primitive.name == "convert_element_type")

    return rule


def _weights(block: Block, change: Callable[[Array], Array], same: bool = False) -> Block:
    """The same block with `change`, linear and elementwise, applied to its numbers; `same`: only their dtype changes."""
    if isinstance(block, GatherBlock):
        return GatherBlock(block.index, change(block.weight), block.leaf_shape, block.identity and same)
    if isinstance(block, DenseBlock):
        return DenseBlock(change(block.array), block.leaf_shape)
    return ContractBlock(change(block.array), block.dimension_numbers, block.leaf_first, block.leaf_shape)


def _added(sign: int) -> Callable[..., Block]:
    def rule(eqn: JaxprEqn, operands: list[Any], blocks: Blocks) -> Block:
        first, second = blocks
        shape = aval(eqn.outvars[0]).shape
        if second is not None and sign < 0:
            second = _weights(second, jnp.negative)
        if first is None or second is None:
            at = 0 if second is None else 1
            block = blocks[0] if second is None else second
            if aval(eqn.invars[at]).shape == shape:
                return block
            if isinstance(block, GatherBlock):
                return GatherBlock(_spread(block.index, shape), _spread(block.weight, shape), block.leaf_shape)
            return dense_block(_spread(columns_of(block), shape), [block])
        if isinstance(first, GatherBlock) and isinstance(second, GatherBlock):
            index = jnp.concatenate([_spread(first.index, shape), _spread(second.index, shape)], -1)
            weight = jnp.concatenate([_spread(first.weight, shape), _spread(second.weight, shape)], -1)
            return _gathered(index, weight, first.leaf_shape)
        return dense_block(_spread(columns_of(first), shape) + _spread(columns_of(second), shape), [first])

    return rule


POINTWISE = {
    "add": _added(1),
    "add_any": _added(1),
    "convert_element_type": _mapped(lambda a, dtype: a.astype(dtype)),
    "div": _scaled(jnp.divide),
    "mul": _scaled(jnp.multiply),
    "neg": _mapped(lambda a, dtype: -a),
    "sub": _added(-1),
}


def summed(eqn: JaxprEqn, block: GatherBlock) -> Block:
    """A sum puts the terms of what it adds side by side."""
    axes = eqn.params["axes"]
    shape = aval(eqn.outvars[0]).shape

    def beside(part: Array) -> Array:
        return jnp.moveaxis(part, axes, range(part.ndim - 1 - len(axes), part.ndim - 1)).reshape(*shape, -1)

    return _gathered(beside(block.index), beside(block.weight), block.leaf_shape)


def contracted(eqn: JaxprEqn, operands: list[Any], blocks: Blocks) -> list[Block] | None:
    """X @ v. If v is the leaf, X is the matrix; if v gathers from the leaf, the matrix has X's columns, scaled and moved."""
    at = 0 if blocks[0] is not None else 1
    block, other = blocks[at], operands[1 - at]
    if not isinstance(block, GatherBlock):
        return None
    contracting, batch = eqn.params["dimension_numbers"]
    dtype, rank = aval(eqn.outvars[0]).dtype, len(aval(eqn.invars[at]).shape)
    other = jnp.asarray(other, dtype)
    if batch[0] or len(contracting[at]) < rank:
        return [ContractBlock(other, eqn.params["dimension_numbers"], at == 0, block.leaf_shape)] if block.identity else None
    # other's axes: first the free ones, then the contracted ones in the order of v's axes
    ours, theirs = contracting[at], contracting[1 - at]
    last = [theirs[ours.index(axis)] for axis in range(rank)]
    free = [axis for axis in range(other.ndim) if axis not in theirs]
    array = jnp.transpose(other, (*free, *last))
    if block.identity:
        return [DenseBlock(array, block.leaf_shape)]
    lead = array.shape[: len(free)]
    weight = block.weight.astype(dtype).reshape((1,) * len(free) + block.weight.shape)
    values = (array[..., None] * weight).reshape(*lead, weight.size)
    empty = jnp.zeros((*lead, math.prod(block.leaf_shape)), dtype)
    return [dense_block(empty.at[..., block.index.reshape(-1)].add(values), [block])]
