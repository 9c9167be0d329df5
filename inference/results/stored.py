"""Reading the store of a run: its draws as `Draws`, and as an ArviZ object that loads what is looked at.

A store is a Zarr 3 folder to ArviZ's schema: the groups `posterior`, `sample_stats` and, if the warm-up is kept, `warmup_posterior` and
`warmup_sample_stats`; and `luciole`, which has what a resumed run needs. The arrays are as long as the run will be, and the metadata that
readers see say how much of them is there: it is the last thing that is written after every chunk, in one file, so that a reader never sees
half a chunk.
"""

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...transforms.errors import StoreError

__all__ = ["FORMAT", "GROUPS", "OWN", "StoredDraws", "commit_of", "open_store", "quietly"]

FORMAT = 1
OWN = "luciole"  # the group and the attribute that are ours
GROUPS = {False: ("posterior", "sample_stats"), True: ("warmup_posterior", "warmup_sample_stats")}  # by whether in warm-up


class StoredDraws(NamedTuple):
    """Draws in a store; see `results.record.Draws`.

    Attributes:
        arrays: by group and site or statistic, Zarr arrays (chain, draw, ...).
        empty: by site, shapes, (chain, any number, ...), and dtypes of what has no elements.
        names, stat_names: of the sites and of the statistics.
        offset: number of rows of the warm-up.
    """

    arrays: Mapping[tuple[str, str], Any]
    empty: Mapping[str, tuple[Sequence[int], str]]
    names: tuple[str, ...]
    stat_names: tuple[str, ...]
    offset: int

    def values(self, name: str, rows: slice) -> np.ndarray:
        return self._rows(0, name, rows)

    def stats(self, name: str, rows: slice) -> np.ndarray:
        return self._rows(1, name, rows)

    def _rows(self, kind: int, name: str, rows: slice) -> np.ndarray:
        """Rows of the warm-up or rows after it; nobody asks for both at once."""
        warming = rows.start < self.offset
        shift = 0 if warming else self.offset
        start, stop = rows.start - shift, rows.stop - shift
        if kind == 0 and name in self.empty:
            shape, dtype = self.empty[name]
            return np.zeros((shape[0], stop - start, *shape[2:]), dtype)
        return np.asarray(self.arrays[GROUPS[warming][kind], name][:, start:stop])


def commit_of(path: Path) -> dict[str, Any]:
    """What the store says about itself, under `OWN`, and the attributes for readers.

    Raises:
        StoreError: there is no store, or what is there cannot be read.
    """
    try:
        attributes = json.loads((path / "zarr.json").read_text())["attributes"]
        written = attributes[OWN]
    except FileNotFoundError:
        there = "something else is there" if path.exists() else "there is nothing"
        raise StoreError(
            f"store {str(path)!r}: no run of Luciole found, {there}; name the folder that MCMC(store=...) was given."
        ) from None
    except (KeyError, ValueError, TypeError, OSError) as e:
        raise StoreError(f"store {str(path)!r}: zarr.json cannot be read ({e}); it is no run of Luciole, or damaged.") from e
    if written["format"] > FORMAT:
        raise StoreError(
            f"store {str(path)!r} was written in format {written['format']}, by Luciole {written['versions']['luciole']}; this version "
            f"reads formats up to {FORMAT}. Install a newer Luciole."
        )
    return attributes


def open_store(store: str | os.PathLike[str]) -> Any:
    """The draws of a stored run, so far, as an ArviZ object that loads what is looked at; also while the run goes on.

    An `InferenceData` under ArviZ 0.x, an `xarray.DataTree` under ArviZ 1.x, with the groups `posterior` and `sample_stats` and, if they
    were kept, those of the warm-up. It shows the draws that were there when it was opened. Each chunk of the run is there whole or not at
    all; where the run was interrupted all chains are cut to the shortest. To get the groups that need the model, resume the run:
    `MCMC.resume(store, model=...).to_arviz()`.

    Args:
        store: the folder that `MCMC(store=...)` was given.

    Raises:
        StoreError: there is no run, or no draw yet.
    """
    path = Path(store)
    if commit_of(path)[OWN]["commit"] is None:
        raise StoreError(f"store {str(path)!r}: the run has no draws yet; they are there after its first chunk.")
    import arviz  # heavy: see `export`
    import xarray

    with quietly():
        tree = xarray.open_datatree(str(path), engine="zarr", chunks=None)
    groups = {name: tree[name].to_dataset() for names in GROUPS.values() for name in names if name in tree.children}
    groups = {name: group for name, group in groups.items() if group.sizes.get("draw")}
    attributes = {name: value for name, value in tree.attrs.items() if name != OWN}
    if int(arviz.__version__.partition(".")[0]) == 0:
        return arviz.InferenceData(attrs=attributes, **groups)
    cut = xarray.DataTree.from_dict(groups)
    cut.attrs.update(attributes)
    return cut


class quietly(warnings.catch_warnings):
    """Without Zarr's and xarray's warnings that consolidated metadata and strings may change in the format."""

    def __enter__(self):
        entered = super().__enter__()
        for words in ("Consolidated metadata", ".*does not have a Zarr V3 specification", ".*not recognized as a component"):
            warnings.filterwarnings("ignore", words)
        return entered
