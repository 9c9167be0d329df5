"""A log density on its data as one that reads less of them: what a sampler runs, the same number to rounding.

Sums over the elements of a site that are squares of something linear, a Gaussian regression's for one, need as many rows as there are
coefficients; and rows that are the same need to be evaluated once. `transforms.compression` proves both from the equations. Everything that
is read of a finished run, and `lc.log_density` itself, keep the program as it was written.
"""

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer, eval_jaxpr

from ..transforms.compression import Specialised, specialise
from ..transforms.jax_compat import open_jaxpr
from ..transforms.partial import Split, split
from .density import LogDensity

__all__ = ["CompressedDensity", "SiteRows", "compressed"]

_log = logging.getLogger("luciole")
_NOTHING = 20  # elements of a sum that is not worth a word


@dataclass(frozen=True)
class SiteRows:
    """What became of the rows of a site. before, after: how many are evaluated; the same if it stays. reason: why it does."""

    site: str
    before: int
    after: int
    reason: str = ""

    def __str__(self) -> str:
        return f"site {self.site!r}: {self.before} rows" + (f" -> {self.after}" if self.after < self.before else f" stay: {self.reason}")


@dataclass(frozen=True, repr=False)
class CompressedDensity:
    """The log density of (data, arrays, position).

    Attributes:
        density: the whole one.
        arrays: what is computed from the data, once.
        rows: what became of each site.
    """

    density: LogDensity
    arrays: tuple[np.ndarray, ...]
    rows: tuple[SiteRows, ...]
    scored: Split

    def prepare(self, leaves: Sequence[Any]) -> list[Any]:
        """What reads the data and the arrays alone."""
        return self.scored.prepare(leaves)

    def evaluate(self, prepared: Sequence[Any], position: Mapping[str, Any]) -> jax.Array:
        """See `LogDensity.evaluate`."""
        values = jax.tree.leaves({n: jnp.asarray(position[n], s.dtype) for n, s in self.density.positions.items()})
        return self.scored.rest(prepared, values)[0]


def compressed(density: Any) -> CompressedDensity | None:
    """The density from less of its data, or None if nothing is gained.

    Data that are traced, stay in a file or lie on several devices are left alone, and so is a density that is no model's.
    """
    if not isinstance(density, LogDensity) or not all(map(_is_here, density.data)):
        return None
    names, jaxpr = _by_site(density)
    try:
        found = specialise(jaxpr, density.data)
    except Exception as e:  # the density as it was written is always right: a fault here ends no run
        _log.warning(
            "rows are left as they are, as the attempt to compress them failed (%s: %s); compress=False leaves it out", type(e).__name__, e
        )
        return None
    rows = tuple(r for r in _rows(names, found) if r.after < r.before or r.site not in density.program.latents)
    for site in rows:
        _log.log(logging.INFO if site.after < site.before else logging.DEBUG, "%s", site)
    if not found.arrays:
        return None
    number = len(density.data)

    jaxpr, consts = open_jaxpr(found.jaxpr)

    def total(leaves: Sequence[Any], position: Sequence[Any]) -> Any:
        return functools.reduce(jnp.add, eval_jaxpr(jaxpr, consts, *leaves, *position))

    program = jax.make_jaxpr(total)([*density.data, *found.arrays], jax.tree.leaves(density.positions))
    return CompressedDensity(density, tuple(found.arrays), rows, split(program, number + len(found.arrays)))


def _is_here(x: Any) -> bool:
    return not isinstance(x, (Tracer, np.memmap)) and not (isinstance(x, jax.Array) and len(x.sharding.device_set) > 1)


def _by_site(density: LogDensity) -> tuple[list[str], Any]:
    """Names, and the log density of each as a jaxpr of (data, position); where discrete sites are summed out it has no parts."""
    skeleton, names = density.skeleton, ["the model"]
    if density.program.enumerated:
        return names, jax.make_jaxpr(lambda data, position: [skeleton.total(data, position)])(density.data, skeleton.positions)

    def scores(data: Sequence[Any], position: Mapping[str, Any]) -> list[Any]:
        found = skeleton.scores(data, position)
        names[:] = found
        return list(found.values())

    return names, jax.make_jaxpr(scores)(density.data, skeleton.positions)


def _rows(names: Sequence[str], found: Specialised) -> tuple[SiteRows, ...]:
    """Of sites with sums that are worth a word: the largest."""
    largest = {}
    for s in found.sums:
        name = names[s.output]
        if s.before >= _NOTHING and (name not in largest or largest[name].before < s.before):
            largest[name] = SiteRows(name, s.before, s.after, s.reason)
    return tuple(largest.values())
