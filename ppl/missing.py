"""Observations that are given in part: which elements are missing, and a place for each of them in the position.

`sample(name, fn, obs=y, obs_mask=given)` is two sites, as in NumPyro: `name_observed`, scored where `given`, and `name_unobserved`, the
latent rest; what the statement returns is put together from both and recorded under `name`. Inside the program the latent site has its
whole shape, step by step. To everybody outside it has one element for each missing one, (number missing, *event), in the order of the
whole array (loops first): the mask is computed from the data alone, by a program of its own, when the model is traced.

Where that cannot be (the mask depends on a latent site, or the data are traced themselves) the site keeps its whole shape, and its
coordinates at given elements, which touch nothing, have a standard normal density.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ..transforms.equations import run_jaxpr
from ..transforms.jax_compat import live_jaxpr, open_jaxpr
from .spec import Spec
from .walker import Rule, walk

__all__ = ["Missing", "find_missing"]


@dataclass(frozen=True, eq=False)
class Missing:
    """The missing elements of a program's sites.

    Attributes:
        counts: how many elements are missing, by the latent site's name; only sites whose mask is computed from the data alone.
        shapes: the shapes of their masks: loops, `vmap` axes, batch.
        jaxpr: from the data to the masks, True where missing, in the order of `counts`; and its constants.
        reads: the numbers of the data that it takes.
        masks: the masks for the data that the model was traced with, for checks on the host; no part of the program.
    """

    counts: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    jaxpr: tuple[Any, Sequence[Any]] = (None, ())
    reads: tuple[int, ...] = ()
    masks: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def absent(self) -> set[str]:
        """Sites that have no missing element: nobody outside sees them."""
        return {n for n, count in self.counts.items() if count == 0}

    def rule(self, rule: Rule) -> Rule:
        """The rule for the sites that there are; the others, behind a mask that is nowhere True, are zero."""

        def present(spec: Spec, operands: Sequence[Any], given: Any) -> tuple[Any, Any]:
            return (jnp.zeros(spec.shape, spec.dtype), None) if spec.name in self.absent else rule(spec, operands, given)

        return present if self.absent else rule

    def spread(self, data: Sequence[Any], values: Mapping[str, Any]) -> dict[str, Any]:
        """`values` by site with those of missing elements in their places in the whole array, and zero elsewhere."""
        where = self._places(data, values)
        return {n: self._spread(n, where[n], jnp.asarray(v)) if n in where else v for n, v in values.items()}

    def spread_at(self, spec: Spec, operands: Sequence[Any], value: Any) -> Any:
        """`spread` for one site that stands in no loop, from the operands of its equation."""
        if not self.counts.get(spec.name):
            return value
        mask = spec.apply(lambda dist, scale, missing: missing, operands)
        return self._spread(spec.name, _places(mask, self.counts[spec.name]), jnp.asarray(value))

    def gather(self, data: Sequence[Any], values: Mapping[str, Any]) -> dict[str, Any]:
        """The other way: of whole arrays, the missing elements."""
        where = self._places(data, values)
        return {n: self._flat(n, v)[where[n]] if n in where else v for n, v in values.items()}

    def _places(self, data: Sequence[Any], names: Mapping[str, Any]) -> dict[str, Any]:
        counts = {n: count for n, count in self.counts.items() if count and n in names}
        if not counts:
            return {}
        masks = dict(zip(self.counts, run_jaxpr(*self.jaxpr, [data[i] for i in self.reads]), strict=True))
        return {n: _places(masks[n], count) for n, count in counts.items()}

    def _spread(self, name: str, where: Any, value: Any) -> Any:
        shape = self.shapes[name]
        whole = jnp.zeros((math.prod(shape), *value.shape[1:]), value.dtype)
        return whole.at[where].set(value, unique_indices=True, indices_are_sorted=True).reshape(*shape, *value.shape[1:])

    def _flat(self, name: str, value: Any) -> Any:
        shape = self.shapes[name]
        return jnp.reshape(value, (math.prod(shape), *value.shape[len(shape) :]))


def _places(mask: Any, count: int) -> Any:
    """Where a mask is True, of the array made flat."""
    return jnp.nonzero(jnp.reshape(mask, -1), size=count)[0]


def find_missing(jaxpr: Any, data: Sequence[Any], latents: Mapping[str, jax.ShapeDtypeStruct], imputed: Sequence[str]) -> Missing:
    """Which elements of a traced model's `imputed` sites are missing.

    Args:
        jaxpr: the model's, closed. data: its constants.
        latents: shape and dtype of the values of all its latent sites, loops leading, as the program has them.
        imputed: the names of the sites in question.
    """
    masks = functools.partial(_masks, jaxpr)
    whole = jax.make_jaxpr(masks)(tuple(data), dict(latents))
    names = list(jax.eval_shape(masks, tuple(data), dict(latents)))
    known = [n in imputed and not any(live_jaxpr(whole, [m == n for m in names])[1][len(data) :]) for n in names]
    live, used = live_jaxpr(whole, known)
    reads = tuple(i for i in range(len(data)) if used[i])
    if not any(known) or any(isinstance(data[i], Tracer) for i in reads):
        return Missing()
    opened = open_jaxpr(live)
    run = functools.partial(run_jaxpr, *opened)
    found = (jax.jit(run) if opened[0].eqns else run)([data[i] for i in reads])
    by_name = {n: np.asarray(m) for n, m in zip([n for n, k in zip(names, known, strict=True) if k], found, strict=True)}
    return Missing(
        counts={n: int(np.count_nonzero(m)) for n, m in by_name.items()},
        shapes={n: m.shape for n, m in by_name.items()},
        jaxpr=opened,
        reads=reads,
        masks=by_name,
    )


def _masks(jaxpr: Any, data: Sequence[Any], latents: Mapping[str, Any]) -> dict[str, Any]:
    """The masks of all imputed sites, sorted by name, whatever latent values they are computed from."""

    def rule(spec: Spec, operands: Sequence[Any], value: Any) -> tuple[Any, Any]:
        if not spec.latent:
            return operands[0 if spec.kind == "deterministic" else spec.num_leaves], None
        return value, spec.apply(lambda dist, scale, missing: missing, operands) if spec.imputed else None

    return dict(sorted(walk(jaxpr, data, rule, latents)[1].items()))
