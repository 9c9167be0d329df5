"""The group `log_likelihood`: what is masked is no observation, so it is left out, and `az.loo` counts what is there.

Where the masked elements are whole slices along one axis (rows, usually) the others stay along that axis, with their labels. Where
they are scattered over several axes, those that are left stand along one axis, labelled "row, column". An element that is masked in
some draws only has in those the 0 that the density counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

__all__ = ["Scores", "scores_by_variable"]


@dataclass(frozen=True)
class Scores:
    """Log probabilities of what counts.

    Attributes:
        values: (chain, draw, ...), nats.
        dims: names of the axes after chain and draw.
        labels: by dimension that has become shorter, or is new, the labels of what is left.
        left_out: how many elements are masked.
    """

    values: np.ndarray
    dims: tuple[str, ...]
    labels: Mapping[str, np.ndarray]
    left_out: int


def scores_by_variable(
    values: Mapping[str, np.ndarray], dims: Mapping[str, Sequence[str]], labels: Mapping[str, Sequence[Any]]
) -> dict[str, Scores]:
    """The scores of all sites that have any, by variable. A dimension that is cut for one and not alike for all gets a name of its own.

    Args:
        values: by variable, (chain, draw, ...), nats; NaN is masked.
        dims: by variable, the name of every axis after the first two.
        labels: of the dimensions that have any.
    """
    found = {name: _without_masked(name, value, dims[name], labels) for name, value in values.items()}
    scores = {name: score for name, score in found.items() if score is not None}
    for dim in {d for score in scores.values() for d in score.labels}:
        kept = {tuple(s.labels[dim].tolist()) if dim in s.labels else None for s in scores.values() if dim in s.dims}
        if len(kept) > 1:
            scores = {name: _renamed(score, dim, f"{name}_{dim}") if dim in score.labels else score for name, score in scores.items()}
    return scores


def _renamed(score: Scores, old: str, new: str) -> Scores:
    dims = tuple(new if d == old else d for d in score.dims)
    return replace(score, dims=dims, labels={new if d == old else d: v for d, v in score.labels.items()})


def _without_masked(name: str, values: np.ndarray, dims: Sequence[str], labels: Mapping[str, Sequence[Any]]) -> Scores | None:
    """The scores of one site, or None if there is no observation in it."""
    absent = np.isnan(values)
    never = absent.all(axis=(0, 1))
    if never.all():  # of no elements, too
        return None
    if absent.any():
        values = np.where(absent & ~never, np.zeros((), values.dtype), values)
    if not never.any():
        return Scores(values, tuple(dims), {}, 0)
    named = [np.asarray(labels[d]) if len(labels.get(d, ())) == n else np.arange(n) for d, n in zip(dims, never.shape, strict=True)]
    for axis, dim in enumerate(dims):
        others = tuple(i for i in range(never.ndim) if i != axis)
        whole: Any = np.logical_and.reduce(never, axis=others)
        if (np.expand_dims(whole, others) == never).all():
            return Scores(np.compress(~whole, values, axis + 2), tuple(dims), {dim: named[axis][~whole]}, int(never.sum()))
    places = np.nonzero(~never)
    words = [", ".join(str(labels[i]) for labels, i in zip(named, place, strict=True)) for place in zip(*places, strict=True)]
    scattered = f"{name}_counted"
    return Scores(values[(slice(None), slice(None), *places)], (scattered,), {scattered: np.asarray(words)}, int(never.sum()))
