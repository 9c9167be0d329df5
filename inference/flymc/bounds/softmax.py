"""The bound of a categorical likelihood: Boehning's matrix, and the smaller multiple of it that each row allows.

With K free logits (the last class, or none, being the reference) the negative Hessian of l is at most A = (I - 1 1' / (K + 1)) / 2 in the
sense of definite matrices, whatever the logits: Boehning's bound.

Source: Boehning (1992), "Multinomial logistic regression algorithm", section 2.
"""

import jax.numpy as jnp
import numpy as np

__all__ = ["boehning", "quadratic_form"]


def boehning(predictors: int) -> np.ndarray:
    """Boehning's matrix for that many free logits beside one that is fixed at 0; (K, K), float64."""
    return (np.eye(predictors) - np.ones((predictors, predictors)) / (predictors + 1)) / 2


def quadratic_form(offset):
    """offset' A offset by rows: (obs, K) -> (obs,)."""
    total = offset.sum(-1)
    return (jnp.square(offset).sum(-1) - total**2 / (offset.shape[-1] + 1)) / 2
