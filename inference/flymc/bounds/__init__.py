"""Lower bounds on the likelihood of a row, as a function of its linear predictor: proved, never searched for on a grid.

A bound is a parabola below the log likelihood, tangent to it at the anchor: on a ball around the anchor (`local_bound`) or on the whole
line (`global_bound`), or, for a likelihood of a standardised residual, for every predictor and every scale (`scale_bound`). Summed
over rows a bound costs a few moments of the design matrix, which is what lets Firefly Monte Carlo leave most rows alone.

Where a curvature comes from: what a user has registered; the closed forms of `families`; for any other log likelihood, interval
arithmetic over its jaxpr (`traced`). All of it is float64, whatever the run's precision, and rounded outward. At run time `gap_of` says by
how much a bound lies below the likelihood at an evaluated row, and `check` refuses one that does not.
"""

import jax
import jax.numpy as jnp

from .check import TOLERANCE, Gap, check, gap_of, refuse_rows, residual_gap_of
from .families import BERNOULLI_LOGIT, BINOMIAL_LOGIT, RULES
from .local import everywhere_quadratic, local_quadratic, prepared, scale_tangent
from .records import Family, Quadratic, Row, ScaleTangent
from .registry import has_reference, is_softmax, register, rule_for
from .softmax import boehning, softmax_likelihood, softmax_quadratic

__all__ = [
    "TOLERANCE",
    "Gap",
    "Quadratic",
    "ScaleTangent",
    "boehning",
    "check",
    "gap_of",
    "global_bound",
    "has_reference",
    "is_softmax",
    "local_bound",
    "log_likelihood",
    "refuse_unbounded",
    "register",
    "residual_gap_of",
    "scale_bound",
    "untuned_anchor",
]


def log_likelihood(family: Family, eta, params: Row, shared: Row | None = None):
    """The log likelihood of each row in the form that its bound was made for. Pure JAX, differentiable, float64.

    Args:
        family: which likelihood.
        eta: linear predictors, (obs,), or (obs, K) for a categorical likelihood.
        params: the rows' parameters by name, (obs,) each, "value" the observation.
        shared: values of latent parameters that are no predictor, scalars.

    Returns:
        (obs,), nats. Gaps against a bound are to be taken from this form, which differs from the distribution's own by rounding.
    """
    with jax.enable_x64(True):
        if is_softmax(family):
            return softmax_likelihood(jnp.asarray(eta).astype(jnp.float64), jnp.asarray(params["value"]), has_reference(family))
        rule = rule_for(family, params, shared)
        return rule.log_likelihood(*prepared(rule, eta, {**params, **(shared or {})}))


def local_bound(family: Family, anchor, radius, params: Row, shared: Row | None = None) -> Quadratic:
    """The parabola below each row's log likelihood for |t| <= radius. Pure JAX; compiled once per family and shape.

        l(a + t) >= value + slope t - curvature t^2 / 2

    Args:
        family: which likelihood.
        anchor: a, the linear predictors that bounds touch the likelihood at, (obs,), or (obs, K) for a categorical likelihood.
        radius: of each row's ball, (obs,) or scalar, at least 0.
        params: the rows' parameters by name, (obs,) each or scalars, "value" the observation.
        shared: values of latent parameters that are no predictor, scalars; the bound holds for these values only.

    Returns:
        Quadratic, (obs,) each, float64; the curvature is infinite where none was found (`refuse_unbounded` says so by row). For a
        categorical likelihood the radius plays no part: the bound is `global_bound`'s.

    Raises:
        BoundError: the family has no bound that is known, registered or provable; names the primitive.
    """
    if is_softmax(family):
        return softmax_quadratic(anchor, params["value"], has_reference(family))
    return local_quadratic(rule_for(family, params, shared), anchor, radius, {**params, **(shared or {})})


def global_bound(family: Family, anchor, params: Row, shared: Row | None = None) -> Quadratic | None:
    """The parabola below each row's log likelihood for every t, or None if the family has none. Arguments as for `local_bound`.

    For a categorical likelihood it is a multiple of Boehning's matrix A by rows, l(a + t) >= value + slope' t - curvature t' A t / 2,
    A = `boehning(K, reference)`.
    """
    if is_softmax(family):
        return softmax_quadratic(anchor, params["value"], has_reference(family))
    return everywhere_quadratic(rule_for(family, params, shared), anchor, {**params, **(shared or {})})


def untuned_anchor(family: Family, anchor, params: Row):
    """Where bounds touch that know nothing of the posterior: at 0 for classes, at 1.5 for two of them, at the observation for a residual.

    As in Maclaurin & Adams (2014), section 3; `anchor` gives the shape. None for other likelihoods.
    """
    if is_softmax(family):
        return jnp.zeros_like(anchor)
    rule = RULES.get((family.distribution, family.link))
    if rule in (BERNOULLI_LOGIT, BINOMIAL_LOGIT):
        return jnp.full_like(anchor, 1.5)
    return jnp.asarray(params["value"]).astype(anchor.dtype) if rule is not None and rule.residual_tangent is not None else None


def scale_bound(family: Family, anchor, scale, params: Row) -> ScaleTangent | None:
    """A bound for every predictor and every scale of a likelihood of the standardised residual, or None.

        l(eta, sigma) >= constant - weight ((y - eta) / sigma)^2 - log sigma

    It is the tangent in the squared residual, of which l is a convex function (Student-t, Cauchy, logistic and Gaussian noise).

    Args:
        family: which likelihood.
        anchor: linear predictors at which the bound touches the likelihood, (obs,).
        scale: sigma there, scalar or (obs,).
        params: the rows' other parameters, "value" the observation, without "scale".

    Returns:
        ScaleTangent, (obs,) each, float64.
    """
    return scale_tangent(rule_for(family, params, {"scale": scale}), anchor, scale, params)


def refuse_unbounded(family: Family, bound: Quadratic, params: Row, shared: Row | None = None, rows=None) -> None:
    """Refuse rows whose curvature is not finite, or whose anchor the likelihood is not finite at (NaN, outside the support).

    Args:
        family, params, shared: as for `local_bound`, which made `bound`.
        rows: the rows' numbers in the data, (obs,); None counts them from 0.

    Raises:
        BoundError: names the first such row, and the primitives that may be the cause.
    """
    if is_softmax(family):
        name, kinks = family.distribution.__name__, ()
    else:
        rule = rule_for(family, params, shared)
        name, kinks = rule.name, rule.kinks
    refuse_rows(name, kinks, bound, rows)
