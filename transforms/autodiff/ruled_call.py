"""A function with a rule as one equation, `ruled_call`: how it runs, and how our transformations and JAX's take it.

Its operands are (constants of the function, constants of the rule, arguments); its parameters hold three jaxprs:

    body      the function: runs where nothing is differentiated
    known     arguments -> values, residuals         linear    residuals, tangents -> tangents of the values
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import eval_jaxpr

from ..equations import dependents
from ..errors import DerivativeError
from ..jax_compat import (
    Literal,
    Primitive,
    define_batching,
    define_jvp,
    define_lowering,
    define_result,
    instantiate_tangents,
    open_jaxpr,
)
from .core import is_differentiable, tangent_aval
from .loop_bodies import spread
from .registry import linearizes
from .transpose import instantiate

__all__ = ["Again", "ruled_call_p"]


@dataclass(frozen=True)
class Again:
    """How to call the function on arguments of other shapes: flat leaves -> flat results. No part of what an equation computes."""

    function: Callable[..., Any]
    tree: Any

    def structure_key(self) -> str:
        return "again"

    def __call__(self, *leaves: Any) -> list[Any]:
        return jax.tree.leaves(self.function(*jax.tree.unflatten(self.tree, leaves)))


ruled_call_p = Primitive("ruled_call")
ruled_call_p.multiple_results = True


def _parts(operands: Sequence[Any], num_consts: tuple[int, int]) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
    a, b = num_consts
    return operands[:a], operands[a : a + b], operands[a + b :]


def _run(*operands: Any, body: Any, num_consts: tuple[int, int], **_: Any) -> list[Any]:
    consts, _rule_consts, leaves = _parts(operands, num_consts)
    return eval_jaxpr(body, (), *consts, *leaves)


def _linearized(operands: Sequence[Any], params: dict[str, Any]) -> tuple[list[Any], Callable[[Sequence[Any]], list[Any]]]:
    """Values by the rule, and the map from the tangents of differentiable leaves to those of differentiable results."""
    _, consts, leaves = _parts(operands, params["num_consts"])
    made = eval_jaxpr(params["known"], (), *consts, *leaves)
    n = len(params["body"].outvars)
    return made[:n], lambda ts: eval_jaxpr(params["linear"], (), *made[n:], *ts)


def _refuse_constants(active: Sequence[bool], params: dict[str, Any]) -> None:
    if any(active[: sum(params["num_consts"])]):
        raise DerivativeError(
            f"{params['name']} closes over a value that is being differentiated, and its rule does not say how. Pass "
            "the value as an argument."
        )


@linearizes("ruled_call")
def linearize_ruled_call(eqn: Any, active: Sequence[bool], *operands: Any) -> Any:
    """The rule."""
    p = eqn.params
    _refuse_constants(active, p)
    outs, apply = _linearized(operands, p)
    skip = sum(p["num_consts"])
    out_active = tuple(is_differentiable(v.aval) for v in eqn.outvars)
    moving = [(i, tangent_aval(v.aval)) for i, v in enumerate(eqn.invars) if i >= skip and is_differentiable(v.aval)]
    return outs, lambda ts: spread(apply([instantiate(ts[i], a) for i, a in moving]), out_active), out_active


def _jax_jvp(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> Any:
    symbolic = [type(t).__name__ in ("Zero", "SymbolicZero") or getattr(t, "dtype", None) == jax.dtypes.float0 for t in tangents]
    _refuse_constants([not s for s in symbolic], params)
    skip = sum(params["num_consts"])
    outs, apply = _linearized(primals, params)
    moving = [t for t in instantiate_tangents(primals, tangents)[skip:] if t is not None]
    made = iter(apply(moving))
    return outs, [next(made) if is_differentiable(v.aval) else np.zeros(v.aval.shape, jax.dtypes.float0) for v in params["body"].outvars]


def _vmapped(jaxpr: Any, size: int, axes: Sequence[int | None], out_axes: Sequence[int | None]) -> Any:
    """A jaxpr without constants under `vmap`."""
    avals = [  # not `ShapeDtypeStruct`, which since 0.12 cuts integers of 64 bits down where the process has 32
        v.aval.strip_weak_type() if a is None else v.aval.update(shape=(size, *v.aval.shape), weak_type=False, sharding=None)
        for v, a in zip(jaxpr.invars, axes, strict=True)
    ]
    run = jax.vmap(lambda *xs: eval_jaxpr(jaxpr, (), *xs), tuple(axes), list(out_axes), axis_size=size)
    return open_jaxpr(jax.make_jaxpr(run)(*avals))[0]


def _batch(size: int, operands: Sequence[Any], axes: Sequence[int | None], **params: Any) -> Any:
    body, known, linear = params["body"], params["known"], params["linear"]
    if all(a is None for a in axes):
        outs = ruled_call_p.bind(*operands, **params)
        return outs, [None] * len(outs)
    front = [x if a is None else jnp.moveaxis(x, a, 0) for x, a in zip(operands, axes, strict=True)]
    axes = [None if a is None else 0 for a in axes]
    of_body, of_rule, of_leaves = _parts(axes, params["num_consts"])
    n = len(body.outvars)
    mapped = dependents(known.eqns, [v for v, a in zip(known.invars, (*of_rule, *of_leaves), strict=True) if a == 0])
    kept = [0 if not isinstance(v, Literal) and v in mapped else None for v in known.outvars[n:]]
    moving = [a for a, v in zip(of_leaves, body.invars[len(of_body) :], strict=True) if is_differentiable(v.aval)]
    batched = dict(
        params,
        body=_vmapped(body, size, [*of_body, *of_leaves], [0] * n),
        known=_vmapped(known, size, [*of_rule, *of_leaves], [*[0] * n, *kept]),
        linear=_vmapped(linear, size, [*kept, *moving], [0] * len(linear.outvars)),
        again=None,  # of one member
    )
    outs = ruled_call_p.bind(*front, **batched)
    return outs, [0] * len(outs)


define_result(ruled_call_p, lambda *avals, body, **_: ([tangent_aval(v.aval) for v in body.outvars], set()))
define_lowering(ruled_call_p, _run)
define_jvp(ruled_call_p, _jax_jvp)
define_batching(ruled_call_p, _batch)
