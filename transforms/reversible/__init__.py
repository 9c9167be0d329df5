"""Loops that are run backwards exactly, and gradients through whole training runs.

    update.py        a step as additions and multiplications of entries of a state    → traced.py: as programs
    numbers.py       fixed-point numbers, and their exact product with n/d            → store.py: what the products lose
    steps.py         one step forwards, undone, and pulled back                       → reversal.py: all, compared with where they began
    loop.py          `reversible_loop`: one loop, four ways back; cost.py: what each keeps
    optimisers.py    steps for training

`check.py` runs an update that a user has written forwards and back.
"""

from .check import ReversalCheck, check_reversal
from .loop import reversible_loop
from .optimisers import nesterov, sgd, sgd_momentum
from .update import Add, Multiply, Update, rational

__all__ = ["Add", "Multiply", "ReversalCheck", "Update", "check_reversal", "nesterov", "rational", "reversible_loop", "sgd", "sgd_momentum"]
