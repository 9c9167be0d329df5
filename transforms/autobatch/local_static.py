"""The plain executor: recursion stays in Python, and each block runs for the members that stand before it.

It knows nothing of frames lowered to stacks, schedules or masks under a loop, so it says what the machine has to compute. Members in
the same call of the same function run together, and those that have fallen behind go first: the block that comes first in the
source is run next. Values live in NumPy arrays on the host; members that are elsewhere are replaced by one that is here.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from ..errors import ProgramError
from .ir import Block, Branch, Call, Function, Jump, Program, Return, evaluate
from .liveness import analyse

__all__ = ["LocalStatic"]


class LocalStatic:
    """Runs a program for a batch, on concrete values.

    Attributes:
        runs: per block, how often it ran in all calls so far.
        members: per block, for how many members in all.
        log: the block and the number of members of every run, in order; empty unless asked for.
    """

    def __init__(self, program: Program, max_depth: int = 64, trace: bool = False) -> None:
        """
        Args:
            program: what every member runs.
            max_depth: calls of one recursion group that a member may have open at once.
            trace: whether to keep the log.
        """
        self.log: list[tuple[str, int]] = []
        self._trace = trace
        self.runs: Counter[str] = Counter()
        self.members: Counter[str] = Counter()
        self._program = program
        self._max_depth = max_depth
        self._recursive = analyse(program).recursive
        self._code = {name: jax.jit(jax.vmap(_code(block))) for name, block in program.blocks.items()}

    def __call__(self, arguments: Sequence[Any], batch: int) -> list[np.ndarray]:
        """Runs all members.

        Args:
            arguments: one array per parameter of the main function, (batch, ...).
            batch: number of members.

        Returns:
            One array per result of the main function, (batch, ...).

        Raises:
            ProgramError: a member has too many calls open, or a value is traced.
        """
        if any(isinstance(a, Tracer) for a in arguments):
            raise ProgramError("strategy local_static runs in Python and cannot be traced: use program_counter under jit, vmap or jvp.")
        main = self._program.functions[self._program.main]
        values = [np.asarray(a) for a in arguments]
        return self._call(main, values, np.arange(batch), batch, 1)

    def _call(self, function: Function, values: Sequence[np.ndarray], members: np.ndarray, batch: int, depth: int) -> list[np.ndarray]:
        """One call of a function by the members numbered `members`; other rows of the results are anything."""
        if depth > self._max_depth:
            raise too_deep(function.name, self._max_depth, members)
        frame = {slot: value.copy() for slot, value in zip(function.parameters, values, strict=True)}
        results = [np.zeros((batch, *slot.shape), slot.dtype) for slot in function.results]
        waiting = {name: np.zeros(0, members.dtype) for name in function.blocks}
        waiting[function.entry] = members
        while True:
            block = next((b for b in function.blocks.values() if waiting[b.name].size), None)
            if block is None:
                return results
            here, waiting[block.name] = waiting[block.name], waiting[block.name][:0]
            self._run(block, frame, here, batch)

            def go(target: str, who: np.ndarray) -> None:
                waiting[target] = np.union1d(waiting[target], who)

            match block.exit:
                case Jump(target):
                    go(target, here)
                case Branch(predicate, then, otherwise):
                    chosen = frame[predicate][here]
                    go(then, here[chosen])
                    go(otherwise, here[~chosen])
                case Call(callee, sources, continuation):
                    inner = self._program.functions[callee]
                    deeper = depth + 1 if self._recursive[block.name] else 1
                    returned = self._call(inner, [frame[s] for s in sources], here, batch, deeper)
                    for slot, value in zip(inner.results, returned, strict=True):
                        _store(frame, slot, here, value[here], batch)
                    go(continuation, here)
                case Return(sources):
                    for result, slot in zip(results, sources, strict=True):
                        result[here] = frame[slot][here]

    def _run(self, block: Block, frame: dict[Any, np.ndarray], here: np.ndarray, batch: int) -> None:
        """The block's code for the members `here`."""
        rows = np.concatenate([here, np.full(batch - here.size, here[0], here.dtype)])
        outs = self._code[block.name](np.zeros(batch), *(frame[s][rows] for s in block.reads))
        for slot, out in zip(block.writes, outs, strict=True):
            _store(frame, slot, here, np.asarray(out)[: here.size], batch)
        self.runs[block.name] += 1
        self.members[block.name] += here.size
        if self._trace:
            self.log.append((block.name, here.size))


def too_deep(function: str, max_depth: int, members: Sequence[Any] | np.ndarray) -> ProgramError:
    """The error that says whose stack ran over."""
    listed = ", ".join(str(int(m)) for m in members[:8]) + (", ..." if len(members) > 8 else "")
    who = f"member {listed}" if len(members) == 1 else f"members {listed}"
    return ProgramError(f"{function}: more than {max_depth} calls are open at once in {who} of the batch; raise max_depth={max_depth}.")


def _code(block: Block) -> Any:
    def code(_: Any, *values: Any) -> list[Any]:
        return evaluate(block, values)

    return code


def _store(frame: dict[Any, np.ndarray], slot: Any, here: np.ndarray, values: np.ndarray, batch: int) -> None:
    if slot not in frame:
        frame[slot] = np.zeros((batch, *slot.shape), slot.dtype)
    frame[slot][here] = values
