"""Lower bounds on the likelihood of a row, as a function of its linear predictor: proved, never searched for on a grid.

A bound is a parabola below the log likelihood, tangent to it at the anchor: on a ball around the anchor (`local_bound`) or on the whole
line (`global_bound`), or, for a likelihood of a standardised residual, for every predictor and every scale (`scale_bound`). Summed
over rows a bound costs a few moments of the design matrix, which is what lets Firefly Monte Carlo leave most rows alone.

Where a curvature comes from: what a user has registered; the closed forms of `families`; for any other log likelihood, interval
arithmetic over its jaxpr (`traced`). All of it is float64, whatever the run's precision, and rounded outward. At run time `gap` says by
how much a bound lies below the likelihood at an evaluated row; one that does not is refuted.

A row's likelihood may be raised to a power s >= 0 (a survey weight, a tempered likelihood): `POWER` among its parameters. Then l is s log
L, and so is everything that is made of it.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ....transforms import grad, jvp
from .check import TOLERANCE, Gap, bend, check, gap_of, refuse, refuse_rows
from .families import BERNOULLI_LOGIT, BINOMIAL_LOGIT, RULES
from .local import everywhere_quadratic, local_quadratic, prepared, scale_tangent
from .powers import POWER, power_of, times
from .records import ROUNDING, Family, Quadratic, Row, ScaleTangent
from .registry import has_reference, is_softmax, register, rule_for
from .softmax import boehning, softmax_likelihood, softmax_quadratic, softmax_shortfall

__all__ = [
    "POWER",
    "TOLERANCE",
    "Gap",
    "Quadratic",
    "ScaleTangent",
    "boehning",
    "check",
    "gap",
    "gap_of",
    "global_bound",
    "has_reference",
    "is_softmax",
    "local_bound",
    "log_likelihood",
    "refuse",
    "refuse_unbounded",
    "register",
    "residual_gap",
    "scale_bound",
    "touches",
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
    power, params = power_of(params)
    with jax.enable_x64(True):
        if is_softmax(family):
            found = softmax_likelihood(jnp.asarray(eta).astype(jnp.float64), jnp.asarray(params["value"]), has_reference(family))
        else:
            rule = rule_for(family, params, shared)
            found = rule.log_likelihood(*prepared(rule, eta, {**params, **(shared or {})}))
        return times(power, found)


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
    power, params = power_of(params)
    if is_softmax(family):
        return _powered(softmax_quadratic(anchor, params["value"], has_reference(family)), power)
    return _powered(local_quadratic(rule_for(family, params, shared), anchor, radius, {**params, **(shared or {})}), power)


def _powered(bound: Any, power: Any) -> Any:
    """The bound of s log L, from that of log L."""
    return type(bound)(*(times(power, x) for x in bound))


def global_bound(family: Family, anchor, params: Row, shared: Row | None = None) -> Quadratic | None:
    """The parabola below each row's log likelihood for every t, or None if the family has none. Arguments as for `local_bound`.

    For a categorical likelihood it is a multiple of Boehning's matrix A by rows, l(a + t) >= value + slope' t - curvature t' A t / 2,
    A = `boehning(K, reference)`.
    """
    power, params = power_of(params)
    if is_softmax(family):
        return _powered(softmax_quadratic(anchor, params["value"], has_reference(family)), power)
    found = everywhere_quadratic(rule_for(family, params, shared), anchor, {**params, **(shared or {})})
    return None if found is None else _powered(found, power)


def gap(family: Family, bound: Quadratic, anchor, offset, params: Row) -> Gap:
    """How far each row's likelihood lies above a bound that is tangent to it at the anchor, at an offset from there. Pure JAX.

    Args:
        family, params: as for `local_bound` or `global_bound`, which made `bound`.
        anchor, offset: (obs,), or (obs, K) for a categorical likelihood, float64.

    Returns:
        Gap, (obs,). Where the likelihood is known (no trace, and no bound of a user's) its own size is no part of the tolerance.
    """
    reference = has_reference(family)
    terms = _shortfall(family, anchor, offset, params)
    if terms is None:
        return gap_of(log_likelihood(family, anchor + offset, params), bound, offset, reference)
    return Gap.of(bound.level - bound.value, bend(bound, offset, reference), *(-x for x in terms))


def _shortfall(family: Family, anchor, offset, params: Row) -> Any:
    """Terms of l(a) + l'(a) t - l(a + t), or None if they are not known."""
    power, params = power_of(params)
    if is_softmax(family):
        return (times(power, softmax_shortfall(anchor, offset, has_reference(family))),)
    rule = rule_for(family, params, None)
    if rule.shortfall is None:
        return None
    anchor, row = prepared(rule, anchor, params)
    return [times(power, x) for x in rule.shortfall(anchor, offset, row)]


def residual_gap(family: Family, bound: ScaleTangent, residual, scale, params: Row) -> Gap:
    """The gap of a bound of `scale_bound`, at residuals y - eta, (obs,), and a scale, () or (obs,). Pure JAX."""
    power, params = power_of(params)
    rule = rule_for(family, params, {"scale": scale})
    assert rule.residual_gap is not None
    residual, row = prepared(rule, residual, params)
    return Gap.of(*(times(power, x) for x in rule.residual_gap(residual / scale, bound.touching, row)))


def touches(family: Family, bound: Quadratic, anchor, params: Row):
    """Whether each row's bound has the value and the slope of the likelihood at the anchor, to rounding; (obs,) bool. Pure JAX.

    `gap` compares both where the likelihood's terms are all it has, and takes them for granted where it has better ones. The slope is that
    of the likelihood's own terms, whose sizes say how well both are known.
    """
    power, plain = power_of(params)
    if is_softmax(family):
        terms = (log_likelihood(family, anchor, plain),)
        slopes = (grad(lambda eta: log_likelihood(family, eta, plain).sum())(anchor),)
        allowed = ROUNDING * (1 + jnp.abs(anchor).max(-1, keepdims=True))
        pairs = [(bound.value, terms, allowed[:, 0]), (bound.slope, slopes, allowed)]
    else:
        rule = rule_for(family, plain, None)
        if rule.shortfall is None:
            return jnp.ones(anchor.shape, bool)
        anchor, row = prepared(rule, anchor, plain)
        terms, slopes = jvp(lambda eta: tuple(x + 0 * eta for x in rule.terms(eta, row)), (anchor,), (jnp.ones_like(anchor),))
        pairs = [(at, found, ROUNDING * sum(map(jnp.abs, found))) for at, found in ((bound.value, terms), (bound.slope, slopes))]
    close = [jnp.abs(at - times(power, sum(found))) <= times(power, allowed + 1e-300) for at, found, allowed in pairs]
    return jnp.stack([c.reshape(len(anchor), -1).all(1) for c in close]).all(0)


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

        l(eta, sigma) >= constant - weight ((y - eta) / sigma)^2 - s log sigma    (s = 1 without a power)

    It is the tangent in the squared residual, of which l is a convex function (Student-t, Cauchy, logistic and Gaussian noise).

    Args:
        family: which likelihood.
        anchor: linear predictors at which the bound touches the likelihood, (obs,).
        scale: sigma there, scalar or (obs,).
        params: the rows' other parameters, "value" the observation, without "scale".

    Returns:
        ScaleTangent, (obs,) each, float64.
    """
    power, params = power_of(params)
    found = scale_tangent(rule_for(family, params, {"scale": scale}), anchor, scale, params)
    return found if found is None else found._replace(constant=times(power, found.constant), weight=times(power, found.weight))


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
        rule = rule_for(family, power_of(params)[1], shared)
        name, kinks = rule.name, rule.kinks
    refuse_rows(name, kinks, bound, rows)
