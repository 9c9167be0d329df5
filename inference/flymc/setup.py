"""The set-up of Firefly Monte Carlo: where the posterior is, bounds for every row on a ball around it, and their sufficient statistics.

A few passes over the data, a tile at a time: Newton's method on a subsample and then on all rows, the bounds, their moments. Products
of tiles are computed in the float type of the data and summed in float64.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy.stats import poisson

from ...ppl.factors import Factor, Family
from ...transforms import SamplerError, hvp, value_and_grad
from .bounds import Quadratic, local_bound, log_likelihood, refuse_unbounded
from .bounds.local import in_tiles
from .conditional import TILE, Conditional
from .records import Fireflies

__all__ = ["Laplace", "Setup", "laplace", "light_up"]

_TILE = 8192
_SUBSAMPLE = 40_000
_MAX_NEWTON = 100
_SAFETY = 1 + 1e-5  # the radius of a row's ball is computed in floating point


class Laplace(NamedTuple):
    """The posterior near its mode.

    Attributes:
        mode: (dim,). hessian: (dim, dim), of minus the log density there, positive definite. prior_hessian: its part without the rows.
        queries: rows whose likelihood was evaluated to find it.
    """

    mode: np.ndarray
    hessian: np.ndarray
    prior_hessian: np.ndarray
    queries: int


@dataclass(frozen=True)
class Setup:
    """What sampling needs.

    Attributes:
        conditional: the density of the parameters given which rows are bright. fireflies: the data.
        capacity: of the list of bright rows. candidates: of the list of proposed ones.
        predicted: expected number of bright rows. queries: likelihoods that the set-up evaluated.
    """

    conditional: Conditional
    fireflies: Fireflies
    capacity: int
    candidates: int
    predicted: float
    queries: int


def _tiles(f: Callable, rows: Any) -> Any:
    """The sum of f over tiles of rows."""
    num = jax.tree.leaves(rows)[0].shape[0]
    whole = num // _TILE
    part = jax.tree.map(lambda x: x[whole * _TILE :], rows)
    total = f(part) if whole * _TILE < num else jax.tree.map(jnp.zeros_like, jax.eval_shape(f, jax.tree.map(lambda x: x[:_TILE], rows)))
    if not whole:
        return total
    tiles = jax.tree.map(lambda x: x[: whole * _TILE].reshape(whole, _TILE, *x.shape[1:]), rows)
    return lax.scan(lambda sum, tile: (jax.tree.map(jnp.add, sum, f(tile)), None), total, tiles)[0]


def _wide(x: Any) -> Any:
    return x.astype(jnp.float64)


@partial(jax.jit, static_argnums=0)
def _likelihood_at(family: Family, rows, coefficients):
    """Sum over rows of the log likelihood, its gradient and minus its Hessian in the coefficients."""

    def tile(rows):
        design, offset, params = rows
        eta = _wide(design) @ coefficients + _wide(offset)
        total = lambda eta: log_likelihood(family, eta, params).sum()  # noqa: E731
        value, slope = value_and_grad(total)(eta)
        bent = -hvp(total, (eta,), (jnp.ones_like(eta),))
        return value, _wide(slope @ _wide(design)), _wide(design.T @ (bent.astype(design.dtype)[:, None] * design))

    return _tiles(tile, rows)


def laplace(factor: Factor, log_prior: Callable[[Any, Any], Any], data: Any) -> Laplace:
    """The mode of the posterior by Newton's method, first on a subsample, then on all rows.

    Raises:
        SamplerError: there is no mode at a finite point.
    """
    matrix, shift = np.asarray(factor.coefficient_matrix, np.float64), np.asarray(factor.coefficient_offset, np.float64)
    rows = tuple(factor.rows)
    num = factor.rows.design.shape[0]
    queries = 0

    def prior(u):
        return log_prior(data, u)

    dim = matrix.shape[1]
    prior_at = jax.jit(lambda u: (*value_and_grad(prior)(u), -jax.vmap(lambda t: hvp(prior, (u,), (t,)))(jnp.eye(dim, dtype=jnp.float64))))

    def at(u, rows, weight):
        nonlocal queries
        queries += rows[0].shape[0]
        value, gradient, hessian = (weight * np.asarray(x) for x in _likelihood_at(factor.family, rows, matrix @ u + shift))
        parts = [np.asarray(x, np.float64) for x in prior_at(u)]
        return value + parts[0], gradient @ matrix + parts[1], matrix.T @ hessian @ matrix + parts[2], parts[2]

    u = np.zeros(dim)
    if num > 2 * _SUBSAMPLE:
        chosen = np.sort(np.random.default_rng(0).choice(num, _SUBSAMPLE, replace=False))
        u, *_ = _newton(lambda u: at(u, jax.tree.map(lambda x: x[chosen], rows), num / _SUBSAMPLE), u, factor)
    u, hessian, prior_hessian = _newton(lambda u: at(u, rows, 1.0), u, factor)
    return Laplace(u, hessian, prior_hessian, queries)


def _newton(at: Callable, u: np.ndarray, factor: Factor):
    """Maximises; returns the point, minus the Hessian there and the prior's part of it."""
    value, gradient, hessian, prior_hessian = at(u)
    for _ in range(_MAX_NEWTON):
        if not np.isfinite(value) or not np.isfinite(gradient).all():
            break
        values, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
        floor = 1e-9 * max(np.abs(values).max(), 1e-300)
        step = vectors @ ((gradient @ vectors) / np.maximum(np.abs(values), floor))
        decrement = gradient @ step
        if decrement < 1e-6 and values[0] > floor:
            return u, (hessian + hessian.T) / 2, (prior_hessian + prior_hessian.T) / 2
        length = 1.0
        while length > 1e-10:
            trial = at(u + length * step)
            if np.isfinite(trial[0]) and trial[0] >= value + 1e-4 * length * decrement - 1e-10 * abs(value):
                break
            length /= 2
        u = u + length * step
        value, gradient, hessian, prior_hessian = trial
    raise SamplerError(
        f"FlyMC: no mode of the posterior was found: after {_MAX_NEWTON} Newton steps the gradient still is {np.abs(gradient).max():.3g}. "
        f"Either site {factor.site!r} ({factor.site_line}) and the priors have no mode at a finite point (perfectly separated classes "
        "without a prior), or the posterior is not log-concave near its centre; give proper priors, or use lc.NUTS."
    )


def light_up(factor: Factor, data: Any, *, softening: float = 0.5, radius: float | None = None) -> Setup:
    """Bounds every row and chooses how often each is proposed.

    Args:
        factor: the likelihood.
        data: leaves of the log density that it was found in.
        softening: dimming of each bound in units of its predicted gap.
        radius: of the ball on which the bounds hold, in posterior standard deviations; sqrt(dim) + 4 if left out. Outside, rows have
            another bound, which costs a pass over all of them.

    Raises:
        SamplerError: the likelihood has latent parameters besides the predictor, several predictors, or coefficients that are not
            affine in the position; or there is no mode.
        BoundError: the family has no bound, or a row none.
    """
    _check_supported(factor)
    conditional = Conditional.of(factor)
    with jax.enable_x64(True):
        found = laplace(factor, conditional.log_prior, data)
        matrix = np.asarray(factor.coefficient_matrix, np.float64)
        dim = len(found.mode)
        radius = float(np.sqrt(dim) + 4 if radius is None else radius)
        coefficients = matrix @ found.mode + np.asarray(factor.coefficient_offset, np.float64)
        half = np.linalg.cholesky(found.hessian)  # half' (u - mode) is standard normal, by Laplace
        anchor, spread, bent = _at_mode(factor.family, tuple(factor.rows), coefficients, matrix @ np.linalg.inv(half).T)
        bound = local_bound(factor.family, anchor, radius * _SAFETY * spread, factor.rows.params)
        refuse_unbounded(factor.family, bound, factor.rows.params)
        scale = _whitening(factor, matrix, bound.curvature, found)
        rows = _whitened(factor.rows.design, jnp.asarray(matrix @ scale))
        predicted = jnp.maximum(0.5 * (bound.curvature - bent) * spread**2, 0.0)
        dimming = softening * predicted
        rate = dimming + predicted
        rate = rate + 0.02 * rate.mean()  # nobody is never asked
        level, tilt, bend = _moments(rows, bound, dimming)
        total = float(rate.sum())
        candidates = int(np.ceil(total + 10 * np.sqrt(total) + 24))
        capacity = TILE * int(np.ceil(2 * candidates / TILE))
        fireflies = Fireflies(
            rows=rows,
            anchor=anchor,
            params=factor.rows.params,
            bound=bound,
            dimming=dimming,
            rate=rate,
            cumulative=jnp.cumsum(rate),
            poisson=jnp.asarray(poisson.cdf(np.arange(candidates), total)),
            level=level,
            tilt=tilt,
            bend=bend,
            centre=jnp.asarray(found.mode),
            scale=jnp.asarray(scale),
            metric=jnp.asarray(half.T @ scale),
            radius=jnp.asarray(radius),
            prior_data=data,
        )
    return Setup(conditional, fireflies, capacity, candidates, total, found.queries + 2 * len(anchor))


def _check_supported(factor: Factor) -> None:
    where = f"FlyMC: site {factor.site!r} ({factor.site_line})"
    if factor.family.predictors != 1:
        raise SamplerError(
            f"{where} has {factor.family.predictors} linear predictors; only likelihoods of one are supported yet. Use lc.NUTS."
        )
    if factor.coefficient_matrix is None:
        raise SamplerError(
            f"{where}: the coefficients are not affine in the unconstrained parameters; only such are supported yet. Write the prior of "
            "the coefficients non-centred only where its scale is a number, or use lc.NUTS."
        )
    latent = factor.shared(np.zeros(np.shape(factor.coefficient_matrix)[1]))
    if latent:
        raise SamplerError(
            f"{where} has latent parameters besides its linear predictor ({', '.join(latent)}); only known ones are supported yet. "
            "Fix them, or use lc.NUTS."
        )


@partial(jax.jit, static_argnums=0)
def _at_mode(family: Family, rows, coefficients, spreading):
    """For each row the predictor at the mode, the posterior's standard deviation of it, and minus the second derivative there."""

    def tile(rows):
        design, offset, params = rows
        eta = _wide(design) @ coefficients + _wide(offset)
        bent = -hvp(lambda eta: log_likelihood(family, eta, params).sum(), (eta,), (jnp.ones_like(eta),))
        return eta, jnp.sqrt(((_wide(design) @ spreading) ** 2).sum(-1)), bent

    return in_tiles(tile, rows, tile=_TILE)


@jax.jit
def _gram(design, weight):
    def tile(rows):
        design, weight = rows
        return _wide(design.T @ (weight.astype(design.dtype)[:, None] * design))

    return _tiles(tile, (design, weight))


def _whitening(factor: Factor, matrix: np.ndarray, curvature, found: Laplace) -> np.ndarray:
    """scale with scale' C scale = I, for C minus the Hessian of log prior + sum_n log B_n at the mode."""
    bend = matrix.T @ np.asarray(_gram(factor.rows.design, curvature)) @ matrix + found.prior_hessian
    try:
        return np.linalg.inv(np.linalg.cholesky((bend + bend.T) / 2)).T
    except np.linalg.LinAlgError:
        return np.linalg.inv(np.linalg.cholesky(found.hessian)).T


@jax.jit
def _whitened(design, matrix):
    return in_tiles(lambda design: (_wide(design) @ matrix).astype(design.dtype), design, tile=_TILE)


@jax.jit
def _moments(rows, bound: Quadratic, dimming):
    def tile(rows):
        x, bound, dimming = rows
        bend = _wide(x.T @ (bound.curvature.astype(x.dtype)[:, None] * x))
        return (bound.value - dimming).sum(), bound.slope @ _wide(x), bend

    return _tiles(tile, (rows, bound, dimming))
