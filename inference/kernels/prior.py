"""The Gaussian prior of a model: mean and factor of every latent site, or an error that names the site that has none.

A model has a Gaussian prior if every latent site is `Normal` or `MultivariateNormal` and no parameter of it depends on another latent
site; its parameters may be constants or computed from the data, in plates, under `jax.vmap` or in a scan. They are computed once a run,
on the data of that run, and enter the compiled sampler as numbers.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from numpyro.distributions import MultivariateNormal, Normal

from ...ppl.dependence import edges
from ...ppl.program import ModelProgram
from ...ppl.spec import Spec, distribution_name, peel
from ...ppl.walker import walk
from ...transforms.bounded import bounded_jit
from ...transforms.errors import SamplerError
from ...transforms.graph import reachable
from .layout import Layout

__all__ = ["GaussianPrior", "colour", "gaussian_prior", "split_prior", "whiten"]


class GaussianPrior(NamedTuple):
    """N(m, F F') on the raveled vector, in blocks, one for each latent site in the layout's order.

    Attributes:
        means: each (size,), of the raveled site; where it is split over devices, one device's part of it, of the site's shape.
        factors: each a site's standard deviations, of the same shape, or the lower Cholesky factors of its events, (events, event
            size, event size), or (1, event size, event size) if all events have the same.
    """

    means: tuple[Any, ...]
    factors: tuple[Any, ...]


def colour(prior: GaussianPrior, whitened: jax.Array) -> jax.Array:
    """x = m + F z, shape (dim,): z ~ N(0, I) becomes a draw from the prior."""
    parts, start = [], 0
    for mean, factor in zip(prior.means, prior.factors, strict=True):
        z = whitened[start : start + mean.size]
        spread = factor.reshape(-1) * z if factor.shape == mean.shape else (factor @ _events(factor, z)).reshape(-1)
        parts.append(mean.reshape(-1) + spread)
        start += mean.size
    return jnp.concatenate(parts)


def whiten(prior: GaussianPrior, position: jax.Array) -> jax.Array:
    """z = F^-1 (x - m), shape (dim,); -|z|^2 / 2 is the log prior, but for a constant."""
    parts, start = [], 0
    for mean, factor in zip(prior.means, prior.factors, strict=True):
        x = position[start : start + mean.size] - mean.reshape(-1)
        parts.append(x / factor.reshape(-1) if factor.shape == mean.shape else _solve(factor, _events(factor, x)).reshape(-1))
        start += mean.size
    return jnp.concatenate(parts)


def _events(factor, vector):
    """(events, event size, 1)."""
    size = factor.shape[-1]
    return vector.reshape(vector.shape[0] // size if size else factor.shape[0], size, 1)


def _solve(factor, x):
    return solve_triangular(jnp.broadcast_to(factor, (x.shape[0], *factor.shape[1:])), x, lower=True)


def split_prior(options: dict[str, Any], layout: Layout) -> tuple[dict[str, Any], dict[str, Any]]:
    """A prior, as the fields of a `GaussianPrior`, for vectors of this layout, and how its arrays are split.

    Raises:
        SamplerError: a site that is split is multivariate: its Cholesky factors join what lies on several devices.
    """
    number = {name: i for i, (name, _, _) in enumerate(layout.sites)}
    given, homes = {"means": [], "factors": []}, {"means": [], "factors": []}
    for place in layout.places():
        for field, arrays in given.items():
            array = options[field][number[place.name]]
            if place.home and array.ndim > 1:
                raise SamplerError(
                    f"EllipticalSlice: site {place.name!r} is split over devices, and its prior is MultivariateNormal, which joins its "
                    "coordinates. Leave it whole and split the data or the chains, or sample with NUTS."
                )
            arrays.append(array.reshape(place.shape) if place.home else array)
            homes[field].append(place.home)
    return {field: tuple(arrays) for field, arrays in given.items()}, {field: tuple(found) for field, found in homes.items()}


def gaussian_prior(density: Any, layout: Layout) -> GaussianPrior:
    """The prior of a model on its data, as NumPy arrays.

    Args:
        density: a `LogDensity`.
        layout: of the raveled vector.

    Raises:
        SamplerError: a latent site has no such prior; names it, what was found, and what to write instead.
    """
    program = density.program
    if not program.latents:
        raise SamplerError(
            "EllipticalSlice: a log density without sites found, a model expected, whose prior can be read off its latent sites; "
            "write EllipticalSlice(model), or Slice for a log density."
        )
    _check_independent(program)
    found = jax.device_get(_parameters(program, density.data))
    dtype = np.dtype(layout.dtype)
    means, factors = [], []
    for name, _, _ in layout.sites:
        loc, scale, lower = (found[name].get(part) for part in ("loc", "scale", "lower"))
        factor = scale.reshape(-1) if lower is None else lower.reshape(math.prod(lower.shape[:-2]), *lower.shape[-2:])
        positive = factor if lower is None else np.diagonal(factor, axis1=-2, axis2=-1)
        if not (np.isfinite(loc).all() and np.isfinite(factor).all() and (positive > 0).all()):
            what = "its prior has a mean or a scale that is not finite, or a scale that is not positive"
            raise _refusal(program, name, what, "Check the data that they are computed from")
        means.append(loc.reshape(-1).astype(dtype))
        factors.append(factor.astype(dtype))
    return GaussianPrior(tuple(means), tuple(factors))


@bounded_jit(static_argnums=0)
def _parameters(program: ModelProgram, data: Sequence[Any]) -> dict[str, dict[str, jax.Array]]:
    """By latent site: `loc`, of the site's shape, and `scale`, of the same, or `lower`, Cholesky factors, (..., size, size).

    The values that latent sites have while the model runs play no part: no prior depends on them.
    """

    def rule(spec: Spec, operands: Sequence[Any], _: Any) -> tuple[Any, Any]:
        if not spec.latent or spec.name in program.enumerated:
            if spec.latent:
                return jnp.full(spec.shape, program.states[spec.name][0], spec.dtype), None
            return operands[0 if spec.kind == "deterministic" else spec.num_leaves], None
        if spec.scale is not None:
            found = "its log probability is scaled by a handler, so that its density is not its prior's"
            raise _refusal(program, spec.name, found, "Leave the handler away")
        return jnp.zeros(spec.shape, spec.dtype), spec.apply(lambda dist, scale, obs: _of_example(program, spec, dist), operands)

    _, records = walk(program.jaxpr, data, rule, {})
    return {name: records[name] for name in program.latents}


def _of_example(program: ModelProgram, spec: Spec, dist: Any) -> dict[str, jax.Array]:
    base: Any
    base, masks = peel(dist)
    family: Any = type(base)
    shape: tuple[int, ...] = tuple(dist.shape())
    if masks:
        raise _refusal(program, spec.name, "it is masked, so that a part of it has no prior", "Leave the masked elements out of the model")
    if family is Normal:
        return {"loc": jnp.broadcast_to(base.loc, shape), "scale": jnp.broadcast_to(base.scale, shape)}
    if family is MultivariateNormal:
        lower = base.scale_tril
        shared = lower.ndim == 2 and not spec.vmaps and not program.sites[spec.name].loops
        return {"loc": jnp.broadcast_to(base.loc, shape), "lower": lower if shared else jnp.broadcast_to(lower, (*shape, shape[-1]))}
    raise _refusal(
        program,
        spec.name,
        f"its prior is {distribution_name(dist)}, Normal or MultivariateNormal expected",
        'Write it as a function of a Gaussian, z = lc.sample("z", dist.Normal(0, 1)); lc.deterministic(name, f(z))',
    )


def _check_independent(program: ModelProgram) -> None:
    """Refuses a site whose parameters were computed from another latent site, through deterministic ones or directly."""
    parents: dict[str, set[str]] = {}
    for edge in edges(program):
        parents.setdefault(edge.child, set()).add(edge.parent)
    through = {name: () if site.latent else parents.get(name, ()) for name, site in program.sites.items()}  # a path ends at a latent site
    for name in program.latents:
        latent = sorted(other for other in reachable(through, parents.get(name, ())) if program.sites[other].latent)
        if latent:
            found = f"the parameters of its prior depend on the latent site {' and '.join(repr(n) for n in latent)}"
            instead = 'Write it without that, z = lc.sample("z", dist.Normal(0, 1)); x = lc.deterministic(name, mu + tau * z)'
            raise _refusal(program, name, found, instead)


def _refusal(program: ModelProgram, name: str, found: str, instead: str) -> SamplerError:
    line = program.sites[name].line
    return SamplerError(
        f"EllipticalSlice: site {name!r} ({line}): {found}. The kernel needs a Gaussian prior of every latent site, with parameters that "
        f"depend on no other. {instead}; or sample with NUTS or Slice."
    )
