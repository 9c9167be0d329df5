"""What is told of a program after each tactic: collectives, memory, operations, time; and many of these as one table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from .local import COLLECTIVES
from .simulate import Cost

if TYPE_CHECKING:
    from .propagate import Conflict

__all__ = ["Report", "in_seconds", "shortened", "table"]

_SHOWN = 8  # conflicts and notes that print() shows


@dataclass(frozen=True, repr=False)
class Report:
    """A program under the tactics so far, as one device runs it. `print(report)` is a table.

    Attributes:
        tactic: what was applied last, in words; "no tactic" of the program as it stands.
        collectives: kind -> how many are executed: times the lengths of the scans around them, a while loop's body once, of a choice the
            branch that takes longest. Kinds: "all_gather", "all_reduce", "reduce_scatter", "all_to_all".
        static_collectives: kind -> how many stand in the lowered text: each once, all branches.
        per_iteration: kind -> how many of the executed stand in while loops: per turn of the outermost, its condition included.
        collective_bytes: bytes that one device sends.
        flops: floating-point operations of one device.
        bytes: bytes that one device reads from its memory and writes to it.
        peak_bytes: most that one device holds at once, arguments and results included.
        seconds: estimated; good for ranking. A while loop's body counts once.
        hardware: the device that the seconds are for.
        memory_limit: bytes that one device may hold; None if that is not known.
        conflicts: operations that two layouts would split in two ways, and that were left whole.
        notes: what is not as a user would hope: unknown primitives, dimensions that cannot be divided, random numbers drawn whole.
        curve: (step, live bytes) in the order of the program, at most 400 points.
    """

    tactic: str
    collectives: Mapping[str, int]
    static_collectives: Mapping[str, int]
    per_iteration: Mapping[str, int]
    collective_bytes: float
    flops: float
    bytes: float
    peak_bytes: int
    seconds: float
    hardware: str = ""
    memory_limit: float | None = None
    conflicts: "tuple[Conflict, ...]" = ()
    notes: tuple[str, ...] = ()
    curve: tuple[tuple[str, int], ...] = field(default=(), repr=False)

    @classmethod
    def of(
        cls,
        tactic: str,
        cost: Cost,
        conflicts: "Sequence[Conflict]" = (),
        notes: Sequence[str] = (),
        *,
        hardware: str = "",
        memory_limit: float | None = None,
    ) -> Self:
        """A report from what `simulate` found."""
        counts = cost.counts
        return cls(
            tactic=tactic,
            collectives=dict(counts.executed),
            static_collectives=dict(counts.static),
            per_iteration=dict(counts.per_iteration),
            collective_bytes=cost.collective_bytes,
            flops=cost.flops,
            bytes=cost.bytes,
            peak_bytes=cost.peak_bytes,
            seconds=cost.seconds,
            hardware=hardware,
            memory_limit=memory_limit,
            conflicts=tuple(conflicts),
            notes=tuple(notes),
            curve=tuple(cost.curve),
        )

    @property
    def fits(self) -> bool:
        """Whether the peak is within the limit; True where there is none."""
        return self.memory_limit is None or self.peak_bytes <= self.memory_limit

    def rows(self) -> list[tuple[str, str]]:
        """(figure, value with its unit)."""
        rows = [(kind, _count(self, kind)) for kind in COLLECTIVES]
        memory = in_bytes(self.peak_bytes)
        if self.memory_limit is not None:
            memory += f" of {in_bytes(self.memory_limit)}" + ("" if self.fits else ", too much")
        return [
            *rows,
            ("sent", in_bytes(self.collective_bytes)),
            ("operations", in_flops(self.flops)),
            ("memory traffic", in_bytes(self.bytes)),
            ("peak memory", memory),
            ("estimated time", in_seconds(self.seconds) + (f" on {self.hardware}" if self.hardware else "")),
        ]

    def __str__(self) -> str:
        rows = self.rows()
        width = max(len(name) for name, _ in rows)
        lines = [f"after {shortened(self.tactic, 100)}, on one device", *(f"  {name:{width}}  {value}" for name, value in rows)]
        lines += _listed("conflict", [str(conflict) for conflict in self.conflicts])
        lines += _listed("note", self.notes)
        return "\n".join(lines)

    __repr__ = __str__


def table(reports: Sequence[Report]) -> str:
    """One row for each tactic: collectives executed, what is sent, operations, peak memory, estimated time, number of conflicts."""
    head = ("tactic", *COLLECTIVES, "sent", "operations", "peak", "time", "conflicts")
    body = [
        (
            shortened(report.tactic),
            *(str(report.collectives[kind]) for kind in COLLECTIVES),
            in_bytes(report.collective_bytes),
            in_flops(report.flops),
            in_bytes(report.peak_bytes) + ("" if report.fits else " !"),
            in_seconds(report.seconds),
            str(len(report.conflicts)),
        )
        for report in reports
    ]
    widths = [max(len(row[i]) for row in (head, *body)) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True)))
        for row in (head, *body)
    )


def shortened(text: str, width: int = 60) -> str:
    """At most `width` characters."""
    return text if len(text) <= width else text[: width - 3] + "..."


def _count(report: Report, kind: str) -> str:
    text = f"{report.collectives[kind]:,}"
    if inside := report.per_iteration[kind]:
        text += f", {inside:,} of them per iteration of a while loop"
    if (static := report.static_collectives[kind]) != report.collectives[kind]:
        text += f" ({static:,} in the text)"
    return text


def _listed(word: str, entries: Sequence[str]) -> list[str]:
    lines = [f"  {word}: {entry}" for entry in entries[:_SHOWN]]
    more = len(entries) - _SHOWN
    return lines if more <= 0 else [*lines, f"  and {more} more: report.{word}s"]


def _scaled(value: float, units: Sequence[str], step: float) -> str:
    """With the largest unit that leaves a number of at least 1."""
    number = 0
    while abs(value) >= step and number + 1 < len(units):
        value /= step
        number += 1
    return (
        f"{value:.0f} {units[number]}"
        if number == 0
        else f"{value:.3g} {units[number]}"
        if value < 1000
        else f"{value:,.0f} {units[number]}"
    )


def in_bytes(value: float) -> str:
    return _scaled(value, ("B", "KiB", "MiB", "GiB", "TiB"), 1024)


def in_flops(value: float) -> str:
    return _scaled(value, ("flop", "kflop", "Mflop", "Gflop", "Tflop", "Pflop"), 1000)


def in_seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.3g} us"
