"""A run in a folder: draws, statistics and the state of the chains after every chunk, and all that is needed to take it up again.

What is in the folder is described in `results/stored.py`. A chunk's draws are written behind those that are there, then the state, into
the one of two places that does not hold the last one, and at the end, in one atomic replacement of the root's metadata, which of the two
counts and how many draws there are. So whenever the process ends, the folder holds the run as it was after some chunk.

What is there does not depend on where the run takes place: draws by site, vectors of the chains in program order. Of several processes
each writes the draws that it has, and the first one all else, once all have written theirs. Every method is then called by all of them.
"""

import json
import zlib
from collections.abc import Iterator
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
    check_whole,
    checksum_of,
    commit_of,
    damaged,
    quietly,
)
from .batching import Chunk
from .folder import LENGTH, Folder, make_folder, zarr, zarr_writes
from .memory import blocks
from .packing import index_of, packed, unpacked
from .pieces import Piece, pieces
from .placement import Placement
from .spec import Settings, Snapshot

__all__ = ["Store"]

_SECONDS = 20.0  # a chunk is lost if the process is killed in it
_KIND = {group: kind for groups in GROUPS.values() for kind, group in enumerate(groups)}


class Store:
    """A run's folder, open for writing; a `Sink`.

    Args:
        path: the folder.
        written: its changing part: settings, what was found, names, and what was committed.
        recipe, arrays: what `create` was given.
        attributes: for readers.
        shared: whether the run goes over several processes, and all write.

    Attributes:
        snapshot: where the run stands with the draws that are there; None before the first chunk, or before `load`.
        program: the model, whose plates name dimensions; None for a density that is not one. To be set before draws come.
    """

    seconds = _SECONDS

    def __init__(
        self,
        path: Path,
        written: dict[str, Any],
        recipe: dict[str, Any],
        arrays: dict[str, np.ndarray],
        attributes: dict[str, Any],
        shared: bool,
    ):
        self._shared = shared
        self.path, self.recipe, self.arrays = path, recipe, arrays
        self._written, self._attributes = written, attributes
        self.snapshot: Snapshot | None = None
        self.program: Any = None
        self._placement = Placement("")
        self._last: dict[tuple[str, str], int] = {}  # checksums of the last draws that readers see, where known
        self._folder = Folder(path, attributes)

    @classmethod
    def create(
        cls,
        path: Path,
        settings: Settings,
        recipe: dict[str, Any],
        arrays: dict[str, np.ndarray],
        attributes: dict[str, Any],
        shared: bool = False,
    ) -> "Store":
        """Makes the folder, which has no draws yet; all of it appears at once.

        Args:
            path: the folder.
            settings: of the run.
            recipe: what the run can be taken up from, in JSON's types, `versions` among it.
            arrays: those that `recipe` refers to.
            attributes: for readers, numbers and words by name.
            shared: see `Store`.

        Raises:
            StoreError: something is there already, or the folder cannot be written, or not all processes see it.
        """
        recipe = {**recipe, "arrays": list(arrays)}
        written = {"format": FORMAT, "versions": recipe["versions"], "settings": settings._asdict(), "found": {}}
        written |= {"sites": [], "stats": [], "commit": None}
        with in_step(f"store {str(path)!r}: making it", shared) as leads:
            if leads:
                make_folder(path, written, recipe, arrays, attributes)
        with in_step(f"store {str(path)!r}: looking for it", shared):
            if not path.is_dir():
                raise StoreError(
                    f"store {str(path)!r}: the first process has made it, and it is not to be seen here; name a folder in a file system "
                    "that all processes see, at the same path."
                )
        return cls(path, written, recipe, arrays, attributes, shared)

    @classmethod
    def open(cls, path: Path, shared: bool = False) -> "Store":
        """A folder that is there.

        Args:
            path: the folder.
            shared: see `Store`.

        Raises:
            StoreError: it holds no run, or cannot be read, or files are missing.
        """
        with in_step(f"store {str(path)!r}: opening it", shared):
            return cls._opened(path, shared)

    @classmethod
    def _opened(cls, path: Path, shared: bool) -> "Store":
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
                return cls(path, written, recipe, arrays, attributes, shared)
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
            with self._step("locking it") as leads:
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
        made = {name: (group, of) for warming in warm for name, group, of in zip(GROUPS[warming], groups, like, strict=True)}
        with self._change(sites=sites, stats=list(chunk.stats)):
            with self._step("making the arrays") as leads:
                if leads:
                    self._folder.make(made, index, size)
            self._resize()

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
            state = np.asarray(self._folder.state[self._written["commit"]["slot"]])
            snapshot = unpacked(template, state, self._folder.state.attrs["index"])
        except (KeyError, ValueError) as e:
            raise damaged(self.path, e) from e
        # Of an interrupted run some chains are longer than what readers see.
        lengths = [self._lengths(int(filled)) for filled in snapshot.filled]
        arrays = {path: data for path, data in self._folder.metadata.items() if not path.startswith(OWN)}
        check_files(self.path, arrays, {path: np.array([of[LENGTH[path.split("/")[0]]] for of in lengths]) for path in arrays})
        return snapshot

    def grow(self, settings: Settings) -> None:
        """Makes place for more draws."""
        with self._change(settings=settings._asdict()):
            if self.started:
                self._resize()

    def restart(self, found: dict[str, Any]) -> None:
        """Forgets all draws, and notes what was found."""
        with self._change(commit=None, found=found):
            self.snapshot, self._last = None, {}
            self._folder.forget()

    def append(self, chunk: Chunk, filled: np.ndarray, after: Snapshot) -> None:
        before, count = self._written["commit"], whole(chunk.kept.count)
        slot, number = (0, 0) if before is None else (1 - before["slot"], before["chunks"])
        lengths = self._lengths(int(after.filled.min()))
        state = packed(self._portable(after), self._folder.state.shape[1])
        mine = self._mine(chunk)
        with self._change(commit={"slot": slot, "chunks": number + 1, "checksum": zlib.crc32(state.data), **lengths}):
            if self._shared:
                self._last = {}  # others write, too
            with self._step("writing draws"):
                for (kind, name), parts in mine.items():
                    for piece in parts:
                        self._write(kind, name, piece, filled, count)
            with self._step("writing the state of the chains") as leads:
                if leads:
                    self._folder.state[slot] = state
                    self._check_last({key: lengths[LENGTH[key[0]]] for key in self._folder.arrays})
        self.snapshot = after

    def _mine(self, chunk: Chunk) -> dict[tuple[int, str], list[Piece]]:
        """What this process writes of a chunk, by kind and name."""
        new = {(0, site[0]): value for site, value in zip(self._written["sites"], chunk.values, strict=True) if site[1] is not None}
        new |= {(1, name): stat for name, stat in chunk.stats.items()}
        files = {(_KIND[group], name): array.chunks for (group, name), array in self._folder.arrays.items()}
        return {key: pieces(value, files[key]) for key, value in new.items()}

    def _check_last(self, rows: dict[tuple[str, str], int]) -> None:
        """Notes the checksum of the last draws that readers will see."""
        unknown = [key for key, row in rows.items() if row and key not in self._last]
        self._last |= {key: checksum_of([self._folder.arrays[key][:, rows[key] - 1]]) for key in unknown}
        self._written["commit"]["last"] = sum(self._last[key] for key, row in rows.items() if row)

    def draws(self) -> StoredDraws:
        """What is there, to be read."""
        names = tuple(site[0] for site in self._written["sites"])
        empty = {site[0]: (site[2], site[3]) for site in self._written["sites"] if site[1] is None}
        return StoredDraws(self.path, dict(self._folder.arrays), empty, names, tuple(self._written["stats"]), self.settings.num_warmup_kept)

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
                    array = self._folder.arrays[group, name]
                    array[into, start : start + part.shape[1], *rest] = part
                    self._last.pop((group, name), None)
                    if part[:, -1].shape == array.shape[:1] + array.shape[2:]:  # of all chains: what readers see last
                        self._last[group, name] = checksum_of([part[:, -1]])

    def _resize(self) -> None:
        """Opens the arrays, and makes them as long as the run will be."""
        with self._step("making it longer") as leads:
            if leads:
                self._folder.lengthen(self._written, self.settings)
        with self._step("opening its arrays"):
            self._folder.open(self._written, self.settings)

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
                        self._folder.publish(self._written)
        except BaseException:
            self._written, self._last = before, {}
            raise

    def _step(self, what: str) -> AbstractContextManager[bool]:
        """See `in_step`."""
        return in_step(f"store {str(self.path)!r}: {what}", self._shared)

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
