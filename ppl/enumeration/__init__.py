"""Discrete latent sites of finite support: summed out of a model's program, and drawn back.

Start reading at `lifted` (the walk whose values are tables), then `labels` and `structural` (which rows go together), `sites`,
`loops` and `chain` (hidden Markov chains), `factor` (the sums), `marginal` (all of it together), `rows` (the same, row by row), `recover`
(the way back).
"""

from .marginal import marginal_log_density
from .marginalize import MAX_TABLE, Enumeration, enumeration_of, marginalize, wanted
from .recover import MODES, recovered
from .rows import marginal_rows
from .states import states_of

__all__ = [
    "MAX_TABLE",
    "MODES",
    "Enumeration",
    "enumeration_of",
    "marginal_log_density",
    "marginal_rows",
    "marginalize",
    "recovered",
    "states_of",
    "wanted",
]
