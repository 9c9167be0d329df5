"""A design matrix of which columns stay in host memory, found in the equations that compute it from the data.

That an array enters the design unchanged, and enters nothing else, is read off these equations.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..equations import body_of, needed_equations, reads_any, run_equations, run_jaxpr
from ..jax_compat import JaxprEqn, Var, bind, equation_context, open_jaxpr
from ..source_lines import source_line
from .host_design import HostDesign, NotOnHostError
from .rules import linear_slots

__all__ = ["computed_but_rows"]

_COPIES = {"convert_element_type", "copy", "copy_p", "reshape"}


def computed_but_rows(
    function: Callable[[Sequence[Any]], Any], data: Sequence[Any], host: Collection[int], where: str, expected: str
) -> Any:
    """function(data), whose first leaf is a design matrix, with the columns left in host memory that are arrays of the data as they are.

    Also the numbers of these data.

    Args:
        host: the numbers of the data that may stay there; NumPy arrays of two axes.
        where: begins the error: whose rows they are.
        expected: ends it: what to write instead.

    Raises:
        NotOnHostError: something else is computed from them; names the line. Or the design has none of them.
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(data)
    flat = jax.make_jaxpr(lambda *leaves: run_jaxpr(*open_jaxpr(closed), leaves, _inlined))(*data)
    jaxpr, constants = open_jaxpr(flat)
    places = {v: i for i, v in enumerate(jaxpr.invars) if i in host}
    parts = _parts(jaxpr, jaxpr.outvars[0], places)
    taken = {v: i for v, i in places.items() if i in parts}
    outs = [p for p in parts if not isinstance(p, int)] + list(jaxpr.outvars[1:])
    zeros = _zeros(jaxpr)
    needed = needed_equations(jaxpr.eqns, outs, zeros)
    reading = [eqn for eqn in needed if reads_any(eqn, taken or places)]
    if not taken or reading:
        what = f"`{reading[0].primitive.name}` ({source_line(reading[0])}) computes something from them" if reading else "no array is them"
        raise NotOnHostError(f"{where}: its rows cannot stay in host memory, because {what}. {expected}")
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *data], strict=True))
    read = [v for v in env if v not in taken]

    @jax.jit
    def run(values: Sequence[Any]) -> list[Any]:
        given = {v: jnp.zeros(v.aval.shape, v.aval.dtype) for v in zeros}
        return run_equations(needed, dict(zip(read, values, strict=True)) | given, outs)

    values = iter(run([env[v] for v in read]))
    blocks = [data[p] if isinstance(p, int) else next(values) for p in parts]
    design = HostDesign.of(blocks, jaxpr.outvars[0].aval.dtype)
    return jax.tree.unflatten(jax.tree.structure(shapes), [design, *values]), [p for p in parts if isinstance(p, int)]


def _inlined(eqn: JaxprEqn, operands: list[Any]) -> Sequence[Any]:
    if (body := body_of(eqn)) is not None:
        return run_jaxpr(*open_jaxpr(body), operands, _inlined)
    with equation_context(eqn):
        return bind(eqn, operands)


def _zeros(jaxpr: Any) -> dict[Any, None]:
    """The variables that are zero whatever the data, if these are finite: an offset, X @ 0, reads no rows."""
    found: dict[Any, None] = {}
    for eqn in jaxpr.eqns:
        zero = [x in found if isinstance(x, Var) else np.ndim(x.val) == 0 and x.val == 0 for x in eqn.invars]
        slots = linear_slots(eqn, zero) if any(zero) and not eqn.effects else ""
        if not isinstance(slots, str) and all(zero[i] for i in slots):
            found |= dict.fromkeys(eqn.outvars)
    return found


def _parts(jaxpr: Any, design: Any, places: dict[Any, int]) -> list[Any]:
    """The design as blocks of columns: numbers of data, and variables."""
    made = {v: eqn for eqn in jaxpr.eqns for v in eqn.outvars}

    def parts(atom: Any) -> list[Any]:
        if atom in places:
            return [places[atom]]
        eqn = made.get(atom)
        if eqn is not None and eqn.primitive.name == "concatenate" and eqn.params["dimension"] == 1:
            return [p for x in eqn.invars for p in parts(x)]
        if eqn is not None and eqn.primitive.name in _COPIES and eqn.invars[0].aval.shape == atom.aval.shape:
            below = parts(eqn.invars[0])
            return below if any(isinstance(p, int) for p in below) else [atom]
        return [atom]

    return parts(design)
