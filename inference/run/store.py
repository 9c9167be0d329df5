"""A run in a folder: draws, statistics and the state of the chains after every chunk, and all that is needed to take it up again.

What is in the folder is described in `results/stored.py`. A chunk's draws are written behind those that are there, then the state, into
the one of two places that does not hold the last one, and at the end, in one atomic replacement of the root's metadata, which of the two
counts and how many draws there are. So whenever the process ends, the folder holds the run as it was after some chunk.
"""

import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import jax
import numpy as np

from ...transforms.errors import StoreError
from ..results.export import empty_groups
from ..results.stored import FORMAT, GROUPS, OWN, StoredDraws, commit_of, quietly
from .batching import Chunk
from .memory import blocks
from .spec import Settings, Snapshot

__all__ = ["Store", "check_free"]

_SECONDS = 20.0  # a chunk is lost if the process is killed in it
_FILE_BYTES = 2**20
_FILE_DRAWS = 2048  # of all chains; the last file of each array is written anew with every chunk


class Store:
    """A run's folder, open for writing; a `Sink`.

    Args:
        path: the folder.
        written: its changing part: settings, what was found, names, and what was committed.
        recipe, arrays: what `create` was given.
        attributes: for readers.

    Attributes:
        snapshot: where the run stands with the draws that are there; None before the first chunk, or before `load`.
        program: the model, whose plates name dimensions; None for a density that is not one. To be set before draws come.
    """

    seconds = _SECONDS

    def __init__(
        self, path: Path, written: dict[str, Any], recipe: dict[str, Any], arrays: dict[str, np.ndarray], attributes: dict[str, Any]
    ):
        self.path, self.recipe, self.arrays = path, recipe, arrays
        self._written, self._attributes = written, attributes
        self.snapshot: Snapshot | None = None
        self.program: Any = None
        self._open: dict[tuple[str, str], Any] = {}  # Zarr arrays by group and site or statistic
        self._metadata: dict[str, dict[str, Any]] = {}  # of every array, by path
        self._state: Any = None

    @classmethod
    def create(
        cls, path: Path, settings: Settings, recipe: dict[str, Any], arrays: dict[str, np.ndarray], attributes: dict[str, Any]
    ) -> "Store":
        """Makes the folder, which has no draws yet; all of it appears at once.

        Args:
            path: the folder.
            settings: of the run.
            recipe: what the run can be taken up from, in JSON's types, `versions` among it.
            arrays: those that `recipe` refers to.
            attributes: for readers, numbers and words by name.

        Raises:
            StoreError: something is there already, or the folder cannot be written.
        """
        check_free(path)
        draft = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.draft")
        written = {"format": FORMAT, "versions": recipe["versions"], "settings": settings._asdict(), "found": {}}
        written |= {"sites": [], "stats": [], "commit": None}
        try:
            with quietly():
                root = _zarr().create_group(draft, zarr_format=3, attributes={**attributes, OWN: written})
                own = root.create_group(OWN, attributes=recipe)
                for name, array in arrays.items():
                    own.create_array(name, data=array, dimension_names=[f"{name}_dim_{axis}" for axis in range(array.ndim)])
            if path.exists():
                path.rmdir()
            os.rename(draft, path)
        except OSError as e:
            shutil.rmtree(draft, ignore_errors=True)
            raise StoreError(f"store {str(path)!r} cannot be made: {e}. Name a folder that can be written to.") from e
        return cls(path, written, recipe, arrays, attributes)

    @classmethod
    def open(cls, path: Path) -> "Store":
        """A folder that is there.

        Raises:
            StoreError: it holds no run, or cannot be read.
        """
        attributes = commit_of(path)
        written = attributes.pop(OWN)
        try:
            with quietly():
                own = _zarr().open_group(path / OWN, mode="r", use_consolidated=False)
                arrays = {name: np.asarray(own[name]) for name in own.array_keys() if name != "state"}
                return cls(path, written, dict(own.attrs), arrays, attributes)
        except (OSError, KeyError, ValueError) as e:
            raise _damaged(path, e) from e

    @property
    def settings(self) -> Settings:
        """Of the run."""
        given = self._written["settings"]
        return Settings(**{**given, "collect": None if given["collect"] is None else tuple(given["collect"])})

    @property
    def found(self) -> dict[str, Any]:
        """See `Fitted.found`."""
        return self._written["found"]

    @property
    def started(self) -> bool:
        """Whether a chunk has been written."""
        return self._written["commit"] is not None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from writing while the block runs, and makes sure that none has written since.

        Raises:
            StoreError: another one writes, or has written; or the folder cannot be written to.
        """
        shown = repr(str(self.path))
        lock = filelock.FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise StoreError(f"store {shown} is being written by another run; wait for it, or stop it.") from None
        except OSError as e:
            raise StoreError(f"store {shown} cannot be written to: {e}.") from e
        try:
            if commit_of(self.path)[OWN] != json.loads(json.dumps(self._written)):
                raise StoreError(f"store {shown}: another run has gone on with it since; write MCMC.resume({shown}, ...).")
            yield
        finally:
            lock.release()

    def allocate(self, names: tuple[str, ...], chunk: Chunk, snapshot: Snapshot) -> None:
        """Makes the arrays of a run that has no draws yet; see `Memory.allocate`."""
        values = dict(zip(names, chunk.values, strict=True))
        groups, variables = empty_groups(self.program, values, chunk.stats, self._attributes)
        warm = (True, False) if self.settings.num_warmup_kept else (False,)
        index, size = _index_of(snapshot)
        with self._writing():
            for name in (*GROUPS[False], *GROUPS[True]):
                shutil.rmtree(self.path / name, ignore_errors=True)
            for name, group in [pair for warming in warm for pair in zip(GROUPS[warming], groups, strict=True)]:
                encoding = {variable: {"chunks": _file_shape(array)} for variable, array in group.data_vars.items()}
                encoding["draw"] = {"chunks": (2**16,)}  # it is empty as yet
                group.to_zarr(self.path, group=name, mode="a", zarr_format=3, consolidated=False, encoding=encoding)
            state = {"shape": (2, size), "chunks": (1, size), "dtype": "uint8", "compressors": None, "dimension_names": ["slot", "byte"]}
            own = _zarr().open_group(self.path / OWN, mode="r+", use_consolidated=False)
            own.create_array("state", attributes={"index": index}, overwrite=True, **state)
        sites = [[name, variables.get(name), list(value.shape), str(value.dtype)] for name, value in values.items()]
        self._written |= {"sites": sites, "stats": list(chunk.stats)}
        self._resize()
        with self._writing():
            self._publish()

    def load(self, template: Snapshot) -> None:
        """Reads where the run stands.

        Args:
            template: a snapshot of the same run, whose shapes and dtypes count.

        Raises:
            StoreError: what is there does not fit, or parts of the folder are missing.
        """
        if not self.started:
            return
        try:
            self._resize()
            state = np.asarray(self._state[self._written["commit"]["slot"]])
            self.snapshot = _unpacked(template, state, self._state.attrs["index"])
        except (OSError, KeyError, ValueError) as e:
            raise _damaged(self.path, e) from e

    def grow(self, settings: Settings) -> None:
        """Makes place for more draws."""
        self._written["settings"] = settings._asdict()
        if self.started:
            self._resize()
        with self._writing():
            self._publish()

    def restart(self, found: dict[str, Any]) -> None:
        """Forgets all draws, and notes what was found."""
        self.snapshot = None
        self._written |= {"commit": None, "found": found}
        with self._writing():
            self._publish()

    def append(self, chunk: Chunk, filled: np.ndarray, after: Snapshot) -> None:
        before, count = self._written["commit"], np.asarray(chunk.kept.count)
        slot, number = (0, 0) if before is None else (1 - before["slot"], before["chunks"])
        offset, least = self.settings.num_warmup_kept, int(after.filled.min())
        with self._writing():
            for site, value in zip(self._written["sites"], chunk.values, strict=True):
                if site[1] is not None:
                    self._write(0, site[0], np.asarray(value), filled, count)
            for name, stat in chunk.stats.items():
                self._write(1, name, np.asarray(stat), filled, count)
            self._state[slot] = _packed(after, self._state.shape[1])
            lengths = {"warmup_draws": min(offset, least), "draws": max(0, least - offset)}
            self._written["commit"] = {"slot": slot, "chunks": number + 1, **lengths}
            try:
                self._publish()
            except BaseException:
                self._written["commit"] = before
                raise
        self.snapshot = after

    def draws(self) -> StoredDraws:
        """What is there, to be read."""
        names = tuple(site[0] for site in self._written["sites"])
        empty = {site[0]: (site[2], site[3]) for site in self._written["sites"] if site[1] is None}
        return StoredDraws(dict(self._open), empty, names, tuple(self._written["stats"]), self.settings.num_warmup_kept)

    def _write(self, kind: int, name: str, new: np.ndarray, filled: np.ndarray, count: np.ndarray) -> None:
        """Writes the rows of a chunk, those of the warm-up into its own group."""
        offset = self.settings.num_warmup_kept
        for chains, first, number in blocks(filled, count):
            warm = max(0, min(offset - first, number))
            if warm:
                self._open[GROUPS[True][kind], name][chains, first : first + warm] = new[chains, :warm]
            if number > warm:
                start = first + warm - offset
                self._open[GROUPS[False][kind], name][chains, start : start + number - warm] = new[chains, warm:number]

    def _resize(self) -> None:
        """Opens the arrays and makes them as long as the run will be; readers see no more of them than before."""
        settings = self.settings
        lengths = {True: settings.num_warmup_kept, False: settings.num_kept - settings.num_warmup_kept}
        names = {site[0]: site[1] for site in self._written["sites"] if site[1] is not None}, {n: n for n in self._written["stats"]}
        with self._writing():
            for warming, group, variables in [(w, GROUPS[w][k], names[k]) for w in lengths if lengths[w] for k in (0, 1)]:
                opened = _zarr().open_group(self.path / group, mode="r+", use_consolidated=False)
                self._open |= {(group, name): opened[variable] for name, variable in variables.items()}
                opened["draw"].resize((lengths[warming],))
                opened["draw"][:] = np.arange(lengths[warming])
                for variable in variables.values():
                    opened[variable].resize((opened[variable].shape[0], lengths[warming], *opened[variable].shape[2:]))
                self._open |= {(group, name): opened[variable] for name, variable in variables.items()}
            own = _zarr().open_group(self.path / OWN, mode="r+", use_consolidated=False)
            self._state = own["state"]
            self._metadata = {}
            for group in (OWN, *GROUPS[False], *GROUPS[True]):
                for written in sorted((self.path / group).glob("*/zarr.json")):
                    self._metadata[f"{group}/{written.parent.name}"] = json.loads(written.read_text())

    def _publish(self) -> None:
        """Says what readers may see: of every group its arrays, cut to the draws that all chains have, and last of the whole."""
        commit = self._written["commit"] or {"warmup_draws": 0, "draws": 0}
        seen: dict[str, Any] = {}
        for group in (OWN, *GROUPS[False], *GROUPS[True]):
            members = {path: data for path, data in self._metadata.items() if path.startswith(f"{group}/")}
            if not members:
                continue
            rows = commit["warmup_draws" if group in GROUPS[True] else "draws"]
            cut = {path: _cut(data, rows) for path, data in members.items()}
            described = json.loads((self.path / group / "zarr.json").read_text())
            described.pop("consolidated_metadata", None)
            seen |= {group: described, **cut}
            if group != OWN:
                inside = {path.removeprefix(f"{group}/"): data for path, data in cut.items()}
                _replace(self.path / group / "zarr.json", {**described, "consolidated_metadata": _consolidated(inside)})
        root = {"attributes": {**self._attributes, OWN: self._written}, "zarr_format": 3, "node_type": "group"}
        _replace(self.path / "zarr.json", {**root, "consolidated_metadata": _consolidated(seen)} if seen else root)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Errors of the file system as errors of the store."""
        try:
            with quietly():
                yield
        except OSError as e:
            if isinstance(e, StoreError):
                raise
            kept = 0 if self.snapshot is None else int(self.snapshot.filled.min())
            raise StoreError(
                f"store {str(self.path)!r} cannot be written: {e}. The {kept} draws per chain that were written are intact; make it "
                "possible to write, and go on with MCMC.resume."
            ) from e


def _zarr() -> Any:
    """The library; it is heavy, and only runs with a store need it."""
    import zarr

    return zarr


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
        "model=...), or name another folder."
    )


def _damaged(path: Path, error: Exception) -> StoreError:
    return StoreError(f"store {str(path)!r} is damaged: parts of it are missing, cannot be read or do not fit ({error}).")


def _file_shape(array: Any) -> tuple[int, ...]:
    """Of an array (chain, draw, ...), how much of it is in one file."""
    chains, _, *rest = array.shape
    row = max(1, math.prod((chains, *rest)) * array.dtype.itemsize)
    return (chains, max(1, min(_FILE_DRAWS, _FILE_BYTES // row)), *rest)


def _cut(metadata: dict[str, Any], rows: int) -> dict[str, Any]:
    """An array's metadata with that many draws, if it has draws."""
    names = metadata.get("dimension_names") or ()
    return {**metadata, "shape": [rows if name == "draw" else size for name, size in zip(names, metadata["shape"], strict=True)]}


def _consolidated(metadata: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "inline", "must_understand": False, "metadata": metadata}


def _replace(file: Path, content: dict[str, Any]) -> None:
    """Writes a file so that there is the old one or the new one at any time."""
    draft = file.with_name(f"{file.name}.draft")
    draft.write_text(json.dumps(content))
    os.replace(draft, file)


def _leaves(snapshot: Snapshot) -> list[tuple[str, np.ndarray]]:
    return [(jax.tree_util.keystr(path), np.asarray(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(snapshot)]


def _index_of(snapshot: Snapshot) -> tuple[list[list[Any]], int]:
    """Where each array of a snapshot is, (name, dtype, shape, first byte), and how many bytes they have."""
    index, start = [], 0
    for name, array in _leaves(snapshot):
        index.append([name, str(array.dtype), list(array.shape), start])
        start += array.nbytes
    return index, start


def _packed(snapshot: Snapshot, size: int) -> np.ndarray:
    parts = [np.ascontiguousarray(array).reshape(-1).view(np.uint8) for _, array in _leaves(snapshot)]
    packed = np.concatenate(parts)
    if packed.size != size:
        raise AssertionError("a snapshot of another size than the first")
    return packed


def _unpacked(template: Snapshot, packed: np.ndarray, index: list[list[Any]]) -> Snapshot:
    """The snapshot that was packed.

    Raises:
        ValueError: it is not like the template.
    """
    treedef = jax.tree_util.tree_structure(template)
    wanted = [[name, str(array.dtype), list(array.shape)] for name, array in _leaves(template)]
    for want, have in zip(wanted, [entry[:3] for entry in index], strict=True):
        if want != have:
            raise ValueError(f"the state of the chains has {have}, expected {want}")
    found = [np.frombuffer(packed.tobytes(), d, math.prod(s), start).reshape(s) for _, d, s, start in index]
    return jax.tree_util.tree_unflatten(treedef, found)
