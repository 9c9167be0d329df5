"""The machine: one `while_loop` that runs a program for a whole batch, every member at its own place.

Every member has a program counter, the registers of `frames`, and a row pointer into the stacks of each recursion group. A tick
runs the units of the `schedule` in order: a step runs its code for all members at once and stores what it defines for the members
that stand before it. There is no `switch`: straight-line code of masked steps keeps large arrays in place, where a switch copies
them in every branch.

What the machine costs beyond the code of the steps is the traffic of masked stores. So: a register is stored only if it matters to
some step that may follow; it is stored without a mask where no member elsewhere needs it; parts of an array are written at their
index (`masked`); inner loops carry only what they write; rows are pushed by a scatter that drops the rows of other members, and a
row that a step pops and pushes unchanged stays where it is.

The state is a dict of arrays, the batch axis leading, and can be kept between calls. A member whose stack runs over stops with a
flag; its neighbours never see it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..errors import ProgramError
from ..jax_compat import varying_like
from .frames import HALT, Frames, Step, lower_calls
from .ir import Program, Slot
from .liveness import analyse
from .masked import in_place, run_block
from .schedule import Schedule, Unit, plan
from .scratch import leave_scratch

__all__ = ["Machine", "State", "build_machine"]

State = dict[str, jax.Array]
_COUNTER, _OVERFLOW, _RUNS, _MEMBERS = "program counter", "overflow", "runs", "members"
_GUARD_FROM = 200  # modelled operations per member: below, a branch costs more than the step


@dataclass(frozen=True, eq=False)
class Machine:
    """A program compiled for a batch. All methods are pure and may be traced.

    The state has one array per register ([batch, ...], under the slot's name), "program counter" and "overflow" (int32 [batch]),
    "stack NAME" ([batch, depth, ...]) and "pointer GROUP" (int32 [batch]), and if it counts "runs" and "members" (int32 [step]).

    Attributes:
        frames: the steps.
        schedule: their order.
        shared: for every parameter of the main function, whether one value serves all members.
        max_depth: calls of one recursion group that a member may have open at once.
        count: whether the state counts how often steps run, and for how many members.
        guard: whether the rarer steps of a tick are skipped when no member stands before them.
        met: what becomes of the truth, bool (), of "some member stands here" before it decides; for devices that must decide alike.
    """

    frames: Frames
    schedule: Schedule
    shared: tuple[bool, ...]
    max_depth: int
    count: bool
    guard: bool
    met: Callable[[Any], Any] = lambda truth: truth

    def start(self, arguments: Sequence[Any], batch: int | None = None) -> State:
        """The state in which every member stands before the first step of a tick.

        Args:
            arguments: one array per parameter of the main function, (batch, ...), without the batch axis if it is shared.
            batch: number of members, if all arguments are shared.

        Raises:
            ProgramError: an argument has another shape or dtype than its parameter.
        """
        arguments = self._checked(arguments)
        sizes = [a.shape[0] for a, shared in zip(arguments, self.shared, strict=True) if not shared]
        if not sizes and batch is None:
            raise ProgramError("all arguments are shared: say how many members there are.")
        size = int(sizes[0] if batch is None else batch)

        def zeros(shape: tuple[int, ...], dtype: Any) -> jax.Array:
            return varying_like(jnp.zeros(shape, dtype), [jax.typeof(a) for a in arguments])

        state = {slot.name: zeros((size, *slot.shape), slot.dtype) for slot in self.frames.registers}
        for group, slots in self.frames.groups.items():
            state[f"pointer {group}"] = zeros((size,), jnp.int32)
            for slot in slots:
                state[_stack(slot)] = zeros((size, max(1, self.max_depth - 1), *slot.shape), slot.dtype)
        state[_OVERFLOW] = zeros((size,), jnp.int32)
        state[_COUNTER] = zeros((size,), jnp.int32) + HALT
        if self.count:
            state[_RUNS] = zeros((len(self.frames.steps),), jnp.int32)
            state[_MEMBERS] = zeros((len(self.frames.steps),), jnp.int32)
        return self.restart(state, jnp.ones(size, bool), arguments)

    def restart(self, state: State, members: jax.Array, arguments: Sequence[Any]) -> State:
        """Lets some members begin anew; the others go on undisturbed.

        Args:
            state: of all members.
            members: bool, (batch,). Those that begin.
            arguments: as for `start`; shared ones must be those that the other members were started with.
        """
        arguments = self._checked(arguments)
        state = dict(state)
        entry = self.frames.live[self.frames.entry]
        for slot, value, shared in zip(self.frames.parameters, arguments, self.shared, strict=True):
            if slot in entry:
                state[slot.name] = _select(members, value[None] if shared else value, state[slot.name])
        for group in self.frames.groups:
            state[f"pointer {group}"] = jnp.where(members, 0, state[f"pointer {group}"])
        main = self.frames.addresses.get(self.frames.program.main)
        if main is not None and main in entry:
            state[main.name] = jnp.where(members, jnp.int32(HALT), state[main.name])
        state[_OVERFLOW] = jnp.where(members, 0, state[_OVERFLOW])
        state[_COUNTER] = jnp.where(members, jnp.int32(self.frames.entry), state[_COUNTER])
        return self._run(state, self._shared_values(arguments), self.schedule.prologue)

    def rewrite(self, state: State, number: int, value: Any) -> State:
        """Changes an argument of members that run.

        Args:
            state: of all members.
            number: of the parameter; the program must only read it.
            value: for every member the same.

        Raises:
            ProgramError: the parameter is shared, or the program writes its place.
        """
        slot = self.frames.parameters[number]
        writers = [step.block.name for step in self.frames.steps if slot in step.defines]
        if writers or slot.name not in state:
            raise ProgramError(f"{slot} cannot be rewritten: it is {f'written by {writers[0]}' if writers else 'no register'}.")
        return {**state, slot.name: jnp.full_like(state[slot.name], value)}

    def advance(self, state: State, arguments: Sequence[Any] = (), max_ticks: Any = None, leave: Any = 0) -> State:
        """As `advance_counted`, without the count."""
        return self.advance_counted(state, arguments, max_ticks, leave)[0]

    def advance_counted(
        self, state: State, arguments: Sequence[Any] = (), max_ticks: Any = None, leave: Any = 0, finish: bool = True
    ) -> tuple[State, jax.Array]:
        """Runs until all members have halted, or for a number of ticks.

        When this is jitted, donate the state: else XLA copies the stacks and buffers in it once per call.

        Args:
            state: of all members.
            arguments: one array per shared parameter of the main function, in order.
            max_ticks: int32, (); without a limit if None.
            leave: stop when no more members than this have ticks before them.
            finish: whether to run the epilogue too; without it, members wait there.

        Returns:
            The state, and how many ticks ran, int32 ().
        """
        shared = self._by_slot(arguments)
        ticking = self.schedule.ticking
        done = jnp.int32(0)
        if ticking:
            written = self._written(self.schedule.tick)
            fixed = {key: value for key, value in state.items() if key not in written}

            def running(carry: tuple[jax.Array, State]) -> jax.Array:
                going = _among(carry[1][_COUNTER], ticking).sum(dtype=jnp.int32) > leave
                going = self.met(going)
                return going if max_ticks is None else going & (carry[0] < max_ticks)

            def tick(carry: tuple[jax.Array, State]) -> tuple[jax.Array, State]:
                done, moving = carry
                after = self._run({**fixed, **moving}, shared, self.schedule.tick)
                return done + 1, {key: after[key] for key in written}

            zero = varying_like(jnp.int32(0), [jax.typeof(max_ticks)]) if max_ticks is not None else jnp.int32(0)
            done, moved = lax.while_loop(running, tick, (zero, {key: state[key] for key in written}))
            state = {**fixed, **moved}
        return self._run(state, shared, self.schedule.epilogue) if finish else state, done

    def ticking(self, state: State) -> jax.Array:
        """bool, (batch,): which members have ticks before them."""
        return _among(state[_COUNTER], self.schedule.ticking)

    def results(self, state: State, arguments: Sequence[Any] = ()) -> list[jax.Array]:
        """One array per result of the main function, (batch, ...); of members that have not halted, anything.

        Args:
            state: of all members.
            arguments: one array per shared parameter of the main function, in order; only needed if one of them is a result.
        """
        shared = self._by_slot(arguments) if arguments else {}
        size = state[_COUNTER].shape[0]

        def result(slot: Slot) -> jax.Array:
            if slot not in self.frames.shared:
                return state[slot.name]
            value = jnp.asarray(shared[self.frames.shared[slot]])
            return jnp.broadcast_to(value, (size, *value.shape))

        return [result(slot) for slot in self.frames.results]

    def halted(self, state: State) -> jax.Array:
        """bool, (batch,): which members are done, or stopped because their stack ran over."""
        return state[_COUNTER] == HALT

    def overflow(self, state: State) -> jax.Array:
        """int32, (batch,): 0, or 1 + the number of the function, in the program's order, whose call found the stack full."""
        return state[_OVERFLOW]

    def counts(self, state: State) -> tuple[jax.Array, jax.Array]:
        """How often every step ran, and for how many members in all; both int32, (step,).

        Raises:
            ProgramError: the machine was built without `count`.
        """
        if not self.count:
            raise ProgramError("the machine does not count: build it with count=True.")
        return state[_RUNS], state[_MEMBERS]

    def _checked(self, arguments: Sequence[Any]) -> list[jax.Array]:
        values = []
        for slot, value, shared in zip(self.frames.parameters, arguments, self.shared, strict=True):
            value = jnp.asarray(value)
            if value.dtype != slot.dtype or value.shape[0 if shared else 1 :] != slot.shape:
                raise ProgramError(f"{slot}: {slot.type} per member was expected, {jax.typeof(value).str_short()} was given.")
            values.append(value)
        return values

    def _by_slot(self, arguments: Sequence[Any]) -> dict[Slot, Any]:
        slots = [slot for slot, shared in zip(self.frames.parameters, self.shared, strict=True) if shared]
        return dict(zip(slots, arguments, strict=True))

    def _shared_values(self, arguments: Sequence[jax.Array]) -> dict[Slot, jax.Array]:
        return {s: a for s, a, one in zip(self.frames.parameters, arguments, self.shared, strict=True) if one}

    def _written(self, units: Iterable[Unit]) -> tuple[str, ...]:
        """Keys of the state that the units write."""
        keys = {_COUNTER}
        for number in {n for unit in units for n in unit.steps}:
            step = self.frames.steps[number]
            keys |= {slot.name for slot in self._stored(step)} | {_stack(slot) for slot in _pushed(step)}
            if step.popping != step.pushing:
                keys.add(f"pointer {step.group}")
            if step.pushing and not step.popping:
                keys.add(_OVERFLOW)
            if self.count:
                keys |= {_RUNS, _MEMBERS}
        return tuple(sorted(keys))

    def _stored(self, step: Step) -> tuple[Slot, ...]:
        """What a step defines and a later one may need."""
        after = frozenset().union(*(self.frames.live[target] for target in step.targets))
        return tuple(sorted((step.defines & after), key=str))

    def _run(self, state: State, shared: Mapping[Slot, Any], units: Sequence[Unit]) -> State:
        """The units once, in order."""
        for unit in units:
            written = self._written([unit])
            fixed = {key: value for key, value in state.items() if key not in written}

            def body(moving: State, unit: Unit = unit, fixed: State = fixed, written: tuple[str, ...] = written) -> State:
                inner = {**fixed, **moving}
                for number in unit.steps:
                    inner = self._step(self.frames.steps[number], inner, shared, unit.others)
                return {key: inner[key] for key in written}

            def waiting(moving: State, unit: Unit = unit) -> jax.Array:
                return self.met(_among(moving[_COUNTER], unit.steps).any())

            moving = {key: state[key] for key in written}
            if unit.loop:
                moving = lax.while_loop(waiting, body, moving)
            elif self._guards(unit.steps[0]):
                # The branch is also a wall to XLA, which else computes what a step writes again in every reader.
                moving = lax.cond(waiting(moving), body, lambda same: same, moving)
            else:
                moving = body(moving)
            state = {**fixed, **moving}
        return state

    def _guards(self, number: int) -> bool:
        """Whether a step is skipped in ticks in which nobody stands before it."""
        return self.guard and number != self.schedule.heavy and self.schedule.costs[number] >= _GUARD_FROM

    def _step(self, step: Step, state: State, shared: Mapping[Slot, Any], others: frozenset[int]) -> State:
        """One step, for the members that stand before it."""
        old, state = state, dict(state)
        on = old[_COUNTER] == step.number
        lanes = jnp.arange(on.shape[0], dtype=jnp.int32)
        elsewhere = frozenset().union(*(self.frames.live[n] for n in others - {step.number}))
        stored = self._stored(step)
        local: dict[Slot, jax.Array] = {}

        def read(slot: Slot) -> tuple[Any, bool]:
            if slot in self.frames.shared:
                return shared[self.frames.shared[slot]], False
            return (local[slot] if slot in local else old[slot.name]), True

        def store(key: str, slot: Slot, value: Any) -> None:
            state[key] = _select(on, value, old[key]) if slot in elsewhere else varying_like(value, [jax.typeof(on)])

        if step.popping:
            row = old[f"pointer {step.group}"] - 1
            needed = {*step.block.reads, *(m for _, m in step.moves), *step.pushes, *stored, step.predicate, step.address}
            for slot in step.pops:
                if slot in needed - {s for s in step.pushes if s not in {*step.block.reads, *stored}}:
                    local[slot] = _row(old[_stack(slot)], lanes, row)
        for slot, kept in step.loads:
            local[slot] = old[kept.name]
        direct = self._run_code(step, on, read, local, stored)
        if step.pushing:
            pointer = old[f"pointer {step.group}"]
            row = pointer - 1 if step.popping else pointer
            full = on & (row >= self.max_depth - 1)
            place = jnp.where(on & ~full, row, max(1, self.max_depth - 1))  # beyond the end: dropped
            for slot in _pushed(step):
                value = jnp.broadcast_to(read(slot)[0], (on.shape[0], *slot.shape))
                stack = old[_stack(slot)]
                state[_stack(slot)] = stack.at[lanes, place].set(value, mode="drop", indices_are_sorted=True, unique_indices=True)
        if step.popping != step.pushing:
            pointer = old[f"pointer {step.group}"]
            state[f"pointer {step.group}"] = jnp.where(on, pointer + (1 if step.pushing else -1), pointer)
        moved = dict(step.moves)
        for slot in stored:
            if slot in moved:
                source = moved[slot]
                value = read(source)[0] if isinstance(source, Slot) else jnp.int32(source)
                value = jnp.broadcast_to(value, (on.shape[0], *slot.shape))
                store(slot.name, slot, value)
            elif slot in direct:
                state[slot.name] = local[slot]
            else:
                store(slot.name, slot, local[slot])
        if step.predicate is not None:
            following = jnp.where(read(step.predicate)[0], jnp.int32(step.targets[0]), jnp.int32(step.targets[1]))
        else:
            following = read(step.address)[0] if step.address is not None else jnp.int32(step.targets[0])
        if step.pushing and not step.popping:
            functions = list(self.frames.program.functions)
            following = jnp.where(full, HALT, following)
            state[_OVERFLOW] = jnp.where(full, functions.index(str(step.callee)) + 1, old[_OVERFLOW])
        state[_COUNTER] = jnp.where(on, following, old[_COUNTER])
        if self.count:
            state[_RUNS] = old[_RUNS].at[step.number].add(1)
            state[_MEMBERS] = old[_MEMBERS].at[step.number].add(on.sum(dtype=jnp.int32))
        return state

    def _run_code(self, step: Step, on: jax.Array, read: Any, local: dict[Slot, jax.Array], stored: Sequence[Slot]) -> set[Slot]:
        """Runs the block's code; the slots whose new values need no mask."""
        block = step.block
        exit_reads = {*stored, *step.pushes, *(m for _, m in step.moves), step.predicate, step.address}
        wanted = [
            n
            for n, (slot, var) in enumerate(zip(block.writes, block.jaxpr.outvars, strict=True))
            if slot in exit_reads and slot not in self.frames.shared
        ]
        if not wanted:
            return set()
        values = [read(slot) for slot in block.reads]
        outs = run_block(block, on, [v for v, _ in values], [b for _, b in values], wanted)
        for n, out in zip(wanted, outs, strict=True):
            slot = block.writes[n]
            local[slot] = lax.convert_element_type(out, slot.dtype)
        return {block.writes[n] for n in in_place(block) & set(wanted)}


def build_machine(
    program: Program,
    shared: Sequence[bool] = (),
    *,
    max_depth: int = 64,
    unroll: int | None = None,
    heavy: str | None = None,
    count: bool = False,
    guard: bool | None = None,
    met: Callable[[Any], Any] | None = None,
) -> Machine:
    """Compiles a program for a batch.

    Args:
        program: what every member runs.
        shared: for every parameter of the main function, whether one value serves all members; none if empty.
        max_depth: calls of one recursion group that a member may have open at once.
        unroll: how often the heavy step runs per tick; by a cost model if None.
        heavy: name of the heavy block; by a cost model if None.
        count: whether the state counts how often steps run, and for how many members. If not, counting costs nothing.
        guard: whether steps that are not trivial, the heavy one apart, are skipped in ticks in which no member stands before them. If
            None, on CPUs: there it took a fifth off a tick at 128 members and a third at one. On GPUs each costs a question to
            the host.
        met: what becomes of the truth, bool (), of "some member stands here" before it decides, if that is not all.
    """
    program = leave_scratch(program)
    frames = lower_calls(program, analyse(program), shared)
    flags = tuple(shared) or (False,) * len(frames.parameters)
    guard = jax.default_backend() == "cpu" if guard is None else guard
    return Machine(frames, plan(frames, unroll, heavy), flags, max_depth, count, guard, *([] if met is None else [met]))


def _stack(slot: Slot) -> str:
    return f"stack {slot.name}"


def _pushed(step: Step) -> tuple[Slot, ...]:
    """Slots that a step pushes, without those that stand in that row already."""
    same = set(step.pops) - set(step.block.writes) if step.popping else set()
    return tuple(s for s in step.pushes if s not in same)


def _row(stack: jax.Array, lanes: jax.Array, row: jax.Array) -> jax.Array:
    """Row `row` of every member's stack; of members that have none, any."""
    return stack.at[lanes, jnp.clip(row, 0, stack.shape[1] - 1)].get(
        mode="promise_in_bounds", indices_are_sorted=True, unique_indices=True
    )  # fmt: skip


def _select(on: jax.Array, new: Any, old: jax.Array) -> jax.Array:
    return jnp.where(on.reshape(on.shape + (1,) * (old.ndim - 1)), new, old)


def _among(counter: jax.Array, numbers: Iterable[int]) -> jax.Array:
    """Whether the counters are among `numbers`, by their ranges."""
    ordered = sorted(numbers)
    ranges: list[list[int]] = []
    for n in ordered:
        if ranges and ranges[-1][1] == n - 1:
            ranges[-1][1] = n
        else:
            ranges.append([n, n])
    found = jnp.zeros(counter.shape, bool)
    for low, high in ranges:
        found |= (counter == low) if low == high else (counter >= low) & (counter <= high)
    return found
