"""The change of entropy in one step of descent, from products of vectors with the Hessian.

A step u - a g(u) changes the entropy of whatever is distributed over u by E log|det J|, J = I - a dg/du. With gradients as they are
dg/du is the Hessian H. With thresholded ones,

    g' = g - g0 tanh(g / g0),    J = I - a diag(s) H,    s = tanh(g / g0)^2,

and J has the determinant of I - A with A = a s^1/2 H s^1/2, which is symmetric. So let A be symmetric and r a vector of random signs,
E r r' = I. With m_k = r' A^k r one sample of a lower bound on log|det(I - A)| is

    order 2    -m1 - m2                        E = -tr A - tr A^2                                  if every eigenvalue of A is below 0.6838
    order 4    -m1 - m2 / 2 - m3 / 3 - m4      E = -tr A - tr A^2 / 2 - tr A^3 / 3 - tr A^4        below 0.8702

with one and two products, since A is symmetric: m2 = |A r|^2, m3 = A r . A A r, m4 = |A A r|^2. The standard deviation over r is at
most sqrt(2 sum_i p(lambda_i)^2), p the polynomial.

Source: Duvenaud, Maclaurin & Adams (2016), "Early stopping as nonparametric variational inference", equation for the parabola and
Algorithm 2, which takes two products, r1 = r - A r and r2 = r1 - A r1, for r . (-2 r + 3 r1 - r2). Expanding it gives -m1 - m2: the
same sample from one product, and without the cancellation that costs it its digits in float32. The quartic is ours.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

__all__ = ["LIMITS", "Order", "log_det_estimate", "threshold"]

Order = Literal[2, 4, "exact"]

LIMITS: dict[Order, float] = {2: 0.6838, 4: 0.8702, "exact": 1.0}
"""Largest eigenvalue of A up to which the estimate is a lower bound: where -x - x^2, the quartic, meet log(1 - x). For "exact" the
step must be one to one, or entropy is lost in the folds."""

Product = Callable[[jax.Array], jax.Array]


def log_det_estimate(product: Product, probes: jax.Array, order: Order) -> jax.Array:
    """One estimate of log|det(I - A)|, nats.

    Args:
        product: v (dim,) -> A v (dim,).
        probes: (probe, dim), random signs; the mean over them is returned. Only their width is used by "exact".
        order: 2, 4 or "exact", which builds the matrix: dim products, dim^2 memory, dim^3 time.
    """
    if order == "exact":
        identity = jnp.eye(probes.shape[-1], dtype=probes.dtype)
        return jnp.linalg.slogdet(identity - jax.vmap(product)(identity))[1]
    return jnp.mean(jax.vmap(lambda r: _sample(product, r, order))(probes))


def _sample(product: Product, r: jax.Array, order: Order) -> jax.Array:
    once = product(r)
    m1, m2 = jnp.vdot(r, once), jnp.vdot(once, once)
    if order == 2:
        return -m1 - m2
    twice = product(once)
    m3, m4 = jnp.vdot(once, twice), jnp.vdot(twice, twice)
    return -m1 - m2 / 2 - m3 / 3 - m4


def threshold(gradient: jax.Array, width: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The gradient without what is small against `width`, and the square root of the factors on the Hessian's rows, each (dim,).

    Directions that the likelihood hardly knows are left alone, and lose no entropy.
    """
    bent = jnp.tanh(gradient / width)
    return gradient - width * bent, jnp.abs(bent)
