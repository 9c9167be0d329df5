"""Which discrete latent sites are summed out, as the user says or by themselves, and what that costs."""

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ...transforms import ModelError
from ...transforms.equations import merged_jaxpr
from ...transforms.jax_compat import ClosedJaxpr, open_jaxpr
from .marginal import marginal_log_density
from .report import Report, Table, in_bytes

__all__ = ["MAX_TABLE", "Enumeration", "enumeration_of", "marginalize", "wanted"]

MAX_TABLE = 2**26


@dataclass(frozen=True)
class Wanted:
    """What `marginalize` was told: names of sites (None: all that are discrete and latent), and elements that a table may have."""

    sites: tuple[str, ...] | None = None
    max_table: int = MAX_TABLE


@dataclass(frozen=True)
class Enumeration:
    """How a model's discrete latent sites are summed out; `print` shows it. Nothing was computed for it.

    Attributes:
        states: by site, the values that it may have, in order.
        order: the tables from which variables are summed, in the order in which they go; those inside of a loop are of one turn.
        largest: the largest of all tables, those of values that depend on discrete sites among them; None if there is none.
        jaxpr: the density as a closed jaxpr of (data, position).
    """

    states: dict[str, np.ndarray]
    order: tuple[Table, ...]
    largest: Table | None
    jaxpr: Any

    def __str__(self) -> str:
        if not self.states:
            return "no discrete latent site"
        rows = [f"{name}: {len(values)} states, {values.min():g} to {values.max():g}" for name, values in self.states.items()]
        rows += ["summed out in this order:", *(f"  {table}" for table in self.order), f"largest: {self.largest}"]
        return "\n".join(rows)

    @property
    def line(self) -> str:
        """The cost in one line."""
        sites = ", ".join(f"{name} ({len(values)} states)" for name, values in self.states.items())
        table = self.largest
        size = "" if table is None else f"; the largest table has {table.elements:,} elements ({in_bytes(table.bytes)})"
        return f"discrete latent sites are summed out: {sites}{size}"


def marginalize(model: Callable[..., Any], sites: Sequence[str] | None = None, max_table: int = MAX_TABLE) -> Callable[..., Any]:
    """The model with discrete latent sites summed out of its density:

        log p(x, y) = log sum over z of p(x, y, z).

    Kernels and `lc.log_density` do it by themselves for all discrete latent sites; this says which ones, and how large tables may get.
    The states come back by `lc.infer_discrete`.

    Args:
        model: a model with discrete latent sites of finite support.
        sites: their names; by default all. Those that are not named have to be observed (`lc.condition`).
        max_table: elements that the largest table may have; it is known before anything is compiled.

    Returns:
        A model, for `lc.NUTS`, `lc.log_density` and the like. `lc.trace(model, ...).enumeration` prints the order and the tables.

    Raises:
        ModelError: `sites` is a string or empty; `max_table` is no positive whole number. When the model is used: it has no such
            discrete latent site; a site has no end of states, or states that depend on another site or on data; elements of a site are
            mixed, or two sites cross, so that no sum over one element at a time exists; a table would be larger than `max_table`. Each
            names the site and the user's line.

    Source:
        Obermeyer et al. (2019), Tensor variable elimination for plated factor graphs. As there, and unlike NumPyro, plates need not be
        declared: which axes go together is read off the program, and a model that mixes rows is refused. A site that is masked is absent,
        where NumPyro adds log K for each masked element of K states.
    """
    if not callable(model):
        raise ModelError(
            f"marginalize: found a {type(model).__name__} where the model belongs; expected a function with `sample` statements."
        )
    if isinstance(sites, str) or (sites is not None and not sites):
        raise ModelError(f"marginalize: sites is {sites!r}; expected a list of names, such as sites=['z'], or None for all discrete ones.")
    try:
        limit = operator.index(max_table)
    except TypeError:
        limit = 0
    if limit <= 0:
        raise ModelError(f"marginalize: max_table is {max_table!r}; expected a positive whole number of elements, such as 2**26.")

    @functools.wraps(model)
    def marginalized(*args: Any, **kwargs: Any) -> Any:
        return model(*args, **kwargs)

    marginalized.marginalization = Wanted(None if sites is None else tuple(sites), limit)  # type: ignore[attr-defined]
    return marginalized


def wanted(sites: Mapping[str, Any], model: Any) -> tuple[frozenset[str], int]:
    """The discrete latent sites of a table of sites that are to be summed out, and the elements that a table may have."""
    discrete = [n for n, s in sites.items() if s.latent and s.spec.discrete]
    told = _told(model)
    for name in told.sites or ():
        if name not in discrete:
            kind = f"is {sites[name].role}, not discrete and latent" if name in sites else "is no site of the model"
            raise ModelError(f"marginalize: {name!r} {kind}; the discrete latent sites are {discrete or 'none'}.")
    return frozenset(discrete if told.sites is None else told.sites), told.max_table


def _told(model: Any) -> Wanted:
    """What `marginalize` was told, behind handlers too."""
    while model is not None:
        found = getattr(model, "marginalization", None)
        if isinstance(found, Wanted):
            return found
        model = getattr(model, "fn", None) or getattr(model, "__wrapped__", None)
    return Wanted()


def enumeration_of(program: Any) -> Enumeration:
    """Trace a program's density with its enumerated sites summed out.

    Raises:
        ModelError: that cannot be done, or a table has more than `program.max_table` elements.
    """
    report = Report(program.max_table)

    def density(data: Sequence[Any], position: dict[str, Any]) -> Any:
        return marginal_log_density(program, data, position, report=report)

    positions = {n: jax.ShapeDtypeStruct(s.unconstrained_shape or (), s.dtype) for n, s in program.latents.items()}
    jaxpr = ClosedJaxpr(*merged_jaxpr(*open_jaxpr(jax.make_jaxpr(density)(tuple(program.data), positions))))
    return Enumeration(program.states, tuple(report.order), report.largest, jaxpr)
