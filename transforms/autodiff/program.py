"""The linear program: what linearization returns, and what transposition takes."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.core import eval_jaxpr

from ..errors import DerivativeError
from ..jax_compat import open_jaxpr
from .core import Unknown, is_differentiable, tangent_aval, zeros
from .transpose import backward, instantiate
from .trees import float0_zeros, match_leaves

__all__ = ["LinearProgram", "Signature"]


@dataclass(frozen=True)
class Signature:
    """One side of a linear program: a pytree of values, of which those of floating point type take part.

    tree: the structure. avals: shape and dtype of every leaf.
    active: which leaves are inputs or outputs of the jaxpr; the other leaves are always zero.
    unpack: whether the tree is a tuple of arguments, to be called with one argument for each.
    """

    tree: Any
    avals: tuple[Any, ...]
    active: tuple[bool, ...]
    unpack: bool = False

    @property
    def chosen(self) -> list[Any]:
        return [tangent_aval(a) for a, on in zip(self.avals, self.active, strict=True) if on]

    def flatten(self, values: Any, what: str) -> list[Any]:
        """The active leaves of a pytree that must match; None stands for zero."""
        return [v for v, on in zip(match_leaves(values, self.tree, self.avals, what), self.active, strict=True) if on]

    def unflatten(self, leaves: Sequence[Any]) -> Any:
        """A pytree from the active leaves; None becomes zeros, and integers get JAX's `float0`."""
        rest = iter(leaves)
        full = []
        for aval, on in zip(self.avals, self.active, strict=True):
            if not is_differentiable(aval):
                full.append(float0_zeros(aval))
            else:
                full.append(instantiate(next(rest), tangent_aval(aval)) if on else zeros(tangent_aval(aval)))
        return jax.tree.unflatten(self.tree, full)


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True, eq=False)
class LinearProgram:
    """A linear map, written as a program. Made by `linearize`; a pytree whose leaves are the residuals.

    Call it with one tangent per argument of the linearized function (each shaped like that argument, None for zero); the
    result is shaped like the function's. `program.T` is the transposed program; it takes one cotangent, shaped like the
    result, and returns a tuple with one entry per argument. `print(program)` shows the equations.

    Attributes:
        jaxpr: the equations, an open jaxpr; its constants are the residuals, its inputs the tangents of floating point leaves.
        residuals: the values that the program keeps from the point of linearization.
        source, target: the signature of each side.
    """

    jaxpr: Any
    residuals: tuple[Any, ...]
    source: Signature
    target: Signature

    def tree_flatten(self) -> tuple[tuple[Any, ...], Any]:
        return self.residuals, (self.jaxpr, self.source, self.target)

    @classmethod
    def tree_unflatten(cls, aux: Any, residuals: Sequence[Any]) -> "LinearProgram":
        return cls(aux[0], tuple(residuals), aux[1], aux[2])

    def __call__(self, *tangents: Any) -> Any:
        """Apply the map.

        Raises:
            DerivativeError: a tangent has another structure, shape or dtype than the value it belongs to.
        """
        if not self.source.unpack and len(tangents) != 1:
            raise DerivativeError(f"this linear program takes one argument, of structure {self.source.tree}; found {len(tangents)}.")
        moved = self.source.flatten(tangents if self.source.unpack else tangents[0], "tangent")
        moved = [instantiate(t, a) for t, a in zip(moved, self.source.chosen, strict=True)]
        outs = eval_jaxpr(self.jaxpr, self.residuals, *moved)
        return self.target.unflatten(outs)

    def apply_transposed(self, cotangents: Any) -> Any:
        """The transposed map applied to one cotangent; what `transpose(program)` and `vjp` return as a function."""
        arriving = self.target.flatten(cotangents, "cotangent")
        unknown = [Unknown(a) for a in self.source.chosen]
        return self.source.unflatten(backward(self.jaxpr, self.residuals, unknown, arriving))

    @functools.cached_property
    def T(self) -> "LinearProgram":
        """The transposed program."""

        def transposed(*cotangents: Any) -> list[Any]:
            unknown = [Unknown(a) for a in self.source.chosen]
            made = backward(self.jaxpr, self.residuals, unknown, cotangents)
            return [instantiate(ct, a) for ct, a in zip(made, self.source.chosen, strict=True)]

        jaxpr, residuals = open_jaxpr(jax.make_jaxpr(transposed)(*self.target.chosen))
        return LinearProgram(jaxpr, tuple(residuals), self.target, self.source)

    @property
    def residual_bytes(self) -> int:
        """Bytes of the residuals: what linearization keeps for later."""
        return sum(int(np.prod(v.aval.shape)) * v.aval.dtype.itemsize for v in self.jaxpr.constvars)

    def __str__(self) -> str:
        def types(avals: Sequence[Any]) -> str:
            return ", ".join(a.str_short() for a in avals) or "nothing"

        head = f"linear program: {types(self.source.chosen)} -> {types(self.target.chosen)}"
        kept = f"{len(self.residuals)} residual{'s' * (len(self.residuals) != 1)}, {self.residual_bytes} bytes"
        return f"{head}\n{kept}\n{self.jaxpr}"

    __repr__ = __str__
