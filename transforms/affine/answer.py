"""The answer to "is it affine?": an `Affine`, with matrix and offset as functions of the other arguments, or a `NotAffine`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ..equations import run_jaxpr
from ..errors import DerivativeError
from ..jax_compat import open_jaxpr
from .blocks import Block, GatherBlock
from .linear import Linear, evaluate
from .matrix import matrix_blocks
from .rules import aval

__all__ = ["Affine", "Dependence", "Input", "NotAffine", "TracedFunction"]


class Input(NamedTuple):
    """One array among a function's arguments: the argument's number and the key path inside it ("sites.alpha"; "" for the array itself)."""

    argnum: int
    path: str


@dataclass(frozen=True)
class NotAffine:
    """Why a function is not known to be affine; it is false in a condition.

    primitive: of the first equation that was no longer affine, or None if the argument itself is at fault.
    reason: the end of the sentence "{primitive} ...". line: "file:line" of the user's code, "" if unknown.
    """

    primitive: str | None
    reason: str
    line: str

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        where = f" ({self.line})" if self.line else ""
        return f"not affine: {self.primitive or 'the argument'} {self.reason}{where}"


@dataclass(frozen=True)
class Dependence:
    """What the parts of an affine function are computed from, besides x. Never too few, perhaps too many.

    matrix: the inputs that M reads. offset: those that o reads. blocks: key path of a leaf of x -> those that its block reads.
    """

    matrix: frozenset[Input]
    offset: frozenset[Input]
    blocks: Mapping[str, frozenset[Input]]


@dataclass(frozen=True)
class TracedFunction:
    """A traced function. `leaves`: per input of the jaxpr, its `Input`; `mine`: which of them belong to the argument in question."""

    jaxpr: Any
    argnum: int
    argdefs: tuple[Any, ...]
    outdef: Any
    leaves: tuple[Input, ...]

    @property
    def mine(self) -> list[bool]:
        return [leaf.argnum == self.argnum for leaf in self.leaves]

    @property
    def varying(self) -> list[bool]:
        return [m and aval(v).size > 0 for m, v in zip(self.mine, self.invars, strict=True)]

    @property
    def invars(self) -> list[Any]:
        return open_jaxpr(self.jaxpr)[0].invars

    @property
    def x_vars(self) -> list[Any]:
        return [v for v, m in zip(self.invars, self.mine, strict=True) if m]

    def inputs(self, x: list[Any], others: list[Any]) -> list[Any]:
        """The inputs of the jaxpr from the leaves of x and of the other arguments."""
        ours, rest = iter(x), iter(others)
        return [next(ours) if m else next(rest) for m in self.mine]

    # Compiled once per proof, so that new values of the other arguments do not compile again; constants are data, not code.

    @cached_property
    def offset(self) -> Callable[[list[Any], list[Any]], list[Any]]:
        """(constants, leaves of the other arguments) -> f at x = 0, a list."""
        inner, _ = open_jaxpr(self.jaxpr)

        def compute(consts: list[Any], others: list[Any]) -> list[Any]:
            flat = self.inputs([jnp.zeros(aval(v).shape, aval(v).dtype) for v in self.x_vars], others)
            return run_jaxpr(inner, consts, flat)

        return jax.jit(compute)

    @cached_property
    def matrix(self) -> Callable[[list[Any], list[Any]], list[dict[int, Block]]]:
        """(constants, leaves of the other arguments) -> for each result, input number -> block."""
        inner, _ = open_jaxpr(self.jaxpr)

        def compute(consts: list[Any], others: list[Any]) -> list[dict[int, Block]]:
            flat = self.inputs([jnp.zeros(aval(v).shape, aval(v).dtype) for v in self.x_vars], others)
            return matrix_blocks(inner, consts, flat, self.varying)

        return jax.jit(compute)


@dataclass(frozen=True)
class Affine:
    """f(x, z) = M(z) x + o(z), proven. Matrix and offset are computed when read, at the other arguments that `affine_in` was given.

    If f returns a pytree, `matrix` and `dense()` have its structure outside and that of x inside, as `jax.jacfwd` has.
    """

    program: TracedFunction
    depends_on: Dependence
    others: tuple[Any, ...]
    kept: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def offset(self) -> Any:
        """f at x = 0, in the structure and shapes of f's result."""
        return self._once("offset", lambda: jax.tree.unflatten(self.program.outdef, self.program.offset(self._consts(), self._rest())))

    @property
    def matrix(self) -> Any:
        """M, one block per leaf of x, in x's structure. A leaf that f does not read has a `GatherBlock` without terms."""
        return self._once("matrix", self._blocks)

    def dense(self) -> Any:
        """M as arrays (*out, *leaf), in the structure of `matrix`: what `jax.jacfwd(f)` returns."""
        return jax.tree.map(lambda block: block.dense(), self.matrix, is_leaf=lambda b: hasattr(b, "dense"))

    def design(self) -> jax.Array:
        """M as one array (elements of the result, elements of x): leaves in `jax.tree` order, each ravelled.

        Raises:
            DerivativeError: if f returns other than one array.
        """
        if not jax.tree_util.treedef_is_leaf(self.program.outdef):
            raise DerivativeError("design: the function returns more than one array; take `dense()` and put its parts together.")
        out = aval(open_jaxpr(self.program.jaxpr)[0].outvars[0])
        blocks = jax.tree.leaves(self.dense())
        return jnp.concatenate([b.reshape(out.size, b.size // out.size if out.size else 0) for b in blocks], 1)

    def apply(self, x: Any) -> Any:
        """M x + o, without forming M.

        Raises:
            DerivativeError: if x has not the structure and shapes of the argument that was traced.
        """
        program = self.program
        leaves, treedef = jax.tree.flatten(x)
        expected = [aval(v).shape for v in program.x_vars]
        if treedef != program.argdefs[program.argnum] or [np.shape(leaf) for leaf in leaves] != expected:
            raise DerivativeError(
                f"apply: the argument has structure {treedef} and shapes {[np.shape(leaf) for leaf in leaves]}; the function was traced "
                f"with {program.argdefs[program.argnum]} and {expected}."
            )
        parts = [
            Linear(jnp.asarray(leaf, aval(v).dtype)) if aval(v).size else jnp.asarray(leaf, aval(v).dtype)
            for leaf, v in zip(leaves, program.x_vars, strict=True)
        ]
        outs = evaluate(program.jaxpr, program.inputs(parts, self._rest()))
        offsets = jax.tree.leaves(self.offset)
        return jax.tree.unflatten(program.outdef, [o.value + b if isinstance(o, Linear) else b for o, b in zip(outs, offsets, strict=True)])

    def at(self, *others: Any) -> "Affine":
        """The same function at other values of the other arguments: all of f's but x, in order. Nothing is traced again.

        Raises:
            DerivativeError: if their number, structure, shapes or dtypes are not those that were traced.
        """
        program = self.program
        defs = [d for i, d in enumerate(program.argdefs) if i != program.argnum]
        expected = [aval(v) for v, m in zip(program.invars, program.mine, strict=True) if not m]
        leaves, treedefs = jax.tree.leaves(others), [jax.tree.structure(o) for o in others]
        if treedefs != defs:
            raise DerivativeError(f"at: the other arguments have structure {treedefs}; the function was traced with {defs}.")
        names = [leaf for leaf, m in zip(program.leaves, program.mine, strict=True) if not m]
        for leaf, traced, name in zip(leaves, expected, names, strict=True):
            found = jax.typeof(leaf)
            if found.shape != traced.shape or (found.dtype != traced.dtype and not getattr(found, "weak_type", False)):
                raise DerivativeError(
                    f"at: argument {name.argnum}, {name.path or 'the array'}, is {found}; the function was traced with {traced}."
                )
        return Affine(program, self.depends_on, others)

    def matrix_at(self, *others: Any) -> Any:
        """`matrix` as a function of the other arguments; may be called under `jax.jit`. Raises as `at` does."""
        return self.at(*others).matrix

    def offset_at(self, *others: Any) -> Any:
        """`offset` as a function of the other arguments; may be called under `jax.jit`. Raises as `at` does."""
        return self.at(*others).offset

    def _blocks(self) -> Any:
        program = self.program
        found = program.matrix(self._consts(), self._rest())
        mine = [(i, aval(v).shape) for i, (v, m) in enumerate(zip(program.invars, program.mine, strict=True)) if m]

        def block(out: Any, blocks: dict[int, Block], leaf: int, shape: tuple[int, ...]) -> Block:
            if leaf in blocks:
                return blocks[leaf]
            empty = (*aval(out).shape, 0)
            return GatherBlock(jnp.zeros(empty, jnp.int32), jnp.zeros(empty, aval(out).dtype), shape)

        outs = open_jaxpr(program.jaxpr)[0].outvars
        argdef = program.argdefs[program.argnum]
        per_out = [jax.tree.unflatten(argdef, [block(o, b, *leaf) for leaf in mine]) for o, b in zip(outs, found, strict=True)]
        return jax.tree.unflatten(program.outdef, per_out)

    def _once(self, name: str, compute: Callable[[], Any]) -> Any:
        """Computed when first read, and kept unless it belongs to a trace in progress."""
        if name not in self.kept:
            value = compute()
            if any(isinstance(x, Tracer) for x in jax.tree.leaves(value)):
                return value
            self.kept[name] = value
        return self.kept[name]

    def _consts(self) -> list[Any]:
        return open_jaxpr(self.program.jaxpr)[1]

    def _rest(self) -> list[Any]:
        """The leaves of the other arguments, in the dtypes that were traced."""
        program = self.program
        wanted = [(v, name) for v, name, m in zip(program.invars, program.leaves, program.mine, strict=True) if not m]
        leaves = jax.tree.leaves(self.others)
        for leaf, (_, name) in zip(leaves, wanted, strict=True):
            if isinstance(leaf, jax.ShapeDtypeStruct):
                raise DerivativeError(
                    f"argument {name.argnum} was given as a shape only, so there is no matrix or offset yet; call `matrix_at` and "
                    "`offset_at` with its value, or read `depends_on` for what they need."
                )
        return [
            leaf if isinstance(leaf, jax.Array) and leaf.dtype == aval(var).dtype else jnp.asarray(leaf, aval(var).dtype)
            for leaf, (var, _) in zip(leaves, wanted, strict=True)
        ]
