"""A look over a traced program: what it does with the data that it holds, in its loops too, before anything runs.

Indices that are data must lie inside the axis that they go into, and observations inside loops and `vmap` must be numbers inside their
support, as those outside are (`checks`). Which index goes into which axis of which site is kept with the program.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.core import ShapedArray
from numpyro.distributions import Distribution, constraints

from ..transforms import ModelError
from ..transforms.indices import IndexUse, index_uses
from ..transforms.jax_compat import ClosedJaxpr, JaxprEqn, open_jaxpr
from ..transforms.known import Known, Value, Where, visit
from ..transforms.source_lines import source_line
from .checks import check_values
from .primitives import is_site
from .spec import Spec, join_distribution, peel

__all__ = ["survey"]


def survey(jaxpr: ClosedJaxpr) -> tuple[IndexUse, ...]:
    """Every index of a model's program into an array, in program order.

    Raises:
        ModelError: an index that is data lies outside; an observation inside a loop or a `vmap` is NaN or outside its support. Names
            what is indexed, or the site, and the user's line.
    """
    found: list[IndexUse] = []

    def look(eqn: JaxprEqn, operands: list[Value], at: Where) -> str:
        if is_site(eqn):
            spec = eqn.params["spec"]
            if spec.observed and spec.kind == "sample":
                _check_observation(eqn, spec, operands, at)
            return f"site {spec.name!r}"
        for use in index_uses(eqn, operands, at):
            if use.num_outside:
                raise _outside(use, eqn)
            found.append(use)
        return ""

    inner, consts = open_jaxpr(jaxpr)
    visit(inner, consts, look)
    return tuple(found)


def _outside(use: IndexUse, eqn: Any) -> ModelError:
    what = use.into or f"an array of shape {eqn.invars[0].aval.shape}"
    largest = use.size - use.window
    beyond = use.largest is not None and use.largest > largest
    # negative indices were counted from the front: one that is still negative lies before the first element
    found = use.largest if beyond else (use.smallest or 0) - use.size
    expected = f"0 to {largest}" + (f", or -{use.size} to -1 from the end" if use.window == 1 else f", as {use.window} elements are taken")
    several = f", the first of {use.num_outside} among {use.num} at {_element(use.first)}" if use.first and use.num > 1 else ""
    return ModelError(
        f"{what}: the index {found} is out of range for axis {use.axis} of size {use.size}{several} ({use.line}); expected {expected}. "
        "JAX would take the nearest element, or drop the term, without a word. Labels that count from 1 need `- 1`; "
        "`np.unique(labels, return_inverse=True)[1]` makes indices of any labels; what is to be left out needs "
        "an index inside, and the weight 0 or a mask."
    )


def _element(place: Sequence[int]) -> str:
    return f"[{', '.join(map(str, place))}]"


def _check_observation(eqn: JaxprEqn, spec: Spec, operands: Sequence[Value], at: Where) -> None:
    """Check the observed values of a site whose value was not at hand when its statement ran: one step of a loop, one lane of a `vmap`."""
    given = operands[spec.num_leaves]
    if not isinstance(given, Known) or (given.is_constant and not spec.vmaps):
        return
    value, depth = given.compute(), at.depth
    if value is None:
        return
    dist = join_distribution(spec, [_leaf(x) for x in operands[: spec.num_leaves]])
    base, masks = peel(dist)
    used: Any = True
    for mask, level in masks:
        if not isinstance(mask, (bool, np.bool_, np.ndarray)) or spec.vmaps:
            return
        mask = np.asarray(mask)
        event = level - base.event_dim  # event axes of this level that are batch axes of the base
        own = (1,) * max(0, value.ndim - base.event_dim - depth - max(mask.ndim - depth, 0) - event)
        used = used & mask.reshape((*mask.shape[:depth], *own, *mask.shape[depth:], *(1,) * event))
    for i, (_, axes) in enumerate(spec.vmaps[::-1]):
        axis = axes[spec.num_leaves]
        value = value if axis is None else np.moveaxis(value, depth + i + axis, depth + i)
    batch = value.shape[: value.ndim - base.event_dim]
    try:
        check_values(spec.name, base, value, np.broadcast_to(used, batch), _support(spec, base))
    except ModelError as e:
        raise ModelError(f"{e} ({source_line(eqn, at.around)})") from None


def _leaf(operand: Value) -> Any:
    """A parameter of the distribution as far as it is known: what is not keeps its place."""
    value = operand.compute() if isinstance(operand, Known) else None
    return _UNKNOWN if value is None else value


_UNKNOWN = object()


def _support(spec: Spec, base: Distribution) -> Any:
    """The support of one event of the base distribution, where its parameters are known numbers, the same for all elements; else None."""
    support = spec.support
    while isinstance(support, constraints.independent) and support.event_dim > base.event_dim:
        support = support.base_constraint
    return support if all(np.ndim(x) == 0 and not isinstance(x, ShapedArray) for x in jax.tree.leaves(support)) else None
