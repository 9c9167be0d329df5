"""Several logits per row: a design matrix that all classes share, and a matrix of coefficients.

    logits[n, k] = sum_j design[n, j] coefficients[j, k] + offset[n, k]

The affine test gives the matrix of the logits in each leaf of the coefficients. X @ B is one block, and X is the design. Other blocks (an
intercept per class, a vector of slopes per class, group intercepts) are split into their columns; columns that are equal to the last bit
are one column of the design, so that what the classes share is found again.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...transforms import ModelError
from ...transforms.affine import Affine, ContractBlock
from ...transforms.affine.rules import aval
from ...transforms.jax_compat import Literal, Var
from .cut import Cuts
from .equations import size_of
from .extract import data_of, prove_affine

__all__ = ["ClassDesign", "class_design"]

_DENSE_LIMIT = 2**28


@dataclass(frozen=True)
class ClassDesign:
    """The rows of a likelihood of several logits.

    Attributes:
        variables: of the coefficients. design: (obs, d). offset: (obs, classes).
        arrange: the variables' elements in one vector -> coefficients, (d, classes).
        pinned: classes whose logits do not depend on the variables.
    """

    variables: list[Var]
    design: jax.Array
    offset: jax.Array
    arrange: Callable[[Any], jax.Array]
    pinned: list[int]


@dataclass(eq=False)
class _Table:
    """Columns of the design, each once, and which element of the variables stands at which (column, class)."""

    columns: list[np.ndarray] = field(default_factory=list)
    numbers: dict[bytes, int] = field(default_factory=dict)
    places: list[tuple[int, int, int]] = field(default_factory=list)

    def column(self, values: np.ndarray) -> int | None:
        """The number of a column; None for one of zeros."""
        if not values.any():
            return None
        values = np.ascontiguousarray(values)
        key = hashlib.blake2b(values.tobytes(), digest_size=32).digest()
        if key not in self.numbers:
            self.numbers[key] = len(self.columns)
            self.columns.append(values)
        return self.numbers[key]

    def add(self, block: Any, num_rows: int, classes: Sequence[int], first: int, where: str) -> None:
        """The block of one leaf in a piece of the logits: `classes` are those of the piece, `first` the leaf's place among all elements."""
        size = int(np.prod(block.leaf_shape, dtype=int))
        if isinstance(block, ContractBlock) and not block.leaf_first and len(block.leaf_shape) == 2 and not block.dimension_numbers[1][0]:
            ((ours,), (theirs,)) = block.dimension_numbers[0]
            matrix = np.moveaxis(np.asarray(block.array), ours, -1).reshape(num_rows, -1)
            elements = np.moveaxis(np.arange(size).reshape(block.leaf_shape), theirs, 0)
            for j in range(matrix.shape[1]):
                number = self.column(matrix[:, j])
                if number is not None:
                    self.places += [(number, k, first + int(elements[j, i])) for i, k in enumerate(classes)]
            return
        if num_rows * len(classes) * size > _DENSE_LIMIT:
            raise ModelError(
                f"{where}: the logits of {len(classes)} classes depend on {size} coefficients in a way that needs a matrix of {num_rows} x "
                f"{len(classes)} x {size} elements. Write them as `X @ B + a` with a matrix B of one column for each class; for a pinned "
                "class put a column of zeros beside that (`jnp.concatenate`), not into B."
            )
        dense = np.asarray(block.dense()).reshape(num_rows, len(classes), size)
        for i, k in enumerate(classes):
            for element in range(size):
                number = self.column(dense[:, i, element])
                if number is not None:
                    self.places.append((number, k, first + element))


def class_design(cuts: Cuts, logits: Any, rows: Sequence[int], data: Sequence[Any], where: str) -> ClassDesign:
    """The design of logits (*rows, classes). Raises ModelError if they are not affine, or a block is too large to be split."""
    model = cuts.model
    num_rows, num_classes = int(np.prod(rows, dtype=np.int64)), logits.aval.shape[-1]
    pieces, variables = _pieces(cuts, logits), []
    answers: list[tuple[list[int], list[Var], Affine | None, Any]] = []
    at = 0
    for atom in pieces:
        classes = list(range(at, at + atom.aval.shape[-1]))
        at += len(classes)
        shape = (*rows, len(classes))
        if not model.is_latent(atom):
            constant = model.values([atom], data)[0]
            answers.append((classes, [], None, jnp.broadcast_to(constant, shape).reshape(num_rows, -1)))
            continue
        held = data_of(cuts, atom, data)
        found, answer = prove_affine(cuts, atom, lambda value, shape=shape: jnp.broadcast_to(value, shape), held, where)
        answers.append((classes, found, answer, answer.offset.reshape(num_rows, -1)))
        variables += [v for v in found if v not in variables]
    starts = dict(zip(variables, np.cumsum([0, *map(size_of, variables)]).tolist(), strict=False))
    table = _Table()
    for classes, found, answer, _ in answers:
        for block, variable in zip(answer.matrix if answer is not None else [], found, strict=True):
            table.add(block, num_rows, classes, starts[variable], where)
    depends = {k for _, k, _ in table.places}
    return ClassDesign(
        variables,
        jnp.asarray(np.stack(table.columns, 1)) if table.columns else jnp.zeros((num_rows, 0)),
        jnp.concatenate([offset for *_, offset in answers], 1),
        _arrangement(table.places, len(table.columns), num_classes),
        [k for k in range(num_classes) if k not in depends],
    )


def _pieces(cuts: Cuts, logits: Any) -> list[Any]:
    """The logits as what was concatenated along the classes."""
    eqn = None if isinstance(logits, Literal) else cuts.model.definition.get(logits)
    if eqn is None or eqn.primitive.name != "concatenate" or eqn.params["dimension"] != len(aval(logits).shape) - 1:
        return [logits]
    return [piece for x in eqn.invars for piece in _pieces(cuts, x)]


def _arrangement(places: list[tuple[int, int, int]], num_columns: int, num_classes: int) -> Callable[[Any], jax.Array]:
    targets = np.array([j * num_classes + k for j, k, _ in places], np.int32)
    sources = np.array([element for *_, element in places], np.int32)
    if len(targets) == num_columns * num_classes and np.unique(targets).size == targets.size:
        order = sources[np.argsort(targets)]
        return lambda elements: elements[order].reshape(num_columns, num_classes)
    return lambda elements: (
        jnp.zeros(num_columns * num_classes, elements.dtype).at[targets].add(elements[sources]).reshape(num_columns, num_classes)
    )
