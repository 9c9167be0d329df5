"""Compiled programs, kept under the structure of what they compute.

The key holds everything that a compiled program depends on: the traced density, the kernel's static part, the batch, types, and the
process's settings. It holds no identity of a Python object, so a fresh model and a fresh run find what an earlier one left.

Between processes they are kept in a folder; `program_folder` has it.
"""

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import numpy as np

from ...transforms import placed
from ...transforms.autobatch import gather
from ..kernels.pooling import pool_chains
from .batching import Chunk, batch
from .placement import over_devices
from .program_folder import between_processes
from .spec import RunSpec

__all__ = ["Compiled", "compiled_sampler"]

_MAX_PROGRAMS = 32
_SETTINGS = ("default_device", "default_matmul_precision", "enable_x64", "debug_nans")  # of the process, that programs depend on
_cache: OrderedDict[Hashable, "Compiled"] = OrderedDict()
_lock = threading.Lock()


class Compiled(NamedTuple):
    """The programs of a `Sampler`, ready to run on arrays of the shapes they were compiled for.

    Attributes:
        begin, enter, leave, stop: the programs.
        advance: number of chains -> the program for so many, compiled when it is first asked for.
        chunk: shapes and dtypes of the `Chunk` that `leave` returns.
        pool: () -> the program (chains, tuning) -> chains of `pool_chains`, compiled when it is first asked for.
    """

    begin: Any
    enter: Any
    advance: Callable[[int], Any]
    leave: Any
    stop: Any
    chunk: Chunk
    pool: Callable[[], Any]


def compiled_sampler(spec: RunSpec) -> Compiled:
    """The compiled programs of a run, from the cache if they are there."""
    settings = tuple(str(getattr(jax.config, f"jax_{name}")) for name in _SETTINGS)
    shapes = tuple(placed(leaf) for leaf in jax.tree.leaves((spec.target.data, spec.plan, spec.begin)))
    static = spec.transition, spec.num_chains, spec.capacity, spec.placement.key
    key = (spec.target.key, *static, settings, shapes, jax.tree.structure((spec.plan, spec.begin)))
    with _lock:
        if key in _cache:
            _cache.move_to_end(key)
            return _cache[key]
    compiled = _compile(spec)
    with _lock:
        _cache[key] = compiled
        while len(_cache) > _MAX_PROGRAMS:
            _cache.popitem(last=False)
    return compiled


def _compile(spec: RunSpec) -> Compiled:
    place, plan, data = spec.placement, spec.plan, spec.target.data
    sampler = over_devices(batch(spec.target, spec.transition, place.local(spec.num_chains), spec.capacity, plan), place)
    by_chain, whole = place.by_chain, place.whole
    # What runs once per chunk costs a few gradients: on a CPU it is not worth the compiler's effort.
    quick = {"xla_backend_optimization_level": 0} if place.platform == "cpu" else None
    start = np.zeros((spec.num_chains, spec.target.layout.dim), spec.target.layout.dtype)

    def program(function, *args, options=None, donate=(), inputs=None):
        return _program(function, args, options, donate, None if place.mesh is None else inputs, by_chain)

    with between_processes():
        begin, chains = program(sampler.begin, np.zeros(2, np.uint32), plan, start, options=quick)
        inputs = whole, whole, by_chain, by_chain, whole, whole
        enter, machine = program(sampler.enter, data, plan, spec.begin, chains, np.bool_(False), np.int32(0), inputs=inputs)
        leave, chunk = program(sampler.leave, machine, data, plan, inputs=(by_chain, whole, whole))

    @functools.lru_cache
    def advance(size):
        rows = jax.eval_shape(lambda state: gather(state, size)[0], machine[0])
        members = jax.tree.map(lambda leaf: _type(leaf, by_chain), rows), machine[1]
        inputs = by_chain, whole, whole, whole, whole
        with between_processes():
            return program(sampler.advance, members, data, plan, np.int32(0), np.int32(0), donate=0, inputs=inputs)[0]

    @functools.lru_cache
    def pool():
        with between_processes():
            return program(pool_chains, chains, plan.tuning, options=quick, inputs=(by_chain, whole))[0]

    advance(spec.num_chains)
    return Compiled(begin, enter, advance, leave, jax.jit(sampler.stop), chunk, pool)


def _program(function, args, options, donate, inputs, place):
    """A compiled program and the types of what it returns, which it leaves at `place`.

    Args:
        function, args: what is compiled, and for which arguments.
        options: of the compiler.
        donate: numbers of the arguments whose memory it may take over.
        inputs: shardings of the arguments; None: where they are.
        place: sharding of the results; None: the default device.
    """
    shardings = ({} if place is None else {"out_shardings": place}) | ({} if inputs is None else {"in_shardings": inputs})
    lowered = jax.jit(function, donate_argnums=donate, **shardings).lower(*args)
    return lowered.compile(options), jax.tree.map(lambda info: _type(info, place), lowered.out_info)


def _type(leaf, place):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)
