"""How equations hand labels on: a rule for each primitive that does not work element by element.

A rule gets the equation and its lifted operands, and returns the results. It keeps an axis, with its label, where the whole axis goes
through as it is; every other axis of a result has no label. Whoever calls it sees whether a label that is needed was lost.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from ...transforms.jax_compat import JaxprEqn, bind
from .labels import Label, met
from .values import Lifted, Variable, full, mapped, reshaped

__all__ = ["by_rule", "result_shapes"]

Rule = Callable[[JaxprEqn, list[Lifted]], list[Lifted]]


def by_rule(eqn: JaxprEqn, operands: list[Lifted]) -> list[Lifted]:
    """The results of an equation that is neither element by element nor has a program inside."""
    return _RULES.get(eqn.primitive.name, _anything)(eqn, operands)


def result_shapes(eqn: Any) -> list[tuple[int, ...]]:
    return [v.aval.shape for v in eqn.outvars]


def _bound(eqn: JaxprEqn, operands: Sequence[Lifted], labels: Sequence[Sequence[Label | None]]) -> list[Lifted]:
    """The equation itself, for every state of its operands' dims; with the labels of its results."""
    arrays, dims = mapped(lambda *xs: bind(eqn, xs), operands)
    return [Lifted(a, dims, s, tuple(n)) for a, s, n in zip(arrays, result_shapes(eqn), labels, strict=True)]


def _unlabelled(shape: Sequence[int]) -> list[Label | None]:
    return [None] * len(shape)


def _anything(eqn: JaxprEqn, operands: list[Lifted]) -> list[Lifted]:
    """Nothing is known of the primitive: every label is lost."""
    return _bound(eqn, [full(x) for x in operands], [[None] * len(s) for s in result_shapes(eqn)])


def _broadcast(eqn: JaxprEqn, operands: list[Lifted]) -> list[Lifted]:
    x, (shape,) = operands[0], result_shapes(eqn)
    stored, labels = [1] * len(shape), _unlabelled(shape)
    for i, j in enumerate(eqn.params["broadcast_dimensions"]):
        if x.shape[i] == shape[j]:
            stored[j], labels[j] = x.stored[i], x.labels[i]
    stored = [0 if size == 0 else s for s, size in zip(stored, shape, strict=True)]
    lead = np.shape(x.array)[: len(x.dims)]
    if 0 in shape:
        return [Lifted(jnp.broadcast_to(jnp.zeros((), jnp.result_type(x.array)), (*lead, *stored)), x.dims, shape, tuple(labels))]
    return [Lifted(reshaped(x.array, (*lead, *stored)), x.dims, shape, tuple(labels))]


def _reshape(eqn: JaxprEqn, operands: list[Lifted]) -> list[Lifted]:
    x, (shape,) = operands[0], result_shapes(eqn)
    if eqn.primitive.name == "reshape" and eqn.params.get("dimensions") is not None:
        return _anything(eqn, operands)
    stored, labels, whole = [1] * len(shape), _unlabelled(shape), []
    for ins, outs in _groups(x.shape, shape):
        if len(ins) == len(outs) == 1:
            stored[outs[0]], labels[outs[0]] = x.stored[ins[0]], x.labels[ins[0]]
        elif any(x.stored[i] > 1 or x.labels[i] is not None for i in ins):
            whole += ins
            for j in outs:
                stored[j] = shape[j]
    stored = [0 if size == 0 else s for s, size in zip(stored, shape, strict=True)]
    x = full(x, whole)
    return [Lifted(reshaped(x.array, (*np.shape(x.array)[: len(x.dims)], *stored)), x.dims, shape, tuple(labels))]


def _groups(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Axes of more than one element, in the smallest groups that have as many elements before as after."""
    left, right = [i for i, n in enumerate(before) if n != 1], [j for j, n in enumerate(after) if n != 1]
    if 0 in before:
        return [(left, right)]
    found = []
    while left or right:
        ins, outs = [left.pop(0)], [right.pop(0)]
        while (size := math.prod(before[i] for i in ins)) != (other := math.prod(after[j] for j in outs)):
            if size < other:
                ins.append(left.pop(0))
            else:
                outs.append(right.pop(0))
        found.append((ins, outs))
    return found


def _transpose(eqn: JaxprEqn, operands: list[Lifted]) -> list[Lifted]:
    x = operands[0]
    order, n = eqn.params["permutation"], len(x.dims)
    array = jnp.transpose(x.array, [*range(n), *(n + a for a in order)])
    return [Lifted(array, x.dims, tuple(x.shape[a] for a in order), tuple(x.labels[a] for a in order))]


def _reduce(eqn: JaxprEqn, operands: list[Lifted]) -> list[Lifted]:
    x, axes = operands[0], eqn.params["axes"]
    times = 1
    if eqn.primitive.name == "reduce_sum":  # a sum over equal elements is a product
        times = math.prod(x.shape[a] for a in axes if x.stored[a] != x.shape[a])
    elif eqn.primitive.name not in _IDEMPOTENT:
        x = full(x, axes)
    (out,) = _bound(eqn, [x], [[n for a, n in enumerate(x.labels) if a not in axes]])
    return [out if times == 1 else Lifted(out.array * np.asarray(times, jnp.result_type(out.array)), out.dims, out.shape, out.labels)]


_IDEMPOTENT = ("reduce_max", "reduce_min", "reduce_and", "reduce_or", "argmax", "argmin")


def _along(parameter: str) -> Rule:
    """A primitive that mixes the elements of one axis, or of some, and keeps all others apart."""

    def rule(eqn: JaxprEqn, operands: list[Lifted]) -> list[Lifted]:
        given = eqn.params[parameter]
        axes = (given,) if isinstance(given, int) else tuple(given)
        rank = len(operands[0].shape)
        labels, ready = [], [full(x, axes) if len(x.shape) == rank else full(x) for x in operands]
        shaped = [x for x in ready if len(x.shape) == rank]
        for a in range(rank):
            labels.append(None if a in axes else met(x.labels[a] for x in shaped))
            sizes = {x.stored[a] for x in shaped}
            if len(sizes) > 1:
                ready = [full(x, [a]) if len(x.shape) == rank else x for x in ready]
        return _bound(eqn, ready, [labels for _ in eqn.outvars])

    return rule


def _stack(eqn: JaxprEqn, operands: list[Lifted]) -> list[Lifted]:
    """Operands side by side along a new axis."""
    axis, rank = eqn.params["axis"], len(operands[0].shape)
    labels = [met(x.labels[a] for x in operands) for a in range(rank)]
    uneven = [a for a in range(rank) if len({x.stored[a] for x in operands}) > 1]
    return _bound(eqn, [full(x, uneven) for x in operands], [[*labels[:axis], None, *labels[axis:]]])


def _pad(eqn: JaxprEqn, operands: list[Lifted]) -> list[Lifted]:
    x, value = operands
    padded = [a for a, config in enumerate(eqn.params["padding_config"]) if any(config)]
    return _bound(eqn, [full(x, padded), value], [[None if a in padded else n for a, n in enumerate(x.labels)]])


def _slice(eqn: JaxprEqn, operands: list[Lifted]) -> list[Lifted]:
    x, (shape,) = operands[0], result_shapes(eqn)
    starts, stops = eqn.params["start_indices"], eqn.params["limit_indices"]
    strides = eqn.params["strides"] or (1,) * len(shape)
    cut = [a for a in range(len(shape)) if shape[a] != x.shape[a] or strides[a] != 1]
    n, lead = len(x.dims), np.shape(x.array)[: len(x.dims)]
    part = [a for a in cut if x.stored[a] == x.shape[a]]  # a part of a thin axis is thin
    begin = [starts[a] if a in part else 0 for a in range(len(shape))]
    end = [stops[a] if a in part else x.stored[a] if shape[a] else 0 for a in range(len(shape))]
    step = [strides[a] if a in part else 1 for a in range(len(shape))]
    array = lax.slice(x.array, [0] * n + begin, [*lead, *end], [1] * n + step)
    return [Lifted(array, x.dims, shape, tuple(None if a in cut else x.labels[a] for a in range(len(shape))))]


def _dynamic_slice(eqn: JaxprEqn, operands: list[Lifted]) -> list[Lifted]:
    x, (shape,) = operands[0], result_shapes(eqn)
    cut = [a for a in range(len(shape)) if shape[a] != x.shape[a]]
    labels = [None if a in cut else n for a, n in enumerate(x.labels)]
    table = _by_state(x, cut[0], operands[1 + cut[0]]) if len(cut) == 1 and shape[cut[0]] == 1 else None
    if table is None:
        return _bound(eqn, [full(x), *operands[1:]], [labels])
    array = jnp.expand_dims(table, 1 + len(x.dims) + cut[0])
    return [Lifted(array, (*operands[1 + cut[0]].dims, *x.dims), shape, tuple(labels))]


def _gather(eqn: JaxprEqn, operands: list[Lifted]) -> list[Lifted]:
    """What is taken of the operand's axes stands at the offset axes, in order; the axes of the indices are the others.

    An axis that goes along with one of the indices is left out where all of its elements are the same: there is one table for all rows.
    """
    x, indices = operands
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    (shape,) = result_shapes(eqn)
    last = len(indices.shape) - 1
    picked = _taken_by_state(eqn, x, indices)
    if picked is not None:
        return [picked]
    taken = dict(zip(numbers.start_indices_batching_dims, numbers.operand_batching_dims, strict=True))
    along = {b: a for b, a in taken.items() if x.stored[a] == x.shape[a] > 1}
    x = full(x, [a for a in range(len(x.shape)) if a not in taken.values() or a in along.values()])
    indices = full(indices, [last, *along])
    labels = _unlabelled(shape)
    window = [a for a in range(len(x.shape)) if a not in (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)]
    for place, a in zip(numbers.offset_dims, window, strict=True):
        labels[place] = x.labels[a] if sizes[a] == x.shape[a] and a not in numbers.start_index_map else None
    places = [i for i in range(len(shape)) if i not in numbers.offset_dims]
    for place, a in zip(places, range(last), strict=True):
        labels[place] = met([indices.labels[a], x.labels[taken[a]]]) if a in taken else indices.labels[a]
    _pick(x, indices, numbers.start_index_map, sizes, places, labels, shape)
    alone = [a for a in taken.values() if a not in along.values()]
    if not alone:
        return _bound(eqn, [x, indices], [labels])
    numbers = numbers._replace(
        collapsed_slice_dims=tuple(sorted((*numbers.collapsed_slice_dims, *alone))),
        operand_batching_dims=tuple(along.values()),
        start_indices_batching_dims=tuple(along),
    )
    arrays, dims = mapped(lambda *xs: [eqn.primitive.bind(*xs, **{**eqn.params, "dimension_numbers": numbers})], [x, indices])
    return [Lifted(arrays[0], dims, shape, tuple(labels))]


def _taken_by_state(eqn: JaxprEqn, x: Lifted, indices: Lifted) -> Lifted | None:
    """A gather of `table[z]` where it is known which element each state picks. None: it is not."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    whole = all(sizes[a] == x.shape[a] for a in range(len(x.shape)) if a not in numbers.start_index_map)
    if len(numbers.start_index_map) != 1 or numbers.collapsed_slice_dims != numbers.start_index_map or numbers.operand_batching_dims:
        return None
    (axis,), (shape,) = numbers.start_index_map, result_shapes(eqn)
    table = _by_state(x, axis, indices) if whole else None
    if table is None:
        return None
    stored, labels = [1] * len(shape), _unlabelled(shape)
    rest = [a for a in range(len(x.shape)) if a != axis]
    for place, a in zip(numbers.offset_dims, rest, strict=True):
        stored[place], labels[place] = x.stored[a], x.labels[a]
    places = [i for i in range(len(shape)) if i not in numbers.offset_dims]
    for place, label in zip(places, indices.labels[:-1], strict=True):
        labels[place] = label
    lead = np.shape(table)[: 1 + len(x.dims)]
    return Lifted(jnp.reshape(table, (*lead, *stored)), (*indices.dims, *x.dims), shape, tuple(labels))


def _by_state(x: Lifted, axis: int, index: Lifted) -> Any:
    """A table whose axis is one of states, in front: what each state picks along `axis`; None where that is not known."""
    if not (isinstance(index.array, np.ndarray) and len(index.dims) == 1 and isinstance(index.dims[0], Variable)):
        return None
    (variable,), picked = index.dims, index.array.reshape(-1)
    if len(picked) != variable.size or variable in x.dims or x.stored[axis] != x.shape[axis] or x.labels[axis] is not None:
        return None
    if (picked < 0).any() or (picked >= x.shape[axis]).any():
        return None
    n = len(x.dims)
    array = x.array if np.array_equal(picked, np.arange(x.shape[axis])) else jnp.take(x.array, picked, axis=n + axis)
    return jnp.moveaxis(array, n + axis, 0)


def _pick(
    x: Lifted,
    indices: Lifted,
    axes: Sequence[int],
    sizes: Sequence[int],
    places: Sequence[int],
    labels: list[Label | None],
    shape: Sequence[int],
) -> None:
    """The label of rows that pick elements of a labelled axis, one each, by an index that is the same for all states."""
    rows = [place for place in places if shape[place] != 1]
    label = x.labels[axes[0]] if len(axes) == 1 and sizes[axes[0]] == 1 else None
    if label is not None and len(rows) == 1 and not indices.dims:
        index = jnp.reshape(full(indices).array, -1)
        labels[rows[0]] = met([labels[rows[0]], Label(shape[rows[0]], f"rows that pick from {label.root.words}", ((label, index),))])


def _dot_general(eqn: JaxprEqn, operands: list[Lifted]) -> list[Lifted]:
    x, y = operands
    (summed_x, summed_y), (batch_x, batch_y) = eqn.params["dimension_numbers"]
    for a, b in zip(batch_x, batch_y, strict=True):
        if x.stored[a] != y.stored[b]:
            x, y = full(x, [a]), full(y, [b])
    x, y = full(x, summed_x), full(y, summed_y)
    labels = [met([x.labels[a], y.labels[b]]) for a, b in zip(batch_x, batch_y, strict=True)]
    labels += [n for a, n in enumerate(x.labels) if a not in (*summed_x, *batch_x)]
    labels += [n for b, n in enumerate(y.labels) if b not in (*summed_y, *batch_y)]
    return _bound(eqn, [x, y], [labels])


def _triangular_solve(eqn: JaxprEqn, operands: list[Lifted]) -> list[Lifted]:
    """Of the right-hand side the columns (rows, from the right) are apart, and all batch axes."""
    a, b = (full(x) for x in operands)
    rank = len(b.shape)
    apart = rank - 1 if eqn.params["left_side"] else rank - 2
    labels = [met([a.labels[i], b.labels[i]]) for i in range(rank - 2)]
    labels += [b.labels[i] if i == apart else None for i in (rank - 2, rank - 1)]
    return _bound(eqn, [a, b], [labels])


def _matrices(eqn: JaxprEqn, operands: list[Lifted]) -> list[Lifted]:
    """A function of matrices in the last two axes."""
    x = full(operands[0])
    return _bound(eqn, [x], [[*x.labels[:-2], None, None][: len(s)] for s in result_shapes(eqn)])


_RULES: dict[str, Rule] = {
    "broadcast_in_dim": _broadcast,
    **dict.fromkeys(("reshape", "squeeze", "expand_dims"), _reshape),
    "transpose": _transpose,
    **dict.fromkeys(("reduce_sum", "reduce_prod", *_IDEMPOTENT), _reduce),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "split"), _along("axis")),
    **dict.fromkeys(("concatenate", "sort"), _along("dimension")),
    "rev": _along("dimensions"),
    "stack": _stack,
    "pad": _pad,
    "slice": _slice,
    "dynamic_slice": _dynamic_slice,
    "gather": _gather,
    "dot_general": _dot_general,
    "triangular_solve": _triangular_solve,
    "cholesky": _matrices,
}
