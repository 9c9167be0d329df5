"""By how much functions fall short of their tangents,

    D(a, t) = l(a) + l'(a) t - l(a + t),

each to a few units in the last place of the terms that are returned, whatever the size of l: a count of 1e8 makes l a difference of
terms of 1e9, and D is 1e-6. A bound's gap is its parabola's bend less this number (`check`).

Near t = 0, where the written forms cancel to their second order in t, each has a series, whose remainder is below the rounding error.
"""

import jax.numpy as jnp
from jax.nn import log_softmax, logsumexp

__all__ = ["categorical", "exponential", "log1p", "softplus"]


def _series(x, coefficients):
    """coefficients[0] + coefficients[1] x + ..., by Horner's rule."""
    total = 0 * x + coefficients[-1]
    for c in coefficients[-2::-1]:
        total = c + x * total
    return total


def exponential(t):
    """e^t - 1 - t: that of -exp at 0, and divided by e^a that at a. Below 1/2 by the series t^2 / 2 (1 + t / 3 (1 + t / 4 (1 + ...)))."""
    near = jnp.clip(t, -0.5, 0.5)
    total = jnp.ones_like(near)
    for k in range(15, 2, -1):
        total = 1 + near / k * total
    far = jnp.where(jnp.abs(t) < 0.5, 1.0, t)
    return jnp.where(jnp.abs(t) < 0.5, 0.5 * near**2 * total, jnp.expm1(far) - far)


def log1p(u):
    """u - log(1 + u), that of log at 1, for u > -1.

    Below 1/5, with w = u / (2 + u), log(1 + u) = 2 atanh(w), so that it is u w - 2 w^3 (1/3 + w^2 / 5 + w^4 / 7 + ...).
    """
    near = jnp.clip(u, -0.2, 0.2)
    w = near / (2 + near)
    small = near * w - 2 * w**3 * _series(w**2, [1 / k for k in range(3, 21, 2)])
    far = jnp.where(jnp.abs(u) < 0.2, 1.0, u)
    return jnp.where(jnp.abs(u) < 0.2, small, far - jnp.log1p(far))


def softplus(x, t):
    """softplus(x + t) - softplus(x) - sigmoid(x) t: that of -softplus at x.

    It is even in (x, t), so that x <= 0 may be assumed. With e = e^x, p = e / (1 + e) <= 1/2 and q = 1 - p it is

        log1p(p expm1(t)) - p t                     below t = 1,
        softplus(x + t) + log(q) - p t              above, where the three terms are of one size.

    Below 1/100 it is the cumulant series of a Bernoulli variable without its first term,
    v t^2 / 2 (1 + (q - p) t / 3 + (1 - 6 v) t^2 / 12 + ...) with v = p q.
    """
    size, t = jnp.abs(x), jnp.where(x > 0, -t, t)
    e = jnp.exp(-size)
    p, q = e / (1 + e), 1 / (1 + e)
    v, skew = p * q, q - p
    near = jnp.clip(t, -0.01, 0.01)
    cumulants = [
        jnp.ones_like(v),
        skew / 3,
        (1 - 6 * v) / 12,
        skew * (1 - 12 * v) / 60,
        (1 - 30 * v + 120 * v**2) / 360,
        skew * (1 - 60 * v + 360 * v**2) / 2520,
    ]
    series = 0.5 * v * near**2 * _series(near, cumulants)
    moderate = t < 1
    middle = jnp.where(moderate & (jnp.abs(t) >= 0.01), t, 0.5)
    end = jnp.where(moderate, 0.0, t - size)
    logarithm = jnp.log1p(jnp.where(moderate, p * jnp.expm1(middle), jnp.exp(-jnp.abs(end))))
    beyond = jnp.maximum(end, 0) - jnp.log1p(e)
    return jnp.where(jnp.abs(t) < 0.01, series, logarithm + jnp.where(moderate, 0.0, beyond) - p * jnp.where(moderate, middle, t))


def categorical(logits, offset):
    """lse(a + t) - lse(a) - softmax(a)' t over the last axis.

    With d = t - softmax(a)' t it is log(sum_k p_k e^{d_k}) = log1p(sum_k p_k (e^{d_k} - 1 - d_k)), as sum_k p_k d_k = 0: a sum of terms
    that are not negative.
    """
    log_p = log_softmax(logits, axis=-1)
    p = jnp.exp(log_p)
    d = offset - (p * offset).sum(-1, keepdims=True)
    small = (d < 1).all(-1)
    near = jnp.log1p((p * exponential(jnp.where(small[..., None], d, 0.0))).sum(-1))
    return jnp.where(small, near, logsumexp(log_p + jnp.where(small[..., None], 0.0, d), axis=-1))
