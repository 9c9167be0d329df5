"""From a program that is proven affine to the blocks of its matrix, read off its equations.

A second walk over what `affine_proof` has passed. A value of degree 1 is a sum of blocks, one per leaf. Where an equation only moves
elements about, *the same equation* is applied to the positions they came from and to their weights, so that the index of a gather
block comes from the program and is not probed for. Products scale the weights, sums put terms side by side, and a contraction with
the leaf itself yields the other operand. Any other equation is given the columns of the block, all at once.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from .affine_blocks import Block, ContractBlock, DenseBlock, GatherBlock
from .affine_linear import NOT_AFFINE, Linear, filling_zero, step, zeros
from .affine_proof import Blocked, Form, equation
from .affine_rules import MOVES, PASSES, aval, called_body, linear_slots
from .equations import run_jaxpr
from .jax_compat import JaxprEqn, bind, open_jaxpr

__all__ = ["matrix_blocks"]


Blocks = list[Any]  # per operand, its block for the leaf in hand, or None


@dataclass(frozen=True)
class _Sum:
    """The linear part of a value: sum over leaves of block times leaf."""

    blocks: dict[int, Block]


def matrix_blocks(jaxpr: Any, consts: Sequence[Any], operands: Sequence[Any], varying: Sequence[bool]) -> list[dict[int, Block]]:
    """The blocks of every result of a program that `affine_proof.walk` has passed.

    Args:
        jaxpr: an open jaxpr. consts: the values of its constants.
        operands: the value of each input that is held, and for the others anything (they are not read).
        varying: which inputs are leaves of the argument; a leaf is named by its position.

    Returns:
        For each result, leaf -> block, for the leaves it depends on. Traceable: which kind a block is depends on shapes alone.
    """
    seeds = [_Sum({i: _seed(aval(var))}) if v else x for i, (x, v, var) in enumerate(zip(operands, varying, jaxpr.invars, strict=True))]
    outs = run_jaxpr(jaxpr, consts, seeds, _equation)
    return [{leaf: _settle(b) for leaf, b in out.blocks.items()} if isinstance(out, _Sum) else {} for out in outs]


def _seed(leaf: Any) -> GatherBlock:
    index = jnp.arange(math.prod(leaf.shape), dtype=jnp.int32).reshape(*leaf.shape, 1)
    return GatherBlock(index, jnp.ones((*leaf.shape, 1), leaf.dtype), leaf.shape, True)


def _settle(block: Block) -> Block:
    """Dense where that takes no more room: a gather block stores two numbers per term, a dense one a number per column."""
    if isinstance(block, GatherBlock) and 2 * block.index.shape[-1] >= math.prod(block.leaf_shape):
        return DenseBlock(block.dense(), block.leaf_shape)
    return block


def _equation(eqn: JaxprEqn, operands: list[Any]) -> list[Any]:
    """One equation on arrays (degree 0), sums of blocks (degree 1) and None (not affine)."""
    if all(not isinstance(x, _Sum) and x is not None for x in operands):
        return bind(eqn, operands)
    called = called_body(eqn, operands)
    if called is not None:
        body, taken = called
        return run_jaxpr(*open_jaxpr(body), taken, _equation)
    name = eqn.primitive.name
    if name in PASSES:
        return operands
    if name in ("cond", "scan", "while"):
        return _control(eqn, operands)
    if any(x is None for x in operands):
        return [None] * len(eqn.outvars)
    slots = linear_slots(eqn, [isinstance(x, _Sum) for x in operands])
    if isinstance(slots, str):
        return [None] * len(eqn.outvars)
    leaves = dict.fromkeys(leaf for x in operands if isinstance(x, _Sum) for leaf in x.blocks)
    per_leaf = {leaf: _rule(eqn, operands, slots, leaf) for leaf in leaves}
    return [_Sum({leaf: outs[i] for leaf, outs in per_leaf.items()}) for i in range(len(eqn.outvars))]


def _rule(eqn: JaxprEqn, operands: list[Any], slots: frozenset[int], leaf: int) -> list[Block]:
    """The blocks of the results for one leaf."""
    blocks = [x.blocks.get(leaf) if isinstance(x, _Sum) else None for x in operands]
    name = eqn.primitive.name
    outs = None
    if name in MOVES:
        outs = _moved(eqn, operands, blocks, slots)
    elif name in _POINTWISE:
        outs = [_POINTWISE[name](eqn, operands, blocks)]
    elif name == "reduce_sum" and isinstance(blocks[0], GatherBlock):
        outs = [_summed(eqn, blocks[0])]
    elif name == "dot_general":
        outs = _contracted(eqn, operands, blocks)
    if outs is not None:
        return outs
    return [_block(columns, blocks) for columns in _pushed(eqn, operands, leaf)]


def _pushed(eqn: JaxprEqn, operands: list[Any], leaf: int) -> list[Any]:
    """The columns (*out, leaf size) of every result: the linear part of the equation, for all columns at once; None where none are."""
    blocks = [x.blocks.get(leaf) if isinstance(x, _Sum) else None for x in operands]

    def one(columns: list[Any]) -> list[Any]:
        parts = [
            x if not isinstance(x, _Sum) else Linear(zeros(aval(var)) if c is None else c)
            for x, c, var in zip(operands, columns, eqn.invars, strict=True)
        ]
        return [out.value if isinstance(out, Linear) else None for out in step(eqn, parts)]

    return jax.vmap(one, -1, -1)([None if b is None else _columns(b) for b in blocks])


def _control(eqn: JaxprEqn, operands: list[Any]) -> list[Any]:
    """A loop or a choice: by columns. What does not depend on the argument is computed beside them."""
    values = [
        Form({leaf: frozenset() for leaf in x.blocks}) if isinstance(x, _Sum) else NOT_AFFINE if x is None else Form() for x in operands
    ]
    kinds = equation(eqn, values)
    outs: list[Any] = [None if isinstance(k, Blocked) else _Sum({}) for k in kinds]
    if any(isinstance(k, Form) and not k.coefs for k in kinds):
        nothing = [Linear(zeros(aval(v))) if isinstance(x, _Sum) else x for x, v in zip(operands, eqn.invars, strict=True)]
        outs = [x if isinstance(k, Form) and not k.coefs else o for x, k, o in zip(step(eqn, nothing), kinds, outs, strict=True)]
    for leaf in dict.fromkeys(leaf for x in operands if isinstance(x, _Sum) for leaf in x.blocks):
        blocks = [x.blocks.get(leaf) if isinstance(x, _Sum) else None for x in operands]
        for out, columns, kind in zip(outs, _pushed(eqn, operands, leaf), kinds, strict=True):
            if isinstance(kind, Form) and leaf in kind.coefs:
                out.blocks[leaf] = _block(columns, blocks)
    return outs


def _columns(block: Block) -> Array:
    """(*out, leaf size)."""
    full = block.dense()
    return full.reshape(*full.shape[: full.ndim - len(block.leaf_shape)], math.prod(block.leaf_shape))


def _block(columns: Array, like: Sequence[Block | None]) -> DenseBlock:
    shape = next(b.leaf_shape for b in like if b is not None)
    return DenseBlock(columns.reshape(*columns.shape[:-1], *shape), shape)


def _gathered(index: Array, weight: Array, shape: tuple[int, ...]) -> Block:
    """A gather block, or a dense one once it has as many terms as columns."""
    block = GatherBlock(index, weight, shape)
    return DenseBlock(block.dense(), shape) if index.shape[-1] >= max(2, math.prod(shape)) else block


def _moved(eqn: JaxprEqn, operands: list[Any], blocks: Blocks, slots: frozenset[int]) -> list[Block] | None:
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

    def moved(parts: list[Any]) -> list[Any]:
        chosen = [part if i in slots else x for i, (part, x) in enumerate(zip(parts, operands, strict=True))]
        return bind(plain, chosen)

    indices = jax.vmap(moved, -1, -1)(padded(lambda b: b.index))
    weights = jax.vmap(moved, -1, -1)(padded(lambda b: b.weight))
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
        return _block(by(_spread(_columns(block), out.shape), other).astype(out.dtype), [block])

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
            return _block(_spread(_columns(block), shape), [block])
        if isinstance(first, GatherBlock) and isinstance(second, GatherBlock):
            index = jnp.concatenate([_spread(first.index, shape), _spread(second.index, shape)], -1)
            weight = jnp.concatenate([_spread(first.weight, shape), _spread(second.weight, shape)], -1)
            return _gathered(index, weight, first.leaf_shape)
        return _block(_spread(_columns(first), shape) + _spread(_columns(second), shape), [first])

    return rule


_POINTWISE = {
    "add": _added(1),
    "add_any": _added(1),
    "convert_element_type": _mapped(lambda a, dtype: a.astype(dtype)),
    "div": _scaled(jnp.divide),
    "mul": _scaled(jnp.multiply),
    "neg": _mapped(lambda a, dtype: -a),
    "sub": _added(-1),
}


def _summed(eqn: JaxprEqn, block: GatherBlock) -> Block:
    """A sum puts the terms of what it adds side by side."""
    axes = eqn.params["axes"]
    shape = aval(eqn.outvars[0]).shape

    def beside(part: Array) -> Array:
        return jnp.moveaxis(part, axes, range(part.ndim - 1 - len(axes), part.ndim - 1)).reshape(*shape, -1)

    return _gathered(beside(block.index), beside(block.weight), block.leaf_shape)


def _contracted(eqn: JaxprEqn, operands: list[Any], blocks: Blocks) -> list[Block] | None:
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
    values = (array[..., None] * block.weight.astype(dtype).reshape((1,) * len(free) + block.weight.shape)).reshape(*lead, -1)
    empty = jnp.zeros((*lead, math.prod(block.leaf_shape)), dtype)
    return [_block(empty.at[..., block.index.reshape(-1)].add(values), [block])]
