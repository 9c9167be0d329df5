"""Fixed-point numbers, and their exact product with a rational number.

    value = X / 2^52,  X a 64-bit integer,  |value| < 2^11

Addition of integers is exact, and so is its reversal. A product with n/d, d = 2^16, loses log2(d/n) bits; what it loses is kept in a
remainder R, an unsigned 64-bit integer for each number, which is a stack of digits in a mixed base:

    R, X  ->  i = R d + (X mod d),  q = floor(i / n),  X' = floor(X / d) n + (i - q n),  R' = q
    R', X' -> i = R' n + (X' mod n),  X = floor(X' / n) d + (i mod d),  R = floor(i / d)

All functions here need 64-bit integers: call them inside `jax.enable_x64(True)`.

Source: Maclaurin, Duvenaud & Adams (2015), "Gradient-based hyperparameter optimization through reversible learning", ICML, algorithm 3;
the remainder is the state of a uniform asymmetric numeral system (Duda 2009). We deviate in the radix of the decay's denominator, which
is rounded to the nearest n, and in the remainder, which is one word that spills (`store`), not an integer of any length.
"""

from typing import Any

import jax.numpy as jnp
from jax import lax

__all__ = ["DENOMINATOR", "LIMIT", "decode", "divide", "multiply", "numerator", "to_units"]

RADIX = 52
"""Binary digits after the point."""

DENOMINATOR_BITS = 16
DENOMINATOR = 1 << DENOMINATOR_BITS
"""d: a factor is a whole number of these parts."""

LIMIT = 2.0**11 * (1 - 2.0**-20)
"""Values must stay below this in size; the rest is room for the rounding of what is compared with it."""

_UNIT = 2.0**RADIX


def to_units(value: Any) -> Any:
    """A floating point number as a whole number of units 2^-52, to the nearest."""
    return lax.round(value.astype(jnp.float64) * _UNIT, lax.RoundingMethod.TO_NEAREST_EVEN).astype(jnp.int64)


def decode(units: Any, dtype: Any) -> Any:
    """The nearest number of a floating point type (of float64 first, which has as many digits)."""
    return (units.astype(jnp.float64) * (1 / _UNIT)).astype(dtype)


def numerator(factor: Any) -> Any:
    """n: the factor in parts of 1/d, from 1 to d. int64."""
    parts = lax.round(factor.astype(jnp.float64) * DENOMINATOR, lax.RoundingMethod.TO_NEAREST_EVEN)
    return jnp.clip(parts, 1, DENOMINATOR).astype(jnp.int64)


def multiply(units: Any, remainder: Any, n: Any) -> tuple[Any, Any]:
    """(X, R) -> (X', R'), exactly. R < 2^48; n: scalar."""
    n = n.astype(jnp.uint64)
    digits = (remainder << DENOMINATOR_BITS) | (units & (DENOMINATOR - 1)).astype(jnp.uint64)
    quotient = lax.div(digits, jnp.broadcast_to(n, digits.shape))
    left = (digits - quotient * n).astype(jnp.int64)
    return (units >> DENOMINATOR_BITS) * n.astype(jnp.int64) + left, quotient


def divide(units: Any, remainder: Any, n: Any) -> tuple[Any, Any]:
    """The inverse of `multiply`."""
    n = n.astype(jnp.int64)
    quotient = jnp.floor_divide(units, n)
    digits = remainder * n.astype(jnp.uint64) + (units - quotient * n).astype(jnp.uint64)
    return (quotient << DENOMINATOR_BITS) + (digits & (DENOMINATOR - 1)).astype(jnp.int64), digits >> DENOMINATOR_BITS
