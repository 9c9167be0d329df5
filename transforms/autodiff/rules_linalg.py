"""Products and factorizations of matrices."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax import lax

from ..jax_compat import bind
from .core import Unknown, add
from .registry import linearizes, transposes


@linearizes("dot_general")
def product(eqn: Any, active: Sequence[bool], x: Any, y: Any) -> Any:
    """d(x y) = dx y + x dy."""

    def linear(ts: Sequence[Any]) -> list[Any]:
        first = None if ts[0] is None else bind(eqn, [ts[0], y])[0]
        return [add(first, None if ts[1] is None else bind(eqn, [x, ts[1]])[0])]

    return bind(eqn, [x, y]), linear, (True,)


@transposes("dot_general")
def transpose_product(eqn: Any, cts: Sequence[Any], x: Any, y: Any) -> Any:
    """The product of the cotangent with the known operand, contracted over the axes which that operand alone contributed."""
    (contract_x, contract_y), (batch_x, batch_y) = eqn.params["dimension_numbers"]
    if isinstance(x, Unknown):
        return [_receive(eqn, cts[0], y, x, (contract_x, contract_y, batch_x, batch_y), known_last=True), None]
    return [None, _receive(eqn, cts[0], x, y, (contract_y, contract_x, batch_y, batch_x), known_last=False)]


def _receive(eqn: Any, ct: Any, known: Any, unknown: Unknown, axes: Sequence[Sequence[int]], known_last: bool) -> Any:
    """Axes of the product are batch, then those kept of its first operand, then those kept of its second."""
    contract_u, contract_k, batch_u, batch_k = (tuple(a) for a in axes)
    kept_u = [i for i in range(len(unknown.aval.shape)) if i not in contract_u and i not in batch_u]
    kept_k = [i for i in range(known.ndim) if i not in contract_k and i not in batch_k]
    num_batch = len(batch_u)
    first = num_batch + (len(kept_u) if known_last else 0)
    numbers = ((tuple(range(first, first + len(kept_k))), tuple(kept_k)), (tuple(range(num_batch)), batch_k))
    out = lax.dot_general(ct, known, numbers, precision=eqn.params["precision"], preferred_element_type=unknown.aval.dtype)
    order = [*batch_u, *kept_u, *(contract_u[i] for i in np.argsort(contract_k))]
    return lax.transpose(out, tuple(np.argsort(order)))
