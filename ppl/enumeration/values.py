"""Lifted values: one array for all states of the discrete sites that a value depends on.

A lifted value of logical shape S is an array of shape (sizes of its dims, stored axes). A dim is a discrete variable, whose axis runs over
its states, or the turns of a loop. A stored axis has the logical size, or 1 where all elements are the same ("thin"): the K states of N
elements are K numbers, and a table is gathered from K times and not N K times. What follows from the states alone stays a NumPy array, so
that it is known which elements of a table they pick.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .labels import Label, met

__all__ = ["Dim", "Lifted", "Variable", "aligned", "elementwise", "full", "mapped", "plain", "reshaped", "union"]


@dataclass(frozen=True, eq=False)
class Variable:
    """A discrete site, or one turn of it, as an axis of tables.

    Attributes:
        site: its site's name. size: number of states.
        labels: of the axes of the site's value that have more than one element; in a loop the turns' first.
        words: how tables name it. line: the user's line.
    """

    site: str
    size: int
    labels: tuple[Label, ...]
    words: str
    line: str


Dim = Variable | Label


@dataclass(frozen=True, eq=False)
class Lifted:
    """See the module. `labels` has an entry for each axis of `shape`, None where there is none."""

    array: Any
    dims: tuple[Dim, ...]
    shape: tuple[int, ...]
    labels: tuple[Label | None, ...]

    @property
    def stored(self) -> tuple[int, ...]:
        return np.shape(self.array)[len(self.dims) :]

    @property
    def variables(self) -> tuple[Variable, ...]:
        return tuple(d for d in self.dims if isinstance(d, Variable))

    @property
    def is_plain(self) -> bool:
        """Whether it is an ordinary array."""
        return not self.dims and self.stored == self.shape

    def renamed(self, names: Mapping[Variable, Variable]) -> "Lifted":
        """The same table over other variables."""
        return replace(self, dims=tuple(names.get(d, d) if isinstance(d, Variable) else d for d in self.dims))

    @property
    def struct(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.shape, jnp.result_type(self.array))


def plain(array: Any) -> Lifted:
    shape = np.shape(array)
    return Lifted(array, (), shape, (None,) * len(shape))


def reshaped(array: Any, shape: Sequence[int]) -> Any:
    """The array in another shape; what is known stays known."""
    return np.reshape(array, shape) if isinstance(array, np.ndarray) else jnp.reshape(array, shape)


def union(values: Sequence[Lifted]) -> tuple[Dim, ...]:
    """The dims of all values, each once."""
    found: list[Dim] = []
    for value in values:
        found += [d for d in value.dims if not any(d is f for f in found)]
    return tuple(found)


def aligned(value: Lifted, dims: Sequence[Dim]) -> Any:
    """The array with an axis for each of `dims`, which hold all of its own, in their order; of size 1 where it has none."""
    order = [i for d in dims for i, own in enumerate(value.dims) if own is d]
    array, axes = value.array, len(value.dims)
    if order != sorted(order):
        array = (np if isinstance(array, np.ndarray) else jnp).transpose(array, [*order, *range(axes, np.ndim(array))])
    own = {id(d) for d in value.dims}
    lead = [d.size if id(d) in own else 1 for d in dims]
    return array if len(lead) == axes else reshaped(array, (*lead, *value.stored))


def full(value: Lifted, axes: Sequence[int] | None = None) -> Lifted:
    """The value with no thin axis, or none among `axes`."""
    wanted = range(len(value.shape)) if axes is None else axes
    stored = tuple(size if i in wanted else value.stored[i] for i, size in enumerate(value.shape))
    if stored == value.stored:
        return value
    lead = np.shape(value.array)[: len(value.dims)]
    return Lifted(jnp.broadcast_to(value.array, (*lead, *stored)), value.dims, value.shape, value.labels)


def elementwise(function: Callable[..., Any], values: Sequence[Lifted], shape: tuple[int, ...]) -> Lifted:
    """function(*arrays), all of one shape, where each element of the result is computed from those at its place.

    Args:
        shape: the logical shape of the result; values without axes go with any.
    """
    dims, rank = union(values), len(shape)
    shaped = [v for v in values if v.shape]
    labels = tuple(met(v.labels[i] for v in shaped) for i in range(rank))
    stored = tuple(max((v.stored[i] for v in shaped), default=1) if size else 0 for i, size in enumerate(shape))
    target = (*(d.size for d in dims), *stored)

    def ready(value: Lifted) -> Any:
        array = aligned(value, dims)
        if not value.shape and rank:
            array = reshaped(array, (*np.shape(array), *(1 for _ in range(rank))))
        if np.shape(array) == target:
            return array
        return np.broadcast_to(array, target) if isinstance(array, np.ndarray) else lax.broadcast_in_dim(array, target, range(len(target)))

    return Lifted(function(*map(ready, values)), dims, shape, labels)


def mapped(function: Callable[..., Sequence[Any]], values: Sequence[Lifted]) -> tuple[list[Any], tuple[Dim, ...]]:
    """function(*stored arrays) for every state of the dims; its results, each with all dims in front, and the dims."""
    dims = union(values)
    one: Callable[..., Any] = function
    for d in reversed(dims):
        one = jax.vmap(one, in_axes=tuple(0 if any(d is own for own in v.dims) else None for v in values), out_axes=0, axis_size=d.size)
    arrays = []
    for value in values:
        order = [i for d in dims for i, own in enumerate(value.dims) if own is d]
        array = jnp.asarray(value.array)
        arrays.append(array if order == sorted(order) else jnp.transpose(array, [*order, *range(len(order), array.ndim)]))
    return list(one(*arrays)), dims
