"""A program of data and a position, looked at element by element: what is known of it before it runs, and what moves with the position."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ..affine.rules import aval
from ..equations import dependents
from ..jax_compat import JaxprEqn, Literal, Var, bind, open_jaxpr
from ..numpy_rules import NUMPY_RULES

__all__ = ["Elements", "Refused", "places"]

# Each element of the result is one element of the operand.
_MOVES = frozenset("broadcast_in_dim expand_dims gather reshape rev slice squeeze transpose".split())


class Refused(Exception):
    """A sum is left as it is; the words say why."""


class Elements:
    """The equations of a program, with the values of those that only read data.

    Args:
        jaxpr: closed, without calls; inputs are data first, then the position's.
        data: concrete arrays.
    """

    def __init__(self, jaxpr: Any, data: Sequence[Any]):
        self.jaxpr, self.consts = open_jaxpr(jaxpr)
        self.equations: list[JaxprEqn] = list(self.jaxpr.eqns)
        self.definition: dict[Var, JaxprEqn] = {v: eqn for eqn in self.equations for v in eqn.outvars}
        self.moving = dependents(self.equations, self.jaxpr.invars[len(data) :])
        self._values: dict[Var, Any] = dict(zip([*self.jaxpr.constvars, *self.jaxpr.invars], [*self.consts, *data], strict=False))

    def moves(self, atom: Any) -> bool:
        """Whether an atom depends on the position."""
        return not isinstance(atom, Literal) and atom in self.moving

    def known(self, atom: Any) -> np.ndarray:
        """The value of an atom that does not, as the program would compute it."""
        if isinstance(atom, Literal):
            return np.asarray(atom.val)
        waiting = [atom]
        while waiting:
            var = waiting[-1]
            if var in self._values:
                waiting.pop()
                continue
            eqn = self.definition[var]
            missing = [x for x in eqn.invars if not isinstance(x, Literal) and x not in self._values]
            if missing:
                waiting.extend(missing)
                continue
            operands = [x.val if isinstance(x, Literal) else self._values[x] for x in eqn.invars]
            self._values.update(zip(eqn.outvars, _evaluate(eqn, operands), strict=True))
        return np.asarray(self._values[atom])

    def equation(self, atom: Any) -> JaxprEqn | None:
        """What computes an atom, if an equation does."""
        return None if isinstance(atom, Literal) else self.definition.get(atom)


def _evaluate(eqn: JaxprEqn, operands: list[Any]) -> list[Any]:
    rule = NUMPY_RULES.get(eqn.primitive.name)
    keys = any(jax.dtypes.issubdtype(jax.typeof(x).dtype, jax.dtypes.extended) for x in operands)
    if rule is not None and not keys:
        with np.errstate(all="ignore"):
            return [rule(eqn, 0, *map(np.asarray, operands))]
    return bind(eqn, [jax.numpy.asarray(x) for x in operands])


def places(elements: Elements, eqn: JaxprEqn) -> np.ndarray | None:
    """Which element of its first operand, ravelled, each element of an equation's result is: (*result,).

    None where it does more than move them, or takes its indices from the position.
    """
    operand = aval(eqn.invars[0])
    if eqn.primitive.name not in _MOVES or any(elements.moves(x) for x in eqn.invars[1:]):
        return None
    numbers = np.arange(operand.size).reshape(operand.shape)
    if eqn.primitive.name == "gather":
        return _gathered(eqn, numbers, elements.known(eqn.invars[1]))
    return NUMPY_RULES[eqn.primitive.name](eqn, 0, numbers)


def _gathered(eqn: JaxprEqn, numbers: np.ndarray, index: np.ndarray) -> np.ndarray | None:
    """What a gather of single elements, or whole rows behind them, takes; None of another one, or where it may take what is not there."""
    how, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    picked = list(how.start_index_map)
    kept = [d for d in range(numbers.ndim) if d not in picked]
    behind = range(index.ndim - 1, index.ndim - 1 + len(kept))
    plain = list(how.collapsed_slice_dims) == sorted(picked) and list(how.offset_dims) == list(behind) and not how.operand_batching_dims
    if not plain or any(sizes[d] != numbers.shape[d] for d in kept):
        return None
    if (index < 0).any() or (index >= [numbers.shape[d] for d in picked]).any():
        return None
    return numbers.transpose([*picked, *kept])[tuple(np.moveaxis(index, -1, 0))]
