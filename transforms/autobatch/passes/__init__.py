"""Passes over programs: each takes one and gives one that means the same, with fewer blocks, fewer slots or less to save at a call.

Each is right alone and after any other; in which order they serve best is `ORDER`.
"""

from collections.abc import Callable, Iterable

from ..ir import Program
from .coalesce import coalesce
from .copies import propagate_copies
from .dead_code import eliminate_dead_code
from .inline import inline
from .merge import merge
from .merge_tests import merge_tests
from .rotate import rotate_loops
from .sink import sink
from .tail_calls import tail_calls
from .unreachable import remove_unreachable

__all__ = ["ORDER", "PASSES", "optimise"]

PASSES: dict[str, Callable[[Program], Program]] = {
    "remove_unreachable": remove_unreachable,
    "inline": inline,
    "tail_calls": tail_calls,
    "merge": merge,
    "propagate_copies": propagate_copies,
    "eliminate_dead_code": eliminate_dead_code,
    "rotate_loops": rotate_loops,
    "merge_tests": merge_tests,
    "coalesce": coalesce,
    "sink": sink,
}

_CLEAN = ("merge", "propagate_copies", "eliminate_dead_code")
_FIRST = ("remove_unreachable", "inline", *_CLEAN, "tail_calls", "merge_tests", *_CLEAN, "rotate_loops", *_CLEAN)
ORDER = (*_FIRST, "coalesce", "sink", "eliminate_dead_code", "merge")


def optimise(program: Program, passes: Iterable[str] = ORDER) -> Program:
    """Runs passes over a program.

    Args:
        program: what the front end made.
        passes: names in `PASSES`, run in the order given; a name may occur more than once.

    Returns:
        A program with the same meaning.
    """
    for name in passes:
        program = PASSES[name](program)
    return program
