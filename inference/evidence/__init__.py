"""Evidence: from gradient descent as variational inference, and from draws of MCMC by bridge sampling.

Descent, from what a user calls downwards:
sgd         `sgd_evidence`: arguments, and the run from start to end
keywords    what makes no sense is refused, what is "auto" gets its value
follow      one path from its plan to what is left of it, and the choice between paths
plan        what a path is to be: start, preconditioner, steps
fits        the fits that a path needs, each made when first asked for
fit         how they are made: variational inference, Laplace's approximation, curvatures
doubts      what is known of a fit beside the bound
modes       a look for modes that a fit does not cover
kinks       whether gradients jump where paths end
normality   how far a posterior is from the normal distribution of a start
starts      a normal distribution to start from
roots       square roots of matrices: of starts, of preconditioners
steps       one step and its Jacobian
estimators  the change of entropy in one step, from products with the Hessian
curvature   how near a step comes to folding space: the guard of those estimators
descent     the path of all restarts as one compiled program
spread      restarts and rows split over the devices of a mesh
host        the loop around it, which reports, stores, and hears an interrupt
objective   a model as a sampler of its prior, a log likelihood and a log prior on one vector
batches     a plate's rows cut into minibatches, and the proof that they add up
result      what is left of a run
remarks     what is said where something is wrong
plot        its picture

The derivative of the bound in a model's arguments:
gradient    `evidence_gradient`: arguments, the bound by the files above, and its derivative
chosen      the arguments, and which of the program's data they are
draws       whether draws from the prior have a derivative in them
parametric  the model as a function of them too
sensitivity the path once more, as a loop that is differentiated
controls    means with less noise

Bridge sampling:
bridge      `bridge_evidence`: the evidence from a finished run
warp        its proposal
density     a model's log density on many vectors, batch by batch
optimal_bridge  its iteration, and the standard error

compare     models side by side
notices     the warnings
"""

from .bridge import BridgeEvidence, bridge_evidence
from .compare import Comparison, compare_evidence
from .gradient import EvidenceGradient, evidence_gradient
from .notices import (
    EvidenceFitWarning,
    EvidenceRangeWarning,
    FailedRestartWarning,
    FewEffectiveDrawsWarning,
    KinkWarning,
    NonNormalPosteriorWarning,
    OtherModeWarning,
    PreconditionerWarning,
    UnmixedChainsWarning,
)
from .result import Evidence
from .sgd import sgd_evidence

__all__ = [
    "BridgeEvidence",
    "Comparison",
    "Evidence",
    "EvidenceFitWarning",
    "EvidenceGradient",
    "EvidenceRangeWarning",
    "FailedRestartWarning",
    "FewEffectiveDrawsWarning",
    "KinkWarning",
    "NonNormalPosteriorWarning",
    "OtherModeWarning",
    "PreconditionerWarning",
    "UnmixedChainsWarning",
    "bridge_evidence",
    "compare_evidence",
    "evidence_gradient",
    "sgd_evidence",
]
