"""The optimal bridge between two sets of draws, and its error, on their log ratios alone.

    r = E_g[l / (s1 l + s2 r)] / E_p[1 / (s1 l + s2 r)],    l = phi / g,    s1 = n1 / (n1 + n2),    s2 = n2 / (n1 + n2)

for n1 draws from p = phi / r and n2 from g: both sides of the fraction are bounded, whatever the tails. r stands on both sides; it is
found by iteration. n1 is the effective number of the draws, which come from chains.

The squared relative error, with f1 = p / (s1 p + s2 g) under g and f2 = g / (s1 p + s2 g) under p, is

    var(f1) / (n2 mean(f1)^2) + var(f2) / (ESS(f2) mean(f2)^2)

Source: Meng & Wong (1996), "Simulating ratios of normalizing constants via a simple identity", Statistica Sinica 6, the iterative optimal
bridge; Frühwirth-Schnatter (2004), "Estimating marginal likelihoods for mixture and Markov switching models using bridge sampling
techniques", Econometrics Journal 7, the relative mean-squared error; Gronau et al. (2017), "A tutorial on bridge sampling", J. Math.
Psychol. 81, both together. We deviate: where they have the spectral density at zero of an autoregression, we have the effective sample
size of f2, which sees differences between chains too.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from scipy.special import logsumexp

from ...transforms import EvidenceError

__all__ = ["Bridge", "optimal_bridge"]

_MAX_ITERATIONS = 1000
_TOLERANCE = 1e-10  # nats


class Bridge(NamedTuple):
    """What the iteration leaves.

    Attributes:
        log_ratio: log r, nats. stderr: its standard error, nats. effective_draws: ESS(f2). iterations: until log r moved no more.
    """

    log_ratio: float
    stderr: float
    effective_draws: float
    iterations: int


def optimal_bridge(posterior: np.ndarray, proposal: np.ndarray) -> Bridge:
    """The optimal bridge from log ratios l, nats.

    Args:
        posterior: (chain, draw), finite. Of draws from p.
        proposal: (draw,), finite or -inf. Of draws from g.

    Raises:
        EvidenceError: the iteration does not converge: the two densities do not overlap.
    """
    centre = float(np.median(posterior))
    posterior, proposal = posterior - centre, proposal - centre
    num, effective = proposal.size, _effective(posterior)
    log_s1, log_s2 = math.log(effective / (effective + num)), math.log(num / (effective + num))
    log_r, move, iterations = 0.0, math.inf, 0
    while abs(move) > _TOLERANCE:
        top = logsumexp(proposal - np.logaddexp(log_s1 + proposal, log_s2 + log_r)) - math.log(num)
        bottom = logsumexp(-np.logaddexp(log_s1 + posterior, log_s2 + log_r)) - math.log(posterior.size)
        move, log_r, iterations = float(top - bottom) - log_r, float(top - bottom), iterations + 1
        if not math.isfinite(log_r) or iterations == _MAX_ITERATIONS:
            raise EvidenceError(
                f"bridge_evidence: after {iterations} iterations the log evidence still moves by {move:.2g} nats: the draws and the "
                "normal proposal do not overlap. Look at mcmc.diagnose(); a posterior far from normal needs other coordinates "
                "(non-centred sites) or more draws."
            )
    over = np.exp(proposal - np.logaddexp(log_s1 + proposal, log_s2 + log_r))
    under = np.exp(log_r - np.logaddexp(log_s1 + posterior, log_s2 + log_r))
    effective = _effective(under)
    error = math.sqrt(_relative_variance(over) / num + _relative_variance(under) / effective)
    return Bridge(log_r + centre, error, effective, iterations)


def _relative_variance(values: np.ndarray) -> float:
    return float(values.var(ddof=1) / values.mean() ** 2)


def _effective(values: np.ndarray) -> float:
    """ArviZ's effective sample size of the mean of (chain, draw); of values that do not vary, how many there are."""
    import arviz  # heavy: see `export`
    import xarray

    found: Any = arviz.ess(xarray.Dataset({"value": (("chain", "draw"), values)}), method="mean")
    size = float(np.asarray(found["value"]))
    return size if np.ptp(values) > 0 and math.isfinite(size) else float(values.size)
