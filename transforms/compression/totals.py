"""Sums over all elements of a value, as far as they are sums of squares:

    sum_i w_i v_i  =  sum_k f_k sum_i (separable_k[i])^2 + sum_k n_k s_k + n

with f and s scalars of the program, and the rest data. What a Gaussian log density is, whatever its mean is made of.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..affine.rules import aval
from .elements import Elements, places
from .separable import Product, Separable, product, separable, times

__all__ = ["Squares", "Total", "total"]


@dataclass(frozen=True)
class Squares:
    """factor sum_i weight_i value_i^2."""

    factor: Product
    weight: np.ndarray
    value: Separable


@dataclass
class Total:
    """The sum, in parts. squares: see there. scalars: (factor, how often). number: what is known."""

    squares: list[Squares] = field(default_factory=list)
    scalars: list[tuple[Product, float]] = field(default_factory=list)
    number: float = 0.0


def total(elements: Elements, eqn: Any) -> Total | None:
    """The result of an equation that sums all elements of a value; None where there is more in it than squares and scalars."""
    found = Total()
    return found if _sum(found, elements, eqn, np.ones(aval(eqn.outvars[0]).shape), ()) else None


def _add_to(found: Total, elements: Elements, atom: Any, weight: np.ndarray, factor: Product) -> bool:
    """Adds factor sum_i weight_i atom_i, the atom broadcast to the weights; whether that is possible."""
    if not elements.moves(atom):
        known = float(product(weight, np.broadcast_to(elements.known(atom).astype(float), weight.shape)).sum())
        if factor:
            found.scalars.append((factor, known))
        else:
            found.number += known
        return True
    if aval(atom).size == 1:
        found.scalars.append((times(factor, ((atom, 1),)), float(weight.sum())))
        return True
    eqn = elements.equation(atom)
    if eqn is None:
        return False
    weight = _gathered_in(weight, tuple(aval(atom).shape))
    rule = _RULES.get(eqn.primitive.name)
    return rule is not None and rule(found, elements, eqn, weight, factor)


def _gathered_in(weight: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The weights of an array's elements, from those of what it is broadcast to."""
    extra = weight.ndim - len(shape)
    axes = (*range(extra), *(extra + i for i, n in enumerate(shape) if n == 1 and weight.shape[extra + i] != 1))
    return weight.sum(axes).reshape(shape) if axes else weight


def _each(found: Total, elements: Elements, eqn: Any, weight: np.ndarray, factor: Product) -> bool:
    return all(_add_to(found, elements, x, weight, factor) for x in eqn.invars)


def _difference(found: Total, elements: Elements, eqn: Any, weight: np.ndarray, factor: Product) -> bool:
    a, b = eqn.invars
    return _add_to(found, elements, a, weight, factor) and _add_to(found, elements, b, -weight, factor)


def _negative(found: Total, elements: Elements, eqn: Any, weight: np.ndarray, factor: Product) -> bool:
    return _add_to(found, elements, eqn.invars[0], -weight, factor)


def _same(found: Total, elements: Elements, eqn: Any, weight: np.ndarray, factor: Product) -> bool:
    operand = aval(eqn.invars[0])
    return np.issubdtype(operand.dtype, np.floating) and _add_to(found, elements, eqn.invars[0], weight, factor)


def _mul(found: Total, elements: Elements, eqn: Any, weight: np.ndarray, factor: Product) -> bool:
    a, b = eqn.invars
    if a is b:
        return _squares(found, elements, a, weight, factor)
    for one, other in ((a, b), (b, a)):
        if not elements.moves(other):
            return _add_to(found, elements, one, product(weight, np.broadcast_to(elements.known(other), weight.shape)), factor)
        if aval(other).size == 1:
            return _add_to(found, elements, one, weight, times(factor, ((other, 1),)))
    return False


def _div(found: Total, elements: Elements, eqn: Any, weight: np.ndarray, factor: Product) -> bool:
    a, b = eqn.invars
    if not elements.moves(b):
        with np.errstate(divide="ignore"):
            inverse = 1 / elements.known(b).astype(float)
        return _add_to(found, elements, a, product(weight, np.broadcast_to(inverse, weight.shape)), factor)
    return aval(b).size == 1 and _add_to(found, elements, a, weight, times(factor, ((b, 1),), -1))


def _select(found: Total, elements: Elements, eqn: Any, weight: np.ndarray, factor: Product) -> bool:
    which, *cases = eqn.invars
    if elements.moves(which) or len(cases) != 2:
        return False
    chosen = np.broadcast_to(elements.known(which).astype(bool), weight.shape)
    return all(
        _add_to(found, elements, x, np.where(here, weight, 0.0), factor)
        for x, here in zip(cases, (~chosen, chosen), strict=True)
        if here.any()
    )


def _power(found: Total, elements: Elements, eqn: Any, weight: np.ndarray, factor: Product) -> bool:
    return eqn.params.get("y", 2) == 2 and _squares(found, elements, eqn.invars[0], weight, factor)


def _squares(found: Total, elements: Elements, atom: Any, weight: np.ndarray, factor: Product) -> bool:
    signs = np.unique(np.sign(weight[weight != 0]))
    if len(signs) > 1:
        return False
    found.squares.append(Squares(factor, weight, separable(elements, atom, weight.shape)))
    return True


def _sum(found: Total, elements: Elements, eqn: Any, weight: np.ndarray, factor: Product) -> bool:
    shape = aval(eqn.invars[0]).shape
    spread = np.expand_dims(weight, tuple(eqn.params["axes"]))
    return _add_to(found, elements, eqn.invars[0], np.broadcast_to(spread, shape), factor)


def _moves(found: Total, elements: Elements, eqn: Any, weight: np.ndarray, factor: Product) -> bool:
    """Weights go back to where the elements come from."""
    operand, there = eqn.invars[0], places(elements, eqn)
    if there is None:
        return False
    back = np.bincount(there.reshape(-1), weight.reshape(-1), aval(operand).size).reshape(aval(operand).shape)
    return _add_to(found, elements, operand, back, factor)


_RULES: dict[str, Any] = {
    **dict.fromkeys(("broadcast_in_dim", "expand_dims", "reshape", "rev", "slice", "squeeze", "transpose"), _moves),
    "add": _each,
    "add_any": _each,
    "convert_element_type": _same,
    "copy": _same,
    "div": _div,
    "integer_pow": _power,
    "mul": _mul,
    "neg": _negative,
    "reduce_sum": _sum,
    "select_n": _select,
    "square": _power,
    "sub": _difference,
}
