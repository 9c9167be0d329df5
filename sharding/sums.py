"""What a loop only adds up: its terms may stay partial sums, so that the whole is reduced once, after the loop, and not in every turn.

The gradient of weights that all turns share is such a sum, and so is one over small batches. It must start at zero, since every device
would count another start.
"""

from typing import Any

from ..transforms.jax_compat import Literal
from .graph import Choice, Graph

__all__ = ["sums_of"]


def sums_of(graph: Graph, step: Choice, num_consts: int, num_carry: int) -> dict[int, int]:
    """Of what a scan carries, that which is only added to: number of the addition -> the value as a turn begins."""
    body, found = step.regions[0], {}
    for start, value, end in zip(step.operands[num_consts:], body.inputs[num_consts:], body.outputs[:num_carry], strict=False):
        node = graph.definition.get(end) if isinstance(end, int) and graph.num_uses[end] == 1 else None
        if node is None or node.operation not in ("add", "add_any") or node.operands.count(value) != 1:
            continue
        if graph.num_uses[value] == 1 and is_zero(graph, start):
            found[node.number] = value
    return found


def is_zero(graph: Graph, atom: Any) -> bool:
    """Whether a value is known to be zero throughout: a literal, or its broadcast."""
    if isinstance(atom, Literal):
        return bool(atom.val == 0)
    node = graph.definition.get(atom)
    return node is not None and node.operation == "broadcast_in_dim" and isinstance(node.operands[0], Literal) and node.operands[0].val == 0
