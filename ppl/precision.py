"""Distributions whose log density is a small difference of large terms, and what rounding makes of it.

log Gamma(c) is of size c log c. Where a log density is a difference of such terms, as that of the negative binomial, their rounding
errors stay: with c = 1e8 in float32 tens of nats. NumPyro's formulas are so, and ours are NumPyro's.
"""

import warnings
from typing import Any

import numpy as np
from jax.core import Tracer
from numpyro.distributions import Distribution

from ..transforms import LucioleWarning
from .spec import distribution_name, peel

__all__ = ["PrecisionWarning", "warn_of_lost_precision"]

_LARGE = {  # by the class that has the formula: the parameters that go through log Gamma on both sides of a difference
    "GammaPoisson": ("concentration",),
    "NegativeBinomialLogits": ("total_count",),
    "BetaBinomial": ("concentration0", "concentration1"),
    "DirichletMultinomial": ("concentration",),
    "StudentT": ("df",),
}


class PrecisionWarning(LucioleWarning):
    """The log density of a site is computed with an error of more than a nat."""


def warn_of_lost_precision(name: str, dist: Distribution, dtype: Any) -> None:
    """Warns of a parameter c that is known while the model is traced, where rounding c log c in this dtype costs more than two nats.

    Warns:
        PrecisionWarning: names the site, the parameter and its value.
    """
    base, _ = peel(dist)
    for kind in type(base).__mro__:
        for parameter in _LARGE.get(kind.__name__, ()):
            value = getattr(base, parameter, None)
            if value is None or isinstance(value, Tracer):
                continue
            largest = float(np.max(np.abs(np.asarray(value)), initial=1.0))
            terms = largest * np.log(largest)
            if np.isfinite(largest) and terms * np.finfo(dtype).eps > 2:
                warnings.warn(
                    f"site {name!r}: the {parameter} of {distribution_name(dist)} is {largest:g}. Its log density is a difference of terms "
                    f"of {terms:.1g} nats, each rounded to {terms * np.finfo(dtype).eps:.1g}. Write "
                    'jax.config.update("jax_enable_x64", True) before anything else, or the distribution it tends to: dist.Poisson for a '
                    "negative binomial, dist.Normal for a Student-t.",
                    PrecisionWarning,
                    stacklevel=2,
                )
                return
