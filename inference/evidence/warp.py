"""The proposal of bridge sampling: the posterior moved, scaled and made symmetric, until it looks like a standard normal.

    z = L^-1 (u - m),    phi(z) = |L| (gamma(m + L z) + gamma(m - L z)) / 2,    gamma(u) = p(x(u), y) |dx / du|

with m and L L' the mean and the covariance of draws that are used for nothing else. phi has the integral of gamma, which is the evidence;
the z of a posterior draw, with a random sign, is a draw from phi / p(y); and phi is even, so that the sign need not be drawn. What is
skewed in gamma is not in phi, and a normal matches it better.

Source: Meng & Schilling (2002), "Warp bridge sampling", J. Comput. Graph. Stat. 11(3), Warp-III; as used by Gronau, Wagenmakers, Heck &
Matzke (2019), "A simple method for comparing complex models", Psychometrika 84(1).
"""

import math
from dataclasses import dataclass

import numpy as np

from ...transforms import EvidenceError
from ..kernels.layout import Layout
from .density import Density

__all__ = ["Warp"]


@dataclass(frozen=True)
class Warp:
    """The transformation u = m + L z.

    Attributes:
        location: m, (dim,). factor: L, (dim, dim), lower triangular.
    """

    location: np.ndarray
    factor: np.ndarray

    @classmethod
    def fit(cls, positions: np.ndarray, layout: Layout) -> "Warp":
        """The warp with the mean and the covariance of positions (draw, dim).

        Raises:
            EvidenceError: the covariance has no Cholesky factor; names the sites that do not move, if that is why.
        """
        covariance = np.cov(positions, rowvar=False).reshape(layout.dim, layout.dim)
        try:
            return cls(positions.mean(axis=0), np.linalg.cholesky(covariance))
        except np.linalg.LinAlgError as e:
            moved = layout.unravel(np.diag(covariance) > 0)
            still = [name for name, value in moved.items() if not value.all()]
            why = f"elements of {still} have one value in all draws" if still else "some combination of sites has one value in all draws"
            raise EvidenceError(
                f"bridge_evidence: the covariance of the first half of the draws is singular: {why}. Look at mcmc.diagnose(); chains that "
                "do not move need another start or kernel, and a run needs more draws than dimensions."
            ) from e

    def posterior_ratios(self, log_density: Density, positions: np.ndarray) -> np.ndarray:
        """log phi(z) - log N(z; 0, I), nats, of posterior draws: (draw, dim), unconstrained -> (draw,).

        Raises:
            EvidenceError: the density is zero, infinite or NaN at one of them.
        """
        z = np.linalg.solve(self.factor, (positions - self.location).T).T
        own = log_density(positions)
        if not np.isfinite(own).all():
            raise EvidenceError(
                f"bridge_evidence: at {int((~np.isfinite(own)).sum())} of {own.size} draws the log density is infinite or NaN in "
                f"{log_density.layout.dtype}; run again with 64 bits, jax.config.update('jax_enable_x64', True)."
            )
        return self._against_normal(own, _or_zero(log_density(self.location - z @ self.factor.T)), z)

    def proposal_ratios(self, log_density: Density, z: np.ndarray) -> np.ndarray:
        """log phi(z) - log N(z; 0, I), nats, of draws z from the standard normal: (draw, dim) -> (draw,)."""
        moved = z @ self.factor.T
        at, mirrored = (_or_zero(log_density(self.location + move)) for move in (moved, -moved))
        return self._against_normal(at, mirrored, z)

    def _against_normal(self, at: np.ndarray, mirrored: np.ndarray, z: np.ndarray) -> np.ndarray:
        log_volume = np.log(np.diag(self.factor)).sum()
        log_normal = -0.5 * (z**2).sum(axis=1) - 0.5 * z.shape[1] * math.log(2 * math.pi)
        return np.logaddexp(at, mirrored) - math.log(2) + log_volume - log_normal


def _or_zero(log_density: np.ndarray) -> np.ndarray:
    """NaN is a density of zero, as it is to the samplers.

    Raises:
        EvidenceError: a density is infinite.
    """
    if (log_density == np.inf).any():
        raise EvidenceError(
            "bridge_evidence: the density is infinite at a draw of the proposal, so the evidence is not finite as computed; look at "
            "sites whose density has a pole, a variance that goes to zero for example."
        )
    return np.where(np.isnan(log_density), -np.inf, log_density)
