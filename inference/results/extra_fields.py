"""Statistics by NumPyro's names: what `run(..., extra_fields=...)` and `get_extra_fields` take."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...transforms.calls import known_parameter, nearest
from ...transforms.errors import SamplerError

__all__ = ["extra_fields_of", "known_fields"]

_FIELDS: dict[str, tuple[str, Callable[[Any], Any]]] = {  # NumPyro's names: ours, and what becomes of the values
    "accept_prob": ("acceptance_rate", np.asarray),
    "adapt_state.step_size": ("step_size", np.asarray),
    "num_steps": ("n_steps", np.asarray),
    "potential_energy": ("lp", np.negative),
}
_OURS = (
    "diverging", "tree_depth", "n_steps", "acceptance_rate", "energy", "lp", "step_size", "nstep_out", "nstep_in", "theta", "n_bright",
    "n_queries",
)  # fmt: skip


def known_fields(extra_fields: Any, model: Any) -> tuple[str, ...]:
    """Names of statistics, of NumPyro's or ours.

    Raises:
        SamplerError: a name is unknown, or there is something else in the argument.
    """
    known = (*_OURS, *_FIELDS)
    if isinstance(extra_fields, str) or not isinstance(extra_fields, Sequence):
        raise SamplerError(
            f"MCMC.run: extra_fields is {extra_fields!r}, a tuple of names expected, such as ('num_steps',)"
            f"{known_parameter(model, 'extra_fields')}."
        )
    for name in extra_fields:
        if name not in known:
            like = nearest(str(name), known)
            hint = f"perhaps {like!r} is meant" if like else f"there are {', '.join(known)}"
            if str(name).startswith(("z.", "~z.")):
                hint = "unconstrained values come from lc.log_density(model, ...).unconstrain(values), constrained ones from get_samples()"
            raise SamplerError(
                f"MCMC.run: extra_fields has {name!r}, which is no statistic; {hint}{known_parameter(model, 'extra_fields')}."
            )
    return tuple(extra_fields)


def extra_fields_of(fields: Sequence[str], stats: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The statistics of these names, under these names, and divergences, which NumPyro always returns; (chain, draw).

    Raises:
        SamplerError: the kernel has no such statistic.
    """
    found = {"diverging": stats["diverging"]} if "diverging" in stats else {}
    for name in fields:
        ours, convert = _FIELDS.get(name, (name, np.asarray))
        if ours not in stats:
            raise SamplerError(f"MCMC.get_extra_fields: this kernel has no statistic {name!r}; it has {', '.join(stats)}.")
        found[name] = convert(stats[ours])
    return found
