"""Values whose every element is a sum of data times numbers that do not depend on the element:

    v[i] = known[i] + sum_t w_t[i] c_t[index_t[i]] + sum_j D[i, j] c_j

with c computed from the position, and everything else from data. `separable` finds such a form for any value of a program: where an
equation is none that it knows, the equation's result is itself the c, and each element picks its own.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..affine.rules import aval
from ..jax_compat import Var
from .elements import Elements, places

__all__ = ["Pick", "Product", "Separable", "Sum", "product", "separable", "times"]

Product = tuple[tuple[Var, int], ...]
"""Scalars of the program, each to a whole power, sorted: a factor that the elements share."""


def times(a: Product, b: Product, power: int = 1) -> Product:
    """a b^power."""
    powers = dict(a)
    for var, n in b:
        powers[var] = powers.get(var, 0) + power * n
    return tuple(sorted(((v, n) for v, n in powers.items() if n), key=lambda item: id(item[0])))


@dataclass(frozen=True)
class Pick:
    """weight[i] c[index[i]] factor. atom: c. index, weight: shaped as the elements; factor: see `Product`."""

    atom: Var
    index: np.ndarray
    weight: np.ndarray
    factor: Product = ()

    def rearranged(self, function: Any) -> "Pick":
        return replace(self, index=function(self.index), weight=function(self.weight))


@dataclass(frozen=True)
class Sum:
    """weight[i] (D[i] . c) factor. atom: c, of as many elements as D (*elements, number) has in its last axis."""

    atom: Var
    matrix: np.ndarray
    weight: np.ndarray
    factor: Product = ()

    def rearranged(self, function: Any) -> "Sum":
        return replace(self, matrix=function(self.matrix), weight=function(self.weight))


@dataclass(frozen=True)
class Separable:
    """A sum of terms. shape: of the elements. known: (factor -> array of that shape)."""

    shape: tuple[int, ...]
    known: dict[Product, np.ndarray] = field(default_factory=dict)
    terms: tuple[Pick | Sum, ...] = ()

    def weighted(self, weight: Any) -> "Separable":
        """Every element multiplied by a number of its own, and zero where that is zero; `weight` broadcasts to the elements."""
        weight = np.broadcast_to(np.asarray(weight, float), self.shape)
        known = {f: product(weight, k) for f, k in self.known.items()}
        return Separable(self.shape, known, tuple(replace(t, weight=product(weight, t.weight)) for t in self.terms))

    def scaled(self, factor: Product, power: int = 1) -> "Separable":
        """Multiplied by a factor that all elements share."""
        known = {times(f, factor, power): k for f, k in self.known.items()}
        return Separable(self.shape, known, tuple(replace(t, factor=times(t.factor, factor, power)) for t in self.terms))

    def plus(self, other: "Separable") -> "Separable":
        known = dict(self.known)
        for f, k in other.known.items():
            known[f] = known[f] + k if f in known else k
        return Separable(self.shape, known, (*self.terms, *other.terms))

    def rearranged(self, function: Any, shape: tuple[int, ...]) -> "Separable":
        """Elements moved: `function` moves an array (*elements, ...)."""
        return Separable(shape, {f: function(k) for f, k in self.known.items()}, tuple(t.rearranged(function) for t in self.terms))


def product(weight: np.ndarray, x: np.ndarray) -> np.ndarray:
    """weight x, and zero where the weight is, whatever stands there."""
    return np.where(weight == 0, 0.0, weight * np.where(weight == 0, 0.0, x))


def separable(elements: Elements, atom: Any, shape: tuple[int, ...] | None = None) -> Separable:
    """The form of a value, broadcast to `shape` where it is smaller."""
    own = tuple(aval(atom).shape)
    found = _of(elements, atom)
    if shape is None or own == shape:
        return found
    padded = (1,) * (len(shape) - len(own)) + own

    def spread(array: np.ndarray) -> np.ndarray:
        extra = array.shape[len(own) :]
        return np.broadcast_to(array.reshape(padded + extra), shape + extra)

    return found.rearranged(spread, shape)


def _of(elements: Elements, atom: Any) -> Separable:
    shape = tuple(aval(atom).shape)
    if not elements.moves(atom):
        return Separable(shape, {(): elements.known(atom).astype(float)})
    eqn = elements.equation(atom)
    if eqn is None or aval(atom).size == 1 or _is_coarse(aval(atom).dtype):
        return _picked(atom)
    rule = _RULES.get(eqn.primitive.name)
    found = rule(elements, eqn, shape) if rule else _rearranged(elements, eqn, shape)
    return _picked(atom) if found is None else found


def _is_coarse(dtype: Any) -> bool:
    """Whether a type has fewer digits than float32: what is computed in it is a staircase, and linear to nobody who looks closely."""
    return not np.issubdtype(dtype, np.floating) or np.finfo(dtype).eps > np.finfo(np.float32).eps


def _picked(atom: Any) -> Separable:
    """Each element is its own number."""
    shape = tuple(aval(atom).shape)
    index = np.arange(aval(atom).size).reshape(shape)
    return Separable(shape, {}, (Pick(atom, index, np.ones(shape)),))


def _rearranged(elements: Elements, eqn: Any, shape: tuple[int, ...]) -> Separable | None:
    """An equation that moves elements. Of a small array each element of the result picks one."""
    operand, there = eqn.invars[0], places(elements, eqn)
    if there is None:
        return None
    found = _picked(operand) if aval(operand).size < np.prod(shape) else _of(elements, operand)
    return found.rearranged(lambda array: array.reshape(-1, *array.shape[aval(operand).ndim :])[there], shape)


def _add(elements: Elements, eqn: Any, shape: tuple[int, ...]) -> Separable:
    a, b = (separable(elements, x, shape) for x in eqn.invars)
    return a.plus(b)


def _sub(elements: Elements, eqn: Any, shape: tuple[int, ...]) -> Separable:
    a, b = (separable(elements, x, shape) for x in eqn.invars)
    return a.plus(b.weighted(-1.0))


def _neg(elements: Elements, eqn: Any, shape: tuple[int, ...]) -> Separable:
    return _of(elements, eqn.invars[0]).weighted(-1.0)


def _same(elements: Elements, eqn: Any, shape: tuple[int, ...]) -> Separable | None:
    if not np.issubdtype(aval(eqn.invars[0]).dtype, np.floating):
        return None
    return separable(elements, eqn.invars[0], shape)


def _mul(elements: Elements, eqn: Any, shape: tuple[int, ...]) -> Separable | None:
    a, b = eqn.invars
    for one, other in ((a, b), (b, a)):
        if not elements.moves(other):
            return separable(elements, one, shape).weighted(elements.known(other))
        if aval(other).size == 1:
            return separable(elements, one, shape).scaled(((other, 1),))
    return None


def _div(elements: Elements, eqn: Any, shape: tuple[int, ...]) -> Separable | None:
    a, b = eqn.invars
    if not elements.moves(b):
        with np.errstate(divide="ignore"):
            return separable(elements, a, shape).weighted(1 / elements.known(b).astype(float))
    if aval(b).size == 1:
        return separable(elements, a, shape).scaled(((b, 1),), -1)
    return None


def _dot(elements: Elements, eqn: Any, shape: tuple[int, ...]) -> Separable | None:
    """Data times a vector."""
    (contracted, batch) = eqn.params["dimension_numbers"]
    for which in (0, 1):
        data, vector = eqn.invars[which], eqn.invars[1 - which]
        axes, of_vector = contracted[which], contracted[1 - which]
        if not elements.moves(data) and elements.moves(vector) and not batch[0] and len(of_vector) == len(aval(vector).shape):
            order = np.argsort(of_vector)  # the vector's elements in its own order
            matrix = np.moveaxis(elements.known(data), [axes[i] for i in order], range(-len(axes), 0))
            return Separable(shape, {}, (Sum(vector, matrix.reshape(*shape, -1), np.ones(shape)),))
    return None


def _sum(elements: Elements, eqn: Any, shape: tuple[int, ...]) -> Separable | None:
    """Over a few axes: each element has all the numbers that its parts picked."""
    operand, axes = eqn.invars[0], tuple(eqn.params["axes"])
    found = _of(elements, operand)
    if any(aval(t.atom).size > _FEW for t in found.terms):
        return None
    known = {f: k.sum(axes) for f, k in found.known.items()}
    return Separable(shape, known, tuple(_summed(t, axes) for t in found.terms))


_FEW = 256  # numbers up to which what elements pick becomes a row of a matrix


def _summed(term: Pick | Sum, axes: tuple[int, ...]) -> Sum:
    if isinstance(term, Sum):
        matrix = product(term.weight[..., None], term.matrix).sum(axes)
    else:
        numbers = np.arange(aval(term.atom).size)
        parts = np.moveaxis(term.index, axes, range(len(axes))), np.moveaxis(term.weight, axes, range(len(axes)))
        index, weight = (x.reshape(-1, *x.shape[len(axes) :]) for x in parts)
        matrix = sum(w[..., None] * (i[..., None] == numbers) for i, w in zip(index, weight, strict=True))
    return Sum(term.atom, np.asarray(matrix, float), np.ones(matrix.shape[:-1]), term.factor)  # pyright: ignore[reportAttributeAccessIssue]


def _select(elements: Elements, eqn: Any, shape: tuple[int, ...]) -> Separable | None:
    which, *cases = eqn.invars
    if elements.moves(which) or len(cases) != 2:
        return None
    which = np.broadcast_to(elements.known(which).astype(bool), shape)
    found = [separable(elements, x, shape) for x in cases]
    return found[0].weighted(~which).plus(found[1].weighted(which))


_RULES: dict[str, Any] = {
    "add": _add,
    "add_any": _add,
    "convert_element_type": _same,
    "copy": _same,
    "div": _div,
    "dot_general": _dot,
    "mul": _mul,
    "neg": _neg,
    "reduce_sum": _sum,
    "select_n": _select,
    "sub": _sub,
}
