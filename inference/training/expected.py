"""Which site a fit predicts, and what one member expects of it."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ...ppl import ModelProgram
from ...ppl.moments import moments
from ...transforms import TrainingError
from ...transforms.bounded import bounded_jit

__all__ = ["expected", "predicted_site"]


def predicted_site(program: ModelProgram, parameters: Collection[str], site: str | None, owner: str) -> str:
    """The site that was named, or the only sample site that is no parameter.

    Raises:
        TrainingError: there is no such site, or there are several and none was named; a parameter is not in the program any more, or
            has another shape.
    """
    samples = {n: s for n, s in program.sites.items() if s.kind == "sample"}
    lost = [n for n in parameters if n not in samples]
    if lost:
        raise TrainingError(f"{owner}: on these arguments the model has no site {lost[0]!r}, which was trained; it has {list(samples)}.")
    others = [n for n in samples if n not in parameters]
    if site is None and len(others) == 1:
        return others[0]
    if site not in others:
        what = f"site={site!r}" if site is not None else "no site"
        raise TrainingError(f"{owner}: {what} was named; expected one of the sites that are no parameters, {others}.")
    return str(site)


@bounded_jit(static_argnums=(0, 1))
def expected(program: ModelProgram, name: str, data: Sequence[Any], values: Mapping[str, Any]) -> tuple[Any, Any]:
    """Mean and variance, (*row,) each, of one site, given values of the parameters."""
    return moments(program, data, values)[name]
