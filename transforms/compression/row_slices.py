"""Is a value computed row by row, and if so, how?

A block of neighbouring axes of the value is followed back through the equations, `vmap` backwards: elementwise equations, sums over other
axes, products with a matrix that keep the block, picks by an index of each row. What is met in the end is data, along the block, and
numbers that all rows share. An equation that mixes rows, or is not known not to, is a refusal. Then the same equations run on any other
number of rows.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import jax.scipy.special as jsp
import numpy as np

from ..affine.rules import aval
from ..autodiff.rules_calls import inline_calls
from ..equations import ELEMENTWISE
from ..jax_compat import JaxprEqn, Literal, Var, bind, function_of_jax
from .elements import Elements, Refused

__all__ = ["OverRows", "RowSlice", "row_slice"]

# Functions of JAX's that bring a derivative of their own and act on each element.
_WITH_DERIVATIVES: dict[str, Callable[..., Any]] = {
    "logaddexp": jnp.logaddexp,
    "xlog1py": jsp.xlog1py,
    "xlogy": jsp.xlogy,
}
_REDUCTIONS = frozenset("argmax argmin reduce_and reduce_max reduce_min reduce_or reduce_prod reduce_sum".split())


@dataclass(frozen=True)
class RowSlice:
    """A value as a function of the data of its rows and of what they share.

    Attributes:
        out: the value. places: variable -> its first axis of the block, of what is computed for each row. length: axes of the block.
        inputs: the data among `places`. rows: how many rows there are.
    """

    elements: Elements
    out: Var
    places: Mapping[Var, int]
    length: int
    inputs: tuple[Var, ...]
    rows: int

    @functools.cached_property
    def equations(self) -> list[JaxprEqn]:
        own = set(self.places) - set(self.inputs)
        return [e for e in self.elements.equations if e.outvars[0] in own]

    @functools.cached_property
    def shared(self) -> list[Var]:
        """What all rows share and depends on the position, or is data that has no rows."""
        read = [x for e in self.equations for x in e.invars if not isinstance(x, Literal) and x not in self.places]
        return list(dict.fromkeys(read))

    def data(self) -> list[np.ndarray]:
        """The inputs, with the rows last: (..., row)."""
        found = []
        for var in self.inputs:
            array, at = self.elements.known(var), self.places[var]
            block = range(at, at + self.length)
            moved = np.moveaxis(array, block, range(-self.length, 0))
            found.append(np.ascontiguousarray(moved.reshape(*moved.shape[: -self.length], self.rows)))
        return found

    def __call__(self, data: Sequence[Any], shared: Mapping[Var, Any]) -> Any:
        """(..., row) of other rows, and the values of `shared` -> the value's sum over its other axes, (row,)."""
        env = {var: jnp.moveaxis(x, -1, self.places[var]) for var, x in zip(self.inputs, data, strict=True)}
        number = data[0].shape[-1]
        for eqn in self.equations:
            operands = [self._operand(eqn, x, env, shared) for x in eqn.invars]
            env.update(zip(eqn.outvars, _run(eqn, operands, self, number), strict=True))
        value, at = env[self.out], self.places[self.out]
        return jnp.sum(value, [i for i in range(value.ndim) if i != at])

    def _operand(self, eqn: JaxprEqn, atom: Any, env: Mapping[Any, Any], shared: Mapping[Any, Any]) -> Any:
        if isinstance(atom, Literal):
            return atom.val
        if atom in self.places:
            return env[atom]
        value = shared[atom]
        at = self.places[eqn.outvars[0]]
        same_rank = len(aval(atom).shape) == len(aval(eqn.outvars[0]).shape)
        if self.length > 1 and same_rank and (eqn.primitive.name in ELEMENTWISE or _called(eqn)):  # of size one along the block
            shape = value.shape
            value = jnp.reshape(value, (*shape[:at], 1, *shape[at + self.length :]))
        return value

    def axis(self, axis: int, at: int) -> int:
        """An axis of a value whose block begins at `at`, once the block is one axis."""
        return axis if axis <= at else axis - self.length + 1


@dataclass(frozen=True)
class OverRows:
    """A sum over the rows of a slice, of arrays that are made of their data. before, after: how many rows are evaluated."""

    rows: RowSlice
    arrays: tuple[np.ndarray, ...]

    @property
    def before(self) -> int:
        return self.rows.rows

    @property
    def after(self) -> int:
        return self.before

    @property
    def reads(self) -> list[Var]:
        return self.rows.shared


def row_slice(elements: Elements, out: Var, first: int, length: int) -> RowSlice:
    """The value `out`, row by row along its axes first to first + length - 1.

    Raises:
        Refused: an equation mixes rows, or is not known not to.
    """
    block = tuple(aval(out).shape[first : first + length])
    places = _followed(out, first, block, lambda var: elements.equation(var) if elements.moves(var) else None)
    if any(elements.moves(var) and elements.equation(var) is None for var in places):
        raise Refused("each row has a latent value of its own")
    inputs = tuple(var for var in places if not elements.moves(var))
    if not inputs:
        raise Refused("rows are read from no data")
    return RowSlice(elements, out, places, length, inputs, int(np.prod(block)))


def _followed(out: Var, first: int, block: tuple[int, ...], equation: Callable[[Var], JaxprEqn | None]) -> dict[Var, int]:
    """The variables that a value is computed from row by row, back to those without an `equation`, each with its first axis of the block.

    Raises:
        Refused: an equation mixes rows, or is not known not to.
    """
    places: dict[Var, int] = {}
    waiting = [(out, first)]
    while waiting:
        var, at = waiting.pop()
        if places.setdefault(var, at) != at:
            raise Refused("a value is read along two of its axes")
        if tuple(aval(var).shape[at : at + len(block)]) != block:
            raise Refused("an axis of another length is read as rows")
        if (eqn := equation(var)) is not None:
            waiting += [(x, k) for x, k in _demands(eqn, at, block) if places.get(x) != k]
    return places


Demands = list[tuple[Any, int]]


def _demands(eqn: JaxprEqn, at: int, block: tuple[int, ...]) -> Demands:
    """Which operands are read along the block that begins at axis `at` of the result, and where."""
    name = eqn.primitive.name
    if name in ELEMENTWISE or function_of_jax(eqn) in _WITH_DERIVATIVES:
        return _elementwise(eqn, at, block)
    rule = _RULES.get(name) or (_reduced if name in _REDUCTIONS else None)
    found = rule(eqn, at, block) if rule else None
    if found is None:
        raise Refused(f"{name} may mix rows")
    return found


def _called(eqn: JaxprEqn) -> Callable[..., list[Any]] | None:
    """The function that an equation calls, with a derivative of its own; None if it calls none, or one that is not known."""
    if (function := _WITH_DERIVATIVES.get(function_of_jax(eqn))) is not None:
        return lambda *operands: [function(*operands)]
    return eqn.params.get("again") if not any(eqn.params.get("num_consts", ())) else None


def _ruled(eqn: JaxprEqn, at: int, block: tuple[int, ...]) -> Demands | None:
    """A function with a rule of its own for the derivative: its body is followed."""
    if _called(eqn) is None or len(eqn.outvars) > 1:
        return None
    body, consts = inline_calls(eqn.params["body"], [])
    if consts:
        return None
    operands = dict(zip(body.invars, eqn.invars, strict=True))
    found = _followed(body.outvars[0], at, block, {v: e for e in body.eqns for v in e.outvars}.get)
    if len(block) > 1 and any(aval(x).shape and v not in found for v, x in operands.items()):
        return None
    return [(operands[v], k) for v, k in found.items() if v in operands and not isinstance(operands[v], Literal)]


def _elementwise(eqn: JaxprEqn, at: int, block: tuple[int, ...]) -> Demands:
    found = []
    rank = len(aval(eqn.outvars[0]).shape)
    for x in eqn.invars:
        shape = tuple(aval(x).shape)
        if isinstance(x, Literal) or not shape or (aval(x).size == 1 and len(shape) < rank):
            continue
        own = shape[at : at + len(block)]
        if len(shape) != rank or own not in (block, (1,) * len(block)):
            raise Refused(f"{eqn.primitive.name} reads an operand of another shape")
        if own == block and (block != (1,) * len(block)):
            found.append((x, at))
    return found


def _placed(axes: Sequence[int | None], length: int) -> int | None:
    """The first of neighbouring axes in order; None if they are not."""
    first = axes[0]
    return first if first is not None and list(axes) == list(range(first, first + length)) else None


def _broadcast(eqn: JaxprEqn, at: int, block: tuple[int, ...]) -> Demands | None:
    operand, dims = eqn.invars[0], eqn.params["broadcast_dimensions"]
    sources = [dims.index(d) if d in dims and aval(operand).shape[dims.index(d)] != 1 else None for d in range(at, at + len(block))]
    if all(s is None for s in sources):
        return []
    place = _placed(sources, len(block))
    return None if place is None else [(operand, place)]


def _reshaped(eqn: JaxprEqn, at: int, block: tuple[int, ...]) -> Demands | None:
    """The block must stand in the operand too, with as many elements in front."""
    operand, result = eqn.invars[0], aval(eqn.outvars[0]).shape
    before, shape = int(np.prod(result[:at], dtype=int)), aval(operand).shape
    for k in range(len(shape) - len(block) + 1):
        if int(np.prod(shape[:k], dtype=int)) == before and tuple(shape[k : k + len(block)]) == block:
            return [(operand, k)]
    return None


def _transposed(eqn: JaxprEqn, at: int, block: tuple[int, ...]) -> Demands | None:
    place = _placed(eqn.params["permutation"][at : at + len(block)], len(block))
    return None if place is None else [(eqn.invars[0], place)]


def _reduced(eqn: JaxprEqn, at: int, block: tuple[int, ...]) -> Demands | None:
    operand, axes = eqn.invars[0], eqn.params["axes"]
    kept = [i for i in range(len(aval(operand).shape)) if i not in axes]
    place = _placed(kept[at : at + len(block)], len(block))
    return None if place is None else [(operand, place)]


def _dot(eqn: JaxprEqn, at: int, block: tuple[int, ...]) -> Demands | None:
    contracted, batch = eqn.params["dimension_numbers"]
    free = [
        [i for i in range(len(aval(x).shape)) if i not in c and i not in b] for x, c, b in zip(eqn.invars, contracted, batch, strict=True)
    ]
    order = [*((None, i) for i in range(len(batch[0]))), *((0, i) for i in free[0]), *((1, i) for i in free[1])]
    read = order[at : at + len(block)]
    if len({side for side, _ in read}) != 1:
        return None
    side = read[0][0]
    if side is None:
        places = [(x, _placed([b[i] for _, i in read], len(block))) for x, b in zip(eqn.invars, batch, strict=True)]
        return None if any(place is None for _, place in places) else [(x, k) for x, k in places if k is not None]
    place = _placed([i for _, i in read], len(block))
    return None if place is None else [(eqn.invars[side], place)]


def _picked(eqn: JaxprEqn, at: int, block: tuple[int, ...]) -> Demands | None:
    """Each row picks from what all share, or from its own."""
    numbers, out = eqn.params["dimension_numbers"], aval(eqn.outvars[0])
    batch = [i for i in range(len(out.shape)) if i not in numbers.offset_dims]
    axes = range(at, at + len(block))
    if any(a not in batch for a in axes):
        return None
    place = _placed([batch.index(a) for a in axes], len(block))
    if place is None:
        return None
    own = [k for k in range(place, place + len(block)) if k in numbers.start_indices_batching_dims]
    if not own:
        return [(eqn.invars[1], place)]
    if len(block) > 1:
        return None
    return [(eqn.invars[1], place), (eqn.invars[0], numbers.operand_batching_dims[numbers.start_indices_batching_dims.index(place)])]


def _concatenated(eqn: JaxprEqn, at: int, block: tuple[int, ...]) -> Demands | None:
    if at <= eqn.params["dimension"] < at + len(block):
        return None
    return [(x, at) for x in eqn.invars]


def _sliced(eqn: JaxprEqn, at: int, block: tuple[int, ...]) -> Demands | None:
    return [(eqn.invars[0], at)] if tuple(aval(eqn.invars[0]).shape[at : at + len(block)]) == block else None


_RULES: dict[str, Any] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenated,
    "dot_general": _dot,
    "expand_dims": _reshaped,
    "gather": _picked,
    "reshape": _reshaped,
    "ruled_call": _ruled,
    "slice": _sliced,
    "squeeze": _reshaped,
    "transpose": _transposed,
}


def _run(eqn: JaxprEqn, operands: list[Any], rows: RowSlice, number: int) -> list[Any]:
    """An equation on other rows: its parameters say how many there were."""
    name, out = eqn.primitive.name, eqn.outvars[0]
    if (function := _called(eqn)) is not None:
        return function(*operands)
    if name in ELEMENTWISE:
        return bind(eqn, operands)
    at, length = rows.places[out], rows.length
    shape = (*aval(out).shape[:at], number, *aval(out).shape[at + length :])
    places = [rows.places.get(x) if not isinstance(x, Literal) else None for x in eqn.invars]
    return [_REPLAY[name if name in _REPLAY else "reduce"](eqn, operands, rows, places, shape)]


def _run_broadcast(eqn: JaxprEqn, operands: list[Any], rows: RowSlice, places: list[int | None], shape: tuple[int, ...]) -> Any:
    at, dims = rows.places[eqn.outvars[0]], eqn.params["broadcast_dimensions"]
    inside = range(at, at + rows.length)
    x = operands[0]
    if places[0] is None:  # of size one along the block, if it has these axes at all
        keep = [i for i, d in enumerate(dims) if d not in inside]
        x, dims = jnp.reshape(x, [x.shape[i] for i in keep]), [dims[i] for i in keep]
    else:
        dims = [d for i, d in enumerate(dims) if not places[0] < i < places[0] + rows.length]
    own = [1] * len(shape)
    for i, d in enumerate(dims):
        own[rows.axis(d, at)] = x.shape[i]
    return jnp.broadcast_to(jnp.reshape(x, own), shape)


def _run_reshape(eqn: JaxprEqn, operands: list[Any], rows: RowSlice, places: list[int | None], shape: tuple[int, ...]) -> Any:
    return jnp.reshape(operands[0], shape)


def _run_transpose(eqn: JaxprEqn, operands: list[Any], rows: RowSlice, places: list[int | None], shape: tuple[int, ...]) -> Any:
    assert places[0] is not None
    inside = range(places[0] + 1, places[0] + rows.length)
    return jnp.transpose(operands[0], [rows.axis(i, places[0]) for i in eqn.params["permutation"] if i not in inside])


def _run_reduction(eqn: JaxprEqn, operands: list[Any], rows: RowSlice, places: list[int | None], shape: tuple[int, ...]) -> Any:
    assert places[0] is not None
    axes = tuple(rows.axis(i, places[0]) for i in eqn.params["axes"])
    return bind(eqn.replace(params={**eqn.params, "axes": axes}), operands)[0]


def _run_dot(eqn: JaxprEqn, operands: list[Any], rows: RowSlice, places: list[int | None], shape: tuple[int, ...]) -> Any:
    def moved(axes: Sequence[int], place: int | None) -> tuple[int, ...]:
        if place is None:
            return tuple(axes)
        return tuple(rows.axis(i, place) for i in axes if not place < i < place + rows.length)

    (lhs, rhs), (lhs_batch, rhs_batch) = eqn.params["dimension_numbers"]
    numbers = (moved(lhs, places[0]), moved(rhs, places[1])), (moved(lhs_batch, places[0]), moved(rhs_batch, places[1]))
    if places[0] is not None and operands[1].ndim == 1:  # data times a vector; the vector first, as then rows come last under `vmap`
        operands, numbers = operands[::-1], (numbers[0][::-1], numbers[1][::-1])
    return bind(eqn.replace(params={**eqn.params, "dimension_numbers": numbers}), operands)[0]


def _run_gather(eqn: JaxprEqn, operands: list[Any], rows: RowSlice, places: list[int | None], shape: tuple[int, ...]) -> Any:
    numbers, at = eqn.params["dimension_numbers"], rows.places[eqn.outvars[0]]
    numbers = numbers._replace(offset_dims=tuple(rows.axis(i, at) for i in numbers.offset_dims))
    return bind(eqn.replace(params={**eqn.params, "dimension_numbers": numbers}), operands)[0]


def _run_concatenate(eqn: JaxprEqn, operands: list[Any], rows: RowSlice, places: list[int | None], shape: tuple[int, ...]) -> Any:
    return jnp.concatenate(operands, rows.axis(eqn.params["dimension"], rows.places[eqn.outvars[0]]))


def _run_slice(eqn: JaxprEqn, operands: list[Any], rows: RowSlice, places: list[int | None], shape: tuple[int, ...]) -> Any:
    at, length = rows.places[eqn.outvars[0]], rows.length
    p, rank = eqn.params, len(aval(eqn.invars[0]).shape)
    strides = p["strides"] or (1,) * rank
    own = [slice(a, b, s) for a, b, s in zip(p["start_indices"], p["limit_indices"], strides, strict=True)]
    return operands[0][(*own[:at], slice(None), *own[at + length :])]


_REPLAY: dict[str, Any] = {
    "broadcast_in_dim": _run_broadcast,
    "concatenate": _run_concatenate,
    "dot_general": _run_dot,
    "expand_dims": _run_reshape,
    "gather": _run_gather,
    "reduce": _run_reduction,
    "reshape": _run_reshape,
    "slice": _run_slice,
    "squeeze": _run_reshape,
    "transpose": _run_transpose,
}
