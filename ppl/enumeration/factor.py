"""Factors: tables of log probabilities, log f(z_1 .. z_m) over discrete variables, for each element of the axes of labels.

Those factors whose product is the density are given. `elimination` sums over one variable after another; here is what it does to tables.
"""

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from ...transforms import ModelError
from .labels import Label, distinct
from .values import Lifted, Variable

__all__ = ["Factor", "added_up", "crossing", "factor_of", "joined", "laid_out", "picked", "sizes_of", "summed_rows", "with_label"]


@dataclass(frozen=True, eq=False)
class Factor:
    """array: an axis for each of `variables`, then one for each of `labels`, of their sizes; a label's is 1 if all rows are the same.

    sites: the names of those whose density is in it.
    """

    array: Any
    variables: tuple[Variable, ...]
    labels: tuple[Label, ...]
    sites: frozenset[str] = frozenset()

    def renamed(self, names: "dict[Variable, Variable]") -> "Factor":
        return replace(self, variables=tuple(names.get(v, v) for v in self.variables))


def factor_of(value: Lifted, site: str) -> Factor:
    """The log density that a lifted value is the elements of: summed over every axis without a label."""
    n = len(value.dims)
    variables = [i for i, d in enumerate(value.dims) if isinstance(d, Variable)]
    turns = [i for i, d in enumerate(value.dims) if isinstance(d, Label)]
    labelled = [a for a, label in enumerate(value.labels) if label is not None and variables]
    free = [a for a in range(len(value.shape)) if a not in labelled]
    times = math.prod(value.shape[a] for a in free if value.stored[a] != value.shape[a])
    array = jnp.transpose(value.array, [*variables, *turns, *(n + a for a in labelled), *(n + a for a in free)])
    if free:
        array = array.sum(tuple(range(n + len(labelled), array.ndim)))
    array = array if times == 1 else array * times
    labels = [d for d in value.dims if isinstance(d, Label)] + [label for a in labelled if (label := value.labels[a]) is not None]
    factor = Factor(array, value.variables, tuple(label.root for label in labels), frozenset((site,)))
    if not distinct(labels):
        raise crossing([factor])
    return factor


def with_label(factor: Factor, label: Label) -> Factor:
    """The factor with an axis for `label`, thin if it had none, in front of the other labels."""
    n = len(factor.variables)
    roots = [own.root for own in factor.labels]
    if label.root in roots:
        at = roots.index(label.root)
        rest = [i for i in range(len(roots)) if i != at]
        array = jnp.moveaxis(factor.array, n + at, n) if at else factor.array
        return replace(factor, array=array, labels=(label.root, *(roots[i] for i in rest)))
    return replace(factor, array=jnp.expand_dims(factor.array, n), labels=(label.root, *roots))


def summed_rows(factor: Factor) -> Factor:
    """The factor without the labels that none of its variables has: rows are added up, by the elements that they pick where they do.

    Where no variable is left the rows are independent of all others, and stay apart (`added_up`).
    """
    needed = {id(label.root) for v in factor.variables for label in v.labels}
    return added_up(picked(factor, needed), needed) if factor.variables else factor


def added_up(factor: Factor, kept: Container[int] = ()) -> Factor:
    """The factor summed over its labels, but those of which `kept` has the id."""
    gone = [i for i, label in enumerate(factor.labels) if id(label.root) not in kept]
    if not gone:
        return factor
    n = len(factor.variables)
    times = math.prod(factor.labels[i].size for i in gone if factor.array.shape[n + i] != factor.labels[i].size)
    array = factor.array.sum(tuple(n + i for i in gone))
    labels = tuple(label for i, label in enumerate(factor.labels) if i not in gone)
    return replace(factor, array=array if times == 1 else array * times, labels=labels)


def picked(factor: Factor, needed: set[int]) -> Factor:
    """The factor with every axis of rows that pick elements, and that no variable has, added up into the axis that they pick from."""
    n = len(factor.variables)
    for i, label in enumerate(factor.labels):
        picks = [(of.root, index) for of, index in label.root.picks if id(of.root) in needed]
        if id(label.root) in needed or not picks:
            continue
        if len({id(of) for of, _ in picks}) > 1 or any(of is own for of, _ in picks for own in factor.labels):
            raise crossing([factor])
        of, index = picks[0]
        rows = jnp.moveaxis(factor.array, n + i, 0)
        rows = jnp.broadcast_to(rows, (label.size, *rows.shape[1:]))
        array = jnp.moveaxis(jax.ops.segment_sum(rows, index, num_segments=of.size), 0, n + i)
        return picked(replace(factor, array=array, labels=(*factor.labels[:i], of, *factor.labels[i + 1 :])), needed)
    return factor


def joined(factors: Sequence[Factor]) -> Factor:
    """The product of some factors, as one table."""
    variables, labels = _order(factors)
    arrays = [_laid(f, variables, labels) for f in factors]
    total = arrays[0]
    for array in arrays[1:]:
        total = total + array
    return Factor(total, tuple(variables), tuple(labels), frozenset().union(*(f.sites for f in factors)))


def laid_out(factor: Factor, variables: Sequence[Variable], labels: Sequence[Label]) -> Any:
    """The table with exactly these axes, each of its whole size."""
    array = _laid(factor, variables, labels)
    shape = (*(v.size for v in variables), *(label.size for label in labels))
    return jnp.broadcast_to(array, shape)


def _order(factors: Sequence[Factor]) -> tuple[list[Variable], list[Label]]:
    variables: list[Variable] = []
    labels: list[Label] = []
    for factor in factors:
        variables += [v for v in factor.variables if not any(v is f for f in variables)]
        labels += [label.root for label in factor.labels if not any(label.root is f for f in labels)]
    return variables, labels


def _laid(factor: Factor, variables: Sequence[Variable], labels: Sequence[Label]) -> Any:
    own = [*map(id, factor.variables), *(id(label.root) for label in factor.labels)]
    wanted = [*map(id, variables), *(id(label.root) for label in labels)]
    array = jnp.transpose(factor.array, [own.index(w) for w in wanted if w in own])
    sizes = iter(array.shape)
    return jnp.reshape(array, [next(sizes) if w in own else 1 for w in wanted])


def sizes_of(factors: Sequence[Factor]) -> tuple[int, ...]:
    """The shape of the product."""
    variables, labels = _order(factors)
    widest = {id(label): 1 for label in labels}
    for factor in factors:
        for label, size in zip(factor.labels, factor.array.shape[len(factor.variables) :], strict=True):
            widest[id(label.root)] = max(widest[id(label.root)], size)
    return (*(v.size for v in variables), *(widest[id(label)] for label in labels))


def crossing(factors: Sequence[Factor]) -> ModelError:
    sites = sorted({f"{v.site!r} ({v.line})" for f in factors for v in f.variables})
    axes = sorted({label.root.words for f in factors for label in f.labels})
    return ModelError(
        f"the discrete sites {', '.join(sites)} cannot be summed out: what depends on them crosses their axes ({', '.join(axes)}), "
        "so that every row of one meets every row of the other, and no table is smaller than that of all states of all rows together. "
        "Put one site inside the rows of the other (nested plates), or observe one of them."
    )
