"""Loops that are run backwards exactly, and gradients through whole training runs.

update.py        a step as additions and multiplications of entries of a state     → traced.py: as programs
numbers.py       fixed-point numbers, and their exact product with n/d             → store.py: what the products lose
reversal.py      a loop forwards and backwards, compared with where it began
loop.py          `reversible_loop`: one loop, four ways back; cost.py: what each keeps
optimisers.py    steps for training
"""

from .loop import reversible_loop
from .optimisers import nesterov, sgd, sgd_momentum
from .update import Add, Multiply, Update, rational

__all__ = ["Add", "Multiply", "Update", "nesterov", "rational", "reversible_loop", "sgd", "sgd_momentum"]
