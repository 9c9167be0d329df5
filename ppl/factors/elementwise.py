"""What a row's parameter is of the row's predictor: a chain of elementwise equations, walked back from the parameter.

    parameter[n] = g(predictor[n], data[n], latent scalars)

`RowFunction` is g, run on scalars: the equations that only broadcast or reshape have done their work once it is known which axis of a
value is which axis of the rows. The walk stops at a predictor (a value that is affine in a few coefficients), at latent scalars and at
data; an equation that mixes rows on the way is an obstacle.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from ...transforms.affine.rules import aval
from ...transforms.equations import ELEMENTWISE
from ...transforms.jax_compat import JaxprEqn, Literal, Var, bind
from .cut import Cuts, Obstacle
from .equations import size_of

__all__ = ["Placed", "RowFunction", "to_rows"]

_SHAPES = frozenset({"broadcast_in_dim", "reshape", "squeeze", "copy", "copy_p"})


@dataclass(frozen=True)
class Placed:
    """A value and where its axes lie among those of the rows: per axis, the row axis, or None for an axis of one element."""

    atom: Any
    axes: tuple[int | None, ...]

    @classmethod
    def at_the_right(cls, atom: Any, rank: int) -> "Placed":
        """As NumPy broadcasts a value against rows of so many axes."""
        shape = jnp.shape(atom) if not hasattr(atom, "aval") else atom.aval.shape
        return cls(atom, tuple(None if n == 1 else rank - len(shape) + i for i, n in enumerate(shape)))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.atom.aval.shape)

    def before(self, eqn: JaxprEqn) -> "Placed | None":
        """The operand of an equation that only changes shapes, of which this is the result; None if it mixes axes."""
        operand = eqn.invars[0]
        shape = aval(operand).shape
        if eqn.primitive.name == "broadcast_in_dim":
            return Placed(
                operand, tuple(None if n == 1 else self.axes[d] for n, d in zip(shape, eqn.params["broadcast_dimensions"], strict=True))
            )
        ours = [(n, a) for n, a in zip(self.shape, self.axes, strict=True) if n != 1]
        if [n for n, _ in ours] != [n for n in shape if n != 1]:
            return None
        kept = iter(ours)
        return Placed(operand, tuple(None if n == 1 else next(kept)[1] for n in shape))


def to_rows(value: Any, axes: Sequence[int | None], rows: Sequence[int]) -> Any:
    """A value of the shape it has in the model -> (obs,)."""
    value = jnp.asarray(value)
    squeezed = value.reshape(tuple(n for n, a in zip(value.shape, axes, strict=True) if a is not None))
    return jax.lax.broadcast_in_dim(squeezed, tuple(rows), tuple(a for a in axes if a is not None)).reshape(-1)


@dataclass(eq=False)
class RowFunction:
    """g, of one or more parameters of a row.

    scalars: whether a latent scalar may be a predictor, the same for all rows; if not, it is a shared parameter.
    predictors, shared, rows: its inputs, in the order in which they were met: affine values, latent scalars, data.
    results: one node per parameter that was asked for.
    """

    cuts: Cuts
    scalars: bool = False
    predictors: list[Placed] = field(default_factory=list)
    shared: list[Var] = field(default_factory=list)
    rows: list[Placed] = field(default_factory=list)
    results: list[Any] = field(default_factory=list)
    _nodes: dict[Placed, Any] = field(default_factory=dict)
    _predicted: bool = True

    def add(self, placed: Placed, predicted: bool = True) -> Obstacle | None:
        """Ask for one more parameter. Unless it is `predicted`, no new predictor may be found in it: only latent scalars and data."""
        self._predicted = predicted
        node = self._node(placed)
        if isinstance(node, Obstacle):
            return node
        self.results.append(node)
        return None

    def __call__(self, predictors: Sequence[Any], shared: Sequence[Any], rows: Sequence[Any]) -> list[Any]:
        """The parameters of one row; every input a scalar."""
        inputs = {"predictor": predictors, "shared": shared, "row": rows}
        done: dict[int, Any] = {}

        def run(node: Any) -> Any:
            if id(node) not in done:
                kind, what, operands = node
                if kind == "literal":
                    done[id(node)] = what
                elif kind == "equation":
                    done[id(node)] = bind(what, [run(x) for x in operands])[0]
                else:
                    done[id(node)] = inputs[kind][what]
            return done[id(node)]

        return [run(node) for node in self.results]

    def _node(self, placed: Placed) -> Any:
        if isinstance(placed.atom, Literal):
            return ("literal", placed.atom.val, ())
        if placed not in self._nodes:
            self._nodes[placed] = self._visit(placed)
        return self._nodes[placed]

    def _visit(self, placed: Placed) -> Any:
        model, atom = self.cuts.model, placed.atom
        eqn = model.definition.get(atom)
        latent = model.is_latent(atom)
        if latent and self._predicted and (self.scalars or size_of(atom) > 1) and self._is_predictor(atom, eqn):
            return self._input("predictor", self.predictors, placed)
        before = placed.before(eqn) if eqn is not None and eqn.primitive.name in _SHAPES else None
        if before is not None:
            return self._node(before)
        if latent and size_of(atom) == 1 and not self.scalars:
            return self._input("shared", self.shared, atom)
        if not latent or eqn is None:
            return self._input("row", self.rows, placed)
        if eqn.primitive.name not in ELEMENTWISE:
            return Obstacle(eqn, "is neither an affine function of the latent variables nor one of each row alone")
        operands = []
        for x in eqn.invars:
            axes = placed.axes if aval(x).shape == placed.shape else tuple(None for _ in aval(x).shape)
            node = self._node(Placed(x, axes))
            if isinstance(node, Obstacle):
                return node
            operands.append(node)
        return ("equation", eqn, operands)

    def _is_predictor(self, atom: Any, eqn: JaxprEqn | None) -> bool:
        if isinstance(self.cuts.of(atom), Obstacle):
            return False
        return eqn is None or eqn.primitive.name not in ELEMENTWISE or self.cuts.linear(eqn) is None

    def _input(self, kind: str, found: list[Any], what: Any) -> Any:
        if what not in found:
            found.append(what)
        return (kind, found.index(what), ())
