"""The tables of rules: what a derivative is made of.

Three tables, keyed by the name of a primitive:

* `LINEARIZE`: rule(eqn, active, *primals) -> (outs, linear, out_active). `active` says which operands have a tangent.
  The rule evaluates the equation and everything non-linear that its derivative needs; `linear` maps tangents (a list,
  None where inactive) to the tangents of the results (a list, None for zero) by linear operations only. The values that
  `linear` closes over are the residuals.
* `FORWARD`: rule(eqn, primals, tangents) -> (outs, out_tangents), only for primitives that contain programs, whose
  linearization would store what a forward derivative can use at once. All others use their `LINEARIZE` rule.
* `TRANSPOSE`: rule(eqn, cotangents, *operands) -> a cotangent or None for each operand. Linear operands arrive as
  `Unknown`. Only linear primitives have one: reverse mode is linearize, then transpose, and nothing else.

A linearization rule may return `DECLINED` (say, for complex operands); the equation is then treated as if it had no rule.
"""

from collections.abc import Callable, Sequence
from typing import Any

from ..errors import DerivativeError
from ..jax_compat import JaxprEqn
from ..source_lines import source_line

__all__ = [
    "DECLINED",
    "FORWARD",
    "LINEARIZE",
    "TRANSPOSE",
    "forwards",
    "linearizes",
    "transposes",
    "unknown_primitive",
]

Linear = Callable[[Sequence[Any]], list[Any]]
LINEARIZE: dict[str, Callable[..., Any]] = {}
FORWARD: dict[str, Callable[..., Any]] = {}
TRANSPOSE: dict[str, Callable[..., Any]] = {}
DECLINED = (None, None, None)


def _entry(table: dict[str, Callable[..., Any]], names: Sequence[str]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def enter(rule: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            if name in table:
                raise ValueError(f"the primitive {name!r} already has a rule in this table")
            table[name] = rule
        return rule

    return enter


def linearizes(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a linearization rule for the named primitives."""
    return _entry(LINEARIZE, names)


def forwards(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a fused forward rule for the named primitives."""
    return _entry(FORWARD, names)


def transposes(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a transposition rule for the named linear primitives."""
    return _entry(TRANSPOSE, names)


def unknown_primitive(eqn: JaxprEqn, what: str) -> DerivativeError:
    """The error for a primitive without a rule; `what` is "linearize" or "transpose"."""
    return DerivativeError(
        f"the primitive {eqn.primitive.name!r} cannot be {what}d: it has no rule ({source_line(eqn)}). Write the "
        "derivative of the function around it with `defines_linearization`, or keep it out of the differentiated path "
        "with `jax.lax.stop_gradient`."
    )
