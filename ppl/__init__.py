"""Models: a model is a jaxpr with sites in it, and everything asked of it is a walk over that jaxpr."""

if __name__ == "ppl":
    raise ImportError("this folder is part of the package luciole: write `from luciole import ppl`")

from .checks import MissingPlateWarning
from .density import LogDensity, NothingObservedWarning, ScaledLatentWarning, SubstitutedSiteWarning, log_density
from .enumeration import marginalize
from .graphs import Graphs, PackedGraphs
from .initial import InitStrategy, init_to_feasible, init_to_mean, init_to_median, init_to_sample, init_to_uniform, init_to_value
from .language import condition, deterministic, factor, model, plate, sample
from .molecules import SkippedMoleculeWarning, circular_fingerprint, graphs_from_smiles
from .networks import dense, directed_messages, embedding, fan_in_normal, graph_convolution, neural_fingerprint, random_module
from .precision import PrecisionWarning
from .predictive import SaturatedDrawWarning, log_likelihood, posterior_predictive, prior_predictive
from .program import ModelProgram, Site, trace
from .render import render_model
from .samples import PriorDrawWarning
from .walker import LostDerivativeWarning

__all__ = [
    "Graphs",
    "InitStrategy",
    "LogDensity",
    "LostDerivativeWarning",
    "MissingPlateWarning",
    "ModelProgram",
    "NothingObservedWarning",
    "PackedGraphs",
    "PrecisionWarning",
    "PriorDrawWarning",
    "SaturatedDrawWarning",
    "ScaledLatentWarning",
    "Site",
    "SkippedMoleculeWarning",
    "SubstitutedSiteWarning",
    "circular_fingerprint",
    "condition",
    "dense",
    "deterministic",
    "directed_messages",
    "embedding",
    "factor",
    "fan_in_normal",
    "graph_convolution",
    "graphs_from_smiles",
    "init_to_feasible",
    "init_to_mean",
    "init_to_median",
    "init_to_sample",
    "init_to_uniform",
    "init_to_value",
    "log_density",
    "log_likelihood",
    "marginalize",
    "model",
    "neural_fingerprint",
    "plate",
    "posterior_predictive",
    "prior_predictive",
    "random_module",
    "render_model",
    "sample",
    "trace",
]
