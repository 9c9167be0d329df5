"""Pointwise primitives: y_i = f(x_i, ...), so dy = f'(x) * dx with f' computed once.

Operands of rank 0 and axes of length 1 are broadcast silently by these primitives; tangents are broadcast to the result's
shape here, and `transpose.fit` sums cotangents back.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..jax_compat import bind
from .core import Unknown, add, is_differentiable
from .registry import DECLINED, linearizes, transposes


def constant(x: Any, value: float) -> Any:
    """A scalar of the dtype of `x`."""
    return np.asarray(value, x.dtype)


def expand(tangent: Any, like: Any) -> Any:
    """A tangent broadcast to the shape of the result."""
    if tangent is None or tangent.shape == like.shape:
        return tangent
    lead = like.ndim - tangent.ndim
    return lax.broadcast_in_dim(tangent, like.shape, range(lead, like.ndim))


def times(tangent: Any, factor: Any, like: Any) -> Any:
    """factor * tangent, or None."""
    return None if tangent is None else expand(lax.mul(tangent, factor), like)


def reciprocal_root(x: Any, power: int, sign: float) -> Any:
    """1 / sqrt(power-2 polynomial): 1 / sqrt(1 - x^2) for sign -1, 1 / sqrt(x^2 + power) otherwise."""
    inner = lax.add(lax.mul(constant(x, sign), lax.square(x)), constant(x, power))
    return lax.rsqrt(inner)


# f'(x) from the operand x and the result y.
UNARY: dict[str, Callable[[Any, Any], Any]] = {
    "exp": lambda x, y: y,
    "exp2": lambda x, y: lax.mul(constant(x, math.log(2)), y),
    "log": lambda x, y: lax.div(constant(x, 1), x),
    "log1p": lambda x, y: lax.div(constant(x, 1), lax.add(x, constant(x, 1))),
    "expm1": lambda x, y: lax.add(y, constant(x, 1)),
    "tanh": lambda x, y: lax.mul(lax.sub(constant(x, 1), y), lax.add(constant(x, 1), y)),
    "logistic": lambda x, y: lax.mul(y, lax.sub(constant(x, 1), y)),
    "sqrt": lambda x, y: lax.div(constant(x, 0.5), y),
    "rsqrt": lambda x, y: lax.mul(constant(x, -0.5), lax.div(y, x)),
    "cbrt": lambda x, y: lax.div(y, lax.mul(constant(x, 3), x)),
    "square": lambda x, y: lax.mul(constant(x, 2), x),
    "sin": lambda x, y: lax.cos(x),
    "cos": lambda x, y: lax.neg(lax.sin(x)),
    "tan": lambda x, y: lax.add(constant(x, 1), lax.square(y)),
    "sinh": lambda x, y: lax.cosh(x),
    "cosh": lambda x, y: lax.sinh(x),
    "asin": lambda x, y: reciprocal_root(x, 1, -1),
    "acos": lambda x, y: lax.neg(reciprocal_root(x, 1, -1)),
    "atan": lambda x, y: lax.div(constant(x, 1), lax.add(constant(x, 1), lax.square(x))),
    "asinh": lambda x, y: reciprocal_root(x, 1, 1),
    "acosh": lambda x, y: lax.rsqrt(lax.mul(lax.sub(x, constant(x, 1)), lax.add(x, constant(x, 1)))),
    "atanh": lambda x, y: lax.div(constant(x, 1), lax.mul(lax.sub(constant(x, 1), x), lax.add(constant(x, 1), x))),
    "lgamma": lambda x, y: lax.digamma(x),
    "digamma": lambda x, y: lax.polygamma(constant(x, 1), x),
    "erf": lambda x, y: lax.mul(constant(x, 2 / math.sqrt(math.pi)), lax.exp(lax.neg(lax.square(x)))),
    "erfc": lambda x, y: lax.mul(constant(x, -2 / math.sqrt(math.pi)), lax.exp(lax.neg(lax.square(x)))),
    "erf_inv": lambda x, y: lax.mul(constant(x, math.sqrt(math.pi) / 2), lax.exp(lax.square(y))),
}
HOLOMORPHIC = {
    "exp",
    "exp2",
    "log",
    "log1p",
    "expm1",
    "tanh",
    "logistic",
    "sqrt",
    "rsqrt",
    "square",
    "sin",
    "cos",
    "tan",
    "sinh",
    "cosh",
}


@linearizes(*UNARY)
def unary(eqn: Any, active: Sequence[bool], x: Any) -> Any:
    """y = f(x): dy = f'(x) dx."""
    name = eqn.primitive.name
    if name not in HOLOMORPHIC and jax.dtypes.issubdtype(x.dtype, np.complexfloating):
        return DECLINED
    (y,) = bind(eqn, [x])
    factor = UNARY[name](x, y)
    return [y], lambda ts: [lax.mul(ts[0], factor)], (True,)


@linearizes("polygamma")
def polygamma(eqn: Any, active: Sequence[bool], m: Any, x: Any) -> Any:
    """d psi_m(x) = psi_{m+1}(x) dx; the order m has no derivative."""
    if active[0]:
        return DECLINED
    factor = lax.polygamma(lax.add(m, constant(x, 1)), x)
    return bind(eqn, [m, x]), lambda ts: [lax.mul(ts[1], factor)], (True,)


@linearizes("abs")
def absolute(eqn: Any, active: Sequence[bool], x: Any) -> Any:
    """d|x| = sign(x) dx, zero at zero."""
    if jax.dtypes.issubdtype(x.dtype, np.complexfloating):
        return DECLINED
    sign = lax.sign(x)
    return bind(eqn, [x]), lambda ts: [lax.mul(ts[0], sign)], (True,)


@linearizes("integer_pow")
def integer_power(eqn: Any, active: Sequence[bool], x: Any) -> Any:
    """d x^n = n x^(n-1) dx."""
    n = eqn.params["y"]
    out = bind(eqn, [x])
    if n == 0:
        return out, lambda ts: [None], (False,)
    factor = lax.mul(constant(x, n), lax.integer_pow(x, n - 1)) if n != 1 else lax.full_like(x, 1)
    return out, lambda ts: [lax.mul(ts[0], factor)], (True,)


@linearizes("neg")
def negation(eqn: Any, active: Sequence[bool], x: Any) -> Any:
    """d(-x) = -dx."""
    return bind(eqn, [x]), lambda ts: [lax.neg(ts[0])], (True,)


@linearizes("add", "add_any")
def addition(eqn: Any, active: Sequence[bool], x: Any, y: Any) -> Any:
    """d(x + y) = dx + dy."""
    (out,) = bind(eqn, [x, y])
    return [out], lambda ts: [expand(add(ts[0], ts[1]), out)], (True,)


@linearizes("sub")
def subtraction(eqn: Any, active: Sequence[bool], x: Any, y: Any) -> Any:
    """d(x - y) = dx - dy."""
    (out,) = bind(eqn, [x, y])

    def linear(ts: Sequence[Any]) -> list[Any]:
        if ts[1] is None:
            return [expand(ts[0], out)]
        return [expand(lax.neg(ts[1]) if ts[0] is None else lax.sub(ts[0], ts[1]), out)]

    return [out], linear, (True,)


def two_factors(out: Any, factors: Sequence[Any]) -> Any:
    """out = f(x, y) with d out = factors[0] dx + factors[1] dy; a factor is None where its operand is inactive."""

    def linear(ts: Sequence[Any]) -> list[Any]:
        terms = [None if t is None else times(t, f, out) for t, f in zip(ts, factors, strict=True)]
        return [add(*terms)]

    return [out], linear, (True,)


@linearizes("mul")
def multiplication(eqn: Any, active: Sequence[bool], x: Any, y: Any) -> Any:
    """d(x y) = y dx + x dy."""
    (out,) = bind(eqn, [x, y])
    if out.dtype != eqn.invars[0].aval.dtype:
        return DECLINED
    return two_factors(out, (y, x))


@linearizes("div")
def division(eqn: Any, active: Sequence[bool], x: Any, y: Any) -> Any:
    """d(x / y) = dx / y - (x / y^2) dy."""
    (out,) = bind(eqn, [x, y])
    slope = lax.neg(lax.div(out, y)) if active[1] else None

    def linear(ts: Sequence[Any]) -> list[Any]:
        first = None if ts[0] is None else expand(lax.div(ts[0], y), out)
        return [add(first, None if ts[1] is None else times(ts[1], slope, out))]

    return [out], linear, (True,)


@linearizes("pow")
def power(eqn: Any, active: Sequence[bool], x: Any, y: Any) -> Any:
    """d x^y = y x^(y-1) dx + x^y log(x) dy, where 0 * log(0) is 0 and y = 0 has no slope in x."""
    (out,) = bind(eqn, [x, y])
    in_x = in_y = None
    if active[0]:
        exponent = lax.convert_element_type(y, x.dtype)
        zero = lax.eq(exponent, constant(x, 0))
        safe = lax.select(zero, lax.full_like(exponent, 1), exponent)
        in_x = lax.mul(exponent, lax.pow(x, lax.sub(safe, constant(x, 1))))
    if active[1]:
        base = lax.select(lax.eq(x, constant(x, 0)), lax.full_like(x, 1), x)
        in_y = lax.mul(lax.log(base), out)
    return two_factors(out, (in_x, in_y))


@linearizes("max", "min")
def extremum(eqn: Any, active: Sequence[bool], x: Any, y: Any) -> Any:
    """The tangent of the operand that won; ties share it equally."""
    (out,) = bind(eqn, [x, y])
    if jax.dtypes.issubdtype(out.dtype, np.complexfloating):
        return DECLINED
    wins = [lax.convert_element_type(lax.eq(expand(a, out), out), out.dtype) for a in (x, y)]
    total = lax.add(*wins)
    share = lax.select(lax.eq(total, constant(out, 2)), lax.full_like(out, 0.5), lax.full_like(out, 1))
    return two_factors(out, [lax.mul(w, share) if a else None for w, a in zip(wins, active, strict=True)])


@linearizes("atan2")
def arctangent(eqn: Any, active: Sequence[bool], x: Any, y: Any) -> Any:
    """d atan2(x, y) = (y dx - x dy) / (x^2 + y^2)."""
    (out,) = bind(eqn, [x, y])
    if jax.dtypes.issubdtype(out.dtype, np.complexfloating):
        return DECLINED
    radius = lax.add(lax.square(x), lax.square(y))
    return two_factors(out, (lax.div(y, radius), lax.neg(lax.div(x, radius))))


@linearizes("clamp")
def clamping(eqn: Any, active: Sequence[bool], low: Any, x: Any, high: Any) -> Any:
    """The tangent of the bound or of the operand, whichever the result is."""
    (out,) = bind(eqn, [low, x, high])
    low, high = expand(jnp.asarray(low), out), expand(jnp.asarray(high), out)
    chosen = [
        lax.bitwise_and(lax.gt(low, x), lax.lt(low, high)),
        lax.bitwise_and(lax.gt(x, low), lax.lt(x, high)),
        lax.lt(high, x),
    ]

    def linear(ts: Sequence[Any]) -> list[Any]:
        total = None
        for mask, t in zip(chosen, ts, strict=True):
            if t is not None:
                total = add(total, lax.select(mask, expand(t, out), lax.full_like(out, 0)))
        return [total]

    return [out], linear, (True,)


@linearizes("select_n")
def selection(eqn: Any, active: Sequence[bool], which: Any, *cases: Any) -> Any:
    """The tangent of the chosen case."""
    (out,) = bind(eqn, [which, *cases])

    def linear(ts: Sequence[Any]) -> list[Any]:
        return bind(eqn, [which, *(lax.full_like(out, 0) if t is None else t for t in ts[1:])])

    return [out], linear, (True,)


@linearizes(
    "sign", "floor", "ceil", "round", "stop_gradient", "eq", "ne", "lt", "le", "gt", "ge", "is_finite",
    "argmax", "argmin", "and", "or", "not", "xor",
)  # fmt: skip
def flat(eqn: Any, active: Sequence[bool], *operands: Any) -> Any:
    """Piecewise constant, or not differentiated by decree: no tangent."""
    if eqn.primitive.name == "sign" and jax.dtypes.issubdtype(operands[0].dtype, np.complexfloating):
        return DECLINED
    return bind(eqn, operands), lambda ts: [None] * len(eqn.outvars), (False,) * len(eqn.outvars)


def as_dtype(x: Any, dtype: Any) -> Any:
    """x converted, itself if there is nothing to do; of a complex number that becomes real, the real part."""
    if x.dtype == dtype:
        return x
    drops = jax.dtypes.issubdtype(x.dtype, np.complexfloating) and not jax.dtypes.issubdtype(dtype, np.complexfloating)
    return lax.convert_element_type(lax.real(x) if drops else x, dtype)


@linearizes("convert_element_type", "reduce_precision")
def conversion(eqn: Any, active: Sequence[bool], x: Any) -> Any:
    """A tangent is converted as its value is; none survives a conversion to integers."""
    out = bind(eqn, [x])
    if not is_differentiable(out[0]):
        return out, lambda ts: [None], (False,)
    if eqn.primitive.name == "convert_element_type":
        dtype = out[0].dtype
        return out, lambda ts: [as_dtype(ts[0], dtype)], (True,)
    return out, lambda ts: bind(eqn, ts), (True,)


@transposes("neg")
def transpose_negation(eqn: Any, cts: Sequence[Any], x: Any) -> Any:
    """The transpose of negation is negation."""
    return [lax.neg(cts[0])]


@transposes("add", "add_any")
def transpose_addition(eqn: Any, cts: Sequence[Any], x: Any, y: Any) -> Any:
    """Both summands receive the cotangent."""
    return [cts[0] if isinstance(v, Unknown) else None for v in (x, y)]


@transposes("sub")
def transpose_subtraction(eqn: Any, cts: Sequence[Any], x: Any, y: Any) -> Any:
    """The second operand receives the cotangent negated."""
    return [cts[0] if isinstance(x, Unknown) else None, lax.neg(cts[0]) if isinstance(y, Unknown) else None]


@transposes("mul")
def transpose_multiplication(eqn: Any, cts: Sequence[Any], x: Any, y: Any) -> Any:
    """Linear in one of the two operands."""
    if isinstance(x, Unknown):
        return [lax.mul(cts[0], y), None]
    return [None, lax.mul(x, cts[0])]


@transposes("div")
def transpose_division(eqn: Any, cts: Sequence[Any], x: Any, y: Any) -> Any:
    """Linear in the numerator."""
    return [lax.div(cts[0], y), None]


@transposes("select_n")
def transpose_selection(eqn: Any, cts: Sequence[Any], which: Any, *cases: Any) -> Any:
    """Each case receives the cotangent where it was chosen."""
    nothing = lax.full_like(cts[0], 0)

    def where_chosen(i: int) -> Any:
        return lax.select_n(which, *(cts[0] if j == i else nothing for j in range(len(cases))))

    return [None, *(where_chosen(i) if isinstance(case, Unknown) else None for i, case in enumerate(cases))]


@transposes("convert_element_type")
def transpose_conversion(eqn: Any, cts: Sequence[Any], x: Unknown) -> Any:
    """Converted back; the identity if the dtype is the same, so that loops can see that nothing happened."""
    return [as_dtype(cts[0], x.aval.dtype)]


@transposes("reduce_precision")
def transpose_precision(eqn: Any, cts: Sequence[Any], x: Unknown) -> Any:
    """The same rounding."""
    return bind(eqn, cts)
