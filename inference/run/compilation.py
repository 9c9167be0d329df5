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
from ...transforms.jax_compat import named_axes
from ..kernels.pooling import pool_chains
from .batching import Chunk, batch
from .placement import Specs, over_devices, pool_over_devices
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
    with named_axes(place.sizes):
        sampler = batch(*local_run(spec))
    specs = None
    if place.mesh is not None:
        specs = Specs.of(place, plan, spec.begin, len(spec.target.shapes))
        sampler = over_devices(sampler, place, specs, place.local(spec.num_chains))
    # What runs once per chunk costs a few gradients: on a CPU it is not worth the compiler's effort.
    quick = {"xla_backend_optimization_level": 0} if place.platform == "cpu" else None
    start = place.vectors(np.zeros((spec.num_chains, spec.target.layout.whole.dim), spec.target.layout.dtype))

    def program(name, *args, function=None, options=None, donate=()):
        inputs, outputs = (None, place.together) if specs is None else map(place.shardings, getattr(specs, name))
        return _program(function or getattr(sampler, name), args, options, donate, inputs, outputs)

    with between_processes():
        begin, chains = program("begin", np.zeros(2, np.uint32), plan, start, options=quick)
        enter, machine = program("enter", data, plan, spec.begin, chains, np.bool_(False), np.int32(0))
        leave, chunk = program("leave", machine, data, plan)

    @functools.lru_cache
    def advance(size):
        members = machine
        if size != spec.num_chains:  # only where chains are together
            rows = jax.eval_shape(lambda state: gather(state, size)[0], machine[0])
            members = jax.tree.map(lambda leaf: _type(leaf, place.together), rows), machine[1]
        with between_processes():
            return program("advance", members, data, plan, np.int32(0), np.int32(0), donate=0)[0]

    @functools.lru_cache
    def pool():
        function = pool_chains if specs is None else pool_over_devices(place, specs)
        with between_processes():
            return program("pool", chains, plan.tuning, function=function, options=quick)[0]

    advance(spec.num_chains)
    return Compiled(begin, enter, advance, leave, jax.jit(sampler.stop), chunk, pool)


def local_run(spec: RunSpec) -> tuple[Any, Any, int, int, Any]:
    """What `batch` is given: the target, kernel, chains, capacity and plan of one device."""
    place = spec.placement
    target, plan = place.local_target(spec.target), place.local_plan(spec.plan)
    return target, spec.transition, place.local(spec.num_chains), spec.capacity, plan


def _program(function, args, options, donate, inputs, outputs):
    """A compiled program and the types of what it returns.

    Args:
        function, args: what is compiled, and for which arguments.
        options: of the compiler.
        donate: numbers of the arguments whose memory it may take over.
        inputs: shardings of the arguments; None: where they are.
        outputs: shardings of the results, a prefix of their tree; None: the default device.
    """
    shardings = ({} if outputs is None else {"out_shardings": outputs}) | ({} if inputs is None else {"in_shardings": inputs})
    lowered = jax.jit(function, donate_argnums=donate, **shardings).lower(*args)
    outs = jax.tree.map(
        lambda sharding, below: jax.tree.map(lambda info: _type(info, sharding), below), outputs, lowered.out_info, is_leaf=_is_none
    )
    return lowered.compile(options), outs


def _is_none(x):
    return x is None


def _type(leaf, place):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)
