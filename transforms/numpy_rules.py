"""Primitives evaluated in NumPy: what index arithmetic and simple preparations of data are made of, for looks at values that are known.

A rule takes (equation, depth, *operands): arrays of the equation's shapes with `depth` axes of the loops around in front, of size one where
nothing changes. Results have the dtype that JAX gives them.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["NUMPY_RULES"]

Rule = Callable[..., np.ndarray]


def _aligned(eqn: Any, depth: int, operands: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    """Operands of one rank: what is a scalar to the equation gets axes behind those of the loops."""
    rank = max((x.ndim for x in operands), default=depth)
    return [x.reshape(x.shape[:depth] + (1,) * (rank - x.ndim) + x.shape[depth:]) for x in operands]


def _elementwise(function: Callable[..., Any]) -> Rule:
    def rule(eqn: Any, depth: int, *operands: np.ndarray) -> np.ndarray:
        return np.asarray(function(*_aligned(eqn, depth, operands)), eqn.outvars[0].aval.dtype)

    return rule


def _reduction(function: Callable[..., Any]) -> Rule:
    def rule(eqn: Any, depth: int, x: np.ndarray) -> np.ndarray:
        axes = tuple(axis + depth for axis in eqn.params["axes"])
        return np.asarray(function(x, axis=axes), eqn.outvars[0].aval.dtype)

    return rule


def _select(which: np.ndarray, *cases: np.ndarray) -> np.ndarray:
    return np.where(which, cases[1], cases[0]) if len(cases) == 2 and which.dtype == bool else np.choose(which, cases)


def _divide(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Division of integers towards zero, as XLA's."""
    if np.issubdtype(x.dtype, np.inexact):
        return x / y
    return np.where(y == 0, -1, np.trunc(x / np.where(y == 0, 1, y)))


def _remainder(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.fmod(x, y) if np.issubdtype(x.dtype, np.inexact) else np.where(y == 0, x, np.fmod(x, np.where(y == 0, 1, y)))


def _broadcast(eqn: Any, depth: int, x: np.ndarray, *dynamic: np.ndarray) -> np.ndarray:
    shape, dims = eqn.params["shape"], eqn.params["broadcast_dimensions"]
    own = [1] * len(shape)
    for axis, dim in enumerate(dims):
        own[dim] = x.shape[depth + axis]
    return np.broadcast_to(x.reshape((*x.shape[:depth], *own)), (*x.shape[:depth], *shape))


def _reshape(eqn: Any, depth: int, x: np.ndarray, *dynamic: np.ndarray) -> np.ndarray:
    return x.reshape((*x.shape[:depth], *eqn.outvars[0].aval.shape))


def _transpose(eqn: Any, depth: int, x: np.ndarray) -> np.ndarray:
    return x.transpose((*range(depth), *(axis + depth for axis in eqn.params["permutation"])))


def _concatenate(eqn: Any, depth: int, *operands: np.ndarray) -> np.ndarray:
    lead = np.broadcast_shapes(*(x.shape[:depth] for x in operands))
    return np.concatenate([np.broadcast_to(x, (*lead, *x.shape[depth:])) for x in operands], eqn.params["dimension"] + depth)


def _slice(eqn: Any, depth: int, x: np.ndarray) -> np.ndarray:
    p = eqn.params
    strides = p["strides"] or (1,) * len(p["start_indices"])
    return x[(slice(None),) * depth + tuple(map(slice, p["start_indices"], p["limit_indices"], strides))]


def _reverse(eqn: Any, depth: int, x: np.ndarray) -> np.ndarray:
    return np.flip(x, tuple(axis + depth for axis in eqn.params["dimensions"]))


def _iota(eqn: Any, depth: int, *dynamic: np.ndarray) -> np.ndarray:
    aval, dim = eqn.outvars[0].aval, eqn.params["dimension"]
    line = np.arange(aval.shape[dim]).astype(aval.dtype)
    return np.broadcast_to(line.reshape((-1, *(1,) * (len(aval.shape) - dim - 1))), aval.shape)[(None,) * depth]


def _cumulative(ufunc: np.ufunc) -> Rule:
    def rule(eqn: Any, depth: int, x: np.ndarray) -> np.ndarray:
        axis = eqn.params["axis"] + depth
        if eqn.params["reverse"]:
            return np.flip(ufunc.accumulate(np.flip(x, axis), axis, dtype=x.dtype), axis)
        return ufunc.accumulate(x, axis, dtype=x.dtype)

    return rule


def _power(eqn: Any, depth: int, x: np.ndarray) -> np.ndarray:
    return np.power(x, np.asarray(eqn.params["y"], x.dtype if eqn.params["y"] >= 0 else float)).astype(x.dtype)


NUMPY_RULES: dict[str, Rule] = {
    **{
        name: _elementwise(function)
        for name, function in {
            "abs": np.abs,
            "add": np.add,
            "add_any": np.add,
            "and": np.bitwise_and,
            "ceil": np.ceil,
            "clamp": lambda low, x, high: np.minimum(np.maximum(x, low), high),
            "convert_element_type": lambda x: x,
            "copy": lambda x: x,
            "copy_p": lambda x: x,
            "div": _divide,
            "eq": np.equal,
            "exp": np.exp,
            "expm1": np.expm1,
            "floor": np.floor,
            "ge": np.greater_equal,
            "gt": np.greater,
            "is_finite": np.isfinite,
            "le": np.less_equal,
            "log": np.log,
            "log1p": np.log1p,
            "lt": np.less,
            "max": np.maximum,
            "min": np.minimum,
            "mul": np.multiply,
            "ne": np.not_equal,
            "neg": np.negative,
            "not": np.invert,
            "or": np.bitwise_or,
            "pow": np.power,
            "rem": _remainder,
            "select_n": _select,
            "sign": np.sign,
            "sqrt": np.sqrt,
            "square": np.square,
            "stop_gradient": lambda x: x,
            "sub": np.subtract,
            "xor": np.bitwise_xor,
        }.items()
    },
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "cumsum": _cumulative(np.add),
    "expand_dims": _reshape,
    "integer_pow": _power,
    "iota": _iota,
    "reduce_and": _reduction(np.logical_and.reduce),
    "reduce_max": _reduction(np.maximum.reduce),
    "reduce_min": _reduction(np.minimum.reduce),
    "reduce_or": _reduction(np.logical_or.reduce),
    "reduce_sum": _reduction(np.add.reduce),
    "reshape": _reshape,
    "rev": _reverse,
    "slice": _slice,
    "squeeze": _reshape,
    "transpose": _transpose,
}
