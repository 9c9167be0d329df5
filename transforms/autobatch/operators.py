"""What `and`, `or`, `not`, conditional expressions, comparisons and a few built-in functions mean on traced values.

Python decides these by asking a value for its truth, which a traced value has not. Where the value is concrete we do as Python does,
short circuit included; where it is traced every operand is evaluated and the result selected, which gives Python's value as long as
no operand loops for ever. The compiler puts these functions in the place of the constructs, and adds the place to their errors.
"""

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from ..errors import ProgramError

__all__ = ["BUILTINS", "OPERATORS", "truth"]


Thunk = Callable[[], Any]

_COMPARE = {
    "Eq": operator.eq,
    "NotEq": operator.ne,
    "Lt": operator.lt,
    "LtE": operator.le,
    "Gt": operator.gt,
    "GtE": operator.ge,
    "Is": operator.is_,
    "IsNot": operator.is_not,
    "In": lambda a, b: a in b,
    "NotIn": lambda a, b: a not in b,
}


def is_traced(value: Any) -> bool:
    """Whether a value is known only when the program runs."""
    return isinstance(value, Tracer)


def truth(value: Any) -> Any:
    """The truth of a value: a Python bool if it is concrete, else a bool of shape ().

    Raises:
        ProgramError: it is an array of another shape, or of a type that has no truth.
    """
    if not is_traced(value):
        return bool(value)
    if value.shape != ():
        raise ProgramError(f"a test of type {value.aval.str_short()}; one member takes one path. Reduce it with .any() or .all().")
    if value.dtype == np.bool_:
        return value
    if not jnp.issubdtype(value.dtype, jnp.number):
        raise ProgramError(f"a test of type {value.aval.str_short()}, which is neither true nor false. Compare it with something.")
    return lax.ne(value, lax.full_like(value, 0))


def select(test: Any, then: Any, otherwise: Any) -> Any:
    """`then` where a traced test is true, else `otherwise`, leaf by leaf."""
    trees = [jax.tree.structure(x) for x in (then, otherwise)]
    if trees[0] != trees[1]:
        raise ProgramError(f"the two values of an expression have the structures {trees[0]} and {trees[1]}; write an if statement.")
    return jax.tree.map(lambda a, b: a if a is b else jnp.where(test, a, b), then, otherwise)


def _and(first: Any, *rest: Thunk) -> Any:
    if not rest:
        return first
    test = truth(first)
    if not is_traced(test):
        return _and(rest[0](), *rest[1:]) if test else first
    return select(test, _and(rest[0](), *rest[1:]), first)


def _or(first: Any, *rest: Thunk) -> Any:
    if not rest:
        return first
    test = truth(first)
    if not is_traced(test):
        return first if test else _or(rest[0](), *rest[1:])
    return select(test, first, _or(rest[0](), *rest[1:]))


def _all(first: Any, *rest: Thunk) -> Any:
    test = truth(first)
    if not rest or test is False:
        return test
    return _all(rest[0](), *rest[1:]) if test is True else jnp.logical_and(test, _all(rest[0](), *rest[1:]))


def _any(first: Any, *rest: Thunk) -> Any:
    test = truth(first)
    if not rest or test is True:
        return test
    return _any(rest[0](), *rest[1:]) if test is False else jnp.logical_or(test, _any(rest[0](), *rest[1:]))


def _not(value: Any) -> Any:
    test = truth(value)
    return jnp.logical_not(test) if is_traced(test) else not test


def _if(test: Any, then: Thunk, otherwise: Thunk) -> Any:
    test = truth(test)
    if not is_traced(test):
        return then() if test else otherwise()
    return select(test, then(), otherwise())


def _compare(left: Any, *rest: Any) -> Any:
    """A chain of comparisons: left, then operators' names and thunks by turns; each operand is evaluated once."""
    right = rest[1]()
    result = _COMPARE[rest[0]](left, right)
    return _and(result, lambda: _compare(right, *rest[2:])) if len(rest) > 2 else result


def _weak(value: Any) -> Any:
    """A Python int as such, an array as an integer of weak type: what a loop over `range` counts with."""
    if not is_traced(value):
        return operator.index(value)
    if value.shape != () or not jnp.issubdtype(value.dtype, jnp.integer):
        raise ProgramError(f"range() of {value.aval.str_short()}; its bounds are integers of shape ().")
    return _convert(value, int)


def _inside(counter: Any, stop: Any, step: Any) -> Any:
    """Whether a loop over `range` goes on."""
    if is_traced(step):
        return jnp.where(step > 0, counter < stop, counter > stop)
    if step == 0:
        raise ValueError("range() arg 3 must not be zero")
    return counter < stop if step > 0 else counter > stop


def _convert(value: Any, kind: type) -> Any:
    """A traced number as a Python number would be typed: weakly."""
    dtype = jnp.result_type(kind)
    return lax.convert_element_type_p.bind(jnp.asarray(value), new_dtype=dtype, weak_type=True, sharding=None)


def _int(*args: Any, **kwargs: Any) -> Any:
    return _convert(args[0], int) if len(args) == 1 and is_traced(args[0]) else int(*args, **kwargs)


def _float(*args: Any) -> Any:
    return _convert(args[0], float) if len(args) == 1 and is_traced(args[0]) else float(*args)


def _bool(*args: Any) -> Any:
    return truth(*args) if args else False


def _extremum(python: Callable[..., Any], better: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def extremum(*args: Any, **kwargs: Any) -> Any:
        values = list(args[0]) if len(args) == 1 and not is_traced(args[0]) else list(args)
        if kwargs or not any(map(is_traced, values)):
            return python(*args, **kwargs)
        best = values[0]
        for value in values[1:]:
            best = _if(better(value, best), lambda v=value: v, lambda b=best: b)
        return best

    return extremum


# Names that no source can use.
OPERATORS: dict[str, Callable[..., Any]] = {
    "<and>": _and,
    "<or>": _or,
    "<all>": _all,
    "<any>": _any,
    "<not>": _not,
    "<if>": _if,
    "<compare>": _compare,
    "<truth>": truth,
    "<weak>": _weak,
    "<inside>": _inside,
}

# Called on traced values these do what they do on numbers.
BUILTINS: dict[Any, Callable[..., Any]] = {
    bool: _bool,
    int: _int,
    float: _float,
    min: _extremum(min, operator.lt),
    max: _extremum(max, operator.gt),
}
