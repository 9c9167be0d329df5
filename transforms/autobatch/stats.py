"""How well a batch keeps its machine busy: executions of every block, the members that took part, and a picture over time.

Time is counted in ticks. A tick of the program counter machine is one turn of its loop, in which every block of the cycle has its
place; the first row of a history is what runs before that loop, the last what runs after it, if anything does. The plain executor has
no such loop, and a tick of it is the run of one block.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import ProgramError
from .local_static import LocalStatic
from .program_counter import Machine, State

__all__ = ["BlockStats", "History", "Stats", "local_static_stats", "machine_stats"]

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
class History:
    """Counts over time.

    Attributes:
        executions: int64, (tick, block). How often the block's code ran for the batch.
        members: int64, (tick, block). Members that took part.
        unit: what a tick is, for the axis of a picture.
    """

    executions: np.ndarray
    members: np.ndarray
    unit: str

    def binned(self, bins: int) -> tuple[np.ndarray, "History"]:
        """The counts of neighbouring ticks added up.

        Args:
            bins: at most so many bins, of equal width but for the last.

        Returns:
            The ticks at which bins begin and the last one ends, (bin + 1,), and the counts by bin instead of tick.
        """
        ticks = len(self.executions)
        starts = np.arange(0, ticks, max(1, -(-ticks // bins)))
        executions, members = (np.add.reduceat(counts, starts, axis=0) for counts in (self.executions, self.members))
        return np.append(starts, ticks), History(executions, members, self.unit)

    def fractions(self, batch: int) -> np.ndarray:
        """The part of the batch that took part, (block, tick); NaN where a block did not run."""
        slots = batch * self.executions.T
        return np.divide(self.members.T, slots, out=np.full(slots.shape, np.nan), where=slots > 0)


@dataclass(frozen=True, eq=False)
class Stats:
    """Counts of one run.

    Attributes:
        batch: number of members.
        blocks: by name.
        heavy: name of the heavy block; None if the program has no loop.
        history: counts over time, its blocks in the order of `blocks`; None unless asked for.
    """

    batch: int
    blocks: dict[str, BlockStats]
    heavy: str | None
    history: History | None

    @property
    def trace(self) -> np.ndarray:
        """float, (execution of the heavy block,): the part of the batch that took part; empty unless asked for."""
        if self.history is None or self.heavy is None:
            return np.zeros(0)
        heavy = list(self.blocks).index(self.heavy)
        executions = self.history.executions[:, heavy]
        return np.repeat(self.history.members[:, heavy] / np.maximum(1, executions) / self.batch, executions)

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

    def plot(self, ax: Any = None, bins: int = 200) -> Any:
        """Draws which part of the batch was active in each block, over time.

        A row for each block, the heavy one in bold; blank where the block did not run.

        Args:
            ax: matplotlib axes; new ones if None.
            bins: neighbouring ticks are put together if there are more than so many.

        Returns:
            The axes.

        Raises:
            ProgramError: nothing was followed over time.
        """
        if self.history is None:
            raise ProgramError("plot: these counts were not followed over time; write batched.stats(..., trace=True).")
        if bins < 1:
            raise ProgramError(f"plot: bins={bins}; write bins=1 or more.")
        if ax is None:
            import matplotlib.pyplot as plt  # a fifth of a second, and only here

            ax = plt.subplots(figsize=(8, 1.2 + 0.28 * len(self.blocks)))[1]
        edges, history = self.history.binned(bins)
        rows = np.arange(len(self.blocks) + 1) - 0.5
        mesh = ax.pcolormesh(edges, rows, history.fractions(self.batch), vmin=0, vmax=1)
        ax.figure.colorbar(mesh, ax=ax, label="active part of the batch")
        ax.set_yticks(range(len(self.blocks)), self.blocks)
        for label in ax.get_yticklabels():
            label.set_fontweight("bold" if label.get_text() == self.heavy else "normal")
        ax.invert_yaxis()
        where = "" if self.heavy is None else f" in {self.heavy}"
        ax.set(xlabel=history.unit, ylabel="block", title=f"utilisation {self.utilisation:.2f}{where}, {self.batch} members")
        return ax


def machine_stats(machine: Machine, arguments: Sequence[Any], batch: int, trace: bool = False) -> Stats:
    """Runs a machine that counts, from the host.

    Args:
        machine: built with `count`.
        arguments: one array per parameter of the main function.
        batch: number of members.
        trace: whether to follow the blocks over time; then every tick is a call of its own.
    """
    shared = [a for a, one in zip(arguments, machine.shared, strict=True) if one]
    names = [step.block.name for step in machine.frames.steps]
    advance = jax.jit(lambda state, ticks: machine.advance_counted(state, shared, ticks, finish=False)[0], donate_argnums=0)
    finish = jax.jit(lambda state: machine.advance(state, shared, 0), donate_argnums=0)
    state = jax.jit(lambda *args: machine.start(args, batch))(*arguments)
    per_call = np.int32(1 if trace else max(1, _MEMBERS_PER_CALL // batch))
    ticks = [_counts(machine, state)]
    while bool(machine.ticking(state).any()):
        state = advance(_from_zero(state), per_call)
        ticks.append(_counts(machine, state))
    if machine.schedule.epilogue:
        ticks.append(_counts(machine, finish(_from_zero(state))))
    totals = np.sum(ticks, axis=0)
    heavy = machine.schedule.heavy
    history = History(np.stack([t[0] for t in ticks]), np.stack([t[1] for t in ticks]), "tick") if trace else None
    return Stats(batch, _blocks(names, totals[0], totals[1], batch), None if heavy is None else names[heavy], history)


def _counts(machine: Machine, state: State) -> np.ndarray:
    """Executions and members, (2, block)."""
    return np.stack([np.asarray(c, np.int64) for c in machine.counts(state)])


def _from_zero(state: State) -> State:
    return {**state, "runs": jnp.zeros_like(state["runs"]), "members": jnp.zeros_like(state["members"])}


def local_static_stats(run: LocalStatic, batch: int, names: Sequence[str], heavy: str | None, trace: bool = False) -> Stats:
    """What a `LocalStatic` has counted so far."""
    blocks = _blocks(names, [run.runs[n] for n in names], [run.members[n] for n in names], batch)
    return Stats(batch, blocks, heavy, _one_by_one(run, names) if trace else None)


def _one_by_one(run: LocalStatic, names: Sequence[str]) -> History:
    """A tick for every run of a block."""
    number = {name: n for n, name in enumerate(names)}
    executions, members = np.zeros((2, len(run.log), len(names)), np.int64)
    for tick, (name, active) in enumerate(run.log):
        executions[tick, number[name]], members[tick, number[name]] = 1, active
    return History(executions, members, "run of a block")


def _blocks(names: Sequence[str], runs: Any, members: Any, batch: int) -> dict[str, BlockStats]:
    return {
        name: BlockStats(name, int(r), int(m), float(m) / max(1, batch * int(r))) for name, r, m in zip(names, runs, members, strict=True)
    }  # fmt: skip
