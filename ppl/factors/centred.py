"""Sites whose scale is latent, as in a centred hierarchy: b ~ Normal(mu, tau) with mu and tau latent.

The density of (tau, b) has no maximum: it grows without bound where tau goes to 0 and every b to mu. In coordinates that do not depend on
tau, b = mu + tau z, it mostly has one. In those the log density is larger by

    log |det db / dz| = sum over such sites of log scale,

and a maximum is a point, whatever coordinates it is written in. So nobody has to change coordinates: this sum is added.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from numpyro.distributions import Distribution, TransformedDistribution, continuous

from ..density import LogDensity
from ..dependence import edges
from ..interpreters import site_value, total_of
from ..spec import Spec, peel
from ..walker import walk
from .extract import unravel

__all__ = ["log_scales_of"]

_SCALED = (continuous.Normal, continuous.StudentT, continuous.Cauchy, continuous.Laplace, continuous.Logistic, continuous.Gumbel)


def log_scales_of(density: LogDensity) -> Callable[[Sequence[Any], Any], jax.Array] | None:
    """(data, position (dim,)) -> the sum of log scale over latent sites whose distribution depends on latent ones; None if none has any."""
    program = density.program
    latent = {name for name, site in program.sites.items() if site.spec.latent}
    children = {e.child for e in edges(program) if e.parent in latent and e.child in latent}
    if not children:
        return None

    def rule(spec: Spec, operands: Sequence[Any], u: Any) -> tuple[Any, Any]:
        found = None
        if spec.name in children:
            found = spec.apply(lambda dist, scale, obs: _log_scale(dist), operands)
        return site_value(spec, operands, u), found

    def total(data: Sequence[Any], position: Any) -> Any:
        _, records = walk(program.jaxpr, data, rule, unravel(density, position))
        return sum((total_of(x) for x in records.values() if x is not None), jnp.zeros((), position.dtype))

    return total


def _log_scale(dist: Distribution) -> Any:
    """log |det| of the linear map from the distribution's standard form to a sample; 0 if it has none."""
    base: Any = peel(dist)[0]
    while isinstance(base, TransformedDistribution):
        base = peel(base.base_dist)[0]
    if isinstance(base, _SCALED):
        scale: Any = base.scale
        return jnp.log(jnp.broadcast_to(scale, dist.shape())).sum()
    if isinstance(base, continuous.MultivariateNormal):
        root: Any = base.scale_tril
        return jnp.broadcast_to(jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1)).sum(-1), dist.batch_shape).sum()
    return jnp.zeros(())
