"""The interface of this package: a likelihood to bound, the quadratic below it, and the rule that makes one from the other."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jax import Array

from ....ppl.factors import Family

__all__ = ["Family", "Quadratic", "Row", "Rule", "ScaleTangent"]

Row = dict[str, Any]
"""The parameters of one row's likelihood by name, "value" the observation; the functions of a `Rule` broadcast over rows."""


class Quadratic(NamedTuple):
    """A parabola below the log likelihood of each row, as a function of the offset t of its predictor from the anchor a:

        l(a + t) >= value + slope t - curvature t^2 / 2            for one predictor,
        l(a + t) >= value + slope . t - curvature t' A t / 2       for K of them, A = `softmax.boehning(K)`.

    All float64. `value` is l(a) and `slope` its derivative, to rounding; `curvature` is rounded up. So the inequality holds in exact
    arithmetic up to the rounding of `value` and `slope`, about 1e-15 (|l(a)| + |slope t|), which `check` allows for and nothing more.
    """

    value: Array  # (obs,)
    slope: Array  # (obs,) or (obs, K)
    curvature: Array  # (obs,)


class ScaleTangent(NamedTuple):
    """A bound for every predictor and every scale, of a likelihood of the standardised residual:

        l(eta, sigma) >= constant - weight ((y - eta) / sigma)^2 - log sigma.

    Equality where ((y - eta) / sigma)^2 has its value at the anchor. Both float64, (obs,).
    """

    constant: Array
    weight: Array


def nothing_to_prove() -> None:
    pass


class Rule(NamedTuple):
    """How one kind of likelihood l(eta) is bounded. Every function broadcasts over rows, in float64.

    log_likelihood, slope: (eta, row) -> l, l'.
    sup_curvature: (low, high, row) -> an upper bound of -l'' on [low, high].
    chord: (anchor, radius, row) -> a curvature that holds on the ball, in closed form; None if there is none.
    everywhere: (anchor, row) -> a curvature that holds for every t; None if there is none.
    residual_tangent: (u, row) -> weight of the tangent in the squared standardised residual u; None if l is no convex function of it.
    widen: whether the parameters are to be float64; if not they stay as they are given.
    prove: raises BoundError if no curvature can be proved.
    kinks: primitives at which the curvature may be unknown for some rows; for messages.
    """

    name: str
    log_likelihood: Callable[[Any, Row], Any]
    slope: Callable[[Any, Row], Any]
    sup_curvature: Callable[[Any, Any, Row], Any]
    chord: Callable[[Any, Any, Row], Any] | None = None
    everywhere: Callable[[Any, Row], Any] | None = None
    residual_tangent: Callable[[Any, Row], Any] | None = None
    widen: bool = True
    kinks: tuple[str, ...] = ()
    prove: Callable[[], None] = nothing_to_prove
