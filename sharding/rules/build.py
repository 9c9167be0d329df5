"""What the rules of every family are written with: the shapes of an equation, one factor from the dimensions it runs along, an equation
applied with other parameters."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...transforms.jax_compat import JaxprEqn, bind
from ..factors import Factor, Local, Rule

__all__ = [
    "NOTHING",
    "along",
    "apply",
    "each_shape",
    "elements",
    "group",
    "leading",
    "no_flops",
    "operand_shapes",
    "result_shapes",
    "to_local_shape",
    "types",
]

Shape = tuple[int, ...]


def types(atoms: Iterable[Any]) -> list[Any]:
    """The abstract values, with shape and dtype, of operands or results."""
    return [atom.aval for atom in atoms]


def operand_shapes(eqn: JaxprEqn) -> list[Shape]:
    return [tuple(aval.shape) for aval in types(eqn.invars)]


def result_shapes(eqn: JaxprEqn) -> list[Shape]:
    return [tuple(aval.shape) for aval in types(eqn.outvars)]


def elements(shape: Sequence[int]) -> int:
    return math.prod(shape)


def along(eqn: JaxprEqn, operands: Mapping[int, int], results: Mapping[int, int], size: int, **more: Any) -> Factor:
    """A factor from {number of the operand: its dimension} and the same for the results."""
    return Factor(
        tuple(operands.get(n) for n in range(len(eqn.invars))), tuple(results.get(n) for n in range(len(eqn.outvars))), int(size), **more
    )


def group(factors: Iterable[Factor]) -> tuple[Factor, ...]:
    """The factors that can be split at all."""
    return tuple(factor for factor in factors if factor.size > 1)


def leading(eqn: JaxprEqn, rank: int) -> tuple[Factor, ...]:
    """The first `rank` dimensions, if every operand and every result begins with the same ones."""
    shapes, outs = operand_shapes(eqn), result_shapes(eqn)
    batch = shapes[0][:rank]
    if any(shape[:rank] != batch for shape in (*shapes, *outs)):
        return ()
    operands, results = range(len(shapes)), range(len(outs))
    return group(along(eqn, dict.fromkeys(operands, dim), dict.fromkeys(results, dim), size) for dim, size in enumerate(batch))


def each_shape(eqn: JaxprEqn, leave: Iterable[int]) -> list[Factor]:
    """A factor for each dimension that all operands of the first one's rank, and all results of that rank, share; `leave` apart."""
    shapes, outs = operand_shapes(eqn), result_shapes(eqn)
    left = set(leave)
    return [
        along(
            eqn,
            {n: dim for n, shape in enumerate(shapes) if len(shape) == len(shapes[0])},
            {n: dim for n, shape in enumerate(outs) if len(shape) == len(shapes[0])},
            size,
        )
        for dim, size in enumerate(shapes[0])
        if dim not in left
    ]


def apply(eqn: JaxprEqn, operands: Sequence[Any], **changed: Any) -> list[Any]:
    """The equation on other operands, with some parameters changed."""
    return bind(eqn.replace(params={**eqn.params, **changed}) if changed else eqn, operands)


def to_local_shape(parameter: str) -> Any:
    """A local computation for primitives whose `parameter` is the shape of the result."""

    def run(eqn: JaxprEqn, operands: Sequence[Any], local: Local) -> list[Any]:
        return apply(eqn, operands, **{parameter: tuple(local.results[0])})

    return run


def no_flops(eqn: JaxprEqn, operands: Sequence[Shape], results: Sequence[Shape]) -> float:
    """Of what moves data only."""
    return 0.0


NOTHING = Rule(lambda eqn: (), flops=no_flops)
"""For what cannot be split and computes nothing worth counting."""
