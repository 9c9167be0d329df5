"""Models: a model is a jaxpr with sites in it, and everything asked of it is a walk over that jaxpr."""

if __name__ == "ppl":
    raise ImportError("this folder is part of the package luciole: write `from luciole import ppl`")

from .checks import MissingPlateWarning
from .density import LogDensity, NothingObservedWarning, ScaledLatentWarning, SubstitutedSiteWarning, log_density
from .graph import render_model
from .initial import InitStrategy, init_to_feasible, init_to_mean, init_to_median, init_to_sample, init_to_uniform, init_to_value
from .language import condition, deterministic, factor, model, plate, sample
from .networks import fan_in_normal, random_module
from .precision import PrecisionWarning
from .predictive import SaturatedDrawWarning, log_likelihood, posterior_predictive, prior_predictive
from .program import ModelProgram, Site, trace
from .samples import PriorDrawWarning
from .walker import LostDerivativeWarning

__all__ = [
    "InitStrategy",
    "LogDensity",
    "LostDerivativeWarning",
    "MissingPlateWarning",
    "ModelProgram",
    "NothingObservedWarning",
    "PrecisionWarning",
    "PriorDrawWarning",
    "SaturatedDrawWarning",
    "ScaledLatentWarning",
    "Site",
    "SubstitutedSiteWarning",
    "condition",
    "deterministic",
    "factor",
    "fan_in_normal",
    "init_to_feasible",
    "init_to_mean",
    "init_to_median",
    "init_to_sample",
    "init_to_uniform",
    "init_to_value",
    "log_density",
    "log_likelihood",
    "model",
    "plate",
    "posterior_predictive",
    "prior_predictive",
    "random_module",
    "render_model",
    "sample",
    "trace",
]
