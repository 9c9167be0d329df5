"""What makes two programs the same program: an exact, hashable key of a jaxpr.

Two jaxprs have equal keys if and only if they apply the same equations, with the same parameters, to the same inputs. Names of
variables, source lines and the identity of Python objects play no part, so a model that is traced again has the key it had before.
Constants of the outermost jaxpr are inputs (their values are data and no part of the key); constants inside nested jaxprs
are part of the program and enter by value.
"""

from collections.abc import Hashable
from typing import Any

import jax
import numpy as np

from .jax_compat import Literal, context_values, open_jaxpr

__all__ = ["placed", "structure", "value_key"]

# Parameters that say how to differentiate and nothing about the value. Each is a Python callable made anew by every trace.
_DERIVATIVE_RULES = {"jvp_jaxpr_fun", "jvp_jaxpr_thunk", "fwd_jaxpr_thunk", "bwd", "out_trees"}
_COMMENTS = {"name", "debug_info", "debug"}


def structure(jaxpr: Any, *, differentiated: bool = True) -> Hashable:
    """The structural key of a (closed) jaxpr.

    Args:
        jaxpr: a jaxpr or closed jaxpr.
        differentiated: whether the program may still be differentiated. If not (it is about to be compiled as it stands), custom
            derivative rules play no part in the key; if so, they enter by identity: two programs with rules made by two traces
            are then taken for different ones, which costs a compilation and is never wrong.

    Returns:
        A nested tuple; compare with `==`, use as a dictionary key.
    """
    return _jaxpr_key(jaxpr, differentiated, outermost=True)


def value_key(value: Any) -> Hashable:
    """The key of a value that is part of a program, such as a parameter of an equation; arrays in it enter by their elements."""
    return _key(value, differentiated=True)


def placed(array: Any) -> Hashable:
    """What a compiled program depends on of one concrete argument.

    Args:
        array: a NumPy or JAX array of any shape and dtype.

    Returns:
        Shape, dtype and weak type; for a JAX array that is committed, as by `jax.device_put(x, device)`, also its sharding (devices,
        axes and kind of memory) and layout: a program compiled for it refuses the same array committed elsewhere. Any other
        array goes where the program is.
    """
    place = getattr(array, "format", array.sharding) if getattr(array, "committed", False) else None  # keys have no format
    return tuple(array.shape), str(array.dtype), bool(getattr(array, "weak_type", False)), place


def _jaxpr_key(jaxpr: Any, differentiated: bool, outermost: bool = False) -> Hashable:
    inner, consts = open_jaxpr(jaxpr)
    number = {}
    for var in [*inner.constvars, *inner.invars]:
        number[var] = len(number)

    def atom(x: Any) -> Hashable:
        if isinstance(x, Literal):
            return ("literal", _key(x.val, differentiated), x.aval)
        return number[x]

    equations, contexts, context = [], [], None
    for eqn in inner.eqns:
        if eqn.ctx is not context:  # one object for all equations traced under the same settings: it enters where it changes
            context = eqn.ctx
            contexts.append((len(equations), _key(context_values(context), differentiated)))
        operands = tuple(atom(x) for x in eqn.invars)
        for var in eqn.outvars:
            number[var] = len(number)
        params = tuple(
            (k, _key(v, differentiated))
            for k, v in sorted(eqn.params.items())
            if k not in _COMMENTS and (differentiated or k not in _DERIVATIVE_RULES)
        )
        equations.append((eqn.primitive.name, operands, params, tuple(v.aval for v in eqn.outvars)))
    return (
        tuple(v.aval for v in inner.constvars),
        tuple(v.aval for v in inner.invars),
        () if outermost else tuple(_key(c, differentiated) for c in consts),
        tuple(equations),
        tuple(contexts),
        tuple(atom(x) for x in inner.outvars),
    )


def _key(value: Any, differentiated: bool) -> Any:
    if hasattr(value, "eqns") or (hasattr(value, "jaxpr") and hasattr(value, "consts")):
        return _jaxpr_key(value, differentiated)
    if hasattr(value, "structure_key"):  # our own parameters say what they are
        return value.structure_key()
    if isinstance(value, (tuple, list)):
        return (type(value).__name__, *(_key(v, differentiated) for v in value))
    if isinstance(value, dict):
        return ("dict", *((k, _key(v, differentiated)) for k, v in value.items()))
    if isinstance(value, (set, frozenset)):
        return frozenset(_key(v, differentiated) for v in value)
    if isinstance(value, (bool, int, float, complex, str, bytes, type(None))):
        # 1, 1.0 and True are equal to Python and different to JAX; so are 0.0 and -0.0, and NaN must equal itself
        return (type(value).__name__, repr(value))
    if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        return ("keys", str(value.dtype), _key(jax.random.key_data(value), differentiated))
    if isinstance(value, (np.ndarray, np.generic)) or hasattr(value, "__array__"):
        array = np.asarray(value)
        return ("array", str(array.dtype), array.shape, array.tobytes())
    try:
        hash(value)
    except TypeError:
        return ("repr", type(value).__name__, repr(value))
    return value
