"""The change of entropy in one step of descent, from products of vectors with the Hessian.

A step changes the entropy of whatever is distributed over u by E log|det J|, and J is similar to I - A with a symmetric A (`steps`). Let
r be a vector of random signs, E r r' = I. With m_k = r' A^k r one sample of a lower bound on log|det(I - A)| is

    order 2    -m1 - m2                        E = -tr A - tr A^2                                  if every eigenvalue of A is below 0.6838
    order 4    -m1 - m2 / 2 - m3 / 3 - m4      E = -tr A - tr A^2 / 2 - tr A^3 / 3 - tr A^4        below 0.8702

with one and two products, since A is symmetric: m2 = |A r|^2, m3 = A r . A A r, m4 = |A A r|^2. The standard deviation over r is at
most sqrt(2 sum_i p(lambda_i)^2), p the polynomial. "reference" is order 2 on what is left of A when the part that is known beforehand
is split off. "exact" builds the matrix: then the sample is no estimate, and its eigenvalues are all known.

Source: Duvenaud, Maclaurin & Adams (2016), "Early stopping as nonparametric variational inference", equation for the parabola and
Algorithm 2, which takes two products, r1 = r - A r and r2 = r1 - A r1, for r . (-2 r + 3 r1 - r2). Expanding it gives -m1 - m2: the
same sample from one product, and without the cancellation that costs it its digits in float32. The quartic is ours.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

__all__ = ["LIMITS", "Order", "Product", "eigenvalues", "log_det_estimate", "threshold"]

Order = Literal[2, 4, "exact", "reference"]

LIMITS: dict[Order, float] = {2: 0.6838, 4: 0.8702, "exact": 1.0, "reference": 0.6838}
"""Largest eigenvalue of A up to which the estimate is a lower bound: where -x - x^2, the quartic, meet log(1 - x); for "reference"
that of B. For "exact" the step must be one to one, or entropy is lost in the folds."""

Product = Callable[[jax.Array], jax.Array]


def log_det_estimate(product: Product, probes: jax.Array, order: Order) -> jax.Array:
    """One estimate of log|det(I - A)|, nats.

    Args:
        product: v (dim,) -> A v (dim,).
        probes: (probe, dim), random signs; the mean over them is returned.
        order: 2, 4, or "reference", which is 2.
    """
    return jnp.mean(jax.vmap(lambda r: _sample(product, r, order))(probes))


def eigenvalues(product: Product, dim: int, dtype: Any) -> jax.Array:
    """All eigenvalues of A, (dim,), the largest last: dim products, dim^2 memory, dim^3 time."""
    matrix = jax.vmap(product)(jnp.eye(dim, dtype=dtype))
    return jnp.linalg.eigvalsh((matrix + matrix.T) / 2)


def _sample(product: Product, r: jax.Array, order: Order) -> jax.Array:
    once = product(r)
    m1, m2 = jnp.vdot(r, once), jnp.vdot(once, once)
    if order in (2, "reference"):
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
