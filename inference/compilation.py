"""Compiled programs, kept under the structure of what they compute.

The key holds everything that a compiled program depends on: the traced density, the kernel's static part, the batch, types, and the
process's settings. It holds no identity of a Python object, so a fresh model and a fresh run find what an earlier one left.
"""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, NamedTuple

import jax

from .batching import Chunk, batch
from .kernel import Transition
from .target import Target

__all__ = ["Compiled", "compiled_sampler"]

_MAX_PROGRAMS = 32
_cache: OrderedDict[Hashable, "Compiled"] = OrderedDict()
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


def compiled_sampler(
    target: Target, transition: Transition, num_chains: int, capacity: int, init_args: tuple, advance_tail: tuple
) -> Compiled:
    """The compiled programs of a run, from the cache if they are there.

    Args:
        target, transition, num_chains, capacity: as for `batch`.
        init_args: arguments of `Sampler.init`.
        advance_tail: arguments of `Sampler.advance` after the state.

    Returns:
        The programs and the shapes of their draws.
    """
    types = tuple((str(leaf.dtype), leaf.shape) for leaf in jax.tree.leaves((init_args[2], advance_tail[1])))
    settings = (jax.default_backend(), str(jax.config.jax_default_device), bool(jax.config.jax_enable_x64),
                str(jax.config.jax_default_matmul_precision), bool(jax.config.jax_debug_nans))  # fmt: skip
    key = (target.key, transition, num_chains, capacity, types, settings)
    with _lock:
        if key in _cache:
            _cache.move_to_end(key)
            return _cache[key]
    sampler = batch(target, transition, num_chains, capacity)
    init = jax.jit(sampler.init).lower(*init_args)
    state, _ = _shapes(init.out_info)
    advance = jax.jit(sampler.advance).lower(state, *advance_tail)
    _, chunk = _shapes(advance.out_info)
    compiled = Compiled(init.compile(), advance.compile(), chunk)
    with _lock:
        _cache[key] = compiled
        while len(_cache) > _MAX_PROGRAMS:
            _cache.popitem(last=False)
    return compiled


def _shapes(out_info):
    return jax.tree.map(lambda info: jax.ShapeDtypeStruct(info.shape, info.dtype), out_info)
