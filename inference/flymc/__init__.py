"""Firefly Monte Carlo: exact posteriors from a handful of rows.

kernel                  `FlyMC`: arguments, and what it becomes on data
setup, laplace          the mode, a bound for every row, how often each is proposed
tiles                   passes over all rows
rest                    the model beside its rows, as a traced program
bounds                  rigorous bounds on the likelihood of a row
kinds                   how bounds of a kind add up over all rows
records                 what these modules exchange
conditional             the density of the parameters given which rows are bright
flips                   the update of which rows are bright
rotation                one iteration of rotation HMC, which evaluates nothing twice
transitions             the same as a transition for chains; other kernels on the conditional density
"""

from ...ppl.factors import FullEvaluationWarning, RowsOnDeviceWarning
from . import bounds
from .kernel import BreakEvenWarning, FlyMC

__all__ = ["BreakEvenWarning", "FlyMC", "FullEvaluationWarning", "RowsOnDeviceWarning", "bounds"]
