"""The log probability of each row that is independent of all others given the continuous latent sites x:

    log p(y_n | x) = log p(y_n, x) - log p(x),    states summed out of both,

which is what leave-one-out cross-validation takes. Rows are found, not declared: they are what is left of the axes when no state is. So a
row is an item with the labels of all its annotators, an animal with its whole history, a sequence with all of its turns; and it is
everything, where one state is shared by all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from ...transforms.graph import united
from .choices import LogSum
from .factor import Factor, added_up, laid_out, picked
from .labels import Label
from .lifted import Walk
from .marginal import summed_out, walked
from .report import Report

__all__ = ["Rows", "marginal_rows"]


@dataclass(frozen=True)
class Rows:
    """Log probabilities of rows, nats; NaN where nothing is observed.

    Attributes:
        sites: the observed sites whose elements a row has, in the order of the program.
        axes: for each axis of the array a site that has it, and which of that site's axes it is.
    """

    sites: tuple[str, ...]
    axes: tuple[tuple[str, int], ...]
    array: Any


def marginal_rows(program: Any, data: Sequence[Any], values: Mapping[str, Any], counted: Mapping[str, Any]) -> list[Rows]:
    """Of the observed sites that depend on states that are summed out. What `handlers.scale` says plays no part.

    Args:
        program: see `marginal_log_density`. values: constrained.
        counted: by observed site, which of its events are observations: not masked, in one state at least.
    """
    report = Report(None)
    walk = walked(program, data, values, unconstrained=False, weighted=False, report=report)
    chains = walk.shared.chains
    observed = [n for n, s in program.sites.items() if s.role == "observed"]
    whole = summed_out(walk.factors, chains, LogSum(), report)
    before = [f for f in walk.factors if not f.sites & {*observed}]
    before = summed_out(before, [c.without(observed) for c in chains], LogSum(), report)
    found = []
    for sites in united(f.sites for f in whole):
        names = tuple(n for n in observed if n in sites)
        if names and sites & program.enumerated:
            full, given = ([f for f in factors if f.sites & sites] for factors in (whole, before))
            axes = _axes(walk, program, [*names, *sorted(sites & program.enumerated)], [*full, *given])
            labels = [label for label, _ in axes]
            total = sum(_by_row(f, labels) for f in full) - sum(_by_row(f, labels) for f in given)
            there = sum(_by_row(_counts(walk, program, n, counted[n], labels), labels) for n in names)
            found.append(Rows(names, tuple(axis for _, axis in axes), jnp.where(there > 0, total, jnp.nan)))
    return found


def _labels(walk: Walk, program: Any, name: str) -> list[Label | None]:
    """The label of each axis of a site's value, events left out."""
    site, shared = program.sites[name], walk.shared
    turns = [c.rows for c in shared.chains if name in c.sites]
    if name in shared.enumerated:
        own = [shared.axes.get((name, a)) for a in range(len(site.spec.shape))]
    else:
        own = list(shared.rows[name])
    return [*(turns or [None] * len(site.loops)), *own]


def _axes(walk: Walk, program: Any, names: Sequence[str], factors: Sequence[Factor]) -> list[tuple[Label, tuple[str, int]]]:
    """The labels that all factors have, each with the site and the axis where it is found first."""
    everywhere = [label.root for label in factors[0].labels] if factors else []
    everywhere = [label for label in everywhere if all(any(label is own.root for own in f.labels) for f in factors)]
    found: list[tuple[Label, tuple[str, int]]] = []
    for name in names:
        for axis, label in enumerate(_labels(walk, program, name)):
            if label is not None and any(label.root is e for e in everywhere) and not any(label.root is f for f, _ in found):
                found.append((label.root, (name, axis)))
    return found


def _by_row(factor: Factor, labels: Sequence[Label]) -> Any:
    return laid_out(added_up(factor, {id(label) for label in labels}), (), labels)


def _counts(walk: Walk, program: Any, name: str, counted: Any, rows: Sequence[Label]) -> Factor:
    """How many events are observed, by the labels of their axes, or by those of `rows` whose elements these pick."""
    labels = _labels(walk, program, name)
    array = counted.astype(float).sum(tuple(a for a, label in enumerate(labels) if label is None))
    return picked(Factor(array, (), tuple(label.root for label in labels if label is not None)), {id(label) for label in rows})
