"""The long tail: JAX's public transformations on the one equation, counted. Deletable, with its import."""

from collections import Counter
from typing import Any

import jax

from ..jax_compat import bind
from .core import FALLBACK, Fallback, Unknown, is_differentiable
from .loop_bodies import chosen, spread
from .registry import unknown_primitive
from .rules_custom import merge
from .transpose import instantiate_all

fallback_counts: Counter[tuple[str, str]] = Counter()


def _served(rule: Any) -> Any:
    def serve(eqn: Any, *args: Any) -> Any:
        fallback_counts[rule.__name__, eqn.primitive.name] += 1
        try:
            return rule(eqn, *args)
        except NotImplementedError as error:
            raise unknown_primitive(eqn, rule.__name__) from error

    return serve


def linearize(eqn: Any, active: Any, *primals: Any) -> Any:
    outs, linear = jax.linearize(lambda *xs: bind(eqn, merge(primals, active, xs)), *chosen(primals, active))
    on = [is_differentiable(v.aval) for v in eqn.outvars]
    return outs, lambda ts: spread(chosen(linear(*chosen(ts, active)), on), on), on


def transpose(eqn: Any, cotangents: Any, *operands: Any) -> Any:
    unknown = [isinstance(x, Unknown) for x in operands]
    at = [x.aval for x in chosen(operands, unknown)]
    pull = jax.linear_transpose(lambda *xs: bind(eqn, merge(operands, unknown, xs)), *at)
    return spread(pull(instantiate_all(cotangents, eqn.outvars)), unknown)


FALLBACK.append(Fallback(_served(linearize), _served(transpose)))
