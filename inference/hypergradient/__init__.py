"""Gradients through whole training runs: `hypergradient`.

given.py      what a user hands in          → training.py: the loop that trains
program.py    there and back, compiled      → call.py: what a user calls
probe.py      whether the gradient means something; failures.py: what to say of a run that was not undone
"""

from .call import hypergradient
from .record import Hypergradient, RoughHypergradientWarning

__all__ = ["Hypergradient", "RoughHypergradientWarning", "hypergradient"]
