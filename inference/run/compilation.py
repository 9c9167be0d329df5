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
from ..placing.programs import struct_of
from .batching import Chunk, batch
from .lockstep import met_over
from .placement import Specs, over_devices, pool_over_devices
from .program_folder import between_processes
from .spec import RunSpec

__all__ = ["Compiled", "compiled_sampler", "local_run", "lowered_sampler"]

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
    static = spec.transition, spec.num_chains, spec.capacity, spec.placement.key, spec.debug
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


class _Programs:
    """The functions of a run's sampler, to be lowered one after another: the arguments of each are what those before it return.

    Args:
        spec: the run.
    """

    def __init__(self, spec: RunSpec) -> None:
        place = spec.placement
        self.spec, self.specs = spec, None
        with named_axes(place.sizes):
            self.sampler = batch(*local_run(spec), met=met_over(place) if spec.debug else None)
        if place.mesh is not None:
            self.specs = Specs.of(place, spec.plan, spec.begin, len(spec.target.shapes))
            self.sampler = over_devices(self.sampler, place, self.specs, place.local(spec.num_chains))

    def begin(self) -> Any:
        layout = self.spec.target.layout
        start = self.spec.placement.vectors(np.zeros((self.spec.num_chains, layout.whole.dim), layout.dtype))
        return self._lower("begin", np.zeros(2, np.uint32), self.spec.plan, start)

    def enter(self, chains: Any) -> Any:
        spec = self.spec
        return self._lower("enter", spec.target.data, spec.plan, spec.begin, chains, np.bool_(False), np.int32(0))

    def advance(self, machine: Any, size: int) -> Any:
        members, spec = machine, self.spec
        if size != spec.num_chains:  # only where chains are together
            rows = jax.eval_shape(lambda state: gather(state, size)[0], machine[0])
            members = jax.tree.map(lambda leaf: _type(leaf, spec.placement.together), rows), machine[1]
        return self._lower("advance", members, spec.target.data, spec.plan, np.int32(0), np.int32(0), donate=0)

    def leave(self, machine: Any) -> Any:
        return self._lower("leave", machine, self.spec.target.data, self.spec.plan)

    def pool(self, chains: Any) -> Any:
        function = pool_chains if self.specs is None else pool_over_devices(self.spec.placement, self.specs)
        return self._lower("pool", chains, self.spec.plan.tuning, function=function)

    def _lower(self, name: str, *args: Any, function: Any = None, donate: Any = ()) -> Any:
        """A lowered function, and the types of what it returns.

        Args:
            name: of the function.
            args: for which arguments.
            function: if it is none of the sampler's.
            donate: numbers of the arguments whose memory it may take over.
        """
        place, specs = self.spec.placement, self.specs
        inputs, outputs = (None, place.together) if specs is None else map(place.shardings, getattr(specs, name))
        shardings: dict[str, Any] = {"in_shardings": inputs, "out_shardings": outputs}
        shardings = {name: given for name, given in shardings.items() if given is not None}
        if specs is not None:  # wherever arrays lie now, and whichever process has them
            args = jax.tree.map(struct_of, args)
        lowered = jax.jit(function or getattr(self.sampler, name), donate_argnums=donate, **shardings).lower(*args)

        def typed(sharding: Any, below: Any) -> Any:
            return jax.tree.map(lambda info: _type(info, sharding), below)

        return lowered, jax.tree.map(typed, outputs, lowered.out_info, is_leaf=lambda x: x is None)


def lowered_sampler(spec: RunSpec) -> dict[str, Any]:
    """The functions of a run that go on and on, lowered and not compiled, by name."""
    programs = _Programs(spec)
    _, chains = programs.begin()
    enter, machine = programs.enter(chains)
    return {"enter": enter, "advance": programs.advance(machine, spec.num_chains)[0], "leave": programs.leave(machine)[0]}


def _compile(spec: RunSpec) -> Compiled:
    programs = _Programs(spec)
    # What runs once per chunk costs a few gradients: on a CPU it is not worth the compiler's effort.
    quick = {"xla_backend_optimization_level": 0} if spec.placement.platform == "cpu" else None

    def compiled(lowered_and_types, options=None):
        lowered, types = lowered_and_types
        return lowered.compile(options), types

    with between_processes():
        begin, chains = compiled(programs.begin(), quick)
        enter, machine = compiled(programs.enter(chains))
        leave, chunk = compiled(programs.leave(machine))

    @functools.lru_cache
    def advance(size):
        with between_processes():
            return compiled(programs.advance(machine, size))[0]

    @functools.lru_cache
    def pool():
        with between_processes():
            return compiled(programs.pool(chains), quick)[0]

    advance(spec.num_chains)
    return Compiled(begin, enter, advance, leave, jax.jit(programs.sampler.stop), chunk, pool)


def local_run(spec: RunSpec) -> tuple[Any, Any, int, int, Any]:
    """What `batch` is given: the target, kernel, chains, capacity and plan of one device."""
    place = spec.placement
    target, plan = place.local_target(spec.target), place.local_plan(spec.plan)
    return target, spec.transition, place.local(spec.num_chains), spec.capacity, plan


def _type(leaf, place):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)
