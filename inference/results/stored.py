"""Reading the store of a run: its draws as `Draws`, and as an ArviZ object that loads what is looked at.

A store is a Zarr 3 folder to ArviZ's schema: the groups `posterior`, `sample_stats` and, if the warm-up is kept, `warmup_posterior` and
`warmup_sample_stats`; and `luciole`, which has what a resumed run needs. The arrays are as long as the run will be, and the metadata that
readers see say how much of them is there: it is the last thing that is written after every chunk, in one file, so that a reader never sees
half a chunk.
"""

import itertools
import json
import os
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from ...transforms.errors import StoreError
from .export import as_arviz

__all__ = [
    "FORMAT",
    "GROUPS",
    "OWN",
    "StoredDraws",
    "check_files",
    "check_free",
    "check_whole",
    "checksum_of",
    "commit_of",
    "damaged",
    "open_store",
    "path_of",
    "quietly",
]

FORMAT = 1
OWN = "luciole"  # the group and the attribute that are ours
GROUPS = {False: ("posterior", "sample_stats"), True: ("warmup_posterior", "warmup_sample_stats")}  # by whether in warm-up


class StoredDraws(NamedTuple):
    """Draws in a store; see `results.record.Draws`.

    Attributes:
        path: of the store.
        arrays: by group and site or statistic, Zarr arrays (chain, draw, ...).
        empty: by site, shapes, (chain, any number, ...), and dtypes of what has no elements.
        names, stat_names: of the sites and of the statistics.
        offset: number of rows of the warm-up.
    """

    path: Path
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
        try:
            return np.asarray(self.arrays[GROUPS[warming][kind], name][:, start:stop])
        except (OSError, RuntimeError) as e:  # the latter is what a codec raises
            raise damaged(self.path, f"{GROUPS[warming][kind]}/{name}: {e}") from e


def path_of(store: Any) -> Path:
    """The folder of a store, so that it stays the same when the process goes to another directory.

    Raises:
        StoreError: it is no path of a folder.
    """
    if not isinstance(store, (str, os.PathLike)) or not isinstance(os.fspath(store), str) or not str(store):
        raise StoreError(f"store is {store!r}, the path of a folder expected; write store='run.zarr'.")
    if "://" in str(store):
        raise StoreError(f"store is {str(store)!r}, the path of a folder on this machine expected, not a URL; write store='run.zarr'.")
    path = Path(os.path.abspath(Path(store).expanduser()))
    if path.exists() and not path.is_dir():
        raise StoreError(f"store {str(path)!r} is a file, a folder expected; name a folder, store='run.zarr'.")
    return path


def commit_of(path: Path) -> dict[str, Any]:
    """What the store says about itself, under `OWN`, and the attributes for readers.

    Raises:
        StoreError: there is no store, or what is there cannot be read.
    """
    try:
        attributes = _root_of(path)["attributes"]
        written, format = attributes[OWN], attributes[OWN]["format"]
    except FileNotFoundError:
        there = "something else is there" if path.exists() else "there is nothing"
        raise StoreError(
            f"store {str(path)!r}: no run of Luciole found, {there}; name the folder that MCMC(store=...) was given."
        ) from None
    except (KeyError, ValueError, TypeError, OSError) as e:
        raise StoreError(
            f"store {str(path)!r}: its zarr.json is not that of a run ({type(e).__name__}: {e}); it is no run of Luciole, or damaged. Name "
            "the folder that MCMC(store=...) was given, or take a copy of it that is whole."
        ) from e
    if format > FORMAT:
        raise StoreError(
            f"store {str(path)!r} was written in format {format}, by Luciole {written['versions']['luciole']}; this version "
            f"reads formats up to {FORMAT}. Install a newer Luciole."
        )
    return attributes


def _root_of(path: Path) -> dict[str, Any]:
    return json.loads((path / "zarr.json").read_text())


def damaged(path: Path, found: Any) -> StoreError:
    """The error of a folder that is not as it was written."""
    return StoreError(
        f"store {str(path)!r} is damaged, parts of it are missing, cannot be read or do not fit: {found}. Copy it again from where it is "
        "whole, while no run writes there; or run anew, with another store."
    )


def check_whole(path: Path) -> None:
    """Looks whether all that has been committed is there: Zarr reads a file that is missing as fill values, without a word.

    Raises:
        StoreError: names a file that is missing, or empty, or of another chunk than the last.
    """
    while True:
        root = _root_of(path)
        commit, arrays = root["attributes"][OWN]["commit"], root.get("consolidated_metadata", {}).get("metadata", {})
        try:
            check_files(path, {name: of for name, of in arrays.items() if name != f"{OWN}/state" and (commit or name.split("/")[0] == OWN)})
            if commit is not None:
                _check_state(path, commit)
                _check_last(path, commit, [name for name, of in arrays.items() if of.get("dimension_names", ())[:2] == ["chain", "draw"]])
            return
        except StoreError:
            if root == _root_of(path):  # else the run went on meanwhile
                raise


def check_files(path: Path, arrays: Mapping[str, Any], rows: Mapping[str, np.ndarray] = MappingProxyType({})) -> None:
    """Looks for the files of arrays and groups.

    Args:
        path: of the store.
        arrays: metadata by path inside.
        rows: of arrays that have draws how many there are of each chain, (chain,), by path inside; else as many as the metadata says.

    Raises:
        StoreError: names one that is missing or empty.
    """
    for name, metadata in arrays.items():
        files = [path / name / "zarr.json"]
        if metadata["node_type"] == "array":
            shape, of = metadata["shape"], metadata["chunk_grid"]["configuration"]["chunk_shape"]
            numbers = itertools.product(*(range(-(-size // part)) for size, part in zip(shape, of, strict=True)))
            if name in rows:
                numbers = _written(numbers, metadata, of, rows[name])
            files += [path.joinpath(name, "c", *map(str, number)) for number in numbers]
        for file in files:
            _check_file(path, file)


def _written(numbers: Iterable[tuple[int, ...]], metadata: Mapping[str, Any], of: Sequence[int], rows: np.ndarray) -> Any:
    """Those files of an array that have draws, given how many there are of each chain."""
    names = metadata["dimension_names"]
    if "draw" not in names:
        return numbers
    draw = names.index("draw")
    longest = [rows[i : i + of[0]].max() for i in range(0, len(rows), of[0])] if draw == 1 else [rows.max()]
    return [number for number in numbers if number[draw] * of[draw] < longest[number[0] if draw == 1 else 0]]


def _check_file(path: Path, file: Path) -> None:
    if not file.is_file() or not file.stat().st_size:
        raise damaged(path, f"the file {file.relative_to(path).as_posix()} is {'empty' if file.exists() else 'missing'}")


def _check_state(path: Path, commit: Mapping[str, Any]) -> None:
    """Looks whether the state of the chains is the one that was committed."""
    file = path / OWN / "state" / "c" / str(commit["slot"]) / "0"
    _check_file(path, path / OWN / "state" / "zarr.json")
    _check_file(path, file)
    if zlib.crc32(file.read_bytes()) != commit["checksum"]:
        raise damaged(path, f"the file {file.relative_to(path).as_posix()} is of another time than zarr.json, or cut off")


def _check_last(path: Path, commit: Mapping[str, Any], names: Sequence[str]) -> None:
    """Looks whether the last draws are there: a file that was copied before they came has zeros or NaN in their place."""
    import zarr  # heavy: only stores need it

    try:
        with quietly():
            root: Any = zarr.open_group(path, mode="r")
            found = checksum_of([root[name][:, -1] for name in names if root[name].shape[1]])
    except (RuntimeError, ValueError) as e:  # the former is what a codec raises
        raise damaged(path, f"the last draws cannot be read, {e}") from e
    if found != commit["last"]:
        raise damaged(path, "the last draws in posterior or sample_stats are of another time than zarr.json")


def checksum_of(rows: Sequence[Any]) -> int:
    """Of arrays in any order."""
    return sum(zlib.crc32(np.asarray(row).tobytes()) for row in rows)


def open_store(store: str | os.PathLike[str]) -> Any:
    """The draws of a stored run, so far, as an ArviZ object that loads what is looked at; also while the run goes on.

    An `InferenceData` under ArviZ 0.x, an `xarray.DataTree` under ArviZ 1.x, with the groups `posterior` and `sample_stats` and, if they
    were kept, those of the warm-up. It shows the draws that were there when it was opened. Each chunk of the run is there whole or not at
    all; where the run was interrupted all chains are cut to the shortest. To get the groups that need the model, resume the run:
    `MCMC.resume(store, model=...).to_arviz()`.

    Args:
        store: the folder that `MCMC(store=...)` was given.

    Raises:
        StoreError: there is no run, or no draw yet; or files are missing.
    """
    path = path_of(store)
    commit = commit_of(path)[OWN]["commit"]
    check_whole(path)
    if commit is None or not commit["draws"] + commit["warmup_draws"]:
        raise StoreError(
            f"store {str(path)!r}: the run has no draws yet"
            + ("; they are there after its first chunk." if commit is None else ", it is in its warm-up.")
            + " Open it later, or go on with it if it was stopped: MCMC.resume."
        )
    import xarray  # heavy: see `export`

    with quietly():
        tree = xarray.open_datatree(str(path), engine="zarr", chunks=None)
    groups: dict[str, Any] = {name: tree[name].to_dataset() for names in GROUPS.values() for name in names if name in tree.children}
    groups = {name: group for name, group in groups.items() if group.sizes.get("draw")}
    return as_arviz(groups, {str(name): value for name, value in tree.attrs.items() if name != OWN})


def check_free(path: Path) -> None:
    """Refuses a folder in which there is something.

    Raises:
        StoreError: there is.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    shown = repr(str(path))
    try:
        commit = commit_of(path)[OWN]["commit"]
    except StoreError:
        raise StoreError(f"store {shown}: something else is there, and is not overwritten; name another folder.") from None
    draws = 0 if commit is None else commit["draws"]
    raise StoreError(
        f"store {shown}: a run with {draws} draws per chain is there, and is not overwritten. Go on with it, MCMC.resume({shown}, "
        "model=...); or name another folder, or remove this one."
    )


@contextmanager
def quietly() -> Iterator[None]:
    """Without Zarr's and xarray's warnings that consolidated metadata and strings may change in the format."""
    with warnings.catch_warnings():
        for words in ("Consolidated metadata", ".*does not have a Zarr V3 specification", ".*not recognized as a component"):
            warnings.filterwarnings("ignore", words)
        yield
