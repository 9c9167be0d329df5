"""The picture of a schedule: which values are split over which mesh axis, and the memory that one device needs over the program's steps."""

from collections.abc import Mapping
from typing import Any

from .layout import Layout
from .naming import group_name
from .report import Report, in_seconds, shortened

__all__ = ["groups", "plot"]

_ROWS = 40


def groups(layouts: Mapping[str, Layout], axes: tuple[str, ...]) -> dict[str, tuple[int | None, ...]]:
    """Names that differ only in numbers of a list, as one row: for each mesh axis the dimension that is split over it, None if none is.

    Members of a list that are laid out differently have rows of their own, under the names that they have.
    """
    split = {name: tuple(_dimension(layout, axis) for axis in axes) for name, layout in layouts.items()}
    together: dict[str, set[tuple[int | None, ...]]] = {}
    for name, row in split.items():
        together.setdefault(group_name(name), set()).add(row)
    rows: dict[str, tuple[int | None, ...]] = {}
    for name, row in split.items():
        group = group_name(name)
        rows[group if len(together[group]) == 1 else name] = row
    return rows


def _dimension(layout: Layout, axis: str) -> int | None:
    return next((dim for dim, axes in enumerate(layout) if axis in axes), None)


def plot(layouts: Mapping[str, Layout], mesh: Mapping[str, int], report: Report, axes: Any = None) -> Any:
    """Draws the layouts on the left, live memory on the right.

    Left: a row for each named value (those of a list together, "layers.*.up"), a column for each mesh axis; a coloured cell holds the
    dimension that is split. Right: live bytes of one device over the steps of the program, the peak, and the limit if there is one.

    Args:
        layouts: name -> where its parts lie.
        mesh: axis -> number of devices along it.
        report: of the last tactic.
        axes: two matplotlib axes; a new figure if None.

    Returns:
        The figure.
    """
    from matplotlib import pyplot  # heavy, and only needed here

    rows = groups(layouts, tuple(mesh))
    if axes is None:
        height = 1.5 + 0.25 * min(len(rows), _ROWS)
        figure, axes = pyplot.subplots(1, 2, figsize=(11, max(4.0, height)), layout="constrained", width_ratios=(1, 2))
    else:
        figure = axes[0].figure
    _draw_layouts(axes[0], rows, mesh)
    _draw_memory(axes[1], report)
    return figure


def _draw_layouts(ax: Any, rows: Mapping[str, tuple[int | None, ...]], mesh: Mapping[str, int]) -> None:
    shown = list(rows.items())[:_ROWS]
    for y, (_, dims) in enumerate(shown):
        for x, dim in enumerate(dims):
            if dim is not None:
                ax.add_patch(_cell(x, y))
                ax.text(x, y, f"dim {dim}", ha="center", va="center", fontsize="small")
    names = [name for name, _ in shown]
    if len(rows) > _ROWS:
        names.append(f"and {len(rows) - _ROWS} more")
    ax.set(xlim=(-0.5, len(mesh) - 0.5), ylim=(max(len(names), 1) - 0.5, -0.5), title="split over")
    ax.set_xticks(range(len(mesh)), [f"{axis} ({size})" for axis, size in mesh.items()])
    ax.set_yticks(range(len(names)), names, fontsize="small")
    ax.tick_params(length=0)


def _cell(x: int, y: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.45, y - 0.4), 0.9, 0.8, facecolor=f"C{x}", alpha=0.35)


def _draw_memory(ax: Any, report: Report) -> None:
    live = [value / 2**20 for _, value in report.curve]
    ax.fill_between(range(len(live)), live, alpha=0.3, step="mid")
    if live:
        worst = max(range(len(live)), key=live.__getitem__)
        ax.plot(worst, live[worst], "o", color="C3", label=f"peak {report.peak_bytes / 2**20:,.4g} MiB, at {report.curve[worst][0]}")
    if report.memory_limit is not None:
        ax.axhline(report.memory_limit / 2**20, color="black", linestyle="--", label=f"limit {report.memory_limit / 2**20:,.4g} MiB")
    ax.set(xlabel="step of the program, from the first to the last", ylabel="live memory of one device, MiB")
    ax.set_title(f"after {shortened(report.tactic)}: {in_seconds(report.seconds)}", fontsize="small")
    ax.set_ylim(bottom=0)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="best", fontsize="small")
