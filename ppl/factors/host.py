"""Design matrices that stay in host memory, or in a file: rows reach a compiled program by a callback, the few that it asks for.

Columns that a model takes from a NumPy array as they are stay there; others (an intercept's ones) are computed and kept on the device.
That an array enters the design unchanged, and enters nothing else, is read off the equations.
"""

import itertools
import weakref
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import register_pytree_node_class

from ...transforms import ModelError
from ...transforms.affine.rules import linear_slots
from ...transforms.equations import BODY_PARAMETER, reads_any, run_equations, run_jaxpr
from ...transforms.jax_compat import JaxprEqn, Var, bind, equation_context, open_jaxpr
from ...transforms.source_lines import source_line
from .equations import needed_between

__all__ = ["HostDesign", "NotOnHostError", "block_of", "computed_but_rows", "is_mapped", "on_host"]

_PASS = 2**16
_COPIES = {"convert_element_type", "copy", "copy_p", "reshape"}


class NotOnHostError(ModelError):
    """Rows that should stay in host memory cannot."""


class _Source:
    """Arrays in host memory, (obs, k) each, and which of their rows are the design's; None for all."""

    def __init__(self, arrays: Sequence[np.ndarray], which: np.ndarray | None) -> None:
        self.arrays, self.which = arrays, which

    def rows(self, index: Any, dtype: Any) -> np.ndarray:
        index = index if self.which is None else self.which[index]
        return np.concatenate([np.asarray(a[index], dtype) for a in self.arrays], -1)


_numbers = itertools.count(1)
_sources: "weakref.WeakValueDictionary[int, _Source]" = weakref.WeakValueDictionary()


class _Block(NamedTuple):
    """Some columns of a design, side by side."""

    on_host: bool
    width: int


@register_pytree_node_class
class HostDesign:
    """A design matrix (obs, d) of which some columns are in host memory; `design[index]` are rows.

    An argument of compiled programs. Its leaves are the columns on the device, and a number under which the host finds its arrays, so that
    other data find the same program. The arrays live as long as the object that `HostDesign.of` returned.

    Attributes:
        shape, dtype: of the matrix.
    """

    def __init__(self, columns: Sequence[Any], number: Any, blocks: tuple[_Block, ...], num_rows: int, dtype: str):
        self.columns, self.number, self.blocks = columns, number, blocks
        self.shape, self.dtype = (num_rows, sum(b.width for b in blocks)), np.dtype(dtype)
        self.source: _Source | None = None

    @classmethod
    def of(cls, parts: Sequence[Any], dtype: Any, which: np.ndarray | None = None) -> "HostDesign":
        """From blocks of columns, (obs, k) each, side by side, of which NumPy arrays stay on the host; `which` rows of them."""
        source = _Source([p for p in parts if isinstance(p, np.ndarray)], which)
        columns = [p if which is None else p[which] for p in parts if not isinstance(p, np.ndarray)]
        blocks = tuple(_Block(isinstance(p, np.ndarray), p.shape[1]) for p in parts)
        number = next(_numbers)
        _sources[number] = source
        made = cls(columns, np.int32(number), blocks, len(parts[0] if which is None else which), np.dtype(dtype).name)
        made.source = source
        return made

    def tree_flatten(self) -> tuple[Any, Any]:
        return (tuple(self.columns), self.number), (self.blocks, self.shape[0], self.dtype.name)

    @classmethod
    def tree_unflatten(cls, aux: Any, leaves: Any) -> "HostDesign":
        return cls(*leaves, *aux)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> jax.Array:
        """Rows, (*shape of index, d), by their numbers, which are in range."""
        index = jnp.asarray(index)
        width = sum(b.width for b in self.blocks if b.on_host)
        shape = jax.ShapeDtypeStruct((*index.shape, width), self.dtype)
        host = jax.pure_callback(_fetch(self.dtype.name), shape, self.number, index, vmap_method="expand_dims")
        device, at, parts = iter(self.columns), 0, []
        for block in self.blocks:
            if block.on_host:
                parts.append(host[..., at : at + block.width])
                at += block.width
            else:
                parts.append(next(device)[index])
        return jnp.concatenate(parts, -1)

    def finite(self) -> np.ndarray:
        """Which rows are finite, bool (obs,); one pass."""
        assert self.source is not None
        good = np.ones(len(self), bool)
        for first in range(0, len(self), _PASS):
            index = np.arange(first, min(first + _PASS, len(self)))
            good[index] = np.isfinite(self.source.rows(index, self.dtype)).all(1)
        for column in self.columns:
            good &= np.isfinite(np.asarray(column)).all(1)
        return good

    def take(self, which: np.ndarray) -> "HostDesign":
        """Some of its rows."""
        assert self.source is not None and self.source.which is None
        arrays, columns = iter(self.source.arrays), iter(self.columns)
        return HostDesign.of([next(arrays if b.on_host else columns) for b in self.blocks], self.dtype, which)


@lru_cache
def _fetch(dtype: str) -> Callable[[Any, Any], np.ndarray]:
    def rows(number: Any, index: Any) -> np.ndarray:
        return _sources[int(np.asarray(number).flat[0])].rows(np.asarray(index), dtype)

    return rows


def is_mapped(array: Any) -> bool:
    """Whether an array is a memory-mapped file, or a view of one."""
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            return True
        array = array.base
    return False


def on_host(design: Any) -> bool:
    return isinstance(design, HostDesign)


def block_of(design: Any, first: Any, size: int) -> Any:
    """`size` rows of a design in a row, (size, d)."""
    if on_host(design):
        return design[first + jnp.arange(size)]
    return lax.dynamic_slice_in_dim(design, first, size)


def computed_but_rows(function: Callable[[Sequence[Any]], Any], data: Sequence[Any], host: Collection[int], where: str) -> Any:
    """function(data), whose first leaf is a design matrix, with the columns left in host memory that are arrays of the data as they are.

    Also the numbers of these data.

    Args:
        host: the numbers of the data that may stay there; NumPy arrays of two axes.

    Raises:
        NotOnHostError: something else is computed from them; names the line. Or the design has none of them.
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(data)
    flat = jax.make_jaxpr(lambda *leaves: run_jaxpr(*open_jaxpr(closed), leaves, _inlined))(*data)
    jaxpr, constants = open_jaxpr(flat)
    places = {v: i for i, v in enumerate(jaxpr.invars) if i in host}
    parts = _parts(jaxpr, jaxpr.outvars[0], places)
    taken = {v: i for v, i in places.items() if i in parts}
    outs = [p for p in parts if not isinstance(p, int)] + list(jaxpr.outvars[1:])
    zeros = _zeros(jaxpr)
    needed = needed_between(jaxpr.eqns, outs, zeros)
    reading = [eqn for eqn in needed if reads_any(eqn, taken or places)]
    if not taken or reading:
        what = f"`{reading[0].primitive.name}` ({source_line(reading[0])}) computes something from them" if reading else "no array is them"
        raise NotOnHostError(
            f"{where}: its rows cannot stay in host memory, because {what}. Expected a NumPy array of shape (rows, columns) that enters "
            "the linear predictor as it is, `X @ beta`, and nothing else: change the array before, or have it copied to the device "
            "(rows='device')."
        )
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *data], strict=True))
    read = [v for v in env if v not in taken]

    @jax.jit
    def run(values: Sequence[Any]) -> list[Any]:
        given = {v: jnp.zeros(v.aval.shape, v.aval.dtype) for v in zeros}
        return run_equations(needed, dict(zip(read, values, strict=True)) | given, outs)

    values = iter(run([env[v] for v in read]))
    blocks = [data[p] if isinstance(p, int) else next(values) for p in parts]
    design = HostDesign.of(blocks, jaxpr.outvars[0].aval.dtype)
    return jax.tree.unflatten(jax.tree.structure(shapes), [design, *values]), [p for p in parts if isinstance(p, int)]


def _inlined(eqn: JaxprEqn, operands: list[Any]) -> Sequence[Any]:
    name = eqn.primitive.name
    if name in BODY_PARAMETER:
        return run_jaxpr(*open_jaxpr(eqn.params[BODY_PARAMETER[name]]), operands, _inlined)
    with equation_context(eqn):
        return bind(eqn, operands)


def _zeros(jaxpr: Any) -> dict[Any, None]:
    """The variables that are zero whatever the data, if these are finite: an offset, X @ 0, reads no rows."""
    found: dict[Any, None] = {}
    for eqn in jaxpr.eqns:
        zero = [x in found if isinstance(x, Var) else np.ndim(x.val) == 0 and x.val == 0 for x in eqn.invars]
        slots = linear_slots(eqn, zero) if any(zero) and not eqn.effects else ""
        if not isinstance(slots, str) and all(zero[i] for i in slots):
            found |= dict.fromkeys(eqn.outvars)
    return found


def _parts(jaxpr: Any, design: Any, places: dict[Any, int]) -> list[Any]:
    """The design as blocks of columns: numbers of data, and variables."""
    made = {v: eqn for eqn in jaxpr.eqns for v in eqn.outvars}

    def parts(atom: Any) -> list[Any]:
        if atom in places:
            return [places[atom]]
        eqn = made.get(atom)
        if eqn is not None and eqn.primitive.name == "concatenate" and eqn.params["dimension"] == 1:
            return [p for x in eqn.invars for p in parts(x)]
        if eqn is not None and eqn.primitive.name in _COPIES and eqn.invars[0].aval.shape == atom.aval.shape:
            below = parts(eqn.invars[0])
            return below if any(isinstance(p, int) for p in below) else [atom]
        return [atom]

    return parts(design)
