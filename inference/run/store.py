"""A run in a folder: draws, statistics and the state of the chains after every chunk, and all that is needed to take it up again.

What is in the folder is described in `results/stored.py`. A chunk's draws are written behind those that are there, then the state, into
the one of two places that does not hold the last one, and at the end, in one atomic replacement of the root's metadata, which of the two
counts and how many draws there are. So whenever the process ends, the folder holds the run as it was after some chunk.

What is there does not depend on where the run takes place: draws by site, vectors of the chains in program order. Of several processes
each writes the draws that it has, and the first one all else, once all have written theirs. Every method is then called by all of them.
"""

import json
import os
import shutil
import uuid
import zlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from ...transforms.errors import StoreError
from ...transforms.processes import in_step, whole
from ..results.export import empty_groups
from ..results.stored import (
    FORMAT,
    GROUPS,
    OWN,
    StoredDraws,
    check_files,
    check_free,
    check_whole,
    checksum_of,
    commit_of,
    damaged,
    quietly,
)
from .batching import Chunk
from .files import Piece, consolidated, file_shape, pieces, replace, shortened, zarr, zarr_writes
from .memory import blocks
from .packing import index_of, packed, unpacked
from .placement import Placement
from .spec import Settings, Snapshot

__all__ = ["Store"]

_SECONDS = 20.0  # a chunk is lost if the process is killed in it
_KIND = {group: kind for groups in GROUPS.values() for kind, group in enumerate(groups)}
_LENGTH = {OWN: "draws"} | {group: "warmup_draws" if warming else "draws" for warming in GROUPS for group in GROUPS[warming]}


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
        self._placement = Placement("")
        self._open: dict[tuple[str, str], Any] = {}  # Zarr arrays by group and site or statistic
        self._last: dict[tuple[str, str], int] = {}  # checksums of the last draws that readers see, where known
        self._described: dict[str, dict[str, Any]] = {}  # metadata of the groups
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
            StoreError: something is there already, or the folder cannot be written, or not all processes see it.
        """
        recipe = {**recipe, "arrays": list(arrays)}
        written = {"format": FORMAT, "versions": recipe["versions"], "settings": settings._asdict(), "found": {}}
        written |= {"sites": [], "stats": [], "commit": None}
        with in_step(f"store {str(path)!r}: making it") as leads:
            if leads:
                cls._make(path, written, recipe, arrays, attributes)
        with in_step(f"store {str(path)!r}: looking for it"):
            if not path.is_dir():
                raise StoreError(
                    f"store {str(path)!r}: the first process has made it, and it is not to be seen here; name a folder in a file system "
                    "that all processes see, at the same path."
                )
        return cls(path, written, recipe, arrays, attributes)

    @staticmethod
    def _make(
        path: Path, written: dict[str, Any], recipe: dict[str, Any], arrays: dict[str, np.ndarray], attributes: dict[str, Any]
    ) -> None:
        """Writes the folder that `create` makes."""
        draft = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.draft")
        try:
            with zarr_writes():
                root = zarr().create_group(draft, zarr_format=3, attributes={**attributes, OWN: written})
                own = root.create_group(OWN, attributes=recipe)
                for name, array in arrays.items():
                    own.create_array(name, data=array, dimension_names=[f"{name}_dim_{axis}" for axis in range(array.ndim)])
            if path.exists():
                path.rmdir()
            os.rename(draft, path)
        except BaseException as e:
            shutil.rmtree(draft, ignore_errors=True)
            if not isinstance(e, OSError):
                raise
            check_free(path)
            raise StoreError(f"store {str(path)!r} cannot be made: {e}. Name a folder that can be written to.") from e

    @classmethod
    def open(cls, path: Path) -> "Store":
        """A folder that is there.

        Raises:
            StoreError: it holds no run, or cannot be read, or files are missing.
        """
        with in_step(f"store {str(path)!r}: opening it"):
            return cls._opened(path)

    @classmethod
    def _opened(cls, path: Path) -> "Store":
        """See `open`."""
        attributes = commit_of(path)
        written = attributes.pop(OWN)
        try:
            check_whole(path)
            with quietly():
                own = zarr().open_group(path / OWN, mode="r", use_consolidated=False)
                recipe = dict(own.attrs)
                check_files(path, {f"{OWN}/{name}": own[name].metadata.to_dict() for name in recipe["arrays"]})
                arrays = {name: np.asarray(own[name]) for name in recipe["arrays"]}
                return cls(path, written, recipe, arrays, attributes)
        except (OSError, KeyError, ValueError, RuntimeError) as e:
            raise e if isinstance(e, StoreError) else damaged(path, e) from e

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
        lock = filelock.FileLock(self.path / ".lock")
        try:
            with in_step(f"store {str(self.path)!r}: locking it") as leads:
                if leads:
                    self._lock(lock)
            yield
        finally:
            lock.release()

    def _lock(self, lock: filelock.BaseFileLock) -> None:
        """See `locked`."""
        shown = repr(str(self.path))
        commit_of(self.path)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise StoreError(
                f"store {shown} is being written by another run, here or in another process; wait for it, or stop it. lc.open_store "
                "reads it meanwhile; a second run needs a store of its own."
            ) from None
        except (OSError, NotImplementedError) as e:  # the latter where the file system has no locks
            raise StoreError(
                f"store {shown} cannot be locked, so that nobody else writes there: {e}. Make the folder writable, or copy it to a file "
                "system that has locks, and go on with the copy: MCMC.resume."
            ) from e
        if commit_of(self.path)[OWN] != json.loads(json.dumps(self._written)):
            raise StoreError(
                f"store {shown}: another run has gone on with it since, and this one cannot; write MCMC.resume({shown}, model=...)."
            )

    def allocate(self, names: tuple[str, ...], chunk: Chunk, snapshot: Snapshot, placement: Placement) -> None:
        """Makes the arrays of a run that has no draws yet; see `Memory.allocate`."""
        self._placement = placement
        values = dict(zip(names, chunk.values, strict=True))
        groups, variables = empty_groups(self.program, values, chunk.stats, self._attributes)
        like = {variables[name]: value for name, value in values.items() if name in variables}, chunk.stats
        warm = (True, False) if self.settings.num_warmup_kept else (False,)
        index, size = index_of(self._portable(snapshot))
        sites = [[name, variables.get(name), list(value.shape), str(value.dtype)] for name, value in values.items()]
        with self._change(sites=sites, stats=list(chunk.stats)):
            with self._step("making the arrays") as leads:
                if leads:
                    for name in (*GROUPS[False], *GROUPS[True]):
                        shutil.rmtree(self.path / name, ignore_errors=True)
                    for warming in warm:
                        for name, group, types in zip(GROUPS[warming], groups, like, strict=True):
                            self._make_group(name, group, types)
                    state = {"shape": (2, size), "chunks": (1, size), "dtype": "uint8", "compressors": None}
                    own = zarr().open_group(self.path / OWN, mode="r+", use_consolidated=False)
                    own.create_array("state", attributes={"index": index}, overwrite=True, dimension_names=["slot", "byte"], **state)
            self._resize()

    def _make_group(self, name: str, group: Any, like: Mapping[str, Any]) -> None:
        """A group of arrays without draws, given the types of the draws by variable."""
        encoding = {v: {"chunks": file_shape(array.shape, array.dtype, like[v])} for v, array in group.data_vars.items()}
        encoding["draw"] = {"chunks": (2**16,)}  # it is empty as yet
        group.to_zarr(self.path, group=name, mode="a", zarr_format=3, consolidated=False, encoding=encoding)
        there = {file.parent.name for file in (self.path / name).glob("*/zarr.json")}
        if there != set(group.variables):
            raise StoreError(
                f"store {str(self.path)!r}: {name} has the folders {sorted(there)} for the variables {sorted(group.variables)}: "
                "this file system takes some of these names for the same. Rename the sites, or choose another file system."
            )

    def _portable(self, snapshot: Snapshot) -> Snapshot:
        """Where the run stands, wherever it takes place. Communicates where this process has not all of it."""
        return snapshot._replace(chains=self._placement.whole_chains(snapshot.chains))

    def load(self, template: Snapshot, placement: Placement) -> None:
        """Reads where the run stands.

        Args:
            template: a snapshot of the same run, whose shapes and dtypes count.
            placement: where the run goes on.

        Raises:
            StoreError: what is there does not fit, or parts of the folder are missing.
        """
        self._placement = placement
        if not self.started:
            return
        template = self._portable(template)
        with self._writing(self._written["commit"]):
            self._resize()
        with self._step("reading it"):
            self.snapshot = self._loaded(template)

    def _loaded(self, template: Snapshot) -> Snapshot:
        """See `load`."""
        assert self._written["commit"] is not None
        try:
            state = np.asarray(self._state[self._written["commit"]["slot"]])
            snapshot = unpacked(template, state, self._state.attrs["index"])
        except (KeyError, ValueError) as e:
            raise damaged(self.path, e) from e
        # Of an interrupted run some chains are longer than what readers see.
        lengths = [self._lengths(int(filled)) for filled in snapshot.filled]
        arrays = {path: data for path, data in self._metadata.items() if not path.startswith(OWN)}
        check_files(self.path, arrays, {path: np.array([of[_LENGTH[path.split("/")[0]]] for of in lengths]) for path in arrays})
        return snapshot

    def grow(self, settings: Settings) -> None:
        """Makes place for more draws."""
        with self._change(settings=settings._asdict()):
            if self.started:
                self._resize()

    def restart(self, found: dict[str, Any]) -> None:
        """Forgets all draws, and notes what was found."""
        with self._change(commit=None, found=found):
            self.snapshot, self._metadata, self._described, self._last = None, {}, {}, {}

    def append(self, chunk: Chunk, filled: np.ndarray, after: Snapshot) -> None:
        before, count = self._written["commit"], whole(chunk.kept.count)
        slot, number = (0, 0) if before is None else (1 - before["slot"], before["chunks"])
        lengths = self._lengths(int(after.filled.min()))
        state = packed(self._portable(after), self._state.shape[1])
        mine = self._mine(chunk)
        with self._change(commit={"slot": slot, "chunks": number + 1, "checksum": zlib.crc32(state.data), **lengths}):
            with self._step("writing draws"):
                for (kind, name), parts in mine.items():
                    for piece in parts:
                        self._write(kind, name, piece, filled, count)
            with self._step("writing the state of the chains") as leads:
                if leads:
                    self._state[slot] = state
                    self._check_last({key: lengths[_LENGTH[key[0]]] for key in self._open})
        self.snapshot = after

    def _mine(self, chunk: Chunk) -> dict[tuple[int, str], list[Piece]]:
        """What this process writes of a chunk, by kind and name."""
        new = {(0, site[0]): value for site, value in zip(self._written["sites"], chunk.values, strict=True) if site[1] is not None}
        new |= {(1, name): stat for name, stat in chunk.stats.items()}
        files = {(_KIND[group], name): array.chunks for (group, name), array in self._open.items()}
        return {key: pieces(value, files[key]) for key, value in new.items()}

    def _check_last(self, rows: dict[tuple[str, str], int]) -> None:
        """Notes the checksum of the last draws that readers will see."""
        unknown = [key for key, row in rows.items() if row and key not in self._last]
        self._last |= {key: checksum_of([self._open[key][:, rows[key] - 1]]) for key in unknown}
        self._written["commit"]["last"] = sum(self._last[key] for key, row in rows.items() if row)

    def draws(self) -> StoredDraws:
        """What is there, to be read."""
        names = tuple(site[0] for site in self._written["sites"])
        empty = {site[0]: (site[2], site[3]) for site in self._written["sites"] if site[1] is None}
        return StoredDraws(self.path, dict(self._open), empty, names, tuple(self._written["stats"]), self.settings.num_warmup_kept)

    def _lengths(self, filled: int) -> dict[str, int]:
        """What readers see of so many draws of a chain."""
        return dict(zip(("warmup_draws", "draws"), self.settings.split(filled), strict=True))

    def _write(self, kind: int, name: str, piece: Piece, filled: np.ndarray, count: np.ndarray) -> None:
        """Writes the rows of a chunk, those of the warm-up into its own group."""
        offset = self.settings.num_warmup_kept
        (own, *rest), new = piece
        beginning = own.indices(len(filled))[0]
        for chains, first, number in blocks(filled[own], count[own]):
            warm = max(0, min(offset - first, number))
            parts = (GROUPS[True][kind], first, slice(0, warm)), (GROUPS[False][kind], first + warm - offset, slice(warm, number))
            for group, start, rows in parts:
                part = new[chains, rows]
                if part.shape[1]:
                    into = slice(beginning + (chains.start or 0), beginning + (chains.start or 0) + len(part))
                    array = self._open[group, name]
                    array[into, start : start + part.shape[1], *rest] = part
                    self._last.pop((group, name), None)
                    if part[:, -1].shape == array.shape[:1] + array.shape[2:]:  # of all chains: what readers see last
                        self._last[group, name] = checksum_of([part[:, -1]])

    def _resize(self) -> None:
        """Opens the arrays and makes them as long as the run will be; readers see no more of them than before."""
        with self._step("making it longer") as leads:
            if leads:
                self._arrays(lengthen=True)
        with self._step("opening its arrays"):
            self._open = self._arrays(lengthen=False)
            self._read_metadata()

    def _arrays(self, lengthen: bool) -> dict[tuple[str, str], Any]:
        """The arrays of draws and statistics, which are made as long as the run will be."""
        settings, found = self.settings, {}
        lengths = {True: settings.num_warmup_kept, False: settings.num_kept - settings.num_warmup_kept}
        names = {site[0]: site[1] for site in self._written["sites"] if site[1] is not None}, {n: n for n in self._written["stats"]}
        for warming, group, variables in [(w, GROUPS[w][k], names[k]) for w in lengths if lengths[w] for k in (0, 1)]:
            opened = zarr().open_group(self.path / group, mode="r+", use_consolidated=False)
            arrays, draw = {name: opened[variable] for name, variable in variables.items()}, opened["draw"]
            if lengthen:
                draw.resize((lengths[warming],))
                draw[:] = np.arange(lengths[warming])  # also where it reads so already: a missing file reads as 0, as the first number is
                for array in arrays.values():
                    if array.shape[1] != lengths[warming]:
                        array.resize((array.shape[0], lengths[warming], *array.shape[2:]))
            found |= {(group, name): array for name, array in arrays.items()}
        return found

    def _read_metadata(self) -> None:
        """Of all arrays and groups."""
        own = zarr().open_group(self.path / OWN, mode="r+", use_consolidated=False)
        self._state = own["state"]
        self._metadata, self._described = {}, {}
        for group in (OWN, *GROUPS[False], *GROUPS[True]):
            members = sorted((self.path / group).glob("*/zarr.json"))
            self._metadata |= {f"{group}/{file.parent.name}": json.loads(file.read_text()) for file in members}
            if members:
                self._described[group] = json.loads((self.path / group / "zarr.json").read_text())
                self._described[group].pop("consolidated_metadata", None)

    def _publish(self) -> None:
        """Says what readers may see: of every group its arrays, cut to the draws that all chains have, and last of the whole."""
        commit = self._written["commit"] or {"warmup_draws": 0, "draws": 0}
        seen: dict[str, Any] = {}
        for group, described in self._described.items():
            cut = {path: shortened(data, commit[_LENGTH[group]]) for path, data in self._metadata.items() if path.startswith(f"{group}/")}
            seen |= {group: described, **cut}
            if group != OWN:
                inside = {path.removeprefix(f"{group}/"): data for path, data in cut.items()}
                replace(self.path / group / "zarr.json", {**described, "consolidated_metadata": consolidated(inside)})
        root = {"attributes": {**self._attributes, OWN: self._written}, "zarr_format": 3, "node_type": "group"}
        replace(self.path / "zarr.json", {**root, "consolidated_metadata": consolidated(seen)})

    @contextmanager
    def _change(self, **news: Any) -> Iterator[None]:
        """Publishes other settings, names or another commit after the block; if that fails nothing has changed."""
        before = self._written
        self._written = {**before, **news}
        try:
            with self._writing(before["commit"]):
                yield
                with self._step("saying what is there") as leads:
                    if leads:
                        self._publish()
        except BaseException:
            self._written, self._last = before, {}
            raise

    def _step(self, what: str) -> AbstractContextManager[bool]:
        """See `in_step`."""
        return in_step(f"store {str(self.path)!r}: {what}")

    @contextmanager
    def _writing(self, commit: dict[str, Any] | None) -> Iterator[None]:
        """Errors of the file system as errors of the store, with as many draws as the commit has."""
        try:
            with zarr_writes():
                yield
        except RuntimeError as e:  # a codec's: the file that a chunk's draws go into is not what was written
            raise damaged(self.path, e) from e
        except OSError as e:
            if isinstance(e, StoreError):
                raise
            kept = "It has no draws as yet" if commit is None else f"The {commit['draws']} draws per chain that were written are intact"
            raise StoreError(
                f"store {str(self.path)!r} cannot be written: {e}. {kept}; make it possible to write, and go on with "
                f"MCMC.resume({str(self.path)!r}, model=...)."
            ) from e
