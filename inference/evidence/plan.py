"""What a path is to be: from the keywords and the fits to a start, a preconditioner and steps.

    start "fit", "laplace"    u_0 ~ N(m, k^2 S S') at a fit, f = -log p(y, u), C = S S', every step of size c = 1 - k^(-1/T): on a Gaussian
                              posterior every direction shrinks from k times the posterior's width to that width in T steps
    start "prior"             u_0 ~ the prior, f = -log p(y | u), and C so that every direction shrinks from the prior's width to the
                              posterior's in T steps (`Fits.contraction`); the bound peaks there or a little later
    preconditioner None       C = I, steps of the sizes that are given

Source: with the prior and C = I the path of Duvenaud, Maclaurin & Adams (2016); the others are ours.
"""

from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from .estimators import Order
from .fits import Fits, Kind
from .roots import Diagonal, Full, Identity, Root
from .starts import Normal
from .steps import Rule

__all__ = ["INFLATE", "LENGTHS", "Asked", "Plan", "Start", "plan"]

Start = Literal["fit", "prior", "laplace"]

INFLATE: dict[Kind, float] = {"full": 1.25, "diagonal": 2.0}
"""k, as left out; chosen on a dozen models whose evidence is known."""

LENGTHS = (16, 32, 64, 128, 256)
"""Numbers of steps that are tried, until no step is too long."""

_BEYOND = 1.5  # steps of a path from the prior, relative to T


class Asked(NamedTuple):
    """The keywords that make a path, checked.

    Attributes:
        preconditioner: None is the identity. inflate: k. order: of the estimator. step_sizes: (num_steps,), without preconditioner.
        width: of the threshold, or None.
    """

    preconditioner: Kind | None
    inflate: float
    order: Order
    step_sizes: np.ndarray | None
    width: float | None


class Plan(NamedTuple):
    """One path.

    Attributes:
        start: where. num_steps: T; a path from the prior is longer. step_sizes: a, of every step.
        normal: q_0; None is the prior. rule: of the steps.
    """

    start: Start
    num_steps: int
    step_sizes: np.ndarray
    normal: Normal | None
    rule: Rule

    @property
    def joint(self) -> bool:
        """Whether f has the prior in it."""
        return self.start != "prior"


def plan(asked: Asked, start: Start, num_steps: int, fits: Fits) -> Plan:
    """The path from one start, T = num_steps."""
    dtype = fits.objective.layout.dtype
    normal, root, known = None, Identity(), np.zeros(fits.objective.layout.dim)
    if start != "prior":
        mean, scale = fits.normal(start)
        normal = Normal(jnp.asarray(mean, dtype), _root(scale, dtype), jnp.asarray(asked.inflate, dtype))
    if asked.preconditioner is None:
        assert asked.step_sizes is not None
        sizes = asked.step_sizes
    elif normal is None:
        scale, known = fits.contraction(num_steps)
        root, sizes = _root(scale, dtype), np.ones(round(_BEYOND * num_steps))
    else:
        root, known, sizes = normal.root, np.ones_like(known), np.full(num_steps, -np.expm1(-np.log(asked.inflate) / num_steps))
    width = None if asked.width is None else jnp.asarray(asked.width, dtype)
    return Plan(start, num_steps, sizes, normal, Rule(root, width, jnp.asarray(known, dtype) if asked.order == "reference" else None))


def _root(scale: np.ndarray, dtype: Any) -> Root:
    return Full(jnp.asarray(scale, dtype)) if scale.ndim == 2 else Diagonal(jnp.asarray(scale, dtype))
