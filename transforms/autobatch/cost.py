"""What a block costs: floating-point operations of its jaxpr, and how many equations it has.

The numbers rank blocks against one another; which one holds the gradient stands out by orders of magnitude, so that transcendental
functions need no weights of their own.
"""

import math
from collections.abc import Callable
from typing import Any

from ..equations import occurs
from ..jax_compat import open_jaxpr, subjaxprs

__all__ = ["WHILE_ITERATIONS", "equations", "flops", "has_loop"]

WHILE_ITERATIONS = 10  # of a `while`, whose length is not known


def flops(jaxpr: Any) -> float:
    """Floating-point operations of one evaluation.

    An equation counts its output elements, a reduction its input elements, a write to a part of an array the elements written;
    matrix products, factorisations and solves their usual formula; a `scan` its length times the body, a `while` its body
    `WHILE_ITERATIONS` times, a `cond` its dearest branch, and any other equation with jaxprs among its parameters (`jit`, custom
    derivatives, call primitives) those jaxprs.

    Args:
        jaxpr: open or closed.
    """
    return float(sum(_equation(eqn) for eqn in open_jaxpr(jaxpr)[0].eqns))


def equations(jaxpr: Any) -> int:
    """Equations of a jaxpr, those of inner jaxprs counted once each in place of the equation that holds them."""
    inner = [[equations(sub) for sub in subjaxprs(eqn)] for eqn in open_jaxpr(jaxpr)[0].eqns]
    return sum(sum(counts) or 1 for counts in inner)


def has_loop(jaxpr: Any) -> bool:
    """Whether a `while` occurs at any depth, so that evaluation might not end on inputs it was not meant for."""
    return occurs(jaxpr, lambda eqn: eqn.primitive.name == "while")


def _equation(eqn: Any) -> float:
    name = eqn.primitive.name
    if name in _FORMULAS:
        return _FORMULAS[name](eqn)
    if name.startswith(("reduce_", "arg", "cum")):
        return _size(eqn.invars[0])
    if name.startswith("scatter"):
        return _size(eqn.invars[-1])
    inner = [flops(sub) for sub in subjaxprs(eqn)]
    if name == "scan":
        return eqn.params["length"] * sum(inner)
    if name == "while":
        return WHILE_ITERATIONS * sum(inner)
    if name == "cond":
        return max(inner)
    if inner:
        return sum(inner)
    return sum(_size(out) for out in eqn.outvars)


def _size(atom: Any) -> int:
    return math.prod(getattr(atom.aval, "shape", ()))


def _dot_general(eqn: Any) -> float:
    ((contracted, _), _) = eqn.params["dimension_numbers"]
    shape = eqn.invars[0].aval.shape
    return 2 * _size(eqn.outvars[0]) * math.prod(shape[axis] for axis in contracted)


def _convolution(eqn: Any) -> float:
    kernel = eqn.invars[1].aval.shape
    features = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
    return 2 * _size(eqn.outvars[0]) * math.prod(kernel) / max(features, 1)


def _triangular_solve(eqn: Any) -> float:
    return _size(eqn.invars[1]) * eqn.invars[0].aval.shape[-1]


def _factorisation(coefficient: float) -> Callable[[Any], float]:
    """coefficient times m n min(m, n) for each matrix of the first operand."""
    return lambda eqn: coefficient * _size(eqn.invars[0]) * min(eqn.invars[0].aval.shape[-2:])


_FORMULAS: dict[str, Callable[[Any], float]] = {
    "dot_general": _dot_general,
    "dynamic_update_slice": lambda eqn: _size(eqn.invars[1]),
    "conv_general_dilated": _convolution,
    "triangular_solve": _triangular_solve,
    "cholesky": _factorisation(1 / 3),
    "lu": _factorisation(2 / 3),
    "geqrf": _factorisation(2),
    "qr": _factorisation(2),
    "eigh": _factorisation(9),
    "svd": _factorisation(10),
}
