"""What is known of a variable's value before the program runs, and what is known where two paths meet.

    Known(value)  <  Array(shape, dtype, weak)  <  Array(shape, a wider dtype if weak)

A value is a pytree. Each leaf is an array of known type, or a Python object that is known itself: a number, a string, a function.
Where paths meet with two different numbers, an array takes their place; weak types join as JAX promotes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Array", "Known", "Leaf", "Mismatch", "Value", "join", "value_of", "widen"]

_NUMBERS = (bool, int, float, complex)


class Mismatch(Exception):
    """Two values have no common type; the message says why."""


@dataclass(frozen=True)
class Array:
    """A leaf that is known when the program runs."""

    shape: tuple[int, ...]
    dtype: Any
    weak: bool

    def __str__(self) -> str:
        return f"{np.dtype(self.dtype).name}[{','.join(map(str, self.shape))}]" + (" (weak)" if self.weak else "")


@dataclass(frozen=True, eq=False)
class Known:
    """A leaf that is known now."""

    value: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Known) and _same(self.value, other.value)

    def __hash__(self) -> int:
        return hash(type(self.value))

    @property
    def array(self) -> Array | None:
        """The type that a number, or an array that is known, has as an array."""
        if isinstance(self.value, (jax.Array, np.ndarray, np.generic)):
            return Array(tuple(self.value.shape), self.value.dtype, False)
        if type(self.value) not in _NUMBERS:
            return None
        return Array((), jnp.result_type(type(self.value)), type(self.value) is not bool)

    def __str__(self) -> str:
        return repr(self.value)


Leaf = Array | Known


@dataclass(frozen=True)
class Value:
    """A pytree of leaves.

    Attributes:
        tree: its structure.
        paths: of each leaf within it, as messages and slots name them.
        leaves: what is known of them.
    """

    tree: Any
    paths: tuple[str, ...]
    leaves: tuple[Leaf, ...]

    @property
    def arrays(self) -> list[tuple[str, Array]]:
        """The leaves that are arrays, by path."""
        return [(p, leaf) for p, leaf in zip(self.paths, self.leaves, strict=True) if isinstance(leaf, Array)]

    def __str__(self) -> str:
        if self.paths == ("",):
            return str(self.leaves[0])
        try:
            return repr(jax.tree.unflatten(self.tree, [_Shown(str(leaf)) for leaf in self.leaves]))
        except Exception:  # the constructor of a user's class may refuse what is no array
            return f"{self.tree} of {', '.join(map(str, self.leaves))}"


class _Shown(str):
    def __repr__(self) -> str:
        return str(self)


def value_of(tree_with_paths: Sequence[tuple[Any, Any]], tree: Any, leaves: Sequence[Leaf]) -> Value:
    """A value from what `jax.tree_util.tree_flatten_with_path` returns."""
    paths = tuple(jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in tree_with_paths)
    return Value(tree, paths, tuple(leaves))


def widen(value: Value) -> Value:
    """The value with arrays in the place of known numbers."""
    return Value(value.tree, value.paths, tuple((leaf.array or leaf) if isinstance(leaf, Known) else leaf for leaf in value.leaves))


def join(a: Value, b: Value) -> Value:
    """What is known where a path with `a` meets a path with `b`.

    Raises:
        Mismatch: they differ in structure, in the shape or strong dtype of a leaf, or in an object that is no number.
    """
    if a.tree != b.tree:
        raise Mismatch("their structures differ")
    return Value(a.tree, a.paths, tuple(map(_join, a.leaves, b.leaves, a.paths)))


def _join(a: Leaf, b: Leaf, path: str) -> Leaf:
    if a == b:
        return a
    of = f" of leaf {path}" if path else ""
    arrays = [leaf.array if isinstance(leaf, Known) else leaf for leaf in (a, b)]
    left, right = arrays
    if left is None or right is None:
        raise Mismatch(f"the values{of} are no numbers, and differ")
    if left.shape != right.shape:
        raise Mismatch(f"the shapes{of} differ")
    if left.dtype == right.dtype:
        return Array(left.shape, left.dtype, left.weak and right.weak)
    if not (left.weak or right.weak or isinstance(a, Known) or isinstance(b, Known)):
        raise Mismatch(f"the dtypes{of} differ")
    return Array(left.shape, *_promote(left, right))


def _promote(left: Array, right: Array) -> tuple[Any, bool]:
    """(dtype, weak) of two types of which one is weak, or a known bool; the rule of JAX's promotion of Python numbers."""
    kinds = [_python_type(x) if x.weak else None for x in (left, right)]
    if kinds[0] and kinds[1]:
        wider = max((k for k in kinds if k), key=_NUMBERS.index)
        return jnp.result_type(wider), True
    if not kinds[0] and not kinds[1]:
        return jnp.promote_types(left.dtype, right.dtype), False
    strong, kind = (right, kinds[0]) if kinds[0] else (left, kinds[1])
    assert kind is not None
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(strong.dtype, kind(0))
    return dtype, _NUMBERS.index(kind) > _NUMBERS.index(_python_type(strong))


def _python_type(array: Array) -> type:
    for kind, group in ((bool, np.bool_), (int, np.integer), (float, np.floating), (complex, np.complexfloating)):
        if jnp.issubdtype(array.dtype, group):
            return kind
    raise Mismatch(f"{array} is no number")


def _same(a: Any, b: Any) -> bool:
    """Whether two known values are the same to the code that reads them; a function made twice by one line is the same."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, FunctionType):
        cells = [[c.cell_contents for c in f.__closure__ or ()] for f in (a, b)]
        same = len(cells[0]) == len(cells[1]) and all(map(_same, *cells))
        return a.__code__ == b.__code__ and a.__globals__ is b.__globals__ and same and a.__defaults__ == b.__defaults__
    if isinstance(a, (float, complex)):
        return repr(a) == repr(b)
    try:
        return bool(a == b)
    except Exception:  # an object whose == gives no bool is the same only as itself
        return False
