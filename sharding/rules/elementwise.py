"""Elementwise operations: every dimension is a factor of its own, shared by all operands that have it.

An operand may be of rank zero, or of size one along a dimension: it is then needed whole by every shard. What JAX calls one operation and
is many side by side (an optimization barrier) has the dimensions of each pair of operand and result apart.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from ...transforms.equations import ELEMENTWISE
from ...transforms.jax_compat import JaxprEqn, Literal
from ..factors import Factor, Local, Rule
from .build import along, elements, group, leading, no_flops, operand_shapes, result_shapes, types

__all__ = ["ELEMENTWISE_RULES", "converts_linearly", "elementwise_factors", "scaled_operand"]

_MORE = (
    "clz complex conj eq_to igamma_grad_a imag le_to log2 lt_to mulhi name one_minus_square population_count real "
    "random_clone random_fold_in random_seed reduce_precision shift_left shift_right_arithmetic shift_right_logical threefry2x32"
).split()
_SIDE_BY_SIDE = ("optimization_barrier", "device_put")
_MOVES = ("copy", "copy_p", "name", "random_clone", "stop_gradient", "real", "imag")

# Counted apart from the floating-point operations by XLA's cost analysis, as "transcendentals".
_TRANSCENDENTAL = "atan atan2 cbrt cos erf exp expm1 log log1p pow rsqrt sin sqrt tan tanh"
# Written out by XLA: about what its cost analysis counts per element of float32 on a CPU, besides transcendentals (jax 0.10 to 0.12).
_WRITTEN_OUT = {
    "acos": 3, "acosh": 7, "asin": 3, "asinh": 11, "atanh": 6, "bessel_i0e": 83, "bessel_i1e": 83, "cosh": 3, "digamma": 75, "erf_inv": 37,
    "erfc": 60, "exp2": 1, "igamma": 1500, "igammac": 1500, "lgamma": 300, "logistic": 3, "sinh": 10, "one_minus_square": 2,
    "random_fold_in": 118, "random_seed": 0, "threefry2x32": 117,
}  # fmt: skip


def elementwise_factors(eqn: JaxprEqn) -> Sequence[Factor]:
    shapes, outs = operand_shapes(eqn), result_shapes(eqn)
    rank = max((len(out) for out in outs), default=0)
    if not outs or any(out != outs[0] for out in outs) or any(len(shape) not in (0, rank) for shape in shapes):
        return ()

    def factor(dim: int, size: int) -> Factor:
        having = {n: dim for n, shape in enumerate(shapes) if len(shape) == rank and shape[dim] == size}
        return along(eqn, having, dict.fromkeys(range(len(outs)), dim), size)

    return group(factor(dim, size) for dim, size in enumerate(outs[0]))


def _side_by_side(eqn: JaxprEqn) -> Sequence[Factor]:
    return group(along(eqn, {n: dim}, {n: dim}, size) for n, shape in enumerate(operand_shapes(eqn)) for dim, size in enumerate(shape))


def _bitcast_factors(eqn: JaxprEqn) -> Sequence[Factor]:
    """One type may be several elements of the other, which are then a last dimension."""
    return leading(eqn, min(len(operand_shapes(eqn)[0]), len(result_shapes(eqn)[0])))


def _as_it_is(eqn: JaxprEqn, operands: Sequence[Any], local: Local) -> Sequence[Any]:
    """What only speaks of layouts says nothing on one device."""
    return operands


def _power_flops(eqn: JaxprEqn, operands: Sequence[Any], results: Sequence[Any]) -> float:
    """Multiplications by repeated squaring, and a division."""
    power = abs(eqn.params["y"])
    return elements(results[0]) * max(power.bit_length() - 2 + power.bit_count() + (eqn.params["y"] < 0), 0)


def _polynomial_flops(eqn: JaxprEqn, operands: Sequence[Any], results: Sequence[Any]) -> float:
    """Horner's scheme: a product and a sum for each coefficient but the first."""
    return 2.0 * elements(results[0]) * max(len(operands) - 2, 0)


def _counted(per_element: float) -> Any:
    return lambda eqn, operands, results: float(per_element * elements(results[0]))


def converts_linearly(eqn: JaxprEqn, rule: Rule) -> Rule:
    """A conversion is linear between floating types only."""
    floating = all(jnp.issubdtype(aval.dtype, jnp.inexact) for aval in types([*eqn.invars, *eqn.outvars]))
    return rule._replace(linear=(0,) if floating else ())


def scaled_operand(eqn: JaxprEqn, rule: Rule) -> Rule:
    """A product or quotient is linear where the other operand is a number written in the program."""
    literal = [isinstance(x, Literal) for x in eqn.invars]
    floating = jnp.issubdtype(types(eqn.outvars)[0].dtype, jnp.inexact)  # division of integers rounds
    if not floating or sum(literal) != 1 or (eqn.primitive.name == "div" and literal[0]):
        return rule
    return rule._replace(linear=(literal.index(False),))


ELEMENTWISE_RULES: dict[str, Rule] = {name: Rule(elementwise_factors) for name in (*ELEMENTWISE, *_MORE)}
for _name in _TRANSCENDENTAL.split():
    ELEMENTWISE_RULES[_name] = Rule(elementwise_factors, flops=no_flops)
for _name, _count in _WRITTEN_OUT.items():
    ELEMENTWISE_RULES[_name] = Rule(elementwise_factors, flops=_counted(_count))
for _name in _MOVES:
    ELEMENTWISE_RULES[_name] = Rule(elementwise_factors, flops=no_flops)
for _name in ("neg", "copy", "copy_p", "real", "imag", "name"):
    ELEMENTWISE_RULES[_name] = ELEMENTWISE_RULES[_name]._replace(linear=(0,))
for _name in ("add", "add_any", "sub"):
    ELEMENTWISE_RULES[_name] = ELEMENTWISE_RULES[_name]._replace(linear=(0, 1))
for _name in ("stop_gradient", "name"):
    ELEMENTWISE_RULES[_name] = ELEMENTWISE_RULES[_name]._replace(free=True)
ELEMENTWISE_RULES["integer_pow"] = Rule(elementwise_factors, flops=_power_flops)
ELEMENTWISE_RULES["polynomial"] = Rule(elementwise_factors, flops=_polynomial_flops)  # JAX 0.12
ELEMENTWISE_RULES["bitcast_convert_type"] = Rule(_bitcast_factors, flops=no_flops)
for _name in ("sharding_constraint", "reshard", "layout_constraint"):
    ELEMENTWISE_RULES[_name] = Rule(elementwise_factors, _as_it_is, no_flops, free=True)
ELEMENTWISE_RULES |= {name: Rule(_side_by_side, flops=no_flops, free=True) for name in _SIDE_BY_SIDE}
