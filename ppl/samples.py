"""What a predictive or a likelihood is given by hand: draws of latent sites by name, checked against the model.

A name that the model does not have is an error. A site of a loop may come with its first steps, and the rest is drawn: a forecast. What
is drawn although the samples should have had it, or although observations that hang on it are kept, is a warning.
"""

import math
import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..transforms import LucioleWarning, ModelError
from ..transforms.calls import nearest
from ..transforms.graph import reachable
from .dependence import edges
from .gate import as_array
from .program import ModelProgram, Site
from .split import Split, split_of

__all__ = ["Given", "PriorDrawWarning", "Samples", "checked_samples", "sampled_children", "warn_of_open_sites"]

Samples = Mapping[str, Any]


class PriorDrawWarning(LucioleWarning):
    """A latent site was drawn from its prior in a posterior predictive: the samples do not have it, or not all of it."""


class Given(NamedTuple):
    """Draws of latent sites.

    Attributes:
        values: by site, (*leading axes, ...): NumPy arrays; where they are split, JAX arrays on their devices.
        lead: the sizes of the leading axes.
        split: over which devices; None for draws in host memory.
    """

    values: Mapping[str, Any] = {}
    lead: tuple[int, ...] = ()
    split: Split | None = None

    @property
    def total(self) -> int:
        """The number of draws."""
        return math.prod(self.lead)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """By site, the shape of one draw."""
        return {name: value.shape[len(self.lead) :] for name, value in self.values.items()}


def checked_samples(program: ModelProgram, samples: Samples, what: str, *, begun: bool = True) -> Given:
    """The entries of `samples` that are latent sites.

    Args:
        what: the function to name in errors.
        begun: whether sites of a loop may come with their first steps only.

    Raises:
        ModelError: a name is unknown, a shape does not fit, or the sites are not split over devices alike, by draws.
    """
    if not isinstance(samples, Mapping):
        raise ModelError(f"{what}: samples are a {type(samples).__name__}; expected a dict by site, such as `mcmc.get_samples()`.")
    known = [*program.sites, *program.missing.absent]
    known += [n for n in samples if n.endswith("_unobserved") and n.removesuffix("_unobserved") in known]  # of a run on data with holes
    together = {n for n in samples if f"{n}_unobserved" in samples}  # records of partly given sites, which may be latent in this model
    for name in samples:
        if name not in known:
            raise ModelError(f"{what}: the samples have {name!r}, which is no site of the model{_meant(name, known)}. It has {known}.")
    given: dict[str, Any] = {}
    lead: tuple[int, ...] | None = None
    for name, site in program.latents.items():
        if name not in samples or name in together:
            continue
        value = as_array(samples[name], f"{what}: samples[{name!r}]")
        cut = value.ndim - len(site.shape)
        fits = value.shape[max(cut, 0) :] == site.shape or (begun and _begins(value.shape[max(cut, 0) :], site))
        if cut < 1 or not fits or (lead is not None and value.shape[:cut] != lead):
            expected = f"{lead} + {site.shape}" if lead else f"(draw, ...) or (chain, draw, ...) before the site's shape {site.shape}"
            raise ModelError(f"site {name!r}: the samples have shape {value.shape}; expected {expected}{_advice(site, begun)}.")
        lead = value.shape[:cut]
        given[name] = value
    lead = lead or ()
    split = split_of(what, given, lead)
    put = np.asarray if split is None else lambda value: split.put(value, split.draws)
    return Given({name: put(value) for name, value in given.items()}, lead, split)


def _meant(name: str, known: Collection[str]) -> str:
    """Words that name the known name most like `name`, or like what stands behind its last "/"; none if there is none."""
    found = nearest(name, known) or nearest(name.rpartition("/")[2], known)
    return f" (did you mean {found!r}?)" if found else ""


def _begins(shape: tuple[int, ...], site: Site) -> bool:
    """Whether a value of this shape has the first steps of a site of a loop."""
    return bool(site.loops) and not site.backwards and shape[1:] == site.shape[1:] and shape[0] < site.shape[0]


def _advice(site: Site, begun: bool) -> str:
    if not begun:
        return ""
    if site.loops and not site.backwards:
        return ", or fewer steps, of which the rest is drawn"
    return (
        ". Only a site of a loop goes on from shorter draws: of a plate or an event nobody knows which elements are the old ones. Leave "
        "the site out of the samples to have it drawn from its prior, or write the series as a `jax.lax.scan`"
    )


def warn_of_open_sites(
    program: ModelProgram,
    given: Mapping[str, tuple[int, ...]],
    what: str,
    *,
    kept: Callable[[Site], bool],
    data: Collection[str] = (),
    stacklevel: int = 3,
) -> None:
    """Warns of latent sites that are drawn although something hangs on them.

    Args:
        given: the shapes of the draws that the samples give, by site.
        kept: which observed sites keep their observation.
        data: sites that are known to be data, observed where the samples come from.
    """
    children = sampled_children(program)
    for name, site in program.latents.items():
        if name in data:
            continue
        if name not in given and not site.spec.imputed:
            below = sorted(children[name] - {name})
            if below:
                _warn(
                    f"{what}: the samples have no {name!r} ({site.line}), so that it is drawn from its prior, and {below[0]!r} with it. "
                    "Give the draws of all latent sites; if it was observed in the run, `lc.predict(mcmc, ...)` knows.",
                    stacklevel,
                )
        elif site.loops:
            _warn_of_later_observations(program, name, site, given, what, kept, stacklevel)
        elif name not in given and any(kept(program.sites[n]) for n in children[name] - {_pair(name)} if program.sites[n].observed):
            _warn(
                f"{what}: the samples have no {name!r} ({site.line}), so that these missing values are drawn without a look at the "
                "observations that depend on them. Run the chains on the data with the missing values.",
                stacklevel,
            )


def _warn_of_later_observations(
    program: ModelProgram,
    name: str,
    site: Site,
    given: Mapping[str, tuple[int, ...]],
    what: str,
    kept: Callable[[Site], bool],
    stacklevel: int,
) -> None:
    """Warns if a step that is drawn is followed by an observation that is kept."""
    known = given[name][0] if name in given else 0
    if known >= site.shape[0]:
        return
    first = known
    if site.packed:
        first = int(np.argwhere(program.missing.masks[name])[known][0])
    for other in program.sites.values():
        if not other.observed or other.kind != "sample" or other.loops[:1] != site.loops[:1] or not kept(other):
            continue
        last = _last_given(program, other)
        if last > first or (last == first and other.name != _pair(name) and not site.packed):
            _warn(
                f"{what}: of site {name!r} ({site.line}) the samples end before step {first}, and {other.name!r} is given up to step "
                f"{last}: the site is drawn without a look at these observations. A forecast begins where the observations end: leave them "
                "out (`obs_mask`), or run the chains on all of them.",
                stacklevel,
            )


def _last_given(program: ModelProgram, site: Site) -> int:
    """The last step at which an observed site of a loop is given; -1 if never."""
    mask = program.missing.masks.get(_pair(site.name))
    if mask is None:
        return site.loops[0] - 1
    steps = np.flatnonzero(~mask.reshape(len(mask), -1).all(axis=1))
    return int(steps[-1]) if len(steps) else -1


def _pair(name: str) -> str:
    """The other of the two sites of a partly given observation."""
    if name.endswith("_unobserved"):
        return name.removesuffix("_unobserved") + "_observed"
    return name.removesuffix("_observed") + "_unobserved"


def sampled_children(program: ModelProgram) -> dict[str, set[str]]:
    """By site: the sample and factor sites that depend on it, directly or through deterministic ones."""
    below: dict[str, set[str]] = {n: set() for n in program.sites}
    for edge in edges(program):
        below[edge.parent].add(edge.child)
    through = {n: below[n] if site.kind == "deterministic" else () for n, site in program.sites.items()}
    return {name: {n for n in reachable(through, below[name]) if program.sites[n].kind != "deterministic"} for name in program.sites}


def _warn(words: str, stacklevel: int) -> None:
    warnings.warn(words, PriorDrawWarning, stacklevel=stacklevel + 2)
