"""`specialise`: a program of data and a position, and these data, as a program that computes the same from less.

Each sum over many elements that the program makes is looked at by itself. What it is replaced by is proved from the equations; what cannot
be replaced stays. Arrays that are made of the data are inputs of the new program: none of their numbers is part of it, so that data of
another length find it compiled.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..affine.rules import aval
from ..autodiff.rules_calls import inline_calls
from ..equations import needed_equations, run_equations
from ..jax_compat import ClosedJaxpr, JaxprEqn, Literal, Var, open_jaxpr
from .elements import Elements, Refused
from .least_squares import Rows, compressed_squares
from .repeated import Repeated, compressed_repeats, row_slices
from .row_slices import RowSlice
from .separable import Product
from .tiles import Tiled, tiled
from .totals import total

__all__ = ["Replaced", "Specialised", "specialise"]


class Replaced(NamedTuple):
    """What became of a sum over elements.

    Attributes:
        output: of the program, the first that is computed from it.
        before, after: rows; the same if it stays.
        reason: why it stays.
    """

    output: int
    before: int
    after: int
    reason: str = ""


@dataclass(frozen=True)
class Specialised:
    """A program on some data.

    Attributes:
        jaxpr: closed, of (data, arrays, position) -> what the program returns.
        arrays: computed from the data.
        sums: of the sums that were looked at, what became of each.
    """

    jaxpr: Any
    arrays: list[np.ndarray]
    sums: list[Replaced]


class _Sum(NamedTuple):
    """A sum as parts. rows: see there. scalars: products; counts: how often each occurs, and last a number that is added."""

    rows: list[Rows | Repeated | Tiled]
    scalars: list[Product]
    counts: np.ndarray

    @property
    def arrays(self) -> list[np.ndarray]:
        return [x for rows in self.rows for x in rows.arrays] + [self.counts]

    @property
    def reads(self) -> list[Var]:
        return [v for rows in self.rows for v in rows.reads] + [v for product in self.scalars for v, _ in product]

    def __call__(self, arrays: Sequence[Any], env: dict[Any, Any]) -> Any:
        def scalar(product: Product) -> Any:
            value = jnp.ones((), self.counts.dtype)
            for var, power in product:
                value = value * jnp.reshape(env[var], ()) ** power
            return value

        arrays, found = list(arrays), jnp.zeros((), self.counts.dtype)
        for rows in self.rows:
            own, arrays = arrays[: len(rows.arrays)], arrays[len(rows.arrays) :]
            found = found + rows(own, env.__getitem__, scalar)
        (counts,) = arrays
        for i, product in enumerate(self.scalars):
            found = found + counts[i] * scalar(product)
        return found + counts[-1]


def specialise(jaxpr: Any, data: Sequence[Any]) -> Specialised:
    """The program on these data.

    Args:
        jaxpr: closed; data are its first inputs.
        data: concrete arrays.
    """
    inlined, consts = inline_calls(*open_jaxpr(jaxpr))
    elements = Elements(ClosedJaxpr(inlined, consts), data)
    parts: dict[Var, _Sum] = {}
    sums = []
    output = _outputs(elements)
    for eqn in elements.equations:
        operand, out = eqn.invars[0] if eqn.invars else None, eqn.outvars[0]
        if (
            eqn.primitive.name != "reduce_sum"
            or aval(out).size != 1
            or aval(operand).size == 1
            or not elements.moves(operand)
            or out not in output
        ):
            continue
        try:
            parts[out] = part = _compressed(elements, eqn)
            words = "tile by tile, value and gradient in one pass" if isinstance(part.rows[0], Tiled) else ""
            sums.append(Replaced(output[out], sum(r.before for r in part.rows), sum(r.after for r in part.rows), words))
        except Refused as e:
            sums.append(Replaced(output[out], aval(operand).size, aval(operand).size, str(e)))
    return _rewritten(elements, parts, data, sums) if parts else Specialised(jaxpr, [], sums)


def _outputs(elements: Elements) -> dict[Var, int]:
    """The first output that a variable is needed for."""
    found: dict[Var, int] = {}
    for i, out in enumerate(elements.jaxpr.outvars):
        for eqn in needed_equations(elements.equations, [out], given=found):
            found.update((v, i) for v in eqn.outvars if v not in found)
    return found


def _compressed(elements: Elements, eqn: JaxprEqn) -> _Sum:
    """A sum from less of the data: as squares, else by what is repeated.

    Raises:
        Refused: neither; says why.
    """
    dtype = aval(eqn.outvars[0]).dtype
    try:
        return _of_squares(elements, eqn, dtype)
    except Refused as no_squares:
        try:
            return _Sum([_of_rows(row_slices(elements, eqn.invars[0]), dtype)], [], np.zeros(1, dtype))
        except Refused as no_rows:
            raise Refused(f"{no_squares}, and {no_rows}") from None


def _of_rows(slices: Sequence[RowSlice], dtype: Any) -> Repeated | Tiled:
    try:
        return compressed_repeats(slices, dtype)
    except Refused:
        longest = tiled(max(slices, key=lambda rows: rows.rows))
        if longest is None:
            raise
        return longest


def _of_squares(elements: Elements, eqn: JaxprEqn, dtype: Any) -> _Sum:
    found = total(elements, eqn)
    if found is None or not found.squares:
        raise Refused("its elements are no squares of what is linear in the position")
    counts = np.asarray([*(n for _, n in found.scalars), found.number], dtype)
    return _Sum([compressed_squares(s, dtype) for s in found.squares], [p for p, _ in found.scalars], counts)


def _rewritten(elements: Elements, parts: dict[Var, _Sum], data: Sequence[Any], sums: list[Replaced]) -> Specialised:
    jaxpr = elements.jaxpr
    needed = _needed(elements, parts)
    parts = {eqn.outvars[0]: parts[eqn.outvars[0]] for eqn in needed if eqn.outvars[0] in parts}
    arrays = [x for part in parts.values() for x in part.arrays]
    position = [aval(v) for v in jaxpr.invars[len(data) :]]

    def run(data: Sequence[Any], arrays: Sequence[Any], position: Sequence[Any]) -> list[Any]:
        waiting, own = list(arrays), {}
        for out, part in parts.items():
            own[out], waiting = waiting[: len(part.arrays)], waiting[len(part.arrays) :]
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*elements.consts, *data, *position], strict=True))
        for eqn in needed:
            part = parts.get(eqn.outvars[0])
            if part is None:
                run_equations([eqn], env, [])
            else:
                env[eqn.outvars[0]] = jnp.reshape(part(own[eqn.outvars[0]], env), aval(eqn.outvars[0]).shape)
        return run_equations([], env, jaxpr.outvars)

    return Specialised(jax.make_jaxpr(run)(list(data), arrays, position), arrays, sums)


def _needed(elements: Elements, parts: dict[Var, _Sum]) -> list[JaxprEqn]:
    """The equations of the new program, in order; where a sum is replaced, only what its parts read is needed."""
    needed, kept = {x for x in elements.jaxpr.outvars if not isinstance(x, Literal)}, []
    for eqn in reversed(elements.equations):
        if any(v in needed for v in eqn.outvars):
            kept.append(eqn)
            part = parts.get(eqn.outvars[0])
            needed.update(part.reads if part else (x for x in eqn.invars if not isinstance(x, Literal)))
    return kept[::-1]
