"""Evidence from the optimiser's path: gradient descent as variational inference.

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
notices     the warnings
"""

from .compare import Comparison, compare_evidence
from .notices import EvidenceFitWarning, EvidenceRangeWarning, FailedRestartWarning, OtherModeWarning, PreconditionerWarning
from .result import Evidence
from .sgd import sgd_evidence

__all__ = [
    "Comparison",
    "Evidence",
    "EvidenceFitWarning",
    "EvidenceRangeWarning",
    "FailedRestartWarning",
    "OtherModeWarning",
    "PreconditionerWarning",
    "compare_evidence",
    "sgd_evidence",
]
