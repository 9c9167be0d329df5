"""The fits that a path needs, each made when it is first asked for."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np

from ...transforms import EvidenceError
from .fit import Curvature, Laplace, Prior, Variational, curvature, laplace, prior_moments, variational
from .objective import Objective

__all__ = ["FULL", "Fits", "Kind"]

FULL = 128
"""Parameters up to which a full matrix is fitted: beyond, the fit has more unknowns than it is worth."""

_DRAWS = {"full": 128, "diagonal": 16}

Kind = Literal["full", "diagonal"]


class Fits:
    """Fits to one model and its data.

    Args:
        objective, data: the model. kind: of the matrices: full, or diagonal.
        near: an earlier fit of that kind to a posterior that is not far; where the variational fit is looked for first.

    Raises (all that need the fit):
        EvidenceError: there is no such fit.
    """

    def __init__(self, objective: Objective, data: Sequence[Any], kind: Kind, near: Variational | None = None):
        self.objective, self.data, self.kind, self.near = objective, data, kind, near

    @cached_property
    def prior(self) -> Prior:
        return prior_moments(self.objective, self.data)

    @cached_property
    def variational(self) -> Variational:
        found = variational(self.objective, self.data, self.prior, _DRAWS[self.kind], self.kind == "full", self.near)
        if found is None:
            raise EvidenceError(
                "sgd_evidence: no normal distribution fits the posterior: near the prior's centre the density is zero, infinite or NaN. "
                'Look at `lc.prior_predictive`: a likelihood with hard limits does this. Or write start="prior".'
            )
        return found

    @property
    def made(self) -> Variational | None:
        """The variational fit if it has been asked for, else the earlier one."""
        return self.__dict__.get("variational", self.near)

    @cached_property
    def laplace(self) -> Laplace | None:
        """Of a full fit; None if there is no mode."""
        return laplace(self.objective, self.data, self.variational.mean, self.variational.root) if self.kind == "full" else None

    @cached_property
    def curvature(self) -> Curvature:
        found = curvature(self.objective, self.data, self.prior)
        if found is None:
            raise _no_mode()
        return found

    def normal(self, start: Literal["fit", "laplace"]) -> tuple[np.ndarray, np.ndarray]:
        """Mean (dim,), and S, (dim, dim) or (dim,)."""
        if start == "fit":
            return self.variational.mean, self.variational.root
        if self.kind == "full":
            if self.laplace is None:
                raise _no_mode()
            return self.laplace.mode, self.laplace.root
        return self.curvature.mode, 1 / np.sqrt(self.curvature.likelihood + self.prior.scale**-2)

    def contraction(self, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
        """S and the eigenvalues of A* for descent from the prior: each direction shrinks to the posterior's width in so many steps.

        In the prior's scales W the likelihood's Hessian is V diag(l) V', and S = W V diag(p)^1/2 with p = (1 - (1 + l)^(-1/(2T))) / l.
        """
        scale = self.prior.scale
        if self.kind == "diagonal":
            curved, root = self.curvature.likelihood * scale**2, scale
        else:
            inverse = np.linalg.inv(self.variational.root) * scale  # of the posterior's precision, in the prior's scales, a square root
            values, vectors = np.linalg.eigh(inverse.T @ inverse)
            curved, root = np.maximum(values - 1, 0), scale[:, None] * vectors
        shrunk = -np.expm1(-np.log1p(curved) / (2 * num_steps))
        return root * np.sqrt(np.where(curved > 1e-6, shrunk / np.maximum(curved, 1e-6), 1 / (2 * num_steps))), shrunk


def _no_mode() -> EvidenceError:
    return EvidenceError(
        "sgd_evidence: the posterior has no mode that a search from the prior finds: it rises without end, or is flat in some direction. "
        'Centred hierarchies do this. Write start="fit", which needs none, or the model with non-centred parameters.'
    )
