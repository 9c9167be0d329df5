"""Networks as models: every weight is a latent site with a prior, named by its path, so that whatever is asked of a model can be asked
of a network: draws, evidence, predictions. Networks written elsewhere are lifted (`modules`), by priors on their leaves (`priors`).
"""

from .modules import random_module
from .priors import fan_in_normal

__all__ = ["fan_in_normal", "random_module"]
