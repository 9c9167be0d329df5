"""Compiled programs, kept under the structure of what they compute.

The key holds everything that a compiled program depends on: the traced density, the kernel's static part, the batch, types, and the
process's settings. It holds no identity of a Python object, so a fresh model and a fresh run find what an earlier one left.

Between processes JAX's persistent cache keeps them, in the user's cache folder and for our programs only. The environment variable
LUCIOLE_CACHE_DIR names another folder; set to nothing, it switches the cache off.
"""

import contextlib
import logging
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Hashable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from ..transforms.jax_compat import persistent_cache
from .batching import Chunk, batch
from .kernel import Transition
from .target import Target

__all__ = ["Compiled", "compiled_sampler"]

_log = logging.getLogger("luciole")
_MAX_PROGRAMS = 32
_SETTINGS = ("default_device", "default_matmul_precision", "enable_x64", "debug_nans")  # of the process, that programs depend on
_cache: OrderedDict[Hashable, "_Entry"] = OrderedDict()
_lock = threading.Lock()


class Compiled(NamedTuple):
    """The two programs of a `Sampler`, ready to run on arrays of the shapes they were compiled for.

    Attributes:
        init, advance: the programs.
        chunk: shapes and dtypes of the `Chunk` that `advance` returns.
    """

    init: Any
    advance: Any
    chunk: Chunk


class _Entry(NamedTuple):
    program: Any
    out: Any  # shapes and dtypes of what it returns


def compiled_sampler(
    target: Target, transition: Transition, num_chains: int, capacity: int, init_args: tuple, advance_tail: tuple
) -> Compiled:
    """The compiled programs of a run, from the cache if they are there.

    The two are kept apart, so that another way to start leaves the sampler itself compiled.

    Args:
        target, transition, num_chains, capacity: as for `batch`.
        init_args: arguments of `Sampler.init`.
        advance_tail: arguments of `Sampler.advance` after the state.

    Returns:
        The programs and the shapes of their draws.
    """
    sampler = batch(target, transition, num_chains, capacity)
    settings = (
        jax.default_backend(),
        *(str(getattr(jax.config, f"jax_{name}")) for name in _SETTINGS),
    )
    # Starting costs a few gradients: on a CPU it is not worth the compiler's effort.
    quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    init = _compiled(("init", target.init_key, num_chains, settings), sampler.init, init_args, quick)
    state, *_ = init.out
    key = ("advance", target.advance_key, transition, num_chains, capacity, settings)
    advance = _compiled(key, sampler.advance, (state, *advance_tail))
    return Compiled(init.program, advance.program, advance.out[1])


def _compiled(key, function, args, options=None) -> _Entry:
    key = (key, tuple(_type(leaf) for leaf in jax.tree.leaves(args)), jax.tree.structure(args))
    with _lock:
        if key in _cache:
            _cache.move_to_end(key)
            return _cache[key]
    lowered = jax.jit(function).lower(*args)
    out = jax.tree.map(lambda info: jax.ShapeDtypeStruct(info.shape, info.dtype), lowered.out_info)
    with _between_processes():
        entry = _Entry(lowered.compile(options), out)
    with _lock:
        _cache[key] = entry
        while len(_cache) > _MAX_PROGRAMS:
            _cache.popitem(last=False)
    return entry


def _between_processes() -> contextlib.AbstractContextManager[None]:
    """The persistent cache, if there is a folder for it that can be written to."""
    folder = os.environ.get("LUCIOLE_CACHE_DIR", str(_user_cache() / "luciole"))
    if not folder:
        return contextlib.nullcontext()
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as e:
        _log.debug("no persistent cache: %s", e)
        return contextlib.nullcontext()
    return persistent_cache(folder)


def _user_cache() -> Path:
    """Where this platform keeps a user's caches."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _type(leaf):
    return tuple(leaf.shape), str(leaf.dtype), bool(getattr(leaf, "weak_type", False))
