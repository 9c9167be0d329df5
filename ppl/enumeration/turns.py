"""Lifted values and the turns of a loop: one turn of a stack, all turns as a dim, the turn before, a stack again."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .labels import Label, met
from .values import Lifted, aligned, full, union

__all__ = ["all_turns", "before", "counted", "in_order", "last", "one_turn", "separated", "stacked"]


def in_order(x: Lifted, backwards: bool) -> Lifted:
    """A stack in the order in which the turns run."""
    if not backwards or x.stored[0] == 1:
        return x
    return replace(x, array=jnp.flip(x.array, len(x.dims)))


def one_turn(x: Lifted, turn: int) -> Lifted:
    """Turn number `turn` of a stack, whose first axis is that of the turns."""
    at = 0 if x.stored[0] == 1 else turn
    return Lifted(x.array[(*(slice(None),) * len(x.dims), at)], x.dims, x.shape[1:], x.labels[1:])


def all_turns(x: Lifted, start: int, turns: Label) -> Lifted:
    """A stack from `start` on with the turns as a dim, if they differ."""
    if x.stored[0] == 1 and x.shape[0] > 1:
        return one_turn(x, 0)
    n = len(x.dims)
    array = jnp.moveaxis(x.array, n, 0)[start:]
    return Lifted(array, (turns, *x.dims), x.shape[1:], x.labels[1:])


def last(x: Lifted, turns: Label) -> Lifted:
    """The value at the last turn."""
    if turns not in x.dims:
        return x
    place = x.dims.index(turns)
    return replace(x, array=jnp.take(x.array, turns.size - 1, axis=place), dims=tuple(d for d in x.dims if d is not turns))


def counted(first: Lifted, step: Any, turns: Label) -> Lifted:
    """A carry that grows by `step` in every turn, from its value at the first."""
    x = jnp.asarray(full(first).array)
    grown = jnp.arange(turns.size, dtype=x.dtype).reshape(-1, *(1 for _ in x.shape)) * jnp.asarray(step, x.dtype)
    return Lifted(x + grown, (turns,), first.shape, first.labels)


def before(first: Lifted, made: Lifted, turns: Label) -> Lifted:
    """What a carry is at every turn: `first`, then what each turn but the last has made."""
    if made.variables and turns not in made.dims:
        return made  # the same in every turn, those before included
    dims = tuple(d for d in union([made, first]) if d is not turns)
    if made.stored != first.stored:
        made, first = full(made), full(first)
    lead = tuple(d.size for d in dims)
    begin = jnp.broadcast_to(aligned(first, dims), (*lead, *first.stored))[None]
    rest = aligned(made, (turns, *dims)) if turns in made.dims else aligned(made, dims)[None]
    rest = jnp.broadcast_to(rest, (turns.size, *lead, *made.stored))[:-1]
    labels = tuple(met(pair) for pair in zip(first.labels, made.labels, strict=True))
    return Lifted(jnp.concatenate([begin, rest.astype(begin.dtype)]), (turns, *dims), first.shape, labels)


def separated(tree: Any, turns: Label) -> tuple[Any, Callable[[Any], Any]]:
    """The arrays of the lifted values in a tree that change with the turns, turns first, to be scanned; and one turn's tree from them."""
    arrays = jax.tree.map(lambda x: jnp.moveaxis(x.array, x.dims.index(turns), 0) if turns in x.dims else None, tree)

    def at(now: Any) -> Any:
        def one(x: Lifted, array: Any) -> Lifted:
            return x if turns not in x.dims else replace(x, array=array, dims=tuple(d for d in x.dims if d is not turns))

        return jax.tree.map(one, tree, now, is_leaf=lambda x: isinstance(x, Lifted))

    return arrays, at


def stacked(first: Sequence[Lifted], later: Lifted | None, turns: Label, label: Label, backwards: bool) -> Lifted:
    """The values of single turns, and then those of all others, as one stack.

    Args:
        turns: the dim of `later`. label: of the axis of the stack, where its elements depend on states.
    """
    pieces = [*first, *([] if later is None else [later])]
    dims = tuple(d for d in union(pieces) if d is not turns)
    labels = tuple(met(labels) for labels in zip(*(p.labels for p in pieces), strict=True)) if pieces[0].shape else ()
    mine = label if any(p.variables for p in pieces) else None
    shape = (label.size, *pieces[0].shape)
    if _all_equal(pieces):
        array = np.expand_dims(pieces[0].array, len(dims))
        return Lifted(array, dims, shape, (mine, *labels))
    lead = tuple(d.size for d in dims)
    parts = [jnp.broadcast_to(aligned(full(p), dims), (*lead, *p.shape)) for p in first]
    parts = [jnp.expand_dims(p, len(dims)) for p in parts]
    if later is not None:
        rest = aligned(full(later), (*dims, turns)) if turns in later.dims else jnp.expand_dims(aligned(full(later), dims), len(dims))
        parts.append(jnp.broadcast_to(rest, (*lead, turns.size, *later.shape)))
    array = jnp.concatenate(parts, axis=len(dims))
    return Lifted(jnp.flip(array, len(dims)) if backwards else array, dims, shape, (mine, *labels))


def _all_equal(pieces: Sequence[Lifted]) -> bool:
    """Whether all are the same constants: the states of a site, handed on."""
    first = pieces[0]
    return all(
        isinstance(p.array, np.ndarray) and len(p.dims) == len(first.dims) and all(a is b for a, b in zip(p.dims, first.dims, strict=True))
        and np.array_equal(p.array, first.array)
        for p in pieces
    )  # fmt: skip
