"""Running a jaxpr in two parts: what depends on some of its inputs only, once, and the rest many times.

A density that is evaluated thousands of times on the same data repeats every equation that reads only data (standardising a covariate,
`lgamma` of counts). `split` finds them by a walk over dependences and gives two functions, so that a loop can keep the first outside.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .equations import dependents, needed_equations, reads_any, run_equations, variables_of
from .jax_compat import JaxprEqn, Literal, acts, open_jaxpr

__all__ = ["Split", "split"]

# Equations that only copy: hoisting them out of a loop trades cheap work for memory and bandwidth.
_COPIES = {"broadcast_in_dim", "iota", "reshape", "convert_element_type", "squeeze", "expand_dims", "copy", "slice", "transpose", "rev"}


@dataclass(frozen=True)
class Split:
    """Two functions with rest(prepare(first), second) == program(*first, *second).

    prepare: the leading arguments -> the values that the rest needs.
    rest: (those values, the remaining arguments) -> list of results.
    num_hoisted: how many equations `prepare` runs.
    """

    prepare: Callable[[Sequence[Any]], list[Any]]
    rest: Callable[[Sequence[Any], Sequence[Any]], list[Any]]
    num_hoisted: int


def split(jaxpr: Any, num_first: int) -> Split:
    """Split a closed jaxpr after its first `num_first` inputs. Equations that act stay in the rest; collectives need not."""
    inner, consts = open_jaxpr(jaxpr)
    first, second = inner.invars[:num_first], inner.invars[num_first:]
    moving = dependents(inner.eqns, second)
    early = [e for e in inner.eqns if not acts(e) and not reads_any(e, moving)]
    late = [e for e in inner.eqns if acts(e) or reads_any(e, moving)]
    late = [*_copies_read(early, late, inner.outvars), *late]
    elsewhere = {v for e in late for v in e.outvars} | set(second)
    reads = [x for e in late for x in e.invars] + list(inner.outvars)
    boundary = list(dict.fromkeys(x for x in reads if not isinstance(x, Literal) and x not in elsewhere))
    early = needed_equations(early, boundary)

    def prepare(values: Sequence[Any]) -> list[Any]:
        return run_equations(early, dict(zip([*inner.constvars, *first], [*consts, *values], strict=True)), boundary)

    def rest(prepared: Sequence[Any], values: Sequence[Any]) -> list[Any]:
        return run_equations(late, dict(zip([*boundary, *second], [*prepared, *values], strict=True)), inner.outvars)

    return Split(prepare, rest, len(early))


def _copies_read(early: list[JaxprEqn], late: list[JaxprEqn], outs: Sequence[Any]) -> list[JaxprEqn]:
    """The early equations that only copy and are read late: the rest runs them itself and reads the smaller original.

    An early equation may read the same copy, so `early` keeps them until what it does not need is dropped.
    """
    return needed_equations([e for e in early if e.primitive.name in _COPIES], variables_of(late, outs))
