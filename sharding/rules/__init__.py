"""The table of all primitives that we know how to split, one entry each, by families; and what is true of one equation.

Other passes may ask it too: whether a dimension is independent of the others, or independent until a sum, is in `factors_of`.
"""

from collections.abc import Callable

from ...transforms.jax_compat import JaxprEqn
from ..factors import Factor, Rule
from .contraction import CONTRACTION_RULES
from .draws import DRAW_RULES
from .dynamic import DYNAMIC_RULES
from .elementwise import ELEMENTWISE_RULES, converts_linearly, scaled_operand
from .indexing import GATHER_RULES
from .linalg import LINALG_RULES
from .probe import probe
from .reductions import REDUCTION_RULES
from .scatter import SCATTER_RULES
from .shapes import SHAPE_RULES, free_of_scalar

__all__ = ["RULES", "factors_of", "linear_operands", "rule_of"]

RULES: dict[str, Rule] = {
    **ELEMENTWISE_RULES,
    **CONTRACTION_RULES,
    **REDUCTION_RULES,
    **SHAPE_RULES,
    **DYNAMIC_RULES,
    **GATHER_RULES,
    **SCATTER_RULES,
    **DRAW_RULES,
    **LINALG_RULES,
}
"""Primitive's name -> its rule."""

# What depends on the equation: (equation, the rule in the table) -> the rule for this equation.
_REFINED: dict[str, Callable[[JaxprEqn, Rule], Rule]] = {
    "broadcast_in_dim": free_of_scalar,
    "convert_element_type": converts_linearly,
    "div": scaled_operand,
    "mul": scaled_operand,
}


def rule_of(eqn: JaxprEqn) -> Rule:
    """The rule for an equation; for a primitive that is not in the table, what a probe of it shows."""
    name = eqn.primitive.name
    rule = RULES.get(name)
    if rule is None:
        return probe(eqn)
    return _REFINED[name](eqn, rule) if name in _REFINED else rule


def factors_of(eqn: JaxprEqn) -> tuple[Factor, ...]:
    """The factors of an equation, in the order of its operands' dimensions as far as they have one."""
    return tuple(rule_of(eqn).factors(eqn))


def linear_operands(eqn: JaxprEqn) -> tuple[int, ...]:
    """Numbers of the operands in which this equation is linear, together where there are several; empty if it is not."""
    return rule_of(eqn).linear
