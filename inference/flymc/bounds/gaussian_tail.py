"""log Phi, its hazard phi / Phi and its curvature, to full precision on the whole line.

JAX's own `log_ndtr` jumps by 4e-9 at -20, where its asymptotic series of three terms begins: a bound that is to hold to rounding would
be refuted there. Below -5 Laplace's continued fraction is used instead, which also gives hazard(z) + z without cancellation.

Source: Laplace's continued fraction of Mills' ratio, Abramowitz and Stegun (1964), 26.2.14.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.lax import erfc

__all__ = ["chord", "curvature_above", "hazard", "log_ndtr"]

_SWITCH = 5.0
_PIECES = 8
_TERMS = 24  # as many as float64 can tell apart at 5; 16 leave 2e-13
_ERROR = 4e-14  # relative, of the functions here: that of exp(-z^2 / 2) at 12; the tests measure it
_LOG_SQRT_TWO_PI = float(0.5 * np.log(2 * np.pi))
_ROOT_HALF = float(np.sqrt(0.5))


def _excess(x):
    """hazard(-x) - x = 1 / (x + 2 / (x + 3 / (x + ...))), for x >= 5."""
    tail = x
    for k in range(_TERMS, 1, -1):
        tail = x + k / tail
    return 1 / tail


def log_ndtr(z):
    """log Phi(z)."""
    x = jnp.maximum(-z, _SWITCH)
    far = -0.5 * x**2 - _LOG_SQRT_TWO_PI - jnp.log(x + _excess(x))
    below = jnp.log(0.5 * erfc(-jnp.clip(z, -_SWITCH, 1.0) * _ROOT_HALF))
    above = jnp.log1p(-0.5 * erfc(jnp.maximum(z, 1.0) * _ROOT_HALF))  # XLA's log1p loses two digits below -0.2
    return jnp.where(z < -_SWITCH, far, jnp.where(z < 1, below, above))


def _near_hazard(z):
    near = jnp.maximum(z, -_SWITCH)
    return jnp.exp(-0.5 * near**2 - _LOG_SQRT_TWO_PI) / (0.5 * erfc(-near * _ROOT_HALF))


def hazard(z):
    """phi(z) / Phi(z), the derivative of log Phi."""
    x = jnp.maximum(-z, _SWITCH)
    return jnp.where(z < -_SWITCH, x + _excess(x), _near_hazard(z))


def curvature_above(z):
    """sup of -(log Phi)'' on [z, inf): at z, for hazard (hazard + z) falls from 1 to 0. Rounded up."""
    x = jnp.maximum(-z, _SWITCH)
    excess = _excess(x)
    near = _near_hazard(z)
    # near + z cancels to no less than a twenty-fifth of near
    at_z = jnp.where(z < -_SWITCH, (x + excess) * excess, near * (near + jnp.maximum(z, -_SWITCH)) * (1 + 30 * _ERROR))
    return jnp.minimum(at_z * (1 + _ERROR), 1.0)


def chord(z, radius):
    """sup over |t| <= radius of 2 (log Phi(z) + hazard(z) t - log Phi(z + t)) / t^2, rounded up.

    The curvature h falls with z, so the quotient, the average 2 int_0^1 (1 - s) h(z + s t) ds, is largest at t = -radius. Written with
    log Phi it cancels when the radius is small; there the average is bounded from above by h at the far end of each of eight pieces. The
    smaller of the two is taken, the rounding error of each added.
    """
    r = jnp.maximum(radius, 1e-6)
    here, there, slope = log_ndtr(z), log_ndtr(z - r), hazard(z)
    error = _ERROR * (jnp.abs(here) + jnp.abs(there) + slope * r)
    written = 2 * (here - slope * r - there + error) / r**2 * (1 + _ERROR)

    def add_piece(k, total):
        end = (k + 1).astype(z.dtype) / _PIECES
        weight = (2 * _PIECES - 1 - 2 * k).astype(z.dtype) / _PIECES**2
        return total + weight * curvature_above(z - radius * end - 1e-15 * (jnp.abs(z) + radius))

    averaged = lax.fori_loop(0, _PIECES, add_piece, jnp.zeros_like(z)) * (1 + _ERROR)
    return jnp.minimum(jnp.minimum(written, averaged), 1.0)
