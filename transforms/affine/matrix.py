"""From a program that is proven affine to the blocks of its matrix, read off its equations.

A second walk over what `proof` has passed. A value of degree 1 is a sum of blocks, one per leaf. Where an equation only moves
elements about, *the same equation* is applied to the positions they came from and to their weights, so that the index of a gather
block comes from the program and is not probed for. Products scale the weights, sums put terms side by side, and a contraction with
the leaf itself yields the other operand. Any other equation is given the columns of the block, all at once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ..equations import run_jaxpr
from ..jax_compat import JaxprEqn, bind, open_jaxpr
from .blocks import Block, DenseBlock, GatherBlock
from .linear import NOT_AFFINE, Linear, step, zeros
from .matrix_rules import POINTWISE, Blocks, columns_of, contracted, dense_block, moved, summed
from .proof import Blocked, Form, equation
from .rules import MOVES, PASSES, aval, called_body, linear_slots

__all__ = ["matrix_blocks"]


@dataclass(frozen=True)
class _Sum:
    """The linear part of a value: sum over leaves of block times leaf."""

    blocks: dict[int, Block]


def matrix_blocks(jaxpr: Any, consts: Sequence[Any], operands: Sequence[Any], varying: Sequence[bool]) -> list[dict[int, Block]]:
    """The blocks of every result of a program that `proof.walk` has passed.

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


def _leaves(operands: Sequence[Any]) -> list[int]:
    """The leaves that any operand depends on, each once."""
    return list(dict.fromkeys(leaf for x in operands if isinstance(x, _Sum) for leaf in x.blocks))


def _blocks(operands: Sequence[Any], leaf: int) -> Blocks:
    """The block of every operand for one leaf."""
    return [x.blocks.get(leaf) if isinstance(x, _Sum) else None for x in operands]


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
    per_leaf = {leaf: _rule(eqn, operands, slots, leaf) for leaf in _leaves(operands)}
    return [_Sum({leaf: outs[i] for leaf, outs in per_leaf.items()}) for i in range(len(eqn.outvars))]


def _rule(eqn: JaxprEqn, operands: list[Any], slots: frozenset[int], leaf: int) -> list[Block]:
    """The blocks of the results for one leaf."""
    blocks = _blocks(operands, leaf)
    name = eqn.primitive.name
    outs = None
    if name in MOVES:
        outs = moved(eqn, operands, blocks, slots)
    elif name in POINTWISE:
        outs = [POINTWISE[name](eqn, operands, blocks)]
    elif name == "reduce_sum" and isinstance(blocks[0], GatherBlock):
        outs = [summed(eqn, blocks[0])]
    elif name == "dot_general":
        outs = contracted(eqn, operands, blocks)
    if outs is not None:
        return outs
    return [dense_block(columns, blocks) for columns in _pushed(eqn, operands, leaf)]


def _pushed(eqn: JaxprEqn, operands: list[Any], leaf: int) -> list[Any]:
    """The columns (*out, leaf size) of every result: the linear part of the equation, for all columns at once; None where none are."""
    blocks = _blocks(operands, leaf)

    def one(columns: list[Any]) -> list[Any]:
        parts = [
            x if not isinstance(x, _Sum) else Linear(zeros(aval(var)) if c is None else c)
            for x, c, var in zip(operands, columns, eqn.invars, strict=True)
        ]
        return [out.value if isinstance(out, Linear) else None for out in step(eqn, parts)]

    return jax.vmap(one, -1, -1)([None if b is None else columns_of(b) for b in blocks])


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
    for leaf in _leaves(operands):
        blocks = _blocks(operands, leaf)
        for out, columns, kind in zip(outs, _pushed(eqn, operands, leaf), kinds, strict=True):
            if isinstance(kind, Form) and leaf in kind.coefs:
                out.blocks[leaf] = dense_block(columns, blocks)
    return outs
