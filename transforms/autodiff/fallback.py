"""The long tail: a primitive without a rule of ours is differentiated by JAX's public transformations, on its one
equation.

Importing this file installs the fallback; delete it and its import in `__init__` and such primitives raise
`DerivativeError` instead.
`fallback_counts` counts what was served, as ("linearize" or "transpose", primitive); `without_fallback()` switches it
off for a while.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax

from ..jax_compat import bind
from .core import FALLBACK, FALLBACK_ENABLED, Fallback, Unknown, is_differentiable
from .transpose import instantiate

__all__ = ["fallback_counts", "without_fallback"]

fallback_counts: Counter[tuple[str, str]] = Counter()


def _merge(slots: Any, holes: Any, values: Any) -> list[Any]:
    """`slots` with `values` at the places marked in `holes`."""
    values = iter(values)
    return [next(values) if hole else x for x, hole in zip(slots, holes, strict=True)]


def _linearize(eqn: Any, active: Any, *primals: Any) -> Any:
    fallback_counts["linearize", eqn.primitive.name] += 1
    outs, linear = jax.linearize(
        lambda *xs: bind(eqn, _merge(primals, active, xs)), *(x for x, a in zip(primals, active, strict=True) if a)
    )
    moving = tuple(is_differentiable(v.aval) for v in eqn.outvars)
    return (
        outs,
        lambda ts: [t if m else None for t, m in zip(linear(*(t for t in ts if t is not None)), moving, strict=True)],
        moving,
    )


def _transpose(eqn: Any, cotangents: Any, *operands: Any) -> Any:
    fallback_counts["transpose", eqn.primitive.name] += 1
    unknown = [isinstance(x, Unknown) for x in operands]
    transposed = jax.linear_transpose(
        lambda *xs: bind(eqn, _merge(operands, unknown, xs)), *(x.aval for x in operands if isinstance(x, Unknown))
    )
    return _merge(
        [None] * len(operands),
        unknown,
        transposed([instantiate(ct, v.aval) for ct, v in zip(cotangents, eqn.outvars, strict=True)]),
    )


@contextlib.contextmanager
def without_fallback() -> Iterator[None]:
    """Inside, a primitive without a rule raises `DerivativeError`."""
    token = FALLBACK_ENABLED.set(False)
    try:
        yield
    finally:
        FALLBACK_ENABLED.reset(token)


FALLBACK.append(Fallback(_linearize, _transpose))
