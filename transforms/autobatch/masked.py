"""The code of one block for all members at once, of which only some stand before it.

Members that are elsewhere ride along with whatever their registers hold; what comes out for them is not stored. Three things need
more than that:

* `x = x.at[i].set(v)` on a register would be followed by a selection over the whole of `x`. Where the code writes to a part of a
  slot that it also writes back, the place is masked instead: a member that is elsewhere writes beyond the end, which is dropped;
* a loop in the code may never end on what a register of another member holds, and a callback would show it to the world outside.
  Where there is one, it is given the values of a member that stands here;
* no member may stand here at all. Then a block with a loop does not run.

And one thing needs less: `matrix @ vector` with a matrix that all members share comes out of `jax.vmap` with the batch axis last in
memory, and everything that follows reads it across its rows. The operands are exchanged, so that the batch axis stays first: a
gradient of logistic regression, 1000 x 25, took 0.55 to 0.85 of the time at 4 and at 128 members, a Gaussian in 100 dimensions 0.7 at
512. Where the vectors are long and few it is the other way round (3000 x 100 at 4 members: 1.5), so there they are not.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..equations import CALLS, body_of, needed_equations, occurs, variables_of
from ..jax_compat import JaxprEqn, Literal, bind, equation_context, open_jaxpr, subjaxprs, varying_axes, varying_like
from .ir import Block

__all__ = ["fed_to_loops", "in_place", "run_block"]

_LONG = 32  # entries of a vector; longer ones are exchanged only if there are as many members


def in_place(block: Block) -> frozenset[int]:
    """Outputs of the block's code that are the slot's own value with parts written anew by index."""
    fed = fed_to_loops(block.jaxpr) or frozenset()
    own = {slot: number for number, slot in enumerate(block.reads) if number not in fed}
    derived = _derived(block.jaxpr, {var: number for number, var in enumerate(block.jaxpr.invars)})
    return frozenset(
        number
        for number, (slot, var) in enumerate(zip(block.writes, block.jaxpr.outvars, strict=True))
        if not isinstance(var, Literal) and slot in own and derived.get(var) == own[slot] and var not in block.jaxpr.invars
    )


def fed_to_loops(jaxpr: Any) -> frozenset[int] | None:
    """Inputs of an open jaxpr on which a loop of unknown length in it depends; None if it has no such loop."""
    feeding = needed_equations(jaxpr.eqns, [], also=_has_loop)
    read = variables_of(feeding, [])
    return frozenset(n for n, var in enumerate(jaxpr.invars) if var in read) if feeding else None


def run_block(block: Block, on: jax.Array, values: Sequence[Any], batched: Sequence[bool], wanted: Sequence[int]) -> list[Any]:
    """The block's code for all members.

    Args:
        block: the code.
        on: bool, (batch,). Which members stand before the block.
        values: one array per slot that it reads, with a leading batch axis where `batched` says so.
        batched: per slot that it reads.
        wanted: which outputs are used.

    Returns:
        The wanted outputs, with a leading batch axis. Those in `in_place(block)` are right for all members, the others only for
        members that are `on`.
    """
    fed = fed_to_loops(block.jaxpr)
    axes = [0 if b else None for b in batched]
    written = in_place(block) & set(wanted)
    members = on.shape[0]

    def code(on: Any, *values: Any) -> list[Any]:
        outs = _evaluate(block.jaxpr, block.consts, values, on, [True] * len(values), batched, members)
        return [outs[n] for n in wanted]

    run = jax.vmap(code, in_axes=(0, *axes), out_axes=0, axis_size=members)
    if fed is None:
        return run(on, *values)
    kept = [block.reads.index(block.writes[n]) for n in wanted if n in written]

    def safely(values: Sequence[Any]) -> list[Any]:
        model = jnp.argmax(on)  # a member that stands here
        safe = [jnp.where(_over(on, v), v, v[model]) if b and n in fed else v for n, (v, b) in enumerate(zip(values, batched, strict=True))]
        return run(on, *safe)

    shapes = jax.eval_shape(safely, list(values))
    place = {block.writes.index(block.reads[n]): n for n in kept}

    def skip(values: Sequence[Any]) -> list[Any]:
        return [values[place[n]] if n in place else _zeros_like(s, on) for n, s in zip(wanted, shapes, strict=True)]

    return lax.cond(on.any(), safely, skip, list(values))


def _zeros_like(spec: Any, on: jax.Array) -> jax.Array:
    return varying_like(jnp.zeros(spec.shape, spec.dtype), [spec])


def _over(mask: jax.Array, value: jax.Array) -> jax.Array:
    return mask.reshape(mask.shape + (1,) * (value.ndim - mask.ndim))


def _has_loop(eqn: JaxprEqn) -> bool:
    """Whether the equation may not end on any input, or shows its inputs to the world outside."""

    def may(eqn: JaxprEqn) -> bool:
        return eqn.primitive.name == "while" or "callback" in eqn.primitive.name

    return may(eqn) or any(occurs(jaxpr, may) for jaxpr in subjaxprs(eqn))


def _writes_part(eqn: JaxprEqn) -> bool:
    """Whether the equation is its first operand with a part written anew, which can be masked by its place."""
    name = eqn.primitive.name
    return (name.startswith("scatter") and name != "scatter_sub") or name == "dynamic_update_slice"


def _derived(jaxpr: Any, derived: Mapping[Any, int]) -> dict[Any, int]:
    """Variables of a jaxpr that are an input with parts written anew -> the number of that input."""
    found = dict(derived)
    for eqn in jaxpr.eqns:
        if not eqn.invars or isinstance(eqn.invars[0], Literal):
            continue
        if _writes_part(eqn) and eqn.invars[0] in found:
            found[eqn.outvars[0]] = found[eqn.invars[0]]
        elif eqn.primitive.name in CALLS:
            inner = open_jaxpr(body_of(eqn))[0]
            known = {
                i: found[o] for i, o in zip(inner.invars, eqn.invars, strict=True) if not isinstance(o, Literal) and o in found
            }  # fmt: skip
            inside = _derived(inner, known)
            for out, var in zip(eqn.outvars, inner.outvars, strict=True):
                if not isinstance(var, Literal) and var in inside and var not in inner.invars:
                    found[out] = inside[var]
    return found


def _evaluate(
    jaxpr: Any, consts: Sequence[Any], values: Sequence[Any], on: Any, own: Sequence[bool], batched: Sequence[bool], members: int
) -> list[Any]:  # fmt: skip
    """Evaluates a jaxpr for one member.

    Args:
        jaxpr, consts: the code.
        values: its inputs.
        on: bool, (). Whether the member stands here; if not, nothing is written to parts of inputs.
        own: per input, whether parts of it are masked when written.
        batched: per input, whether it differs between members.
        members: how many there are.
    """
    derived = _derived(jaxpr, {var: n for n, (var, m) in enumerate(zip(jaxpr.invars, own, strict=True)) if m})
    differs = {var for var, b in zip(jaxpr.invars, batched, strict=True) if b}
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *values], strict=True))

    def read(var: Any) -> Any:
        return var.val if isinstance(var, Literal) else env[var]

    for eqn in jaxpr.eqns:
        operands = _alike([read(v) for v in eqn.invars])
        parts = [not isinstance(v, Literal) and v in derived for v in eqn.invars]
        varies = [not isinstance(v, Literal) and v in differs for v in eqn.invars]
        if parts and parts[0] and _writes_part(eqn):
            outs = [_write(eqn, operands, on)]
        elif eqn.primitive.name in CALLS:
            inner, inner_consts = open_jaxpr(body_of(eqn))
            outs = _evaluate(inner, inner_consts, operands, on, parts, varies, members)
        else:
            exchange = eqn.primitive.name == "dot_general" and varies == [False, True]
            with equation_context(eqn):
                outs = [_product(eqn, operands, members)] if exchange else bind(eqn, operands)
        env.update(zip(eqn.outvars, outs, strict=True))
        if any(varies) or (parts and parts[0] and _writes_part(eqn)):
            differs.update(eqn.outvars)
    return [read(v) for v in jaxpr.outvars]


def _alike(operands: Sequence[Any]) -> list[Any]:
    """Operands that differ over the same mesh axes: a program traced outside `shard_map` has constants that differ over none."""
    avals = [jax.typeof(v) for v in operands]
    return [varying_like(jnp.asarray(v), avals) for v in operands] if any(varying_axes(aval) for aval in avals) else list(operands)


def _product(eqn: JaxprEqn, operands: Sequence[Any], members: int) -> Any:
    """A product of a shared array and a member's vector, as that of the vector and the array where that is faster."""
    (left, right), batch = eqn.params["dimension_numbers"]
    if batch[0] or len(right) < operands[1].ndim or len(left) == operands[0].ndim or operands[1].size > max(_LONG, members):
        return bind(eqn, operands)[0]
    precision = eqn.params["precision"]
    precision = precision[::-1] if isinstance(precision, tuple) else precision
    params = {**eqn.params, "dimension_numbers": ((right, left), ((), ())), "precision": precision}
    return eqn.primitive.bind(operands[1], operands[0], **params)


def _write(eqn: JaxprEqn, operands: Sequence[Any], on: Any) -> Any:
    """Writes a part of the first operand, or nothing unless `on`."""
    if eqn.primitive.name == "dynamic_update_slice":
        operand, update, *starts = operands
        limits = [size - part for size, part in zip(operand.shape, update.shape, strict=True)]
        starts = [jnp.clip(i, 0, limit) for i, limit in zip(starts, limits, strict=True)]
        indices = jnp.stack([i.astype(jnp.int32) for i in starts])
        dims = tuple(range(operand.ndim))
        numbers = lax.ScatterDimensionNumbers(update_window_dims=dims, inserted_window_dims=(), scatter_dims_to_operand_dims=dims)
        beyond = jnp.asarray(operand.shape, jnp.int32)
        indices = jnp.where(on, indices, beyond)
        mode = lax.GatherScatterMode.FILL_OR_DROP
        return lax.scatter(operand, indices, update, numbers, indices_are_sorted=True, unique_indices=True, mode=mode)
    operand, indices, updates = operands
    params = dict(eqn.params)
    numbers = params["dimension_numbers"]
    if params["mode"] == lax.GatherScatterMode.CLIP:
        indices = _clipped(operand, indices, updates, numbers)
    params["mode"] = lax.GatherScatterMode.FILL_OR_DROP
    beyond = jnp.asarray([operand.shape[d] for d in numbers.scatter_dims_to_operand_dims], indices.dtype)
    indices = jnp.where(on, indices, beyond)
    return eqn.primitive.bind(operand, indices, updates, **params)


def _clipped(operand, indices, updates, numbers):
    """Indices moved so that the window lies inside the operand, as mode="clip" says."""
    window = [1] * operand.ndim
    kept = [d for d in range(operand.ndim) if d not in numbers.inserted_window_dims and d not in numbers.operand_batching_dims]
    for dim, axis in zip(kept, numbers.update_window_dims, strict=True):
        window[dim] = updates.shape[axis]
    limit = [operand.shape[d] - window[d] for d in numbers.scatter_dims_to_operand_dims]
    return jnp.clip(indices, 0, jnp.asarray(limit, indices.dtype))
