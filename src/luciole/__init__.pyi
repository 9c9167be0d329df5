from numpyro import distributions as dist
from numpyro import handlers as handlers

from . import inference as inference
from . import ppl as ppl
from . import sharding as sharding
from . import transforms as transforms
from .inference import HMC as HMC
from .inference import MCMC as MCMC
from .inference import NUTS as NUTS
from .inference import RWM as RWM
from .inference import Attribution as Attribution
from .inference import BreakEvenWarning as BreakEvenWarning
from .inference import BridgeEvidence as BridgeEvidence
from .inference import DivergenceWarning as DivergenceWarning
from .inference import EllipticalSlice as EllipticalSlice
from .inference import EvidenceFitWarning as EvidenceFitWarning
from .inference import EvidenceRangeWarning as EvidenceRangeWarning
from .inference import FailedRestartWarning as FailedRestartWarning
from .inference import FewEffectiveDrawsWarning as FewEffectiveDrawsWarning
from .inference import Fit as Fit
from .inference import FlyMC as FlyMC
from .inference import FullEvaluationWarning as FullEvaluationWarning
from .inference import Hypergradient as Hypergradient
from .inference import InterruptWarning as InterruptWarning
from .inference import KinkWarning as KinkWarning
from .inference import LastLayer as LastLayer
from .inference import NonNormalPosteriorWarning as NonNormalPosteriorWarning
from .inference import NotOnHostError as NotOnHostError
from .inference import OtherModeWarning as OtherModeWarning
from .inference import PreconditionerWarning as PreconditionerWarning
from .inference import Prediction as Prediction
from .inference import ProgramFolderWarning as ProgramFolderWarning
from .inference import ProgressReport as ProgressReport
from .inference import Results as Results
from .inference import RoughHypergradientWarning as RoughHypergradientWarning
from .inference import RowsOnDeviceWarning as RowsOnDeviceWarning
from .inference import Slice as Slice
from .inference import StoreWarning as StoreWarning
from .inference import UnmixedChainsWarning as UnmixedChainsWarning
from .inference import bounds as bounds
from .inference import bridge_evidence as bridge_evidence
from .inference import compare_evidence as compare_evidence
from .inference import evidence_gradient as evidence_gradient
from .inference import hypergradient as hypergradient
from .inference import infer_discrete as infer_discrete
from .inference import open_store as open_store
from .inference import predict as predict
from .inference import sgd_evidence as sgd_evidence
from .inference import train as train
from .ppl import Graphs as Graphs
from .ppl import LogDensity as LogDensity
from .ppl import LostDerivativeWarning as LostDerivativeWarning
from .ppl import MissingPlateWarning as MissingPlateWarning
from .ppl import ModelProgram as ModelProgram
from .ppl import NothingObservedWarning as NothingObservedWarning
from .ppl import PackedGraphs as PackedGraphs
from .ppl import PrecisionWarning as PrecisionWarning
from .ppl import PriorDrawWarning as PriorDrawWarning
from .ppl import SaturatedDrawWarning as SaturatedDrawWarning
from .ppl import ScaledLatentWarning as ScaledLatentWarning
from .ppl import SkippedMoleculeWarning as SkippedMoleculeWarning
from .ppl import SubstitutedSiteWarning as SubstitutedSiteWarning
from .ppl import circular_fingerprint as circular_fingerprint
from .ppl import condition as condition
from .ppl import dense as dense
from .ppl import deterministic as deterministic
from .ppl import directed_messages as directed_messages
from .ppl import embedding as embedding
from .ppl import factor as factor
from .ppl import fan_in_normal as fan_in_normal
from .ppl import graph_convolution as graph_convolution
from .ppl import graphs_from_smiles as graphs_from_smiles
from .ppl import init_to_feasible as init_to_feasible
from .ppl import init_to_mean as init_to_mean
from .ppl import init_to_median as init_to_median
from .ppl import init_to_sample as init_to_sample
from .ppl import init_to_uniform as init_to_uniform
from .ppl import init_to_value as init_to_value
from .ppl import log_density as log_density
from .ppl import log_likelihood as log_likelihood
from .ppl import marginalize as marginalize
from .ppl import model as model
from .ppl import neural_fingerprint as neural_fingerprint
from .ppl import plate as plate
from .ppl import posterior_predictive as posterior_predictive
from .ppl import prior_predictive as prior_predictive
from .ppl import random_module as random_module
from .ppl import render_model as render_model
from .ppl import sample as sample
from .ppl import trace as trace
from .transforms import BoundError as BoundError
from .transforms import DerivativeError as DerivativeError
from .transforms import EvidenceError as EvidenceError
from .transforms import InitError as InitError
from .transforms import KeywordError as KeywordError
from .transforms import LucioleError as LucioleError
from .transforms import LucioleWarning as LucioleWarning
from .transforms import ModelError as ModelError
from .transforms import NoAttributeError as NoAttributeError
from .transforms import PartitionError as PartitionError
from .transforms import ProgramError as ProgramError
from .transforms import SamplerError as SamplerError
from .transforms import StoreError as StoreError
from .transforms import TrainingError as TrainingError

__version__: str

__all__ = [
    "HMC",
    "MCMC",
    "NUTS",
    "RWM",
    "Attribution",
    "BoundError",
    "BreakEvenWarning",
    "BridgeEvidence",
    "DerivativeError",
    "DivergenceWarning",
    "EllipticalSlice",
    "EvidenceError",
    "EvidenceFitWarning",
    "EvidenceRangeWarning",
    "FailedRestartWarning",
    "FewEffectiveDrawsWarning",
    "Fit",
    "FlyMC",
    "FullEvaluationWarning",
    "Graphs",
    "Hypergradient",
    "InitError",
    "InterruptWarning",
    "KeywordError",
    "KinkWarning",
    "LastLayer",
    "LogDensity",
    "LostDerivativeWarning",
    "LucioleError",
    "LucioleWarning",
    "MissingPlateWarning",
    "ModelError",
    "ModelProgram",
    "NoAttributeError",
    "NonNormalPosteriorWarning",
    "NotOnHostError",
    "NothingObservedWarning",
    "OtherModeWarning",
    "PackedGraphs",
    "PartitionError",
    "PrecisionWarning",
    "PreconditionerWarning",
    "Prediction",
    "PriorDrawWarning",
    "ProgramError",
    "ProgramFolderWarning",
    "ProgressReport",
    "Results",
    "RoughHypergradientWarning",
    "RowsOnDeviceWarning",
    "SamplerError",
    "SaturatedDrawWarning",
    "ScaledLatentWarning",
    "SkippedMoleculeWarning",
    "Slice",
    "StoreError",
    "StoreWarning",
    "SubstitutedSiteWarning",
    "TrainingError",
    "UnmixedChainsWarning",
    "__version__",
    "bounds",
    "bridge_evidence",
    "circular_fingerprint",
    "compare_evidence",
    "condition",
    "dense",
    "deterministic",
    "directed_messages",
    "dist",
    "embedding",
    "evidence_gradient",
    "factor",
    "fan_in_normal",
    "graph_convolution",
    "graphs_from_smiles",
    "handlers",
    "hypergradient",
    "infer_discrete",
    "inference",
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
    "open_store",
    "plate",
    "posterior_predictive",
    "ppl",
    "predict",
    "prior_predictive",
    "random_module",
    "render_model",
    "sample",
    "sgd_evidence",
    "sharding",
    "trace",
    "train",
    "transforms",
]
