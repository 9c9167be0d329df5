"""`autobatch`: run a program that is written for one member on a whole batch, every member at its own pace."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ..errors import ProgramError
from .captured import captured
from .compaction import advance_compacted
from .frames import Frames
from .front import lower
from .ir import Program
from .local_static import LocalStatic, too_deep
from .passes import optimise
from .program import BatchProgram
from .program_counter import Machine, build_machine
from .schedule import Schedule
from .stats import Stats, local_static_stats, machine_stats

__all__ = ["Autobatched", "Stages", "autobatch"]

_STRATEGIES = ("program_counter", "local_static")


@dataclass(frozen=True, eq=False)
class Stages:
    """The stages of a compilation, each of which can be printed.

    Attributes:
        program: blocks and calls, for one member.
        frames: calls lowered to registers and stacks.
        schedule: the order of the steps in a tick.
        machine: what runs.
    """

    program: Program
    frames: Frames
    schedule: Schedule
    machine: Machine

    def __str__(self) -> str:
        return f"program\n{self.program}\n\nframes\n{self.frames}\n\nschedule\n{self.schedule}"


def autobatch(
    fn: Any,
    strategy: str = "program_counter",
    in_axes: Any = 0,
    max_depth: int = 64,
    unroll: int | None = None,
    compact: bool = False,
) -> "Autobatched":
    """Makes a program for one member run for a batch.

    Args:
        fn: a function with `@program` over it, or a program in the compiler's own form, which takes flat arguments. What it reads from
            outside (globals, variables around it, defaults, attributes of these) is looked at again at every call; if any of it has
            changed, the program is compiled anew.
        strategy: "program_counter", one compiled loop that may be jitted, mapped over devices and differentiated forwards; or
            "local_static", which keeps the recursion in Python: slower, simpler, for comparison.
        in_axes: as for `jax.vmap`: an integer, None, or a tree of them that is a prefix of the positional arguments. Arguments with
            None are shared by all members and never copied.
        max_depth: calls of mutually recursive functions that a member may have open at once; memory grows with it.
        unroll: how often the heavy block runs per tick; chosen by a cost model if None.
        compact: whether the last quarter of the members is gathered into a smaller batch, again and again. On concrete
            arguments only; one more compilation for each size.

    Returns:
        A function of batched arguments. Its results have the batch axis leading, and are those of `fn` member by member.

    Raises:
        ProgramError: an option has a value that makes no sense.
    """
    if strategy not in _STRATEGIES:
        raise ProgramError(f"strategy={strategy!r} is none of {', '.join(map(repr, _STRATEGIES))}.")
    if max_depth < 1:
        raise ProgramError(f"max_depth={max_depth}: at least one call is open; write max_depth=1 or more.")
    if unroll is not None and unroll < 1:
        raise ProgramError(f"unroll={unroll}: the heavy block runs at least once per tick; write unroll=1 or more.")
    return Autobatched(fn, strategy, in_axes, max_depth, unroll, compact)


@dataclass(frozen=True)
class _Call:
    """Arguments taken apart: `values` with the batch axis leading, or none where `shared`; `traced` if they or the program hold tracers."""

    program: Program
    finish: Callable[[Sequence[Any]], Any]
    key: Any
    values: tuple[Any, ...]
    shared: tuple[bool, ...]
    batch: int
    traced: bool


class Autobatched:
    """A program that runs for a batch; made by `autobatch`."""

    def __init__(self, fn: Any, strategy: str, in_axes: Any, max_depth: int, unroll: int | None, compact: bool) -> None:
        self._fn = fn
        self._strategy = strategy
        self._in_axes = in_axes
        self._max_depth = max_depth
        self._unroll = unroll
        self._compact = compact
        self._programs: dict[Any, tuple[Program, Callable[[Sequence[Any]], Any]]] = {}
        self._compiled: dict[Any, Any] = {}
        self._captured: list[Any] | None = None

    def __call__(self, *args: Any) -> Any:
        """Runs every member.

        Args:
            args: what the program takes, with a batch axis where `in_axes` says so.

        Returns:
            The program's results with the batch axis leading.

        Raises:
            ProgramError: arguments do not fit `in_axes` or one another; or, on concrete arguments, members have more than `max_depth`
                calls open. Under a trace nothing can be raised: there the floating-point results of such members are NaN, and
                their other results are meaningless.
        """
        call = self._taken_apart(args)
        if self._strategy == "local_static":
            run = self._cached(call, "local_static", lambda: LocalStatic(call.program, self._max_depth))
            return call.finish([jnp.asarray(r) for r in run(_whole(call), call.batch)])
        machine = self._machine(call)
        shared = [v for v, one in zip(call.values, call.shared, strict=True) if one]
        if call.traced:
            state = machine.advance(machine.start(call.values, call.batch), shared)
            return call.finish(_poisoned(machine, state, shared))
        if self._compact:
            start = self._cached(call, "start", lambda: jax.jit(lambda *values: machine.start(values, call.batch)))
            advance = self._cached(call, "advance", lambda: jax.jit(machine.advance, static_argnames="leave", donate_argnames="state"))
            state = advance_compacted(machine, advance, start(*call.values), shared)
            results, overflow = machine.results(state, shared), machine.overflow(state)
        else:
            results, overflow = self._cached(call, "run", lambda: _whole_run(machine, call.batch))(*call.values)
        self._refuse_overflow(call.program, overflow)
        return call.finish(results)

    def stats(self, *args: Any, trace: bool = False) -> Stats:
        """Runs every member and counts what ran.

        Args:
            args: as for a call.
            trace: whether to follow every block over time, for `Stats.plot`; slower.

        Raises:
            ProgramError: as for a call; or an argument is traced.
        """
        call = self._taken_apart(args)
        machine = self._machine(call, count=True)
        if call.traced:
            raise ProgramError("stats runs the program: it needs concrete arguments, not traced ones.")
        if self._strategy == "local_static":
            run = LocalStatic(call.program, self._max_depth, trace)
            run(_whole(call), call.batch)
            heavy = machine.schedule.heavy
            name = None if heavy is None else machine.frames.steps[heavy].block.name
            return local_static_stats(run, call.batch, list(call.program.blocks), name, trace)
        return machine_stats(machine, call.values, call.batch, trace)

    def lower(self, *args: Any) -> Stages:
        """The stages of the compilation for such arguments; arrays or `jax.ShapeDtypeStruct`s."""
        call = self._taken_apart(args)
        machine = self._machine(call)
        return Stages(call.program, machine.frames, machine.schedule, machine)

    def _taken_apart(self, args: tuple[Any, ...]) -> _Call:
        leaves, tree = jax.tree.flatten(args)
        leaves = [leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jnp.asarray(leaf) for leaf in leaves]
        axes = _leaf_axes(self._in_axes, args)
        batch = _batch_size(leaves, axes)
        moved = [_leading(leaf, axis) for leaf, axis in zip(leaves, axes, strict=True)]
        shared = tuple(axis is None for axis in axes)
        avals = [_member(v, one) for v, one in zip(moved, shared, strict=True)]
        self._forget_changed()
        types = (tree, tuple((a.shape, a.dtype, a.weak_type) for a in avals))
        program, finish = self._programs.get(types) or _lower_source(self._fn, tree, avals)
        traced = any(isinstance(c, Tracer) for block in program.blocks.values() for c in block.consts)
        if not traced:
            self._programs[types] = program, finish
        slots = program.functions[program.main].parameters
        values = tuple(
            v if isinstance(v, jax.ShapeDtypeStruct) else v.astype(slot.dtype) for v, slot in zip(moved, slots, strict=True)
        )  # fmt: skip
        traced = traced or any(isinstance(v, Tracer) for v in values)
        return _Call(program, finish, (program, shared, batch), values, shared, batch, traced)

    def _forget_changed(self) -> None:
        """Drops what was compiled from values outside of the program that are others now."""
        if not isinstance(self._fn, BatchProgram):
            return
        found = captured(self._fn)
        if found is None or found != self._captured:
            self._programs.clear()
            self._compiled.clear()
        self._captured = found

    def _machine(self, call: _Call, count: bool = False) -> Machine:
        return self._cached(
            call,
            f"machine {count}",
            lambda: build_machine(call.program, call.shared, max_depth=self._max_depth, unroll=self._unroll, count=count),
        )

    def _cached(self, call: _Call, what: str, make: Callable[[], Any]) -> Any:
        key = (what, call.key)
        if key not in self._compiled:
            self._compiled[key] = make()
        return self._compiled[key]

    def _refuse_overflow(self, program: Program, overflow: jax.Array) -> None:
        flags = np.asarray(overflow)
        if flags.any():
            function = list(program.functions)[flags[flags > 0][0] - 1]
            raise too_deep(function, self._max_depth, np.flatnonzero(flags))


def _member(value: Any, shared: bool) -> jax.ShapeDtypeStruct:
    """The type of one member's value."""
    weak = bool(getattr(value, "weak_type", False))
    return jax.ShapeDtypeStruct(value.shape if shared else value.shape[1:], value.dtype, weak_type=weak)


def compile_program(program: BatchProgram, *examples: Any) -> tuple[Program, Callable[[Sequence[Any]], Any]]:
    """A program in the compiler's own form, passes done.

    Args:
        program: what every member runs.
        examples: one per parameter, for one member; as for `front.lower`.

    Returns:
        The program, and what makes the function's result of the list of its array results.
    """
    lowered = lower(program, *examples)
    return optimise(lowered.program), lambda results: jax.tree.unflatten(lowered.out_tree, results)


def _lower_source(fn: Any, tree: Any, avals: Sequence[jax.ShapeDtypeStruct]) -> tuple[Program, Callable[[Sequence[Any]], Any]]:
    """The program of a function for such arguments, and what makes its results of a list of arrays."""
    if isinstance(fn, BatchProgram):
        return compile_program(fn, *jax.tree.unflatten(tree, avals))
    if not isinstance(fn, Program):
        raise ProgramError(f"{fn!r} is no program: write @program over the function.")
    parameters = fn.functions[fn.main].parameters
    if len(parameters) != len(avals):
        raise ProgramError(f"{fn.main} takes {len(parameters)} arrays, {len(avals)} were given.")
    for slot, aval in zip(parameters, avals, strict=True):
        if (slot.shape, slot.dtype) != (aval.shape, aval.dtype):
            raise ProgramError(f"{slot} is {slot.type} for one member, {aval.dtype.name}{list(aval.shape)} was given.")
    return fn, tuple


def _leaf_axes(in_axes: Any, args: tuple[Any, ...]) -> list[int | None]:
    """The axis of every leaf of the arguments."""
    if isinstance(in_axes, int) or in_axes is None:
        in_axes = (in_axes,) * len(args)
    if not isinstance(in_axes, (tuple, list)):
        raise ProgramError(f"in_axes={in_axes!r}: write an integer, None, or a tuple with one entry per positional argument.")
    if len(in_axes) != len(args):
        raise ProgramError(f"in_axes has {len(in_axes)} entries for {len(args)} positional arguments.")
    axes: list[int | None] = []
    for position, (prefix, arg) in enumerate(zip(in_axes, args, strict=True)):
        try:
            spread = jax.tree.map(lambda axis, part: [axis] * len(jax.tree.leaves(part)), prefix, arg, is_leaf=lambda x: x is None)
        except ValueError as error:
            raise ProgramError(f"in_axes of argument {position}, {prefix!r}, is no prefix of that argument: {error}") from None
        axes += jax.tree.leaves(spread, is_leaf=lambda x: x is None)
    for axis in axes:
        if axis is not None and (isinstance(axis, bool) or not isinstance(axis, int)):
            raise ProgramError(f"in_axes has the entry {axis!r}; every entry is an integer or None.")
    return axes


def _batch_size(leaves: Sequence[Any], axes: Sequence[int | None]) -> int:
    sizes = {}
    for number, (leaf, axis) in enumerate(zip(leaves, axes, strict=True)):
        if axis is None:
            continue
        if not -leaf.ndim <= axis < leaf.ndim:
            raise ProgramError(f"array {number} of the arguments has shape {leaf.shape}, and in_axes says that axis {axis} is the batch.")
        sizes[number] = leaf.shape[axis]
    if not sizes:
        raise ProgramError("no argument has a batch axis: in_axes is None for all of them.")
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"array {number} has {size}" for number, size in sizes.items())
        raise ProgramError(f"the arguments disagree on the size of the batch: {found}. Shared arguments need None in in_axes.")
    size = next(iter(sizes.values()))
    if size == 0:
        raise ProgramError("the batch is empty: there is no member to run.")
    return size


def _leading(leaf: Any, axis: int | None) -> Any:
    if axis is None or axis == 0:
        return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
        shape = list(leaf.shape)
        return jax.ShapeDtypeStruct((shape.pop(axis), *shape), leaf.dtype)
    return jnp.moveaxis(leaf, axis, 0)


def _whole(call: _Call) -> list[Any]:
    """The arguments with shared ones repeated."""
    return [
        np.broadcast_to(np.asarray(v), (call.batch, *v.shape)) if one and not isinstance(v, Tracer) else v
        for v, one in zip(call.values, call.shared, strict=True)
    ]


def _whole_run(machine: Machine, batch: int) -> Any:
    def run(*values: Any) -> tuple[list[jax.Array], jax.Array]:
        shared = [v for v, one in zip(values, machine.shared, strict=True) if one]
        state = machine.advance(machine.start(values, batch), shared)
        return machine.results(state, shared), machine.overflow(state)

    return jax.jit(run)


def _poisoned(machine: Machine, state: Any, shared: Sequence[Any]) -> list[jax.Array]:
    """The results, NaN for members whose stack ran over where the type has NaN."""
    over = machine.overflow(state) > 0

    def poison(value: jax.Array) -> jax.Array:
        if not jnp.issubdtype(value.dtype, jnp.inexact) or not machine.frames.groups:
            return value
        return jnp.where(over.reshape(over.shape + (1,) * (value.ndim - 1)), jnp.asarray(jnp.nan, value.dtype), value)

    return [poison(value) for value in machine.results(state, shared)]
