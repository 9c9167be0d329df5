"""Log likelihoods and log determinants with derivatives of their own, which need far less than their values do.

Each is an ordinary function (the body) given a linearization; `check_linearization` compares the two.

    Gaussian regression      rows enter through the R of [X | y] = Q R, and n     O(d^2) per gradient instead of O(n d)
    exponential family       rows enter through S = sum_i T(y_i) and n
    log |K|, Gaussian        the derivative in K is an inner product with a matrix; no product of matrices per tangent
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy as jsp
import numpy as np
from jax.core import Tracer

from ..errors import DerivativeError
from .api import vjp
from .ruled import defines_linearization

__all__ = [
    "exponential_family_log_likelihood",
    "gaussian_log_density",
    "gaussian_regression_log_likelihood",
    "log_determinant",
]

_LOG_2PI = math.log(2 * math.pi)


def gaussian_regression_log_likelihood(x: jax.Array, y: jax.Array) -> Callable[[Any, Any], jax.Array]:
    """log prod_i N(y_i | x_i w, sigma) as a function of (w, sigma), from as many rows as there are coefficients.

        -n log(sigma) - n/2 log(2 pi) - (|R (w - w0) - z0|^2 + rss) / (2 sigma^2),    [X | y] = Q [R z; 0 sqrt(rss)],  z0 = z - R w0

    w0 is the least-squares fit. Near it small numbers are added up, so that no digits go: sums of products, X'X, would lose twice as many
    as the columns are badly centred by. X and y that are concrete are factored in float64.

    Args:
        x: (row, dim). y: (row,).

    Returns:
        (w: (dim,), sigma: ()) -> nats, shape ().

    Raises:
        DerivativeError: the shapes do not fit.
    """
    if x.ndim != 2 or y.shape != x.shape[:1]:
        raise DerivativeError(f"gaussian_regression_log_likelihood: x has shape {x.shape} and y {y.shape}; expected (row, dim) and (row,).")
    n, (r, z, w0, rss) = x.shape[0], _triangular(x, y)

    def body(w: Any, sigma: Any) -> Any:
        return jnp.sum(-0.5 * ((y - x @ w) / sigma) ** 2) - n * (jnp.log(sigma) + 0.5 * _LOG_2PI)

    @defines_linearization(body)
    def log_likelihood(w: Any, sigma: Any) -> Any:
        rest = z - r @ (w - w0)
        distance = jnp.vdot(rest, rest) + rss
        slope = rest @ r / sigma**2
        in_sigma = distance / sigma**3 - n / sigma
        value = -0.5 * distance / sigma**2 - n * (jnp.log(sigma) + 0.5 * _LOG_2PI)
        return value, lambda dw, dsigma: jnp.vdot(slope, dw) + in_sigma * dsigma

    return log_likelihood


def _triangular(x: Any, y: Any) -> tuple[Any, Any, Any, Any]:
    """R, z0, w0 and rss of `gaussian_regression_log_likelihood`, in the type of the data."""
    traced = isinstance(x, Tracer) or isinstance(y, Tracer)
    dtype, library = jnp.result_type(x, y), jnp if traced else np
    table = library.concatenate([library.asarray(x), library.asarray(y)[:, None]], 1)
    whole: Any = library.linalg.qr(table if traced else table.astype(float), mode="r")
    r, z = whole[: x.shape[1], : x.shape[1]], whole[: x.shape[1], -1]
    w0 = library.linalg.lstsq(r, z, rcond=None)[0].astype(dtype)
    rss = (whole[x.shape[1] :, -1] ** 2).sum()
    return jnp.asarray(r, dtype), jnp.asarray(z - r @ w0, dtype), w0, jnp.asarray(rss, dtype)


def exponential_family_log_likelihood(statistics: jax.Array, log_partition: Callable[[Any], Any]) -> Callable[[Any], jax.Array]:
    """sum_i (eta . T_i - A(eta)) as a function of the natural parameters that all rows share; base measures left out.

    Args:
        statistics: T_i, (row, stat). log_partition: A, (stat,) -> ().

    Returns:
        eta: (stat,) -> nats, shape (). Its gradient is S - n grad A(eta), S = sum_i T_i.
    """
    n, total = statistics.shape[0], jnp.sum(statistics, axis=0)

    def body(eta: Any) -> Any:
        return jnp.sum(statistics @ eta - log_partition(eta))

    @defines_linearization(body)
    def log_likelihood(eta: Any) -> Any:
        a, pull = vjp(log_partition, eta)
        slope = total - n * pull(jnp.ones_like(a))[0]
        return jnp.vdot(total, eta) - n * a, lambda t: jnp.vdot(slope, t)

    return log_likelihood


def _log_determinant(k: Any) -> Any:
    return 2 * jnp.sum(jnp.log(jnp.diagonal(jnp.linalg.cholesky(k))))


@defines_linearization(_log_determinant)
def log_determinant(k: Any) -> Any:
    """log |K| of a symmetric positive definite matrix: d log |K| = <K^-1, dK>. K: (n, n)."""
    factor = jnp.linalg.cholesky(k)
    inverse = jsp.linalg.cho_solve((factor, True), jnp.eye(k.shape[0], dtype=k.dtype))
    return 2 * jnp.sum(jnp.log(jnp.diagonal(factor))), lambda t: jnp.sum(inverse * t)


def _gaussian_log_density(y: Any, mean: Any, covariance: Any) -> Any:
    factor = jnp.linalg.cholesky(covariance)
    white = jsp.linalg.solve_triangular(factor, y - mean, lower=True)
    return -0.5 * jnp.vdot(white, white) - jnp.sum(jnp.log(jnp.diagonal(factor))) - 0.5 * y.shape[0] * _LOG_2PI


@defines_linearization(_gaussian_log_density)
def gaussian_log_density(y: Any, mean: Any, covariance: Any) -> Any:
    """log N(y | mean, K): with a = K^-1 (y - mean), d = -a.(dy - dmean) + <a a' - K^-1, dK> / 2.

    y, mean: (n,). covariance: (n, n), symmetric positive definite.
    Source: Rasmussen & Williams (2006), "Gaussian Processes for Machine Learning", equation 5.9.
    """
    factor = jnp.linalg.cholesky(covariance)
    weights = jsp.linalg.cho_solve((factor, True), y - mean)
    inverse = jsp.linalg.cho_solve((factor, True), jnp.eye(y.shape[0], dtype=covariance.dtype))
    slope = 0.5 * (jnp.outer(weights, weights) - inverse)
    value = -0.5 * jnp.vdot(y - mean, weights) - jnp.sum(jnp.log(jnp.diagonal(factor))) - 0.5 * y.shape[0] * _LOG_2PI

    def linear(dy: Any, dmean: Any, dk: Any) -> Any:
        return jnp.vdot(weights, dmean) - jnp.vdot(weights, dy) + jnp.sum(slope * dk)

    return value, linear
