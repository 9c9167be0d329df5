"""The folder in which compiled programs outlive the process: JAX's persistent cache, for our programs only.

It holds machine code that is loaded without a look, so it has to be the user's own: a folder that belongs to another, or that others may
write to, is not used. What is added is bounded: beyond a size the programs that were not used for longest are removed.

Environment variables: LUCIOLE_CACHE_DIR names another folder and, set to nothing, switches the cache off; LUCIOLE_CACHE_BYTES is the bound.
"""

import contextlib
import logging
import os
import stat
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from ...transforms.jax_compat import persistent_cache
from .notices import ProgramFolderWarning

__all__ = ["between_processes"]

_log = logging.getLogger("luciole")
_MAX_BYTES = 10**9
_ENTRIES = ("-cache", "-atime")  # how the names of JAX's files end


@contextlib.contextmanager
def between_processes() -> Iterator[None]:
    """What is compiled inside is looked for in the folder, and kept there, if there is one that can be trusted and written to."""
    folder = _folder()
    if folder is None:
        yield
        return
    before = _changed(folder)
    with persistent_cache(str(folder)):
        yield
    if _changed(folder) != before:
        _evict(folder, _max_bytes())


def _folder() -> Path | None:
    """The folder, made if need be; None if there is none to use.

    Warns:
        ProgramFolderWarning: it is another user's, or others may write to it.
    """
    named = os.environ.get("LUCIOLE_CACHE_DIR", str(_user_cache() / "luciole"))
    if not named:
        return None
    folder = Path(named)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        trouble = _distrusted(folder)
    except OSError as e:
        _log.debug("no persistent cache: %s", e)
        return None
    if trouble:
        warnings.warn(
            f"Compiled programs are not kept in {folder}: {trouble}, and what lies there is run as it is. Write `chmod 700 {folder}` if "
            "the folder is yours and you trust what is in it, or name a folder of your own with LUCIOLE_CACHE_DIR; set to nothing, it "
            "switches the cache off.",
            ProgramFolderWarning,
            stacklevel=2,
        )
        return None
    return folder


def _distrusted(folder: Path) -> str:
    """Why programs from this folder should not be run; "" if nothing speaks against it. Windows has no such owners and modes."""
    if not hasattr(os, "geteuid"):
        return ""
    found = folder.stat()
    if found.st_uid != os.geteuid():
        return f"it belongs to another user (uid {found.st_uid})"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others may write to it (mode {stat.S_IMODE(found.st_mode):o})"
    return ""


def _changed(folder: Path) -> int:
    """When an entry was last added or removed, nanoseconds."""
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0


def _max_bytes() -> int:
    given = os.environ.get("LUCIOLE_CACHE_BYTES", "")
    if not given:
        return _MAX_BYTES
    try:
        return max(0, int(float(given)))
    except (ValueError, OverflowError):
        warnings.warn(
            f"LUCIOLE_CACHE_BYTES is {given!r}, a number of bytes expected, such as 1e9; {_MAX_BYTES} is taken.",
            ProgramFolderWarning,
            stacklevel=2,
        )
        return _MAX_BYTES


def _evict(folder: Path, max_bytes: int) -> None:
    """Removes the entries that were read or written longest ago, until the rest fits. Another process may do so at the same time."""
    entries = []
    for entry in os.scandir(folder):
        if entry.name.endswith(_ENTRIES):
            with contextlib.suppress(OSError):
                found = entry.stat()
                entries.append((max(found.st_atime_ns, found.st_mtime_ns), found.st_size, entry.path))
    excess = sum(size for _, size, _ in entries) - max_bytes
    for _, size, path in sorted(entries):
        if excess <= 0:
            return
        with contextlib.suppress(OSError):
            os.unlink(path)
        excess -= size


def _user_cache() -> Path:
    """Where this platform keeps a user's caches."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
