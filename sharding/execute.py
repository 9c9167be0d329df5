"""Running the device-local program: each step is the JAX operation that it names, inside of one `shard_map`."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..transforms.jax_compat import Literal, bind, equation_context, scan_layout
from .factors import NEUTRAL, Local
from .local import Collective, Compute, Keep, LocalProgram, Mask, Nested, Slots, Step, axes_of, results_of

__all__ = ["is_key", "neutral_element", "padded_to", "run_local", "shard_index"]


def run_local(program: LocalProgram, slots: Slots, mesh: Mapping[str, int], operands: Sequence[Any]) -> list[Any]:
    """The outputs of a device-local program on one device; to be called inside of `shard_map`.

    Args:
        program: the program.
        slots: the local types of its slots.
        mesh: axis -> size.
        operands: this device's parts of the inputs.
    """
    return _Device(slots, mesh).run(program, operands)


def shard_index(axes: Sequence[str], mesh: Mapping[str, int]) -> Any:
    """The number of a device among those along some axes, major to minor, int32 (); to be called where the axes have names."""
    number = jnp.int32(0)
    for axis in axes:
        number = number * jnp.int32(mesh[axis]) + lax.axis_index(axis).astype(jnp.int32)
    return number


def neutral_element(combine: str, dtype: Any) -> Any:
    """What changes nothing when it is combined with a value of this type."""
    neutral = NEUTRAL[combine]
    if combine in ("max", "min") and not jnp.issubdtype(dtype, jnp.inexact):
        if jnp.issubdtype(dtype, jnp.bool_):
            return combine == "min"
        info = jnp.iinfo(dtype)
        return info.min if combine == "max" else info.max
    if combine in ("and", "or") and not jnp.issubdtype(dtype, jnp.bool_):
        return jnp.array(-1 if combine == "and" else 0).astype(dtype)
    return neutral


class _Device:
    def __init__(self, slots: Slots, mesh: Mapping[str, int]) -> None:
        self.slots, self.mesh = slots, mesh

    def count(self, axes: tuple[str, ...]) -> int:
        return math.prod(self.mesh[a] for a in axes)

    def index(self, axes: tuple[str, ...]) -> Any:
        return shard_index(axes, self.mesh)

    def run(self, program: LocalProgram, operands: Sequence[Any]) -> list[Any]:
        env: dict[int, Any] = dict(zip(program.inputs, operands, strict=True))
        env.update(program.constants)

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, Literal) else env[atom]

        for step in program.steps:
            env.update(zip(results_of(step), self.step(step, read), strict=True))
        return [read(atom) for atom in program.outputs]

    def step(self, step: Step, read: Callable[[Any], Any]) -> Sequence[Any]:
        if isinstance(step, Compute):
            return self.compute(step, [read(x) for x in step.operands])
        if isinstance(step, Nested):
            with equation_context(step.equation):
                run = {"scan": self.scan, "while": self.loop, "cond": self.cond}[step.kind]
                return run(step, [read(x) for x in step.operands])
        x = read(step.operand)
        if isinstance(step, Collective):
            return (self.collective(step, x),)
        return (self.keep(step, x) if isinstance(step, Keep) else self.mask(step, x),)

    def compute(self, step: Compute, operands: list[Any]) -> Sequence[Any]:
        with equation_context(step.equation):
            if step.rule.run is None:
                return bind(step.equation, operands)
            local = Local(step.shards, tuple(self.slots[r].shape for r in step.results), self.index, self.count)
            return step.rule.run(step.equation, operands, local)

    def collective(self, step: Collective, x: Any) -> Any:
        if is_key(x):
            return jax.random.wrap_key_data(self.collective(step, jax.random.key_data(x)), impl=jax.random.key_impl(x))
        if step.pad is not None and step.target is not None:
            x = padded_to(x, step.target, step.pad)
        if step.source is not None and step.target is None:
            x = lax.all_gather(x, step.axes, axis=step.source, tiled=True)
        elif step.source is None and step.target is not None:
            x = lax.psum_scatter(x, step.axes, scatter_dimension=step.target, tiled=True)
        elif step.source is not None and step.target is not None:
            x = lax.all_to_all(x, step.axes, step.target, step.source, tiled=True)
        else:
            x = _all_reduce(x, step.combine, step.axes)
        return x if step.trim is None or step.source is None else lax.slice_in_dim(x, 0, step.trim, axis=step.source)

    def keep(self, step: Keep, x: Any) -> Any:
        if step.pad is not None:
            x = padded_to(x, step.target, step.pad)
        size = self.slots[step.result].shape[step.target]
        return lax.dynamic_slice_in_dim(x, self.index(step.axes) * size, size, step.target)

    def mask(self, step: Mask, x: Any) -> Any:
        size = x.shape[step.dim]
        place = lax.broadcasted_iota(jnp.int32, x.shape, step.dim) + self.index(step.axes) * size
        return jnp.where(place < step.size, x, jnp.asarray(neutral_element(step.combine, x.dtype), x.dtype))

    def scan(self, step: Nested, operands: list[Any]) -> Sequence[Any]:
        params, (body,) = step.equation.params, step.bodies
        num_consts, num_carry = scan_layout(step.equation)
        consts, init, xs = operands[:num_consts], operands[num_consts : num_consts + num_carry], operands[num_consts + num_carry :]

        def turn(carry: Any, x: Any) -> tuple[Any, Any]:
            out = self.run(body, [*consts, *carry, *x])
            return _typed(out[:num_carry], carry), out[num_carry:]

        init = [jnp.asarray(x, self.slots[s].dtype) for x, s in zip(init, step.results, strict=False)]
        unroll = 1 if axes_of(body.steps) else params["unroll"]  # so that each collective stands once in the compiled program
        carry, ys = lax.scan(turn, init, xs, length=params["length"], reverse=params["reverse"], unroll=unroll)
        return [*carry, *ys]

    def loop(self, step: Nested, operands: list[Any]) -> Sequence[Any]:
        *conditions, body = step.bodies
        of_condition, of_body = step.equation.params["cond_nconsts"], step.equation.params["body_nconsts"]
        for_condition, for_body = operands[:of_condition], operands[of_condition : of_condition + of_body]
        init = [jnp.asarray(x, self.slots[s].dtype) for x, s in zip(operands[of_condition + of_body :], step.results, strict=True)]

        def asked(condition: LocalProgram, carry: Sequence[Any]) -> list[Any]:
            return self.run(condition, [*for_condition, *carry])

        def turn(carry: Sequence[Any]) -> list[Any]:
            return _typed(self.run(body, [*for_body, *carry]), carry)

        if len(conditions) == 1:
            return lax.while_loop(lambda carry: asked(conditions[0], carry)[0], turn, init)

        def turn_of_members(state: Any) -> Any:
            (active, _), carry = state
            carry = [_where(active, new, old) for new, old in zip(turn(carry), carry, strict=True)]
            return asked(conditions[1], carry), carry

        return lax.while_loop(lambda state: state[0][1], turn_of_members, (asked(conditions[0], init), init))[1]

    def cond(self, step: Nested, operands: list[Any]) -> Sequence[Any]:
        index, *rest = operands
        like = [self.slots[s] for s in step.results]
        branches = [lambda *xs, body=body: _typed(self.run(body, xs), like) for body in step.bodies]
        if index.dtype == bool:
            index = lax.convert_element_type(index, jnp.int32)
        return lax.switch(index, branches, *rest)


def _typed(values: Sequence[Any], like: Sequence[Any]) -> list[Any]:
    """Literals among the outputs of a nested program as arrays of their type."""
    return [jnp.asarray(x, y.dtype) for x, y in zip(values, like, strict=True)]


def _where(active: Any, new: Any, old: Any) -> Any:
    """`new` of the members that are active; members are the leading dimensions."""
    return jnp.where(active.reshape(active.shape + (1,) * (new.ndim - active.ndim)), new, old)


def is_key(x: Any) -> bool:
    """Whether these are typed random keys."""
    return jax.dtypes.issubdtype(getattr(x, "dtype", np.float32), jax.dtypes.prng_key)


def padded_to(x: Any, dim: int, size: int) -> Any:
    """`x` with `size` entries along `dim`: zeros behind its own, or, as there is no key that is zero, its last key again."""
    if is_key(x):
        return jnp.take(x, jnp.minimum(jnp.arange(size), x.shape[dim] - 1), axis=dim)
    rest = size - x.shape[dim]
    zero = jnp.zeros((), x.dtype)
    return lax.pad(x, zero, [(0, rest if d == dim else 0, 0) for d in range(x.ndim)]) if rest else x


def _all_reduce(x: Any, combine: str | None, axes: tuple[str, ...]) -> Any:
    if combine == "sum":
        return lax.psum(x, axes)
    least = combine in ("min", "and")
    if x.dtype == bool:
        return _all_reduce(x.astype(jnp.int32), "min" if least else "max", axes).astype(bool)
    if combine in ("and", "or"):
        raise NotImplementedError(f"bitwise {combine} of {x.dtype} over devices")
    return (lax.pmin if least else lax.pmax)(x, axes)
