"""Automatic differentiation in two transformations: linearize, then transpose.

    push over the program          rules_*: results, and a linear map per equation      (`core`, `registry`)
    replay of the linear maps      the linear program; what it refers to are residuals  (`program`)
    walk backwards                 the transposed program                               (`transpose`)

What a user calls is in `api`.
"""

from . import (  # noqa: F401  each file enters its rules in the tables
    rules_calls,
    rules_cond,
    rules_custom,
    rules_indexing,
    rules_linalg,
    rules_pointwise,
    rules_reductions,
    rules_remat,
    rules_scan,
    rules_sharding,
    rules_structural,
    rules_while,
)
from .api import grad, hvp, jvp, linearize, transpose, value_and_grad, vjp
from .core import without_fallback
from .fallback import fallback_counts
from .likelihoods import (
    exponential_family_log_likelihood,
    gaussian_log_density,
    gaussian_regression_log_likelihood,
    log_determinant,
)
from .loops import dynamic_loop
from .program import LinearProgram
from .ruled import check_linearization, defines_linearization

__all__ = [
    "LinearProgram",
    "check_linearization",
    "defines_linearization",
    "dynamic_loop",
    "exponential_family_log_likelihood",
    "fallback_counts",
    "gaussian_log_density",
    "gaussian_regression_log_likelihood",
    "grad",
    "hvp",
    "jvp",
    "linearize",
    "log_determinant",
    "transpose",
    "value_and_grad",
    "vjp",
    "without_fallback",
]
