"""One step of descent and its Jacobian.

With a fixed preconditioner C = S S' a step is

    u' = u - a S g',    g' = S' grad f(u),  or thresholded  g' - g0 tanh(g' / g0)

and its Jacobian is similar to I - A with a symmetric A = a D S' H S D, H the Hessian of f at u, D = diag |tanh(g' / g0)|, or I without
threshold. So log|det J| = log|det(I - A)| whatever S, as long as S does not depend on the path's own position. Every eigenvalue of A
below one makes the step one to one, near u at least.

Where A is nearly known beforehand, A* = diag(a r), its determinant can be split off:

    log|det(I - A)| = log|det(I - A*)| + log|det(I - B)|,    B = (I - A*)^-1/2 (A - A*) (I - A*)^-1/2

and an estimator need do only with B, which is zero where A is A*. I - B is positive definite if and only if I - A is.

Source: the plain step is that of Duvenaud, Maclaurin & Adams (2016); S, and A* as a control variate, are ours. Their threshold acts on
the gradient itself, S = I.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ...transforms import jvp, linearize, value_and_grad
from .estimators import Order, Product, eigenvalues, log_det_estimate, threshold
from .roots import Root

__all__ = ["Move", "Rule", "Step", "move", "one_product_step", "step"]

Loss = Callable[[jax.Array], jax.Array]


class Rule(NamedTuple):
    """What the steps of a path have in common.

    Attributes:
        root: S. width: g0, nats per unit of u; None without threshold.
        known: r, (dim,), A* for a step of size one; None if nothing is split off.
    """

    root: Root
    width: jax.Array | None
    known: jax.Array | None

    def split(self, size: jax.Array) -> tuple[jax.Array | float, jax.Array | float, jax.Array | float]:
        """log|det(I - A*)|, the diagonal of (I - A*)^-1/2, and that of what is taken away from the product to have B."""
        if self.known is None:
            return 0.0, 1.0, 0.0
        left = 1 - size * self.known
        return jnp.sum(jnp.log(left)), 1 / jnp.sqrt(left), size * self.known / left


class Step(NamedTuple):
    """moved: u', (dim,). value: f(u), nats. product: v -> B v, of A if nothing is split off. log_det_known: log|det(I - A*)|, nats."""

    moved: jax.Array
    value: jax.Array
    product: Product
    log_det_known: jax.Array | float


def step(rule: Rule, loss: Loss, u: jax.Array, size: jax.Array) -> Step:
    """The step from u (dim,), with as many products as are asked for."""
    (value, gradient), hessian = linearize(value_and_grad(loss), u)
    pull, bent = rule.root.transposed(gradient), 1.0
    if rule.width is not None:
        pull, bent = threshold(pull, rule.width)
    log_det_known, spread, taken = rule.split(size)
    outer = spread * bent

    def product(v: jax.Array) -> jax.Array:
        return size * outer * rule.root.transposed(hessian(rule.root.apply(outer * v))[1]) - taken * v

    return Step(u - size * rule.root.apply(pull), value, product, log_det_known)


def one_product_step(rule: Rule, loss: Loss, u: jax.Array, size: jax.Array, v: jax.Array) -> Step:
    """The same without threshold, for one product with a v that is known beforehand: nothing need be kept for others."""
    assert rule.width is None
    log_det_known, spread, taken = rule.split(size)
    (value, gradient), (_, curved) = jvp(value_and_grad(loss), (u,), (rule.root.apply(spread * v),))
    image = size * spread * rule.root.transposed(curved) - taken * v
    return Step(u - size * rule.root.apply(rule.root.transposed(gradient)), value, lambda _: image, log_det_known)


class Move(NamedTuple):
    """moved: u', (dim,). value: f(u), nats. log_det: log|det J| or its estimate, nats. largest: eigenvalue of A; NaN if not computed."""

    moved: jax.Array
    value: jax.Array
    log_det: jax.Array
    largest: jax.Array


def move(rule: Rule, loss: Loss, u: jax.Array, size: jax.Array, order: Order, num_probes: int, key: jax.Array) -> Move:
    """The step from u (dim,), and what it does to the entropy. key: of this restart and step, for the probes."""
    if order == "exact":
        now = step(rule, loss, u, size)
        values = eigenvalues(now.product, u.size, u.dtype)
        return Move(now.moved, now.value, now.log_det_known + jnp.sum(jnp.log(jnp.abs(1 - values))), values[-1])
    probes = jax.random.rademacher(key, (num_probes, u.size), u.dtype)
    if order in (2, "reference") and num_probes == 1 and rule.width is None:
        now = one_product_step(rule, loss, u, size, probes[0])
    else:
        now = step(rule, loss, u, size)
    return Move(now.moved, now.value, now.log_det_known + log_det_estimate(now.product, probes, order), jnp.asarray(jnp.nan, u.dtype))
