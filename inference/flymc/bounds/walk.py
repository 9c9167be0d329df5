"""A log likelihood's jaxpr, walked with jets: what interval arithmetic can prove about a function that a user has written.

The walk carries two kinds of values. What does not depend on the predictor is an array and is evaluated as it stands, in the precision
it was traced in. What does is a `Jet` or, if it is a truth value, a `Flag`, in float64: a condition that the interval does not decide
makes the derivatives unknown there (the row gets no finite curvature) and never picks a side.

Functions of JAX's that are known as a whole (`logaddexp`, `log_ndtr`, `xlogy`) are recognised and not entered: inside they are full of
kinks that cancel.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from ....transforms.equations import body_of, needed_equations, run_equations
from ....transforms.errors import BoundError
from ....transforms.jax_compat import Literal, bind, function_of_jax, open_jaxpr, user_frames
from .intervals import Interval, absolute, outward, point
from .jets import Jet, add_jets, compose, constant, identity, multiply_jets, negate_jet, select_jets, unknown_where
from .ranges import UNIVARIATE, power

__all__ = ["KINKS", "Flag", "jet_of", "primitives_of"]

KINKS = {"abs", "clamp", "max", "min", "relu", "select_n", "sign"}
"""Primitives that have a jet only where the interval decides which side of their kink it is on."""


class Flag(NamedTuple):
    """A truth value that may depend on the predictor: true for all of the interval, for some of it."""

    surely: Array
    possibly: Array


def jet_of(jaxpr: Any, consts: Sequence[Any], x: Interval, rest: Sequence[Any], orders: int) -> Jet:
    """The jet of a function of scalars on an interval of its first argument.

    Args:
        jaxpr, consts: an open jaxpr with one scalar result, whose first input is the predictor.
        x: the interval, ().
        rest: the other inputs.
        orders: how many entries the jet has: the value and orders - 1 derivatives.

    Raises:
        BoundError: names a primitive that interval arithmetic has no rule for, and the user's line.
    """
    result = _Walk(orders).run(jaxpr, consts, [identity(x, orders), *rest])[0]
    return result if isinstance(result, tuple) else constant(jnp.asarray(result, jnp.float64) + 0 * x.low, orders)


def primitives_of(jaxpr: Any) -> set[str]:
    """The names of all primitives that the results are computed with, nested programs included."""
    found = set()
    for eqn in needed_equations(jaxpr.eqns, jaxpr.outvars):
        if function_of_jax(eqn) in _WHOLE:
            continue
        if (body := body_of(eqn)) is not None:
            found |= primitives_of(open_jaxpr(body)[0])
        else:
            found.add(eqn.primitive.name)
    return found


def _moves(value: Any) -> bool:
    return isinstance(value, (tuple, Flag))


class _Walk:
    def __init__(self, orders: int):
        self.orders = orders

    def run(self, jaxpr: Any, consts: Sequence[Any], operands: Sequence[Any]) -> list[Any]:
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *operands], strict=True))
        return run_equations(needed_equations(jaxpr.eqns, jaxpr.outvars), env, jaxpr.outvars, self.apply, _literal)

    def apply(self, eqn: Any, operands: list[Any]) -> Sequence[Any]:
        if not any(_moves(x) for x in operands):
            return bind(eqn, operands)
        name = eqn.primitive.name
        whole = _WHOLE.get(function_of_jax(eqn))
        if whole is not None:
            return [whole(*(self.jet(x) for x in operands))]
        if (body := body_of(eqn)) is not None:
            jaxpr, consts = open_jaxpr(body)
            return self.run(jaxpr, consts, operands)
        if name in UNIVARIATE and not isinstance(operands[0], Flag):
            return [compose(UNIVARIATE[name], operands[0])]
        rule = _RULES.get(name)
        if rule is None:
            raise BoundError(
                f"no curvature can be proved for this log likelihood: interval arithmetic has no rule for the primitive `{name}`"
                f"{_place(eqn)}; write the likelihood without it, or give the bound: lc.bounds.register(distribution_class, bound)."
            )
        return [rule(self, eqn, *operands)]

    def jet(self, x: Any) -> Jet:
        """Any number as a jet."""
        return x if isinstance(x, tuple) and not isinstance(x, Flag) else constant(x, self.orders)


def _literal(literal: Any) -> Any:
    return jnp.asarray(literal.val, literal.aval.dtype)


def _place(eqn: Any) -> str:
    frames = user_frames(eqn)
    return f" (line {frames[0][1]} of {frames[0][0]})" if frames else ""


# Arithmetic.


def _add(walk: _Walk, eqn, x, y):
    return add_jets(*_alike(walk, x, y))


def _sub(walk: _Walk, eqn, x, y):
    x, y = _alike(walk, x, y)
    return add_jets(x, negate_jet(y))


def _mul(walk: _Walk, eqn, x, y):
    return multiply_jets(*_alike(walk, x, y))


def _div(walk: _Walk, eqn, x, y):
    x, y = _alike(walk, x, y)
    return multiply_jets(x, compose(UNIVARIATE["reciprocal"], y))


def _alike(walk: _Walk, *operands) -> list[Jet]:
    """The operands as jets of one shape."""
    jets = [walk.jet(x) for x in operands]
    shape = jnp.broadcast_shapes(*(x[0].low.shape for x in jets))
    return [_entrywise(lambda a: jnp.broadcast_to(a, shape), x) for x in jets]


def _entrywise(f: Callable[[Any], Any], x: Jet) -> Jet:
    def moved(a: Interval) -> Interval:
        low = f(a.low)
        return Interval(low, low if a.low is a.high else f(a.high))

    return tuple(None if a is None else moved(a) for a in x)


def _neg(walk: _Walk, eqn, x):
    return negate_jet(x)


def _integer_pow(walk: _Walk, eqn, x):
    return compose(power(int(eqn.params["y"])), x)


def _pow(walk: _Walk, eqn, x, y):
    exponent = eqn.invars[1]
    if isinstance(exponent, Literal) and float(exponent.val) == int(exponent.val):
        return compose(power(int(exponent.val)), walk.jet(x))
    if not _moves(y):
        return compose(power(jnp.asarray(y, jnp.float64)), x)
    x, y = _alike(walk, x, y)
    return compose(UNIVARIATE["exp"], multiply_jets(y, compose(UNIVARIATE["log"], x)))


def _is_constant(x: Jet) -> bool:
    return all(a is None for a in x[1:])


def _logaddexp(x: Jet, y: Jet) -> Jet:
    """y + softplus(x - y), around the one of the two that does not move if there is one."""
    if _is_constant(x):
        x, y = y, x
    return add_jets(y, compose(UNIVARIATE["softplus"], add_jets(x, negate_jet(y))))


def _xlogy(x: Jet, y: Jet) -> Jet:
    return multiply_jets(x, compose(UNIVARIATE["log"], y))


def _xlog1py(x: Jet, y: Jet) -> Jet:
    return multiply_jets(x, compose(UNIVARIATE["log1p"], y))


_WHOLE: dict[str, Callable[..., Jet]] = {
    "log_ndtr": lambda x: compose(UNIVARIATE["log_ndtr"], x),
    "logaddexp": _logaddexp,
    "xlog1py": _xlog1py,
    "xlogy": _xlogy,
}


# Conditions and kinks.


def _less(strict: bool):
    def rule(walk: _Walk, eqn, x, y) -> Flag:
        x, y = (walk.jet(a)[0] for a in (x, y))
        if strict:
            return Flag(x.high < y.low, x.low < y.high)
        return Flag(x.high <= y.low, x.low <= y.high)

    return rule


def _greater(strict: bool):
    less = _less(strict)
    return lambda walk, eqn, x, y: less(walk, eqn, y, x)


def _equal(walk: _Walk, eqn, x, y) -> Flag:
    same = eqn.invars[0] is eqn.invars[1]
    x, y = (walk.jet(a)[0] for a in (x, y))
    surely = (x.low == x.high) & (y.low == y.high) & (x.low == y.low)
    possibly = (x.low <= y.high) & (y.low <= x.high)
    return Flag(surely | same, possibly | same)  # no number is NaN where the function is defined


def _not(walk: _Walk, eqn, x) -> Flag:
    return Flag(~x.possibly, ~x.surely)


def _flag(x: Any) -> Flag:
    return x if isinstance(x, Flag) else Flag(jnp.asarray(x), jnp.asarray(x))


def _and(walk: _Walk, eqn, x, y) -> Flag:
    x, y = _flag(x), _flag(y)
    return Flag(x.surely & y.surely, x.possibly & y.possibly)


def _or(walk: _Walk, eqn, x, y) -> Flag:
    x, y = _flag(x), _flag(y)
    return Flag(x.surely | y.surely, x.possibly | y.possibly)


def _xor(walk: _Walk, eqn, x, y) -> Flag:
    both, either = _and(walk, eqn, x, y), _or(walk, eqn, x, y)
    return _and(walk, eqn, either, _not(walk, eqn, both))


def _is_finite(walk: _Walk, eqn, x) -> Flag:
    finite = jnp.isfinite(x[0].low) & jnp.isfinite(x[0].high)
    return Flag(finite, jnp.ones_like(finite))


def _decided(condition: Flag, x: Jet, y: Jet) -> Jet:
    """x where the condition is sure to hold, y where it is sure not to."""
    return unknown_where(condition.possibly & ~condition.surely, x, y, select_jets(condition.surely, x, y))


def _select(walk: _Walk, eqn, which, *cases):
    if any(isinstance(c, Flag) for c in cases) or eqn.outvars[0].aval.dtype == bool:
        first, second = (_flag(c) for c in cases)
        which = _flag(which)
        sure = jnp.where(which.surely, second.surely, jnp.where(which.possibly, first.surely & second.surely, first.surely))
        maybe = jnp.where(which.surely, second.possibly, jnp.where(which.possibly, first.possibly | second.possibly, first.possibly))
        return Flag(sure, maybe)
    cases = _alike(walk, *cases)
    if isinstance(which, Flag):
        return _decided(which, cases[1], cases[0])
    made = cases[0]
    for k, case in enumerate(cases[1:], 1):
        made = select_jets(jnp.asarray(which) == k, case, made)
    return made


def _max(walk: _Walk, eqn, x, y):
    condition = _less(False)(walk, eqn, y, x)
    return _decided(condition, *_alike(walk, x, y))


def _min(walk: _Walk, eqn, x, y):
    condition = _less(False)(walk, eqn, x, y)
    return _decided(condition, *_alike(walk, x, y))


def _clamp(walk: _Walk, eqn, low, x, high):
    return _min(walk, eqn, _max(walk, eqn, x, low), high)


def _abs(walk: _Walk, eqn, x):
    made = _decided(Flag(x[0].low >= 0, x[0].high >= 0), x, negate_jet(x))
    return (absolute(x[0]), *made[1:])


def _sign(walk: _Walk, eqn, x):
    one = jnp.ones_like(x[0].low)
    return _decided(Flag(x[0].low > 0, x[0].high >= 0), constant(one, walk.orders), constant(-one, walk.orders))


def _convert(walk: _Walk, eqn, x):
    if isinstance(x, Flag):
        one = jnp.ones(jnp.shape(x.surely))
        return _decided(x, constant(one, walk.orders), constant(0 * one, walk.orders))
    if not jnp.issubdtype(eqn.params["new_dtype"], jnp.floating):
        raise BoundError(
            f"no curvature can be proved for this log likelihood: it rounds the predictor, `convert_element_type`{_place(eqn)}."
        )
    return x


# Structure: every end of every interval is moved alike.


def _moved(f: Callable[..., Any]):
    def rule(walk: _Walk, eqn, x, *others):
        if any(_moves(o) for o in others):
            raise BoundError(f"no curvature can be proved: an index depends on the predictor, `{eqn.primitive.name}`{_place(eqn)}.")

        def move(a):
            return f(eqn, a, *others)

        return Flag(move(x.surely), move(x.possibly)) if isinstance(x, Flag) else _entrywise(move, x)

    return rule


def _bound_as_it_stands(eqn, a, *others):
    return bind(eqn, [a, *others])[0]


def _joined(walk: _Walk, eqn, *parts):
    """Concatenation and stacking: zeros stand for derivatives that are zero, unless all are."""
    parts = [walk.jet(x) for x in parts]

    def joined(entries):
        if all(a is None for a in entries):
            return None
        filled = [a or point(jnp.zeros_like(p[0].low)) for a, p in zip(entries, parts, strict=True)]
        return Interval(*(bind(eqn, [a[end] for a in filled])[0] for end in (0, 1)))

    return tuple(joined(entries) for entries in zip(*parts, strict=True))


def _reduce_sum(walk: _Walk, eqn, x):
    axes = tuple(eqn.params["axes"])

    def summed(a: Interval) -> Interval:
        size = jnp.maximum(jnp.abs(a.low), jnp.abs(a.high)).sum(axes)
        count = max(1, a.low.size // max(1, size.size))
        return outward(a.low.sum(axes), a.high.sum(axes), 2.3e-16 * count * size)

    return tuple(None if a is None else summed(a) for a in x)


_RULES: dict[str, Callable[..., Any]] = {
    "abs": _abs,
    "add": _add,
    "add_any": _add,
    "and": _and,
    "broadcast_in_dim": _moved(lambda eqn, a: lax.broadcast_in_dim(a, eqn.params["shape"], eqn.params["broadcast_dimensions"])),
    "clamp": _clamp,
    "concatenate": _joined,
    "convert_element_type": _convert,
    "copy": _moved(lambda eqn, a: a),
    "div": _div,
    "eq": _equal,
    "expand_dims": _moved(_bound_as_it_stands),
    "ge": _greater(False),
    "gt": _greater(True),
    "integer_pow": _integer_pow,
    "is_finite": _is_finite,
    "le": _less(False),
    "lt": _less(True),
    "max": _max,
    "min": _min,
    "mul": _mul,
    "ne": lambda walk, eqn, x, y: _not(walk, eqn, _equal(walk, eqn, x, y)),
    "neg": _neg,
    "not": _not,
    "or": _or,
    "pow": _pow,
    "reduce_sum": _reduce_sum,
    "reshape": _moved(_bound_as_it_stands),
    "rev": _moved(_bound_as_it_stands),
    "select_n": _select,
    "sign": _sign,
    "slice": _moved(_bound_as_it_stands),
    "stack": _joined,
    "squeeze": _moved(_bound_as_it_stands),
    "stop_gradient": _moved(lambda eqn, a: a),
    "sub": _sub,
    "transpose": _moved(_bound_as_it_stands),
    "xor": _xor,
}
