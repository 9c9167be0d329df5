"""The bound of a categorical likelihood: Boehning's matrix, and the smaller multiple of it that each row allows.

With K free logits beside one that is fixed at 0 the negative Hessian of l is at most A = (I - 1 1' / (K + 1)) / 2 in the sense of definite
matrices, whatever the logits: Boehning's bound. With all K logits free it is at most (I - 1 1' / K) / 2 likewise. Where a row is confident
much less will do, as Jaakkola and Jordan found for two classes:

    gamma = sup over t of D(t) / (t' A t / 2),    D(t) = lse(a + t) - lse(a) - p(a)' t,

holds for every t, with no ball. For three classes, where t has two directions, gamma is bounded here; for more classes it is 1.

Source: Boehning (1992), "Multinomial logistic regression algorithm", section 2; the multiple is ours.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.nn import logsumexp, softmax

from ..tiles import in_tiles
from . import shortfalls
from .records import ROUNDING, Quadratic

__all__ = ["boehning", "multiple_of_boehning", "quadratic_form", "softmax_likelihood", "softmax_quadratic", "softmax_shortfall"]

_SMALLEST, _LARGEST = 0.05, 40.0
_RINGS, _SECTORS = 48, 48
_TILE = 256


def boehning(predictors: int, reference: bool = True) -> np.ndarray:
    """Boehning's matrix, (K, K), float64: of K logits beside one that is fixed at 0, or (no `reference`) of all K."""
    classes = predictors + 1 if reference else predictors
    return (np.eye(predictors) - np.ones((predictors, predictors)) / classes) / 2


def quadratic_form(offset, reference: bool = True):
    """offset' A offset by rows: (obs, K) -> (obs,)."""
    classes = offset.shape[-1] + 1 if reference else offset.shape[-1]
    return (jnp.square(offset).sum(-1) - jnp.square(offset.sum(-1)) / classes) / 2


def _all_logits(eta, reference: bool):
    return jnp.concatenate([jnp.zeros_like(eta[..., :1]), eta], axis=-1) if reference else eta


def softmax_likelihood(eta, value, reference: bool = True):
    """l by rows: eta (obs, K), value (obs,) the observed class; with a `reference` eta are the logits of classes 1, 2, ..."""
    logits = _all_logits(eta, reference)
    chosen = jnp.take_along_axis(logits, value.astype(jnp.int32)[..., None], axis=-1)[..., 0]
    return chosen - logsumexp(logits, axis=-1)


def softmax_shortfall(anchor, offset, reference: bool = True):
    """l(a) + l'(a)' t - l(a + t) by rows, whatever was observed; anchor and offset (obs, K)."""
    return shortfalls.categorical(_all_logits(anchor, reference), _all_logits(offset, reference))


def softmax_quadratic(eta, value, reference: bool = True) -> Quadratic:
    """The quadratic of every row that holds for every offset; see `bounds.global_bound`."""
    with jax.enable_x64(True):
        return _quadratic(jnp.asarray(eta).astype(jnp.float64), jnp.asarray(value), reference)


@partial(jax.jit, static_argnums=2)
def _quadratic(eta, value, reference: bool) -> Quadratic:
    def one_tile(eta, value):
        logits = _all_logits(eta, reference)
        slope = jax.nn.one_hot(value, logits.shape[-1], dtype=logits.dtype) - softmax(logits, axis=-1)
        free = slope[..., 1:] if reference else slope
        rounding = ROUNDING * jnp.abs(logits).max(-1)
        level = softmax_likelihood(eta, value, reference)
        return Quadratic(level, free, multiple_of_boehning(logits), rounding, level)

    return in_tiles(one_tile, eta, value, tile=_TILE)


def multiple_of_boehning(logits):
    """An upper bound of gamma by rows, from all logits: (obs, classes) -> (obs,); 1 for more than three classes.

    In coordinates z with t' A t = |z|^2, let z = r u. Three regions cover the plane.

    - r <= 1/20: along a line the variance of a random variable of range w changes by a factor of e^(w r) at most, and here w <= 2, so
      D <= lambda (e^(2r) - 1 - 2r) / 4, lambda the largest eigenvalue of the Hessian at 0.
    - r >= 40: D <= max t - p' t <= 2 r, so gamma <= 4 / r.
    - Between, polar cells. As the Hessian is at most 1 (Boehning), with value D0 and gradient g of D at a cell's middle z0

          D(z) <= D0 + g' (z - z0) + |z - z0|^2 / 2,    that is  D / (r^2 / 2) <= 1 + 2 b' u / r + 2 k / r^2,
          b = g - z0,  k = D0 - g' z0 + |z0|^2 / 2,

      whose supremum over the cell is found exactly: b' u is largest where u comes nearest to b, and what remains is a parabola in 1 / r.

    The error is at most (1 - the Hessian) |z - z0|^2 / r^2, below 0.01.
    """
    if logits.shape[-1] != 3:
        return jnp.ones(logits.shape[:-1], logits.dtype)
    basis = np.array([[1.0, -1.0, 0.0], [1.0, 1.0, -2.0]]) / np.array([[np.sqrt(2.0)], [np.sqrt(6.0)]]) * np.sqrt(2.0)
    basis = jnp.asarray(basis, logits.dtype)  # rows: directions of t, centred, with |t|^2 / 2 = 1
    p, level = softmax(logits, axis=-1), logsumexp(logits, axis=-1)
    moment = jnp.einsum("...c,ic,jc->...ij", p, basis, basis)
    mean = jnp.einsum("...c,ic->...i", p, basis)
    hessian = moment - mean[..., :, None] * mean[..., None, :]
    half_trace = (hessian[..., 0, 0] + hessian[..., 1, 1]) / 2
    largest = half_trace + jnp.hypot((hessian[..., 0, 0] - hessian[..., 1, 1]) / 2, hessian[..., 0, 1])
    growth = 2 * (np.expm1(2 * _SMALLEST) - 2 * _SMALLEST) / (2 * _SMALLEST) ** 2
    within, beyond = largest * growth, 4 / _LARGEST

    ratio = (_LARGEST / _SMALLEST) ** (1 / _RINGS)
    half_angle = np.pi / _SECTORS
    angles = jnp.asarray(2 * half_angle * np.arange(_SECTORS), logits.dtype)
    unit = jnp.stack([jnp.cos(angles), jnp.sin(angles)])  # (2, sectors)
    directions = unit.T @ basis  # (sectors, classes)

    def add_ring(ring, best):
        inner = _SMALLEST * ratio ** ring.astype(logits.dtype)
        radius, outer = inner * np.sqrt(ratio), inner * ratio
        there = logits[..., None, :] + radius * directions
        level_there = logsumexp(there, axis=-1)
        q = jnp.exp(there - level_there[..., None])
        gradient = jnp.einsum("...sc,ic->...is", q - p[..., None, :], basis)
        d0 = level_there - level[..., None] - radius * jnp.einsum("...c,sc->...s", p, directions)
        b = gradient - radius * unit
        k = d0 - radius * (gradient * unit).sum(-2) + radius**2 / 2
        along, across = (b * unit).sum(-2), b[..., 1, :] * unit[0] - b[..., 0, :] * unit[1]
        size = jnp.hypot(along, across)
        to_edge = along * np.cos(half_angle) + jnp.abs(across) * np.sin(half_angle)
        nearest = jnp.where(jnp.abs(across) <= along * np.tan(half_angle), size, to_edge)
        low, high = 1 / (outer * (1 + 1e-12)), (1 + 1e-12) / inner
        s = jnp.clip(-nearest / jnp.where(k < 0, 2 * k, 1.0), low, high)

        def at(s):
            return 1 + 2 * nearest * s + 2 * k * s**2

        found = jnp.maximum(jnp.maximum(at(low), at(high)), jnp.where(k < 0, at(s), -jnp.inf))
        return jnp.maximum(best, found.max(-1))

    best = lax.fori_loop(0, _RINGS, add_ring, jnp.maximum(within, beyond))
    rounding = 1e-12 * (1 + jnp.abs(logits).max(-1))
    return jnp.minimum(best + rounding, 1.0)
