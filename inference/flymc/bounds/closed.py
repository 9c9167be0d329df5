"""Chords in closed form: the smallest curvature c = sup of 2 (l(a) + l'(a) t - l(a + t)) / t^2 on a ball, where that supremum is known.

Three facts give it. For l = -softplus the quotient has one peak, at t = -2a, where it is Jaakkola and Jordan's curvature. Where -l'' is
monotone so is the quotient, being an average of -l'', and the supremum is at an end of the ball. And where l is a parabola the
quotient is constant. Each function is written so that small radii do not cancel, and says by how much it is rounded up.
"""

import jax.numpy as jnp
import numpy as np
from jax.nn import log_sigmoid, sigmoid

__all__ = ["exponential_chord", "exponential_sup", "jaakkola_jordan", "logistic_chord", "logistic_sup"]

_EPSILON = float(np.finfo(np.float64).eps)
_SMALLEST_RADIUS = 1e-6  # below it the quotient of rounded numbers loses six digits; the chord of a larger radius holds too


def logistic_sup(low, high):
    """sup of softplus'' = sigmoid (1 - sigmoid) on [low, high]: it falls with |x|. Rounded up by 16 eps."""
    nearest = jnp.maximum(jnp.maximum(low, -high), 0.0)
    return sigmoid(nearest) * sigmoid(-nearest) * (1 + 16 * _EPSILON)


def jaakkola_jordan(x):
    """tanh(x / 2) / (2 x): the curvature of Jaakkola and Jordan's bound of -softplus, which holds everywhere. Rounded up by 16 eps.

    Source: Jaakkola and Jordan (2000), "Bayesian parameter estimation via variational methods", equation 9, where lambda is a half of this.
    """
    size = jnp.abs(x)
    small = size < 1e-3
    direct = jnp.tanh(size / 2) / (2 * jnp.where(small, 1.0, size))
    return jnp.where(small, 0.25, direct) * (1 + 16 * _EPSILON)


def logistic_chord(x, radius):
    """sup over |t| <= radius of 2 (softplus(x + t) - softplus(x) - sigmoid(x) t) / t^2.

    It is even in x. For x >= 0 the quotient rises in -t up to t = -2x, so it is taken at r = min(radius, 2x) to that side, where with p =
    sigmoid(-x)

        softplus(-(x - r)) - softplus(-x) - p r = log1p(p expm1(r)) - p r,

    which cancels to p (1 - p) r^2 / 2: an error of a few eps p r, that is of eps p / r in the quotient, which is added.
    """
    size = jnp.abs(x)
    r = jnp.minimum(jnp.maximum(radius, _SMALLEST_RADIUS), 2 * size)
    at_peak = r <= _SMALLEST_RADIUS / 2
    r = jnp.where(at_peak, 1.0, r)
    p = sigmoid(-size)
    near = jnp.log1p(p * jnp.expm1(jnp.minimum(r, 1.0)))
    far = jnp.logaddexp(log_sigmoid(size), log_sigmoid(-size) + r)
    rise = jnp.where(r < 1, near, far)
    chord = 2 * (rise - p * r) / r**2
    error = 32 * _EPSILON * (jnp.abs(rise) + p * r) / r**2 + 16 * _EPSILON * chord
    peak = jaakkola_jordan(size)
    return jnp.where(at_peak | (radius >= 2 * size), peak, jnp.minimum(chord + error, peak))


def exponential_sup(low, high):
    """sup of exp on [low, high], rounded up by 8 eps (1 + |high|): exp passes on the relative error of its argument times its size."""
    del low
    return jnp.exp(high) * (1 + 8 * _EPSILON * (1 + jnp.minimum(jnp.abs(high), 1e3)))


def exponential_chord(x, radius):
    """sup over |t| <= radius of 2 (e^(x+t) - e^x - e^x t) / t^2 = 2 e^x (e^T - 1 - T) / T^2 at T = radius, as e^x is increasing.

    Up to T = 1 by the series sum 2 T^k / (k + 2)!, whose terms are positive; the remainder after 18 terms is below eps.
    """
    small = jnp.minimum(radius, 1.0)
    series = jnp.zeros_like(small)
    for k in range(17, -1, -1):
        series = 1 + small / (k + 3) * series
    large = jnp.maximum(radius, 1.0)
    quotient = jnp.where(radius <= 1, series, 2 * (jnp.expm1(large) - large) / large**2)
    return quotient * jnp.exp(x) * (1 + 32 * _EPSILON * (1 + jnp.minimum(jnp.abs(x) + radius, 1e3)))
