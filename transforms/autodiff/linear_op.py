"""A linear map whose transpose is given, as one equation: `linear_op`.

    forward(residuals, tangents) -> tangents out          backward(residuals, cotangents) -> cotangents

Transposing swaps the two; JAX's transformations and ours both know how. Differentiating it in the residuals
differentiates the body of `forward`. The two functions must be transposes of each other and refer to no traced values
but their arguments.

A backward half that says `inlined = True` need not be linear (a user's rule that clips the cotangent): transposing writes its equations in
place, so that they are differentiated as they stand.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import eval_jaxpr

from ..jax_compat import (
    Primitive,
    define_batching,
    define_jvp,
    define_lowering,
    define_result,
    define_transpose,
    instantiate_tangents,
    open_jaxpr,
)
from .core import Unknown, add, linearize_jaxpr, tangent_aval
from .registry import linearizes, transposes
from .transpose import instantiate

__all__ = ["linear_op", "linearize_function"]

linear_op_p = Primitive("linear_op")
linear_op_p.multiple_results = True

Half = Callable[[Sequence[Any], Sequence[Any]], Sequence[Any]]


def linear_op(forward: Half, backward: Half, residuals: Sequence[Any], tangents: Sequence[Any], out_avals: Sequence[Any]) -> list[Any]:
    """forward(residuals, tangents), with `backward` as its transpose.

    Args:
        forward, backward: see the module; hashable, so that compiled programs can be reused.
        residuals: arrays. tangents: arrays, in which the map is linear. out_avals: types of the results.
    """
    in_avals = tuple(tangent_aval(jax.typeof(t)) for t in tangents)
    return linear_op_p.bind(
        *residuals,
        *tangents,
        forward=forward,
        backward=backward,
        num_residuals=len(residuals),
        in_avals=in_avals,
        out_avals=tuple(out_avals),
    )


def _run(*operands: Any, forward: Half, num_residuals: int, **_: Any) -> list[Any]:
    return list(forward(operands[:num_residuals], operands[num_residuals:]))


def _swapped(params: dict[str, Any]) -> dict[str, Any]:
    p = params
    return dict(p, forward=p["backward"], backward=p["forward"], in_avals=p["out_avals"], out_avals=p["in_avals"])


def linearize_function(function: Callable[..., Sequence[Any]], primals: Sequence[Any], active: Sequence[bool]) -> Any:
    """Results and linear map (in the form of a rule) of a function of flat arrays."""
    jaxpr, consts = open_jaxpr(jax.make_jaxpr(lambda *xs: list(function(*xs)))(*primals))
    outs, program = linearize_jaxpr(jaxpr, consts, primals, active)

    def linear(ts: Sequence[Any]) -> list[Any]:
        made = iter(eval_jaxpr(program.jaxpr, program.residuals, *(t for t in ts if t is not None)))
        return [next(made) if a else None for a in program.out_active]

    return outs, linear, program.out_active


@linearizes("linear_op")
def linearize_linear_op(eqn: Any, active: Sequence[bool], *operands: Any) -> Any:
    """Itself in the tangents of its linear operands, the derivative of its body in those of the residuals."""
    p = eqn.params
    n = p["num_residuals"]
    outs = linear_op_p.bind(*operands, **p)
    through_residuals = None
    if any(active[:n]):
        _, through_residuals, _ = linearize_function(lambda *residuals: p["forward"](residuals, operands[n:]), operands[:n], active[:n])

    def linear(ts: Sequence[Any]) -> list[Any]:
        made: list[Any] = [None] * len(outs)
        if any(active[n:]):
            made = linear_op_p.bind(*operands[:n], *(instantiate(t, a) for t, a in zip(ts[n:], p["in_avals"], strict=True)), **p)
        if through_residuals is not None:
            made = [add(a, b) for a, b in zip(made, through_residuals(ts[:n]), strict=True)]
        return made

    return outs, linear, (True,) * len(outs)


@transposes("linear_op")
def transpose_linear_op(eqn: Any, cotangents: Sequence[Any], *operands: Any) -> Any:
    """The two halves swapped."""
    n = eqn.params["num_residuals"]
    arriving = [instantiate(ct, a) for ct, a in zip(cotangents, eqn.params["out_avals"], strict=True)]
    half = eqn.params["backward"]
    if getattr(half, "inlined", False):
        made = half(list(operands[:n]), arriving)
    else:
        made = linear_op_p.bind(*operands[:n], *arriving, **_swapped(eqn.params))
    return [*[None] * n, *(ct if isinstance(x, Unknown) else None for ct, x in zip(made, operands[n:], strict=True))]


def _jax_jvp(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> Any:
    n = params["num_residuals"]
    outs = linear_op_p.bind(*primals, **params)
    dense = instantiate_tangents(primals, tangents)
    moved = linear_op_p.bind(*primals[:n], *dense[n:], **params)
    places = [i for i in range(n) if dense[i] is not None]
    if places:

        def of_residuals(*values: Any) -> list[Any]:
            full = list(primals[:n])
            for i, v in zip(places, values, strict=True):
                full[i] = v
            return list(params["forward"](full, primals[n:]))

        _, more = jax.jvp(of_residuals, [primals[i] for i in places], [dense[i] for i in places])
        moved = [a + b for a, b in zip(moved, more, strict=True)]
    return outs, moved


def _jax_transpose(cotangents: Sequence[Any], linear: Sequence[bool], operands: Sequence[Any], **params: Any) -> list[Any]:
    n = params["num_residuals"]
    made = linear_op_p.bind(*operands[:n], *cotangents, **_swapped(params))
    return [*[None] * n, *(ct if u else None for ct, u in zip(made, linear[n:], strict=True))]


@dataclass(frozen=True)
class _Batched:
    """A half under `vmap`; axes says which residuals are batched."""

    half: Half
    axes: tuple[int | None, ...]

    @property
    def inlined(self) -> bool:
        return getattr(self.half, "inlined", False)

    def __call__(self, residuals: Sequence[Any], values: Sequence[Any]) -> Sequence[Any]:
        mapped = jax.vmap(lambda r, v: list(self.half(r, v)), in_axes=(list(self.axes), 0))
        return mapped(list(residuals), list(values))


def _batch(size: int, operands: Sequence[Any], axes: Sequence[int | None], **params: Any) -> Any:
    if all(a is None for a in axes):
        outs = linear_op_p.bind(*operands, **params)
        return outs, [None] * len(outs)
    n = params["num_residuals"]
    front = [x if a is None else jnp.moveaxis(x, a, 0) for x, a in zip(operands, axes, strict=True)]
    linear = [jnp.broadcast_to(x, (size, *x.shape)) if a is None else x for x, a in zip(front[n:], axes[n:], strict=True)]
    residual_axes = tuple(None if a is None else 0 for a in axes[:n])
    outs = linear_op(
        _Batched(params["forward"], residual_axes),
        _Batched(params["backward"], residual_axes),
        front[:n],
        linear,
        [a.update(shape=(size, *a.shape), sharding=None) for a in params["out_avals"]],
    )
    return outs, [0] * len(outs)


define_result(linear_op_p, lambda *avals, out_avals, **_: (list(out_avals), set()))
define_lowering(linear_op_p, _run)
define_jvp(linear_op_p, _jax_jvp)
define_transpose(linear_op_p, _jax_transpose)
define_batching(linear_op_p, _batch)
