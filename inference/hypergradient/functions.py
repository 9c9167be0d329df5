"""What a user's function computes, apart from the arrays that it closes over: those are arguments of the compiled programs.

So data are in memory once, not once for every place where a program reads them, and functions that compute the same share programs.
"""

import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import eval_jaxpr

from ...transforms import structure
from ...transforms.jax_compat import open_jaxpr

__all__ = ["Bound", "Function", "types_of"]

_known: weakref.WeakKeyDictionary[Any, dict[Hashable, "Bound"]] = weakref.WeakKeyDictionary()
"""What functions are traced to, by their types; forgotten with the function, and the data that it closes over."""


@dataclass(frozen=True)
class Function:
    """A traced function; equal to any that applies the same equations.

    Attributes:
        key: of the program. jaxpr: open. out_tree: structure of what it returns.
    """

    key: Hashable
    jaxpr: Any
    out_tree: Any

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Function) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def result(self) -> Any:
        """The types of what it returns."""
        return jax.tree.unflatten(self.out_tree, [v.aval for v in self.jaxpr.outvars])

    @classmethod
    def trace(cls, function: Callable[..., Any], *args: Any, taken: int | None = None) -> "Bound":
        """A function of pytrees for arguments of these types; traced once for each function object.

        Args:
            taken: how many of the arguments the function takes, if not all.
        """
        tree, types = types_of(args)
        key = tree, types, taken, jnp.result_type(float) == jnp.float64
        try:
            known = _known.setdefault(function, {})
        except TypeError:  # no weak reference to it, or no hash
            known = {}
        if key not in known:
            known[key] = _traced(function, tree, types, taken)
        return known[key]


@dataclass(frozen=True)
class Bound:
    """A traced function with the arrays that it closes over."""

    function: Function
    consts: Sequence[Any]

    def __call__(self, *args: Any) -> Any:
        made = eval_jaxpr(self.function.jaxpr, self.consts, *jax.tree.leaves(args))
        return jax.tree.unflatten(self.function.out_tree, made)


def _traced(function: Callable[..., Any], tree: Any, types: tuple[Any, ...], taken: int | None) -> Bound:
    box: list[Any] = []

    def flat(*leaves: Any) -> list[Any]:
        made, out_tree = jax.tree.flatten(function(*jax.tree.unflatten(tree, leaves)[:taken]))
        box.append(out_tree)
        return [jnp.asarray(x) for x in made]

    closed = jax.make_jaxpr(flat)(*types)
    jaxpr, consts = open_jaxpr(closed)
    key = structure(closed), tree, types, box[-1]
    return Bound(Function(key, jaxpr, box[-1]), tuple(consts))


def types_of(values: Any) -> tuple[Any, tuple[Any, ...]]:
    """The structure of a pytree, and the types of its leaves."""
    leaves, tree = jax.tree.flatten(values)
    return tree, tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves)
