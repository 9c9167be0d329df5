"""How well a batch keeps its machine busy: executions of every block, the members that took part, and a picture over time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from .local_static import LocalStatic
from .program_counter import Machine

__all__ = ["BlockStats", "Stats", "local_static_stats", "machine_stats"]

_MEMBERS_PER_CALL = 2**26  # counters are int32; inner loops may count a few times per tick


@dataclass(frozen=True)
class BlockStats:
    """Counts of one block.

    Attributes:
        name: of the block.
        executions: how often its code ran for the batch.
        members: members that took part, over all executions.
        utilisation: members per execution and batch size; 0 if it never ran.
    """

    name: str
    executions: int
    members: int
    utilisation: float


@dataclass(frozen=True, eq=False)
class Stats:
    """Counts of one run.

    Attributes:
        batch: number of members.
        blocks: by name.
        heavy: name of the heavy block; None if the program has no loop.
        trace: float, (execution of the heavy block,): the part of the batch that took part; empty unless asked for.
    """

    batch: int
    blocks: dict[str, BlockStats]
    heavy: str | None
    trace: np.ndarray

    @property
    def utilisation(self) -> float:
        """Of the heavy block; of a program without loops, of the whole."""
        if self.heavy is not None:
            return self.blocks[self.heavy].utilisation
        return sum(b.members for b in self.blocks.values()) / max(1, self.batch * sum(b.executions for b in self.blocks.values()))

    def __str__(self) -> str:
        width = max(len(name) for name in self.blocks)
        lines = [f"{'block':{width}}  executions     members  utilisation"]
        for block in self.blocks.values():
            mark = "  heavy" if block.name == self.heavy else ""
            lines.append(f"{block.name:{width}}  {block.executions:10d}  {block.members:10d}  {block.utilisation:11.3f}{mark}")
        return "\n".join(lines)

    def plot(self, ax: Any = None) -> Any:
        """Draws the utilisation of the heavy block over its executions.

        Args:
            ax: matplotlib axes; new ones if None.

        Returns:
            The axes.
        """
        if ax is None:
            import matplotlib.pyplot as plt  # a fifth of a second, and only here

            ax = plt.subplots(figsize=(8, 2.5))[1]
        ax.fill_between(np.arange(len(self.trace)), self.trace, step="mid", alpha=0.4)
        ax.axhline(self.utilisation, linestyle="--", linewidth=1)
        ax.set(xlabel=f"execution of {self.heavy}", ylabel="part of the batch", ylim=(0, 1.02), xlim=(0, max(1, len(self.trace) - 1)))
        ax.set_title(f"utilisation {self.utilisation:.2f} of {self.batch} members")
        return ax


def machine_stats(machine: Machine, arguments: Sequence[Any], batch: int, trace: bool = False) -> Stats:
    """Runs a machine that counts, from the host.

    Args:
        machine: built with `count`.
        arguments: one array per parameter of the main function.
        batch: number of members.
        trace: whether to follow the heavy block over time; then every tick is a call of its own.
    """
    shared = [a for a, one in zip(arguments, machine.shared, strict=True) if one]
    names = [step.block.name for step in machine.frames.steps]
    advance = jax.jit(machine.advance, donate_argnames="state")
    state = jax.jit(lambda *args: machine.start(args, batch))(*arguments)
    totals, history = np.zeros((2, len(names)), np.int64), []
    ticks = 1 if trace else max(1, _MEMBERS_PER_CALL // batch)
    heavy = machine.schedule.heavy
    while True:
        new = np.stack([np.asarray(c, np.int64) for c in machine.counts(state)])
        totals += new
        if trace and heavy is not None and new[0, heavy]:
            history += [new[1, heavy] / new[0, heavy] / batch] * int(new[0, heavy])
        if bool(machine.halted(state).all()):
            break
        state = {**state, "runs": np.zeros(len(names), np.int32), "members": np.zeros(len(names), np.int32)}
        state = advance(state, shared, np.int32(ticks))
    heavy_name = None if heavy is None else names[heavy]
    return Stats(batch, _blocks(names, totals[0], totals[1], batch), heavy_name, np.asarray(history, float))


def local_static_stats(run: LocalStatic, batch: int, names: Sequence[str], heavy: str | None) -> Stats:
    """What a `LocalStatic` has counted so far."""
    blocks = _blocks(names, [run.runs[n] for n in names], [run.members[n] for n in names], batch)
    return Stats(batch, blocks, heavy, np.zeros(0))


def _blocks(names: Sequence[str], runs: Any, members: Any, batch: int) -> dict[str, BlockStats]:
    return {
        name: BlockStats(name, int(r), int(m), float(m) / max(1, batch * int(r))) for name, r, m in zip(names, runs, members, strict=True)
    }  # fmt: skip
