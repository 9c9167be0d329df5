"""Meta-smoothness: whether the trained params follow the hyperparameters smoothly enough for a gradient to mean something.

With f(z) the params that training with hyperparameters z ends at, and two equal steps h along a direction,

    D1 = f(z + h) - f(z),   D2 = f(z + 2h) - f(z + h),   S = sum_j |D1_j| sign(D1_j) sign(D2_j) / sum_j |D1_j|

S is 1 where every param goes on as it began, and near 0 where the second step has nothing to do with the first. Three runs of training.

Source: Engstrom, Ilyas, Chen, Feldmann, Moses & Madry (2025), "Optimizing ML training with metagradient descent", definition 1. We deviate
in the direction, which is that of the gradient, scaled for each leaf of the hyperparameters.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

__all__ = ["ROUGH", "smoothness"]

ROUGH = 0.5
"""Below it one is warned."""

_STEP = 0.001


def smoothness(train: Callable[[Any], Any], hypers: Any, gradient: Any, step: float = _STEP) -> float:
    """S at `hypers`; NaN if a run or the gradient is not finite.

    Args:
        train: hypers -> params after training.
        hypers, gradient: pytrees alike. Leaves without a derivative stay.
        step: length of h in each leaf: the largest change of a number, relative to the root mean square of the leaf (to 1 if that is 0).
    """
    ends = [train(_along(hypers, gradient, k * step)) for k in range(3)]
    flat = [np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(end)]) for end in ends]
    first, second = np.diff(flat, axis=0)
    total = np.abs(first).sum()
    return float((np.abs(first) * np.sign(first) * np.sign(second)).sum() / total) if total > 0 else float("nan")


def _along(hypers: Any, gradient: Any, step: float) -> Any:
    def moved(h: Any, g: Any) -> Any:
        if g.dtype == jax.dtypes.float0 or not (largest := float(np.max(np.abs(g), initial=0))) > 0:
            return h
        size = float(np.sqrt(np.mean(np.square(np.asarray(h, np.float64))))) or 1.0
        return np.asarray(np.asarray(h) - step * size / largest * np.asarray(g), h.dtype)

    return jax.tree.map(moved, hypers, gradient)
