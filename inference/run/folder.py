"""The folder of a store: its arrays, open for writing, and what its metadata says to readers."""

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ...transforms.errors import StoreError
from ..results.stored import GROUPS, OWN, check_free, quietly
from .pieces import file_shape
from .spec import Settings

__all__ = ["LENGTH", "Folder", "make_folder", "zarr", "zarr_writes"]

LENGTH = {OWN: "draws"} | {group: "warmup_draws" if warming else "draws" for warming in GROUPS for group in GROUPS[warming]}
"""Which number of a commit says how long a group is."""


class Folder:
    """Arrays and metadata.

    Args:
        path: of the store.
        attributes: for readers.

    Attributes:
        arrays: Zarr arrays by group and site or statistic.
        metadata: of every array, by path.
        state: the Zarr array with two places for the state of the chains.
    """

    def __init__(self, path: Path, attributes: Mapping[str, Any]):
        self._path, self._attributes = path, attributes
        self.forget()

    def forget(self) -> None:
        """Nothing is open any more."""
        self.arrays: dict[tuple[str, str], Any] = {}
        self.metadata: dict[str, dict[str, Any]] = {}
        self.state: Any = None
        self._described: dict[str, dict[str, Any]] = {}  # metadata of the groups

    def make(self, groups: Mapping[str, tuple[Any, Mapping[str, Any]]], index: Any, size: int) -> None:
        """Makes arrays without draws, in the place of those that are there.

        Args:
            groups: by name, datasets without draws, and the types of the draws by variable.
            index, size: of the state of the chains, see `packing`.
        """
        for name in (*GROUPS[False], *GROUPS[True]):
            shutil.rmtree(self._path / name, ignore_errors=True)
        for name, (group, types) in groups.items():
            self._make_group(name, group, types)
        state = {"shape": (2, size), "chunks": (1, size), "dtype": "uint8", "compressors": None, "dimension_names": ["slot", "byte"]}
        own = zarr().open_group(self._path / OWN, mode="r+", use_consolidated=False)
        own.create_array("state", attributes={"index": index}, overwrite=True, **state)

    def _make_group(self, name: str, group: Any, types: Mapping[str, Any]) -> None:
        encoding = {v: {"chunks": file_shape(array.shape, array.dtype, types[v])} for v, array in group.data_vars.items()}
        encoding["draw"] = {"chunks": (2**16,)}  # it is empty as yet
        group.to_zarr(self._path, group=name, mode="a", zarr_format=3, consolidated=False, encoding=encoding)
        there = {file.parent.name for file in (self._path / name).glob("*/zarr.json")}
        if there != set(group.variables):
            raise StoreError(
                f"store {str(self._path)!r}: {name} has the folders {sorted(there)} for the variables {sorted(group.variables)}: "
                "this file system takes some of these names for the same. Rename the sites, or choose another file system."
            )

    def lengthen(self, written: Mapping[str, Any], settings: Settings) -> None:
        """Makes the arrays as long as the run will be; readers see no more of them than before."""
        for _, length, opened, variables in self._groups(written, settings):
            draw = opened["draw"]
            draw.resize((length,))
            draw[:] = np.arange(length)  # also where it reads so already: a missing file reads as 0, as the first number is
            for array in (opened[variable] for variable in variables.values()):
                if array.shape[1] != length:
                    array.resize((array.shape[0], length, *array.shape[2:]))

    def open(self, written: Mapping[str, Any], settings: Settings) -> None:
        """Opens the arrays, and reads the metadata."""
        self.forget()
        for group, _, opened, variables in self._groups(written, settings):
            self.arrays |= {(group, name): opened[variable] for name, variable in variables.items()}
        self.state = zarr().open_group(self._path / OWN, mode="r+", use_consolidated=False)["state"]
        for group in (OWN, *GROUPS[False], *GROUPS[True]):
            members = sorted((self._path / group).glob("*/zarr.json"))
            self.metadata |= {f"{group}/{file.parent.name}": json.loads(file.read_text()) for file in members}
            if members:
                self._described[group] = json.loads((self._path / group / "zarr.json").read_text())
                self._described[group].pop("consolidated_metadata", None)

    def _groups(self, written: Mapping[str, Any], settings: Settings) -> Iterator[tuple[str, int, Any, dict[str, str]]]:
        """Of each group of draws its name, how many draws there will be, the open group, and variables by site or statistic."""
        lengths = {True: settings.num_warmup_kept, False: settings.num_kept - settings.num_warmup_kept}
        names = {site[0]: site[1] for site in written["sites"] if site[1] is not None}, {name: name for name in written["stats"]}
        for warming, kind in ((w, k) for w in lengths if lengths[w] for k in (0, 1)):
            group = GROUPS[warming][kind]
            yield group, lengths[warming], zarr().open_group(self._path / group, mode="r+", use_consolidated=False), names[kind]

    def publish(self, written: Mapping[str, Any]) -> None:
        """Says what readers may see: of every group its arrays, cut to the draws that all chains have, and last of the whole."""
        commit = written["commit"] or {"warmup_draws": 0, "draws": 0}
        seen: dict[str, Any] = {}
        for group, described in self._described.items():
            cut = {path: _cut(data, commit[LENGTH[group]]) for path, data in self.metadata.items() if path.startswith(f"{group}/")}
            seen |= {group: described, **cut}
            if group != OWN:
                inside = {path.removeprefix(f"{group}/"): data for path, data in cut.items()}
                _replace(self._path / group / "zarr.json", {**described, "consolidated_metadata": _consolidated(inside)})
        root = {"attributes": {**self._attributes, OWN: written}, "zarr_format": 3, "node_type": "group"}
        _replace(self._path / "zarr.json", {**root, "consolidated_metadata": _consolidated(seen)})


def make_folder(
    path: Path, written: dict[str, Any], recipe: dict[str, Any], arrays: dict[str, np.ndarray], attributes: dict[str, Any]
) -> None:
    """Makes a store without draws; all of it appears at once.

    Args:
        path: of the store.
        written: what changes, see `Store`.
        recipe, arrays: what the run can be taken up from.
        attributes: for readers.

    Raises:
        StoreError: something is there already, or the folder cannot be written.
    """
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


def zarr() -> Any:
    """The library; it is heavy, and only runs with a store need it."""
    import zarr

    return zarr


@contextmanager
def zarr_writes() -> Iterator[None]:
    """Zarr writes every file, also of nothing but zeros, so that one that is missing is known to be lost."""
    with quietly(), zarr().config.set({"array.write_empty_chunks": True}):
        yield


def _cut(metadata: dict[str, Any], rows: int) -> dict[str, Any]:
    """An array's metadata with that many draws, if it has draws."""
    names = metadata.get("dimension_names") or ()
    return {**metadata, "shape": [rows if name == "draw" else size for name, size in zip(names, metadata["shape"], strict=True)]}


def _consolidated(metadata: dict[str, Any]) -> dict[str, Any]:
    """Of all below a group, by path, as it stands in the group's own."""
    return {"kind": "inline", "must_understand": False, "metadata": metadata}


def _replace(file: Path, content: dict[str, Any]) -> None:
    """Writes a file so that there is the old one or the new one at any time."""
    draft = file.with_name(f"{file.name}.draft")
    draft.write_text(json.dumps(content))
    os.replace(draft, file)
