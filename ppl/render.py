"""A picture of a model: its sites, what they depend on and the plates around them, as Graphviz source or Mermaid text."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..transforms import ModelError
from .dependence import Edge, edges
from .program import ModelProgram, Site, trace

__all__ = ["render_model"]


def render_model(model: Callable[..., Any], /, *args: Any, format: str = "graphviz", **kwargs: Any) -> str:
    """The model's graph as text.

    Args:
        model: the model; args and kwargs are its arguments.
        format: "graphviz" (give the text to `graphviz.Source`, or to the program `dot`) or "mermaid" (Markdown, in a ```mermaid block).

    Returns:
        The source. Observed sites are grey, deterministic ones dashed, factors small boxes; plates are frames with their size.

    Raises:
        ModelError: another format; or as `trace`.
    """
    if format not in _FORMATS:
        raise ModelError(f"render_model: format is {format!r}; expected one of {sorted(_FORMATS)}.")
    program = trace(model, *args, **kwargs)
    return _FORMATS[format](program, edges(program))


def _outline(program: ModelProgram, level: tuple[str, ...] = ()) -> Iterator[tuple[int, Site | str | None]]:
    """The sites inside their plates, depth first: (depth, site), (depth, title of a plate that opens), (depth, None) where it closes."""
    around = {s.name: tuple(p.name for p in reversed(s.spec.plates)) for s in program.sites.values()}
    sizes = {p.name: p.size for s in program.sites.values() for p in s.spec.plates}
    depth = len(level)
    for site in program.sites.values():
        if around[site.name] == level:
            yield depth, site
    for frame in dict.fromkeys(a[: depth + 1] for a in around.values() if len(a) > depth and a[:depth] == level):
        yield depth, f"{frame[-1]} ({sizes[frame[-1]]})"
        yield from _outline(program, frame)
        yield depth, None


def _label(site: Site) -> str:
    return site.name if site.kind != "sample" else f"{site.name} ~ {site.spec.distribution}"


def _graphviz(program: ModelProgram, edges: Sequence[Edge]) -> str:
    def quote(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    look = {
        "sample": "shape=ellipse, style=filled, fillcolor=white",
        "observed": "shape=ellipse, style=filled, fillcolor=gray80",
        "deterministic": "shape=ellipse, style=dashed",
        "factor": 'shape=square, style=filled, fillcolor="gray20", fontcolor=white',
    }
    lines, number = [], 0
    for depth, item in _outline(program):
        indent = "  " * (depth + 1)
        if item is None:
            lines.append(f"{indent}}}")
        elif isinstance(item, str):
            lines += [f"{indent}subgraph cluster_{number} {{", f"{indent}  label={quote(item)}; labeljust=r; labelloc=b;"]
            number += 1
        else:
            lines.append(f"{indent}{quote(item.name)} [label={quote(_label(item))}, {look[item.role]}];")
    arrows = [f"  {quote(e.parent)} -> {quote(e.child)}{' [style=dashed]' if e.lagged else ''};" for e in edges]
    return "\n".join(["digraph model {", *lines, *arrows, "}", ""])


def _mermaid(program: ModelProgram, edges: Sequence[Edge]) -> str:
    def quote(text: str) -> str:
        return '"' + text.replace('"', "#quot;") + '"'

    ids = {name: f"s{i}" for i, name in enumerate(program.sites)}
    lines, number = [], 0
    for depth, item in _outline(program):
        indent = "  " * (depth + 1)
        if item is None:
            lines.append(f"{indent}end")
        elif isinstance(item, str):
            lines.append(f"{indent}subgraph p{number} [{quote(item)}]")
            number += 1
        else:
            left, right = ("[", "]") if item.kind == "factor" else ("([", "])")
            lines.append(f"{indent}{ids[item.name]}{left}{quote(_label(item))}{right}:::{item.role}")
    arrows = [f"  {ids[e.parent]} {'-.->' if e.lagged else '-->'} {ids[e.child]}" for e in edges]
    looks = [
        "  classDef sample fill:#fff,stroke:#333",
        "  classDef observed fill:#ccc,stroke:#333",
        "  classDef deterministic fill:#fff,stroke:#333,stroke-dasharray:4",
        "  classDef factor fill:#333,color:#fff",
    ]
    return "\n".join(["flowchart TB", *lines, *arrows, *looks, ""])


_FORMATS = {"graphviz": _graphviz, "mermaid": _mermaid}
