"""Evidence from the optimiser's path, gradient descent as variational inference; and from draws, by bridge sampling.

sgd         `sgd_evidence`: arguments, and the run from start to end
objective   a model as a sampler of its prior, a log likelihood and a log prior on one vector
batches     a plate's rows cut into minibatches, and the proof that they add up
estimators  the change of entropy in one step, from products with the Hessian
curvature   how near a step comes to folding space: the guard of those estimators
descent     the path of all restarts as one compiled program
host        the loop around it, which reports, stores, and hears an interrupt
result      what is left of a run
plot        its picture
compare     models side by side
bridge      `bridge_evidence`: the evidence from a finished run
warp        its proposal, and the run's density on vectors
optimal_bridge  its iteration, and the standard error
notices     the warnings
"""

from .bridge import BridgeEvidence, bridge_evidence
from .compare import Comparison, compare_evidence
from .notices import EvidenceRangeWarning, FailedRestartWarning, FewEffectiveDrawsWarning, UnmixedChainsWarning
from .result import Evidence
from .sgd import sgd_evidence

__all__ = [
    "BridgeEvidence",
    "Comparison",
    "Evidence",
    "EvidenceRangeWarning",
    "FailedRestartWarning",
    "FewEffectiveDrawsWarning",
    "UnmixedChainsWarning",
    "bridge_evidence",
    "compare_evidence",
    "sgd_evidence",
]
