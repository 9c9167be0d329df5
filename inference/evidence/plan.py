"""What a path is to be: from the keywords and the fits to a start, a preconditioner and steps.

    start "fit", "laplace"    a fit N(m, S S'), f = -log p(y, u). u_0 ~ N(m, R R') with R = k S; where S is diagonal no wider than the
                              prior, so that what the data do not touch is not moved. C = S D S' with D = I - (R^-1 S)^(1/T), so that on a
                              Gaussian posterior every direction shrinks from its width in R to the posterior's in T steps
    start "prior"             u_0 ~ the prior, f = -log p(y | u), and C so that every direction shrinks from the prior's width to the
                              posterior's in T steps (`Fits.contraction`); the bound peaks there, or much earlier if T is large
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

__all__ = ["INFLATE", "Asked", "Plan", "Start", "first_length", "last_length", "plan"]

Start = Literal["fit", "prior", "laplace"]

INFLATE = 1.25
"""k, as left out; chosen on a dozen models whose evidence is known."""

_MOST_STEPS = 256


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
        start: where. num_steps: T. step_sizes: a, of every step; a path from the prior has half as many steps again, and at most 256.
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


def first_length(preconditioner: Kind | None) -> int:
    """T that is tried first."""
    return 32 if preconditioner == "diagonal" else 16


def last_length(start: Start) -> int:
    """T up to which it is doubled. From the prior T only makes the steps short: their number does not grow with it."""
    return 32 * _MOST_STEPS if start == "prior" else _MOST_STEPS


def plan(asked: Asked, start: Start, num_steps: int, fits: Fits) -> Plan:
    """The path from one start, T = num_steps."""
    dtype = fits.objective.layout.dtype
    sizes, root, known, normal = np.ones(num_steps), Identity(), None, None
    if start == "prior":
        scale, known = fits.contraction(num_steps) if asked.preconditioner else (np.empty(0), None)
        sizes = np.ones(min(num_steps + num_steps // 2, _MOST_STEPS))
    else:
        mean, scale = fits.normal(start)
        ratio = _narrower(scale, asked.inflate, fits)
        normal = Normal(jnp.asarray(mean, dtype), _root(scale / ratio, dtype))
        known = -np.expm1(np.log(ratio) / num_steps)
        scale = scale * np.sqrt(known)
    if asked.preconditioner is not None:
        root = _root(scale, dtype)
    else:
        assert asked.step_sizes is not None
        sizes, known = asked.step_sizes, None
    width = None if asked.width is None else jnp.asarray(asked.width, dtype)
    split = jnp.asarray(known, dtype) if asked.order == "reference" and known is not None else None
    return Plan(start, num_steps, sizes, normal, Rule(root, width, split))


def _narrower(scale: np.ndarray, inflate: float, fits: Fits) -> np.ndarray:
    """Width of the fit relative to that of the start, (dim,): 1 / k; for a diagonal fit not less than the fit relative to the prior."""
    ratio = np.full(len(scale), 1 / inflate)
    return ratio if scale.ndim == 2 else np.clip(scale / fits.prior.scale, ratio, 1.0)


def _root(scale: np.ndarray, dtype: Any) -> Root:
    return Full(jnp.asarray(scale, dtype)) if scale.ndim == 2 else Diagonal(jnp.asarray(scale, dtype))
