"""Sampling: kernels for one chain, their batching, and the host loop around them."""

if __name__ == "inference":
    raise ImportError("this folder is part of the package luciole: write `from luciole import inference`")

from ..transforms.affine.host_design import NotOnHostError
from .evidence import (
    BridgeEvidence,
    Comparison,
    Evidence,
    EvidenceFitWarning,
    EvidenceGradient,
    EvidenceRangeWarning,
    FailedRestartWarning,
    FewEffectiveDrawsWarning,
    KinkWarning,
    NonNormalPosteriorWarning,
    OtherModeWarning,
    PreconditionerWarning,
    UnmixedChainsWarning,
    bridge_evidence,
    compare_evidence,
    evidence_gradient,
    sgd_evidence,
)
from .flymc import BreakEvenWarning, FlyMC, FullEvaluationWarning, RowsOnDeviceWarning, bounds
from .hypergradient import Hypergradient, RoughHypergradientWarning, hypergradient
from .kernels.elliptical import EllipticalSlice
from .kernels.hmc import HMC
from .kernels.nuts import NUTS
from .kernels.random_walk import RWM
from .kernels.slice import Slice
from .results.diagnosis import Diagnosis
from .results.infer_discrete import infer_discrete
from .results.predict import predict
from .results.results import Results
from .results.stored import open_store
from .run.mcmc import MCMC
from .run.notices import DivergenceWarning, InterruptWarning, ProgramFolderWarning, StoreWarning
from .run.progress import ProgressReport
from .training import Attribution, Fit, LastLayer, Prediction, train

__all__ = [
    "HMC",
    "MCMC",
    "NUTS",
    "RWM",
    "Attribution",
    "BreakEvenWarning",
    "BridgeEvidence",
    "Comparison",
    "Diagnosis",
    "DivergenceWarning",
    "EllipticalSlice",
    "Evidence",
    "EvidenceFitWarning",
    "EvidenceGradient",
    "EvidenceRangeWarning",
    "FailedRestartWarning",
    "FewEffectiveDrawsWarning",
    "Fit",
    "FlyMC",
    "FullEvaluationWarning",
    "Hypergradient",
    "InterruptWarning",
    "KinkWarning",
    "LastLayer",
    "NonNormalPosteriorWarning",
    "NotOnHostError",
    "OtherModeWarning",
    "PreconditionerWarning",
    "Prediction",
    "ProgramFolderWarning",
    "ProgressReport",
    "Results",
    "RoughHypergradientWarning",
    "RowsOnDeviceWarning",
    "Slice",
    "StoreWarning",
    "UnmixedChainsWarning",
    "bounds",
    "bridge_evidence",
    "compare_evidence",
    "evidence_gradient",
    "hypergradient",
    "infer_discrete",
    "open_store",
    "predict",
    "sgd_evidence",
    "train",
]
