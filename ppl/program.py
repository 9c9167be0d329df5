"""Tracing: from a Python function to a `ModelProgram`, a jaxpr with sites in it.

The model is called once, with its concrete arguments closed over: behind the gate (`gate`), where what a user hands in becomes arrays.
Those become the constants of the jaxpr: they are the data, and every later stage takes them as arguments. Python numbers and strings
become part of the program. What the program does with its data is looked at before anything runs (`survey`).
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from ..transforms import LucioleError, ModelError, structure
from ..transforms.indices import IndexUse
from ..transforms.jax_compat import ClosedJaxpr, JaxprEqn, open_jaxpr, scan_layout, subjaxprs, user_frames
from .bridge import Bridge, trace_context
from .dims import deterministic_dims, site_dims
from .enumeration import MAX_TABLE, Enumeration, enumeration_of, states_of, wanted
from .gate import Argument, admit
from .messages import line_of, translated_error
from .missing import Missing, find_missing
from .primitives import has_sites, is_site
from .spec import Spec
from .survey import survey

__all__ = ["ModelProgram", "Site", "trace"]

_trace_numbers = itertools.count()


@dataclass(frozen=True)
class Site:
    """One row of the table of sites.

    Attributes:
        name, kind: kind is "sample", "factor" or "deterministic".
        shape, dtype: of the value over the whole run of the program, loops leading.
        support: the support (a numpyro constraint), None for deterministic sites.
        dims: a name for every axis of `shape`: loops, `vmap` axes, plates, event axes.
        observed: whether the value is given.
        loops: the lengths of the scans around the site, outermost first.
        line: file and line of the statement.
        spec: the static half of the equation.
        packed: whether the site is what is missing of a partly given one: its shape is then (number missing, *event).
        backwards: whether a scan around it runs from its end.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: np.dtype
    support: Any
    dims: tuple[str, ...]
    observed: bool
    loops: tuple[int, ...]
    line: str
    spec: Spec
    packed: bool = False
    backwards: bool = False

    @property
    def latent(self) -> bool:
        return self.spec.latent

    @property
    def unconstrained_shape(self) -> tuple[int, ...]:
        """The shape of the site's part of a position."""
        own = self.spec.unconstrained_shape or ()
        if not self.packed:
            return (*self.loops, *(size for size, _ in reversed(self.spec.vmaps)), *own)
        batch = len(self.spec.shape) - len(self.spec.vmaps) - self.spec.event_dim
        return (self.shape[0], *own[batch:])

    @property
    def role(self) -> str:
        """The kind, with observed sample sites told apart: "sample", "observed", "deterministic" or "factor"."""
        return "observed" if self.kind == "sample" and self.observed else self.kind


@dataclass(frozen=True, eq=False)
class ModelProgram:
    """A model as a program: `.jaxpr` (its constants are the data), `.sites` by name in program order, `.coords` by plate, `.missing` data.

    `.arguments` are the arrays among the model's arguments, by parameter and path, and `.absent` its parameters that are None;
    `.indices` says which index goes into which axis of what, in program order. `.discrete` names the discrete latent sites that a density
    would sum out, by tables of at most `.max_table` elements; `.enumerated` those that this one does: no coordinates.

    Two programs are equal if they do the same with their data, whatever the data are: a fresh trace of the same model on new data of
    the same shapes gives an equal program, so that a program can be a static argument of a jitted function.
    """

    jaxpr: ClosedJaxpr
    sites: dict[str, Site]
    coords: dict[str, list[Any]]
    missing: Missing = field(default_factory=Missing)
    arguments: Mapping[str, Argument] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    indices: tuple[IndexUse, ...] = ()
    discrete: frozenset[str] = frozenset()
    max_table: int = MAX_TABLE
    enumerated: frozenset[str] = frozenset()

    @property
    def data(self) -> tuple[Any, ...]:
        """The arrays that the model was traced with, in the order of the jaxpr's constants."""
        return tuple(c if isinstance(c, jax.Array) else np.asarray(c) for c in self.jaxpr.consts)

    @functools.cached_property
    def _key(self) -> Any:
        return self.structure_key()

    def structure_key(self, differentiated: bool = True) -> Any:
        """What makes two programs the same; see `transforms.structure`."""
        return structure(self.jaxpr, differentiated=differentiated), tuple(self.missing.counts.items()), self._states_key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelProgram) and (self is other or self._key == other._key)

    def __hash__(self) -> int:
        return hash(self._key)

    @functools.cached_property
    def latents(self) -> dict[str, Site]:
        """The latent sites that a position has coordinates of."""
        return {n: s for n, s in self.sites.items() if s.latent and n not in self.enumerated}

    @functools.cached_property
    def states(self) -> dict[str, np.ndarray]:
        """By discrete site that is summed out, its states, in order."""
        return states_of(self, self.enumerated)

    @functools.cached_property
    def _states_key(self) -> Any:
        return tuple((name, tuple(values.tolist())) for name, values in self.states.items())

    @functools.cached_property
    def enumeration(self) -> Enumeration:
        """How the discrete latent sites are summed out, in which order and by which tables; `print` shows it."""
        if not self.discrete:
            return Enumeration({}, (), None, None)
        return enumeration_of(self if self.enumerated else replace(self, enumerated=self.discrete))

    def __str__(self) -> str:
        rows = [("site", "kind", "shape", "dims", "dtype", "support", "line")]
        for s in self.sites.values():
            support = "" if s.kind != "sample" else str(s.support)
            rows.append((s.name, "latent" if s.latent else s.role, str(s.shape), ", ".join(s.dims), str(s.dtype), support, s.line))
        widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows)


def trace(model: Callable[..., Any], /, *args: Any, **kwargs: Any) -> ModelProgram:
    """Trace a model on its arguments.

    Args:
        model: a function with `sample` statements, Luciole's or NumPyro's.
        args, kwargs: the model's arguments. Arrays are data; everything else, Python's and NumPy's numbers included, is part of
            the program.

    Returns:
        The program; `print` shows the table of sites.

    Raises:
        ModelError: duplicate names, shapes that do not fit, arguments that would lose their meaning as arrays, indices out of range,
            observations that are NaN or outside their support, statements that have no place in a model; each with the site's or the
            argument's name and the user's line.
    """
    if not callable(model):
        raise ModelError(f"found a {type(model).__name__} where the model belongs; expected a function with `lc.sample` statements.")
    given = admit(model, args, kwargs)
    bridge = Bridge()

    def run() -> tuple[()]:
        with bridge:
            model(*given.args, **given.kwargs)
        return ()

    try:
        # The number makes every trace a new one to JAX's caches: a jitted helper or a scan body that an earlier trace has
        # left there would bring the sites, names and masks of that trace with it.
        with trace_context(("luciole trace", next(_trace_numbers))):
            jaxpr = jax.make_jaxpr(run)()
    except Exception as e:
        if bridge.shared and isinstance(e, TypeError):  # a loop's carry that has become a series
            raise _shared(f"site {bridge.shared[0]!r}") from e
        translated = translated_error(e, given)
        if translated is None:
            raise
        raise translated from (e.__cause__ if isinstance(e, LucioleError) else e)
    sites = _by_name(_sites(jaxpr, ()))
    bridge.modules.check(sites)
    if not sites:
        raise ModelError(f"{getattr(model, '__name__', model)!r} has no `sample` statement, so there is nothing to infer.")
    for name, dims in deterministic_dims(jaxpr, sites).items():
        sites[name] = replace(sites[name], dims=dims)
    missing = _missing(jaxpr, sites)
    table, coords = _packed(sites, missing), dict(bridge.coords)
    return ModelProgram(jaxpr, table, coords, missing, given.arrays, given.absent, survey(jaxpr), *wanted(table, model))


def _missing(jaxpr: ClosedJaxpr, sites: dict[str, Site]) -> Missing:
    imputed = [n for n, s in sites.items() if s.spec.imputed]
    if not imputed:
        return Missing()
    latents = {n: jax.ShapeDtypeStruct(s.shape, s.dtype) for n, s in sites.items() if s.latent}
    return find_missing(jaxpr, jaxpr.consts, latents, imputed)


def _packed(sites: dict[str, Site], missing: Missing) -> dict[str, Site]:
    """The table as seen from outside: of a site that imputes, the missing elements; without them no site."""
    table = {}
    for name, site in sites.items():
        if name in missing.counts:
            event = site.shape[len(site.shape) - site.spec.event_dim :]
            shape = (missing.counts[name], *event)
            dims = tuple(f"{name}_dim_{i}" for i in range(len(shape)))
            site = replace(site, shape=shape, dims=dims, packed=True)
        if name not in missing.absent:
            table[name] = site
    return table


def _sites(jaxpr: Any, loops: tuple[int, ...], backwards: bool = False) -> Iterator[Site]:
    for eqn in open_jaxpr(jaxpr)[0].eqns:
        if is_site(eqn):
            yield _site(eqn, loops, backwards)
        elif not has_sites(eqn):
            continue
        elif eqn.primitive.name == "scan":
            scan_layout(eqn)
            yield from _sites(eqn.params["jaxpr"], (*loops, eqn.params["length"]), backwards or eqn.params["reverse"])
        elif eqn.primitive.name == "cond":
            yield from _branch_sites(eqn, loops, backwards)
        elif eqn.primitive.name == "while":
            site = next(s for sub in subjaxprs(eqn) for s in _sites(sub, loops))
            raise ModelError(
                f"site {site.name!r} ({site.line}) stands inside `jax.lax.while_loop`, or a `fori_loop` whose trip count is not "
                "known, where the number of random choices is not known. Use `jax.lax.scan`."
            )
        else:
            for sub in subjaxprs(eqn):
                yield from _sites(sub, loops, backwards)


def _by_name(found: Iterator[Site]) -> dict[str, Site]:
    sites: dict[str, Site] = {}
    for site in found:
        if site.name in sites:
            raise ModelError(
                f"the site name {site.name!r} is used twice, {sites[site.name].line} and {site.line}. Every site needs its own "
                "name; inside a helper that is called twice use `numpyro.handlers.scope(prefix=...)`."
            )
        sites[site.name] = site
    return sites


def _branch_sites(eqn: JaxprEqn, loops: tuple[int, ...], backwards: bool) -> Iterator[Site]:
    """The sites of all branches: the same latent ones in each, and what has the same name has the same shape."""
    branches = [_by_name(_sites(b, loops, backwards)) for b in eqn.params["branches"]]
    merged: dict[str, Site] = {}
    for branch in branches:
        for name, site in branch.items():
            first = merged.setdefault(name, site)
            if _form(first) != _form(site):
                raise ModelError(
                    f"site {name!r} is {_form(first)} in one branch of a `cond` ({first.line}) and {_form(site)} in another ({site.line}). "
                    "Make them alike, or give them two names."
                )
    for name, site in merged.items():
        if site.latent and not all(name in branch for branch in branches):
            raise ModelError(
                f"site {name!r} ({site.line}) is latent in one branch of a `cond` and absent in another. Every branch needs the same "
                "latent sites: sample before the `cond`, or sample it in each branch."
            )
    yield from merged.values()


def _form(site: Site) -> str:
    """What must be alike in all branches, in words."""
    coordinates = f" with {site.spec.unconstrained_shape} unconstrained coordinates" if site.latent else ""
    return f"{'latent' if site.latent else site.role} of shape {site.shape} and dtype {site.dtype}{coordinates}"


def _site(eqn: JaxprEqn, loops: tuple[int, ...], backwards: bool) -> Site:
    spec: Spec = eqn.params["spec"]
    shape = (*loops, *spec.shape)
    if spec.shared and (loops or spec.vmaps):
        raise _shared(f"site {spec.name!r} ({line_of(user_frames(eqn))})")
    return Site(
        name=spec.name,
        kind=spec.kind,
        shape=shape,
        dtype=np.dtype(spec.dtype),
        support=spec.support,
        dims=site_dims(spec, loops),
        observed=spec.observed,
        loops=loops,
        line=line_of(user_frames(eqn)),
        spec=spec,
        backwards=backwards,
    )


def _shared(where: str) -> ModelError:
    return ModelError(
        f"{where}: a handler outside of a `jax.lax.scan` or `jax.vmap` gives all its values to every step. Hand them through the loop and "
        "observe one at a time: `lc.sample(name, fn, obs=y_t)`, `jax.lax.scan(step, init, y)`."
    )
