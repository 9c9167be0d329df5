"""How far a posterior is from the normal distribution at which paths start.

Importance weights of draws from that distribution have a tail, to which a generalised Pareto distribution is fitted. Beyond a shape k of
0.5 the weights have no variance, beyond 0.7 the estimates they make are not to be relied on: the posterior is wider than the start
somewhere, as a funnel or a further mode is, and a path from there does not reach all of it.

Source: Vehtari, Simpson, Gelman, Yao & Gabry (2024), "Pareto smoothed importance sampling", JMLR 25; for variational fits Yao, Vehtari,
Simpson & Gelman (2018), "Yes, but did it work?", ICML. We deviate: the Pareto distribution is fitted by maximum likelihood.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import genpareto

from ...ppl import ModelProgram
from ..kernels.layout import Layout
from .density import Density

__all__ = ["pareto_k"]

_DRAWS = 2**14
_FEWEST = 1000
_WORK = 2**28  # elements of the model's largest value, over all draws


def pareto_k(program: ModelProgram, layout: Layout, data: Sequence[Any], mean: np.ndarray, root: np.ndarray) -> float:
    """The shape k of the tail of the weights p(y, u) / N(u; mean, root root'), from draws that are always the same.

    Args:
        data: of the program, on devices. mean: (dim,). root: (dim, dim).
    """
    density = Density(program, layout, data)
    number = int(np.clip(_WORK // density.largest, _FEWEST, _DRAWS))
    normal = np.random.default_rng(0).standard_normal((number, layout.dim))
    log_weights = density(mean + normal @ root.T) + 0.5 * (normal**2).sum(axis=1)
    log_weights = np.sort(log_weights[np.isfinite(log_weights)])
    tail = int(min(0.2 * number, 3 * np.sqrt(number)))
    if log_weights.size <= tail:
        return np.inf
    weights = np.exp(log_weights[-tail - 1 :] - log_weights[-1])
    excess = weights[1:] - weights[0]
    return float(genpareto.fit(excess, floc=0)[0]) if excess.min() > 0 and np.ptp(log_weights) > 1e-3 else -np.inf
