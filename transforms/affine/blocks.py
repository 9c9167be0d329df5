"""The matrix of an affine program, one block per leaf of its argument, in one of three forms.

    DenseBlock      M[o, l] = array[o, l]
    GatherBlock     M[o, l] = sum_t weight[o, t] [index[o, t] = l]        alpha[c], sigma * z[c], b[0] + b[1] * u, theta itself
    ContractBlock   M x = dot_general(array, x)                            X @ B for a matrix B: X Kronecker I, never formed

where o runs over the result's elements and l over the leaf's. All three are pytrees, so they cross `jax.jit` and can be batched.
`matrix` finds them.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

__all__ = ["Block", "ContractBlock", "DenseBlock", "GatherBlock"]


_STATIC = {"static": True}  # part of the pytree's structure, not an array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DenseBlock:
    """M[o, l] as an array.

    array: (*out, *leaf). leaf_shape: the leaf's.
    """

    array: Array
    leaf_shape: tuple[int, ...] = field(metadata=_STATIC)

    def apply(self, leaf: Array) -> Array:
        """M x: (*leaf) -> (*out)."""
        return jnp.tensordot(self.array, leaf.astype(self.array.dtype), len(self.leaf_shape))

    def dense(self) -> Array:
        """(*out, *leaf)."""
        return self.array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GatherBlock:
    """M[o, l] = sum_t weight[o, t] [index[o, t] = l]: each element of the result reads a few of the leaf's.

    index: (*out, terms), int32, positions in the ravelled leaf. weight: (*out, terms). A block of zeros has no terms.
    leaf_shape: the leaf's. identity: whether the result is the leaf itself.
    """

    index: Array
    weight: Array
    leaf_shape: tuple[int, ...] = field(metadata=_STATIC)
    identity: bool = field(default=False, metadata=_STATIC)

    def apply(self, leaf: Array) -> Array:
        """M x: (*leaf) -> (*out)."""
        return (self.weight * leaf.reshape(-1).astype(self.weight.dtype)[self.index]).sum(-1)

    def dense(self) -> Array:
        """(*out, *leaf); positions that occur twice add up."""
        chosen = jax.nn.one_hot(self.index, math.prod(self.leaf_shape), dtype=bool)
        full = jnp.where(chosen, self.weight[..., None], 0).sum(-2)  # fused by XLA; a scatter of constants would be folded, slowly
        return full.reshape(*self.index.shape[:-1], *self.leaf_shape)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ContractBlock:
    """M x = dot_general(array, x), or dot_general(x, array): the leaf is a matrix that is contracted with a constant.

    array: the constant. dimension_numbers: of `jax.lax.dot_general`, in the order of its operands. leaf_first: whether x is its first.
    leaf_shape: the leaf's.
    """

    array: Array
    dimension_numbers: Any = field(metadata=_STATIC)
    leaf_first: bool = field(metadata=_STATIC)
    leaf_shape: tuple[int, ...] = field(metadata=_STATIC)

    def apply(self, leaf: Array) -> Array:
        """M x: (*leaf) -> (*out)."""
        leaf = leaf.astype(self.array.dtype)
        operands = (leaf, self.array) if self.leaf_first else (self.array, leaf)
        return lax.dot_general(*operands, self.dimension_numbers)

    def dense(self) -> Array:
        """(*out, *leaf)."""
        size = math.prod(self.leaf_shape)
        basis = jnp.eye(size, dtype=self.array.dtype).reshape(*self.leaf_shape, size)
        columns = jax.vmap(self.apply, -1, -1)(basis)
        return columns.reshape(*columns.shape[:-1], *self.leaf_shape)


Block = DenseBlock | GatherBlock | ContractBlock
