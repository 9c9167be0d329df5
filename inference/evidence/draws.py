"""Whether draws from a prior can be differentiated: a sampler that chooses or rejects is no smooth function of its parameters.

The component of a mixture is drawn, and the derivative of the draw in the weights is zero, without an error. Such priors are refused where
a path starts from them.
"""

from collections.abc import Iterator, Sequence

from numpyro import distributions as dist

from ...ppl.primitives import has_sites, site_names
from ...transforms import EvidenceError
from ...transforms.equations import dependents, reads_any
from ...transforms.jax_compat import open_jaxpr
from .objective import Objective, node_types

__all__ = ["check_draws"]

_CHOOSE = tuple(
    getattr(dist, name)
    for name in ("MixtureSameFamily", "MixtureGeneral", "HurdleGamma", "HurdleLogNormal", "SineSkewed", "SineBivariateVonMises", "VonMises")
    if hasattr(dist, name)  # some are younger than others
)


def check_draws(owner: str, objective: Objective, places: Sequence[int]) -> None:
    """Refuses priors that depend on the chosen data and whose draws have no derivative in them.

    Raises:
        EvidenceError: names the site and its line.
    """
    for name in _drawn_from(objective, places):
        if name not in objective.program.latents:
            continue
        site = objective.program.latents[name]
        for kind in node_types(site.spec.treedef):
            if not (isinstance(kind, type) and issubclass(kind, dist.Distribution)):
                continue
            own = not kind.__module__.startswith("numpyro.")
            if issubclass(kind, _CHOOSE) or (own and set(kind.reparametrized_params) != set(kind.arg_constraints)):
                declare = f" (or declare `reparametrized_params` in {kind.__name__}, if they do)" if own else ""
                raise EvidenceError(
                    f'{owner}: start="prior" takes derivatives of draws from the prior, and the site {name!r} ({site.line}) is drawn from '
                    f'{kind.__name__}, whose draws do not depend smoothly on its parameters{declare}. Write start="fit", or other argnums.'
                )


def _drawn_from(objective: Objective, places: Sequence[int]) -> Iterator[str]:
    """The sites whose distributions read the data at these places, or what was drawn from such."""
    jaxpr, _ = open_jaxpr(objective.program.jaxpr)
    inputs = [*jaxpr.constvars, *jaxpr.invars]
    moving = dependents(jaxpr.eqns, [inputs[place] for place in places], effects=False)
    for eqn in jaxpr.eqns:
        if has_sites(eqn) and reads_any(eqn, moving):
            yield from site_names(eqn)
