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
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from ..transforms import SamplerError, placed
from ..transforms.autobatch import gather
from .batching import Chunk, Sampler, batch
from .kernel import Transition
from .pooling import pool_chains
from .program_folder import between_processes
from .records import Plan
from .target import Target

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


def compiled_sampler(target: Target, transition: Transition, num_chains: int, capacity: int, plan: Plan, begin_args: tuple) -> Compiled:
    """The compiled programs of a run, from the cache if they are there.

    Args:
        target, transition, num_chains, capacity, plan: as for `batch`.
        begin_args: arguments of `Sampler.begin`.
    """
    settings = (
        jax.default_backend(),
        *(str(getattr(jax.config, f"jax_{name}")) for name in _SETTINGS),
    )
    shapes = tuple(placed(leaf) for leaf in jax.tree.leaves((target.data, begin_args)))
    key = (target.key, transition, num_chains, capacity, settings, shapes, jax.tree.structure(begin_args))
    with _lock:
        if key in _cache:
            _cache.move_to_end(key)
            return _cache[key]
    compiled = _compile(batch(target, transition, num_chains, capacity, plan, begin_args[-1]), target.data, plan, begin_args)
    with _lock:
        _cache[key] = compiled
        while len(_cache) > _MAX_PROGRAMS:
            _cache.popitem(last=False)
    return compiled


def _compile(sampler: Sampler, data, plan: Plan, begin_args: tuple) -> Compiled:
    place = _place((data, begin_args))
    # What runs once per chunk costs a few gradients: on a CPU it is not worth the compiler's effort.
    quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    with between_processes():
        begin, (start, chains) = _program(sampler.begin, begin_args, place, quick)
        enter, machine = _program(sampler.enter, (data, plan, start, chains, np.bool_(False), np.int32(0)), place)
        leave, chunk = _program(sampler.leave, (machine, data, plan), place)
    num_chains = chunk.kept.count.shape[0]

    @functools.lru_cache
    def advance(size):
        rows = jax.eval_shape(lambda state: gather(state, size)[0], machine[0])
        members = jax.tree.map(lambda leaf: _type(leaf, place), rows), machine[1]
        with between_processes():
            return _program(sampler.advance, (members, data, plan, np.int32(0), np.int32(0)), place, donate=0)[0]

    @functools.lru_cache
    def pool():
        with between_processes():
            return _program(pool_chains, (chunk.state, plan.tuning), place, quick)[0]

    advance(num_chains)
    return Compiled(begin, enter, advance, leave, jax.jit(sampler.stop), chunk, pool)


def _place(args):
    """Where a run is: on the device of the committed arguments, or on every device of their mesh; None if none is committed."""
    places = {frozenset(leaf.sharding.device_set): leaf for leaf in jax.tree.leaves(args) if getattr(leaf, "committed", False)}
    if len(places) > 1:
        found = ", ".join(f"{leaf.dtype}{list(leaf.shape)} on {sorted(map(str, devices))}" for devices, leaf in places.items())
        raise SamplerError(
            f"the arrays that a run is given are committed to different devices: {found}. Expected one device, or one mesh. "
            "Write jax.device_put((x, y), device) before `run`, or hand in NumPy arrays, which go where the others are"
        )
    for devices, leaf in places.items():
        if len(devices) == 1:
            return SingleDeviceSharding(*devices)
        mesh = leaf.sharding.mesh if isinstance(leaf.sharding, NamedSharding) else Mesh(sorted(devices, key=lambda d: d.id), ("devices",))
        return NamedSharding(mesh, PartitionSpec())
    return None


def _program(function, args, place, options=None, donate=()):
    """A compiled program and the types of what it returns, which it leaves at `place`."""
    where = {} if place is None else {"out_shardings": place}
    lowered = jax.jit(function, donate_argnums=donate, **where).lower(*args)
    return lowered.compile(options), jax.tree.map(lambda info: _type(info, place), lowered.out_info)


def _type(leaf, place):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)
