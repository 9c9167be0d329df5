"""Sampling: kernels for one chain, their batching, and the host loop around them."""

if __name__ == "inference":
    raise ImportError("this folder is part of the package luciole: write `from luciole import inference`")

from ..ppl.factors.host import NotOnHostError
from .diagnosis import Diagnosis
from .elliptical import EllipticalSlice
from .evidence import (
    BridgeEvidence,
    Comparison,
    Evidence,
    EvidenceFitWarning,
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
    sgd_evidence,
)
from .flymc import BreakEvenWarning, FlyMC, FullEvaluationWarning, RowsOnDeviceWarning, bounds
from .hmc import HMC
from .mcmc import MCMC
from .notices import DivergenceWarning, InterruptWarning, ProgramFolderWarning
from .nuts import NUTS
from .predict import predict
from .random_walk import RWM
from .slice import Slice

__all__ = [
    "HMC",
    "MCMC",
    "NUTS",
    "RWM",
    "BreakEvenWarning",
    "BridgeEvidence",
    "Comparison",
    "Diagnosis",
    "DivergenceWarning",
    "EllipticalSlice",
    "Evidence",
    "EvidenceFitWarning",
    "EvidenceRangeWarning",
    "FailedRestartWarning",
    "FewEffectiveDrawsWarning",
    "FlyMC",
    "FullEvaluationWarning",
    "InterruptWarning",
    "KinkWarning",
    "NonNormalPosteriorWarning",
    "NotOnHostError",
    "OtherModeWarning",
    "PreconditionerWarning",
    "ProgramFolderWarning",
    "RowsOnDeviceWarning",
    "Slice",
    "UnmixedChainsWarning",
    "bounds",
    "bridge_evidence",
    "compare_evidence",
    "predict",
    "sgd_evidence",
]
