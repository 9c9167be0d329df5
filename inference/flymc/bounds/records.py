"""The interface of this package: a likelihood to bound, the quadratic below it, and the rule that makes one from the other."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from ....ppl.factors import Family

__all__ = ["ROUNDING", "Family", "Quadratic", "Row", "Rule", "ScaleTangent"]

ROUNDING = 64 * float(np.finfo(np.float64).eps)
"""Relative to its terms, the error of a sum of them."""

Row = dict[str, Any]
"""The parameters of one row's likelihood by name, "value" the observation; the functions of a `Rule` broadcast over rows."""


class Quadratic(NamedTuple):
    """A parabola below the log likelihood of each row, as a function of the offset t of its predictor from the anchor a:

        l(a + t) >= value + slope t - curvature t^2 / 2            for one predictor,
        l(a + t) >= value + slope . t - curvature t' A t / 2       for K of them, A = `softmax.boehning(K)`.

    All float64. `value` is l(a) and `slope` its derivative, to rounding; `curvature` is rounded up. `rounding` bounds the error of l as it
    is computed anywhere on the ball, which is that of its largest terms: a count of 1e8 makes l a difference of terms of 1e9. `check`
    allows for that and nothing more. `level` is what `value` is where the bound touches the likelihood: gaps are measured from there.
    """

    value: Array  # (obs,)
    slope: Array  # (obs,) or (obs, K)
    curvature: Array  # (obs,)
    rounding: Array  # (obs,), nats
    level: Array  # (obs,)


class ScaleTangent(NamedTuple):
    """A bound for every predictor and every scale, of a likelihood of the standardised residual:

        l(eta, sigma) >= constant - weight ((y - eta) / sigma)^2 - log sigma.

    Equality where |y - eta| / sigma is `touching`, its value at the anchor. All float64, (obs,).
    """

    constant: Array
    weight: Array
    touching: Array


def nothing_to_prove() -> None:
    pass


class Rule(NamedTuple):
    """How one kind of likelihood l(eta) is bounded. Every function broadcasts over rows, in float64.

    terms: (eta, row) -> the terms that l is the sum of; their sizes say how well it is known.
    slope: (eta, row) -> l'.
    sup_curvature: (low, high, row) -> an upper bound of -l'' on [low, high].
    chord: (anchor, radius, row) -> a curvature that holds on the ball, in closed form; None if there is none.
    everywhere: (anchor, row) -> a curvature that holds for every t; None if there is none.
    residual_tangent: (u, row) -> weight of the tangent in the squared standardised residual u; None if l is no convex function of it.
    residual_gap: (r, touching, row) -> terms of how far l lies above that tangent, from standardised residuals; for a scale of 1.
    shortfall: (anchor, offset, row) -> terms of l(a) + l'(a) t - l(a + t), without cancellation of the terms of l; None if l has to do.
    rounding: (eta, row) -> a bound of the error of l as it is computed; None if it is that of the sum of the terms.
    widen: whether the parameters are to be float64; if not they stay as they are given.
    prove: raises BoundError if no curvature can be proved.
    kinks: primitives at which the curvature may be unknown for some rows; for messages.
    """

    name: str
    terms: Callable[[Any, Row], Sequence[Any]]
    slope: Callable[[Any, Row], Any]
    sup_curvature: Callable[[Any, Any, Row], Any]
    chord: Callable[[Any, Any, Row], Any] | None = None
    everywhere: Callable[[Any, Row], Any] | None = None
    residual_tangent: Callable[[Any, Row], Any] | None = None
    residual_gap: Callable[[Any, Any, Row], Sequence[Any]] | None = None
    shortfall: Callable[[Any, Any, Row], Sequence[Any]] | None = None
    rounding: Callable[[Any, Row], Any] | None = None
    widen: bool = True
    kinks: tuple[str, ...] = ()
    prove: Callable[[], None] = nothing_to_prove

    def log_likelihood(self, eta: Any, row: Row) -> Any:
        return sum(self.terms(eta, row))

    def error(self, eta: Any, row: Row) -> Any:
        """A bound of the error of `log_likelihood`, nats: 64 units in the last place of its terms, for each of them is a few good."""
        if self.rounding is not None:
            return self.rounding(eta, row)
        return ROUNDING * sum(jnp.abs(x) for x in self.terms(eta, row))
