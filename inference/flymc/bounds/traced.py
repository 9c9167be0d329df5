"""A rule for a log likelihood that nobody has bounded: its curvature by interval arithmetic over its jaxpr.

The function is traced in the run's precision, outside float64, as the user has it; what is bounded is the function of real numbers that the
trace says, its constants as they were rounded. Two proofs of -l'' on a piece are made and the smaller is taken: the range of the
second derivative, and the mean-value form, -l'' at the middle plus half the width times the range of the third, which is the better
one where the predictor occurs more than once.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ....transforms.errors import BoundError
from ....transforms.jax_compat import open_jaxpr
from ....transforms.structure import structure
from .intervals import Interval, point
from .records import ROUNDING, Row, Rule
from .running import run_wide, running_error
from .walk import KINKS, jet_of, primitives_of

__all__ = ["evaluated", "traced_rule"]

_EPSILON = float(np.finfo(np.float64).eps)


class Traced:
    """One row's log likelihood as a jaxpr of (predictor, parameters by name in order); equal to another of the same program."""

    def __init__(self, name: str, closed: Any, names: tuple[str, ...]):
        self.name, self.names = name, names
        self.jaxpr, self.consts = open_jaxpr(closed)
        constants = tuple((str(np.asarray(c).dtype), np.shape(c), np.asarray(c).tobytes()) for c in self.consts)
        self.key = (name, names, structure(closed, differentiated=False), constants)
        self.kinks = sorted(KINKS & primitives_of(self.jaxpr))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Traced) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    @functools.lru_cache(maxsize=256)  # noqa: B019 (rules are shared, and kept for the process)
    def prove(self) -> None:
        """Refuse a program that a rule is missing for, before anything is compiled: raises BoundError."""
        with jax.enable_x64(True):
            end = jax.ShapeDtypeStruct((), jnp.float64)
            rest = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in self.jaxpr.invars[1:]]
            jax.eval_shape(self._sup_curvature, end, end, *rest)

    def inputs(self, row: Row) -> list[Any]:
        """The parameters in the types that the function was traced with."""
        types = [v.aval.dtype for v in self.jaxpr.invars[1:]]
        return [jnp.asarray(row[name]).astype(dtype) for name, dtype in zip(self.names, types, strict=True)]

    def log_likelihood(self, eta, row: Row):
        """The function in float64, differentiable."""
        return jax.vmap(lambda e, *rest: run_wide(self.jaxpr, self.consts, [e, *rest]))(eta, *self.inputs(row))

    def terms(self, eta, row: Row):
        """See `Rule`: as one, for the form it is written in is the user's."""
        return (self.log_likelihood(eta, row),)

    def rounding(self, eta, row: Row):
        """A bound of the error of `log_likelihood`, nats; 0 where that is not finite."""
        found = jax.vmap(lambda e, *rest: running_error(self.jaxpr, self.consts, [e, *rest]))(eta, *self.inputs(row))
        return ROUNDING * jnp.where(jnp.isfinite(found), found, 0)

    def slope(self, eta, row: Row):
        """l', the middle of its interval at a point: to a few rounding errors."""

        def at(e, *rest):
            derivative = jet_of(self.jaxpr, self.consts, point(e), rest, 2)[1]
            return jnp.zeros_like(e) if derivative is None else (derivative.low + derivative.high) / 2

        return jax.vmap(at)(eta, *self.inputs(row))

    def sup_curvature(self, low, high, row: Row):
        """An upper bound of -l'' on [low, high]; infinite where none is proved."""
        return jax.vmap(self._sup_curvature)(low, high, *self.inputs(row))

    def _sup_curvature(self, low, high, *rest):
        middle = (low + high) / 2
        half = (high - low) / 2 + 4 * _EPSILON * jnp.maximum(jnp.abs(low), jnp.abs(high))
        there = jet_of(self.jaxpr, self.consts, point(middle), rest, 3)[2]
        _, _, second, third = jet_of(self.jaxpr, self.consts, Interval(low, high), rest, 4)
        if second is None or there is None:
            return jnp.zeros_like(low)
        steepest = jnp.zeros_like(low) if third is None else jnp.maximum(jnp.abs(third.low), jnp.abs(third.high))
        by_mean_value = (-there.low + steepest * half) + 8 * _EPSILON * (jnp.abs(there.low) + steepest * half)
        found = jnp.minimum(-second.low, jnp.where(jnp.isnan(by_mean_value), jnp.inf, by_mean_value))
        return jnp.where(jnp.isnan(found), jnp.inf, found)


@functools.lru_cache(maxsize=256)
def _rule_of(traced: Traced) -> Rule:
    """Equal programs share one rule, so that what is compiled for one serves the other."""
    return Rule(
        traced.name,
        traced.terms,
        traced.slope,
        traced.sup_curvature,
        rounding=traced.rounding,
        widen=False,
        kinks=tuple(traced.kinks),
        prove=traced.prove,
    )


@functools.lru_cache(maxsize=256)
def _traced(name: str, log_likelihood: Callable, params: tuple, shared: tuple, precision: str) -> Rule:
    row = {n: jax.ShapeDtypeStruct(shape, dtype) for n, shape, dtype in params}
    common = {n: jax.ShapeDtypeStruct(shape, dtype) for n, shape, dtype in shared}
    names = (*row, *common)

    def function(eta, *values):
        given = dict(zip(names, values, strict=True))
        return log_likelihood(eta, {n: given[n] for n in row}, {n: given[n] for n in common})

    closed = jax.make_jaxpr(function)(jax.ShapeDtypeStruct((), precision), *row.values(), *common.values())
    shapes = [v.aval.shape for v in open_jaxpr(closed)[0].outvars]
    if shapes != [()]:
        raise BoundError(f"the log likelihood of one row of {name} must be one scalar; it has the shapes {shapes}.")
    return _rule_of(Traced(name, closed, names))


def evaluated(name: str, log_likelihood: Callable, params: Row, shared: Row | None = None) -> Rule:
    """`traced_rule`, but whether there is a curvature to be proved is left open until it is asked for."""

    def kind(x, drop):
        return (tuple(np.shape(x)[drop:]), jax.dtypes.canonicalize_dtype(jnp.result_type(x)))

    row = tuple((n, *kind(x, 1)) for n, x in sorted(params.items()))
    common = tuple((n, *kind(x, 0)) for n, x in sorted((shared or {}).items()))
    return _traced(name, log_likelihood, row, common, str(jnp.result_type(float)))


def traced_rule(name: str, log_likelihood: Callable, params: Row, shared: Row | None = None) -> Rule:
    """The rule of a function log_likelihood(eta, row, shared) of scalars; traced in the precision that is in force.

    Args:
        name: of the distribution, for messages.
        log_likelihood: one row's, nats; hashable, and traced once for each set of types.
        params: of all rows, (obs, ...) each; only names, shapes and types are read.
        shared: scalars.

    Raises:
        BoundError: interval arithmetic has no rule for one of its primitives; names it.
    """
    rule = evaluated(name, log_likelihood, params, shared)
    rule.prove()
    return rule
