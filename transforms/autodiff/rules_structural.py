"""Primitives that move, copy, cut and join: linear in their array operands, whatever the values."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax import lax

from ..jax_compat import bind
from .core import Unknown, is_differentiable
from .registry import linearizes, transposes
from .transpose import instantiate, instantiate_all

MOVES = (
    "broadcast_in_dim", "reshape", "transpose", "squeeze", "expand_dims", "rev", "slice", "copy", "copy_p",
    "reduce_sum", "cumsum", "split", "unstack", "dynamic_slice", "name", "sharding_constraint",
)  # fmt: skip


@linearizes(*MOVES)
def moved(eqn: Any, active: Sequence[bool], x: Any, *indices: Any) -> Any:
    """The same equation applied to the tangent; later operands are indices."""
    outs = bind(eqn, [x, *indices])
    return outs, lambda ts: bind(eqn, [ts[0], *indices]), (True,) * len(outs)


@linearizes("pad", "concatenate", "stack", "dynamic_update_slice")
def joined(eqn: Any, active: Sequence[bool], *operands: Any) -> Any:
    """The same equation applied to the tangents jointly, zero where there is none; indices stay."""
    outs = bind(eqn, operands)

    def linear(ts: Sequence[Any]) -> list[Any]:
        filled = [
            x
            if not is_differentiable(v.aval)
            else np.zeros((), v.aval.dtype)
            if t is None and v.aval.shape == ()
            else instantiate(t, v.aval)
            for x, t, v in zip(operands, ts, eqn.invars, strict=True)
        ]
        return bind(eqn, filled)

    return outs, linear, (True,)


@linearizes("optimization_barrier")
def barrier(eqn: Any, active: Sequence[bool], *operands: Any) -> Any:
    """A barrier for the tangents too."""
    outs = bind(eqn, operands)

    def linear(ts: Sequence[Any]) -> list[Any]:
        made = iter(lax.optimization_barrier([t for t in ts if t is not None]))
        return [None if t is None else next(made) for t in ts]

    return outs, linear, tuple(active)


@transposes("broadcast_in_dim")
def transpose_broadcast(eqn: Any, cts: Sequence[Any], x: Unknown, *sizes: Any) -> Any:
    """The sum over the axes that were made."""
    (ct,), kept = cts, eqn.params["broadcast_dimensions"]
    made = tuple(i for i in range(ct.ndim) if i not in kept)
    summed = lax.reduce_sum(ct, made) if made else ct
    grown = tuple(i for i, n in enumerate(x.aval.shape) if n != summed.shape[i])
    if grown:
        summed = lax.reshape(lax.reduce_sum(summed, grown), x.aval.shape)
    return [summed, *[None] * len(sizes)]


@transposes("reduce_sum")
def transpose_sum(eqn: Any, cts: Sequence[Any], x: Unknown) -> Any:
    """The cotangent repeated along the axes that were summed."""
    kept = tuple(i for i in range(len(x.aval.shape)) if i not in eqn.params["axes"])
    return [lax.broadcast_in_dim(cts[0], x.aval.shape, kept)]


@transposes("reshape")
def transpose_reshape(eqn: Any, cts: Sequence[Any], x: Unknown) -> Any:
    """The shape of before; `dimensions` (used by `ravel(order='F')` and batching) permutes first."""
    dims = eqn.params["dimensions"]
    if dims is None:
        return [lax.reshape(cts[0], x.aval.shape)]
    permuted = lax.reshape(cts[0], tuple(np.take(x.aval.shape, dims)))
    return [lax.transpose(permuted, tuple(np.argsort(dims)))]


@transposes("squeeze", "expand_dims")
def transpose_squeeze(eqn: Any, cts: Sequence[Any], x: Unknown) -> Any:
    """The shape of before."""
    return [lax.reshape(cts[0], x.aval.shape)]


@transposes("transpose")
def transpose_permutation(eqn: Any, cts: Sequence[Any], x: Unknown) -> Any:
    """The inverse permutation."""
    return [lax.transpose(cts[0], tuple(np.argsort(eqn.params["permutation"])))]


@transposes("rev")
def transpose_reversal(eqn: Any, cts: Sequence[Any], x: Unknown) -> Any:
    """A reversal is its own transpose."""
    return bind(eqn, cts)


@transposes("copy", "copy_p", "name")
def transpose_copy(eqn: Any, cts: Sequence[Any], x: Unknown) -> Any:
    """The identity."""
    return [cts[0]]


@transposes("sharding_constraint")
def transpose_constraint(eqn: Any, cts: Sequence[Any], x: Unknown) -> Any:
    """The same constraint."""
    return bind(eqn, cts)


@transposes("optimization_barrier")
def transpose_barrier(eqn: Any, cts: Sequence[Any], *operands: Any) -> Any:
    """A barrier for the cotangents."""
    made = iter(lax.optimization_barrier([ct for ct in cts if ct is not None]))
    return [None if ct is None else next(made) for ct in cts]


@transposes("slice")
def transpose_slice(eqn: Any, cts: Sequence[Any], x: Unknown) -> Any:
    """The cotangent padded with zeros to where it was cut from."""
    (ct,), start = cts, eqn.params["start_indices"]
    strides = eqn.params["strides"] or (1,) * ct.ndim
    config = []
    for n, m, s, k in zip(x.aval.shape, ct.shape, start, strides, strict=True):
        end = s + (m - 1) * k + 1 if m else s
        config.append((s, n - end, k - 1 if m else 0))
    return [lax.pad(ct, np.zeros((), ct.dtype), config)]


@transposes("pad")
def transpose_pad(eqn: Any, cts: Sequence[Any], x: Any, value: Any) -> Any:
    """The operand receives what it filled, the padding value the sum of the rest."""
    (ct,), config = cts, eqn.params["padding_config"]
    shape = x.aval.shape if isinstance(x, Unknown) else x.shape
    if 0 in shape:
        inside = lax.full(shape, 0, ct.dtype)
    else:
        cut = lax.pad(ct, np.zeros((), ct.dtype), [(-low, -high, 0) for low, high, _ in config])
        inside = lax.slice(cut, (0,) * ct.ndim, cut.shape, [gap + 1 for *_, gap in config])
    outside = None
    if isinstance(value, Unknown):
        outside = lax.sub(lax.reduce_sum(ct, tuple(range(ct.ndim))), lax.reduce_sum(inside, tuple(range(ct.ndim))))
    return [inside if isinstance(x, Unknown) else None, outside]


@transposes("concatenate")
def transpose_concatenation(eqn: Any, cts: Sequence[Any], *operands: Any) -> Any:
    """Each operand receives its piece."""
    (ct,), axis, start, pieces = cts, eqn.params["dimension"], 0, []
    for x in operands:
        size = (x.aval if isinstance(x, Unknown) else x).shape[axis]
        pieces.append(lax.slice_in_dim(ct, start, start + size, axis=axis) if isinstance(x, Unknown) else None)
        start += size
    return pieces


@transposes("stack")
def transpose_stack(eqn: Any, cts: Sequence[Any], *operands: Any) -> Any:
    """Each operand receives its layer."""
    axis = eqn.params["axis"]
    return [lax.index_in_dim(cts[0], i, axis, keepdims=False) if isinstance(x, Unknown) else None for i, x in enumerate(operands)]


@transposes("unstack")
def transpose_unstack(eqn: Any, cts: Sequence[Any], x: Unknown) -> Any:
    """The layers stacked again."""
    return [lax.stack(instantiate_all(cts, eqn.outvars), axis=eqn.params["axis"])]


@transposes("split")
def transpose_split(eqn: Any, cts: Sequence[Any], x: Unknown) -> Any:
    """The pieces joined again."""
    return [lax.concatenate(instantiate_all(cts, eqn.outvars), eqn.params["axis"])]


@transposes("cumsum")
def transpose_cumsum(eqn: Any, cts: Sequence[Any], x: Unknown) -> Any:
    """The cumulative sum from the other end."""
    return [lax.cumsum(cts[0], axis=eqn.params["axis"], reverse=not eqn.params["reverse"])]


@transposes("dynamic_slice")
def transpose_dynamic_slice(eqn: Any, cts: Sequence[Any], x: Unknown, *indices: Any) -> Any:
    """The cotangent written into zeros; the primitive clamps an index, and a negative one does not count from the end."""
    return [lax.dynamic_update_slice(instantiate(None, x.aval), cts[0], indices, allow_negative_indices=False), *[None] * len(indices)]


@transposes("dynamic_update_slice")
def transpose_dynamic_update(eqn: Any, cts: Sequence[Any], x: Any, update: Any, *indices: Any) -> Any:
    """What was overwritten receives nothing, the update what it wrote."""
    (ct,) = cts
    size = (update.aval if isinstance(update, Unknown) else update).shape
    outer = inner = None
    if isinstance(x, Unknown):
        outer = lax.dynamic_update_slice(ct, lax.full(size, 0, ct.dtype), indices, allow_negative_indices=False)
    if isinstance(update, Unknown):
        inner = lax.dynamic_slice(ct, indices, size, allow_negative_indices=False)
    return [outer, inner, *[None] * len(indices)]
