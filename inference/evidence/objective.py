"""A model as descent sees it: a sampler of its prior, a log likelihood and a log prior, all on one unconstrained vector u.

    log_likelihood(u) = sum over observed sites and factors,    log_prior(u) = log p(x(u)) + sum_s log |det d x_s / d u_s|

so that their sum is the model's log density, and exp(log_prior) is the density of what `draw` returns.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import ImproperUniform, MaskedDistribution

from ...ppl import ModelProgram
from ...ppl.interpreters import constrain, generate, score_sites, total_of, unconstrain
from ...transforms import EvidenceError
from ...transforms.partial import Split, split
from ..kernels.layout import Layout

__all__ = ["Objective", "check_model", "node_types"]


@dataclass(frozen=True)
class Objective:
    """A model without its data. Equal for models that do the same, so that it can be a static argument of a jitted function.

    Attributes:
        program: the model. layout: of the vector.
    """

    program: ModelProgram
    layout: Layout

    def draw(self, data: Sequence[Any], key: Any) -> jax.Array:
        """A draw from the prior, through the bijectors: (dim,)."""
        values = generate(self.program, data, key)
        return self.layout.ravel(unconstrain(self.program, data, {n: values[n] for n in self.program.latents}))

    def constrain(self, data: Sequence[Any], vector: jax.Array) -> dict[str, jax.Array]:
        """Values of the latent and deterministic sites at a vector (dim,)."""
        return constrain(self.program, data, self.layout.unravel(vector))

    def log_prior(self, data: Sequence[Any], vector: jax.Array) -> jax.Array:
        """Log density, nats, of `draw` at a vector (dim,)."""
        return self._total(data, vector, lambda site: site.latent)

    def prepare(self, data: Sequence[Any]) -> list[Any]:
        """What the log likelihood computes from the data alone."""
        return self._likelihood.prepare(data)

    def log_likelihood(self, prepared: Sequence[Any], vector: jax.Array) -> jax.Array:
        """Log likelihood, nats, at a vector (dim,), given what `prepare` returned."""
        return self._likelihood.rest(prepared, [vector])[0]

    def loss(self, prepared: Sequence[Any], data: Sequence[Any], vector: jax.Array, joint: bool) -> jax.Array:
        """What descends, nats, at a vector (dim,): the negative log likelihood; `joint`: the negative log joint density."""
        return self.with_prior(-self.log_likelihood(prepared, vector), data, vector, joint)

    def with_prior(self, loss: jax.Array, data: Sequence[Any], vector: jax.Array, joint: bool) -> jax.Array:
        """A negative log likelihood, of all rows or scaled from a batch, minus the log prior if `joint`."""
        return loss - self.log_prior(data, vector) if joint else loss

    @property
    def num_observed(self) -> int:
        """How many observations have a likelihood: elements of observed sites, without event axes."""
        observed = [s for s in self.program.sites.values() if s.role == "observed"]
        return sum(math.prod(s.shape[: len(s.shape) - s.spec.event_dim]) for s in observed)

    @functools.cached_property
    def _likelihood(self) -> Split:
        def likelihood(data, vector):
            return self._total(data, vector, lambda site: not site.latent)

        vector = jax.ShapeDtypeStruct((self.layout.dim,), np.dtype(self.layout.dtype))
        return split(jax.make_jaxpr(likelihood)(self.program.data, vector), len(self.program.data))

    def _total(self, data: Sequence[Any], vector: jax.Array, chosen: Callable[[Any], bool]) -> jax.Array:
        scores = score_sites(self.program, data, self.layout.unravel(vector))
        totals = [total_of(score) for name, score in scores.items() if chosen(self.program.sites[name])]
        return functools.reduce(jnp.add, totals).astype(self.layout.dtype)


def check_model(program: ModelProgram, owner: str = "sgd_evidence") -> None:
    """Refuses models without a likelihood or without latent parameters, and priors that are improper or whose draws do not have the
    density that the model scores them with.

    Args:
        owner: the function to name in errors.

    Raises:
        EvidenceError: names the site and the user's line.
    """
    if program.enumerated and owner != "bridge_evidence":  # which takes the joint density as it is
        name = min(program.enumerated)
        raise EvidenceError(
            f"{owner}: the discrete site {name!r} ({program.sites[name].line}) is summed out, and its likelihood and the prior are not "
            "separate there. Use `lc.bridge_evidence` on a run of NUTS, which sums it out too."
        )
    if all(site.role not in ("observed", "factor") for site in program.sites.values()):
        raise EvidenceError(
            f"{owner}: the model has no observed site and no factor, so the evidence is 1 whatever the prior; give the data, "
            "`lc.sample(name, distribution, obs=y)`."
        )
    if not any(math.prod(site.unconstrained_shape) for site in program.latents.values()):
        raise EvidenceError(
            f"{owner}: the latent sites {list(program.latents)} have no elements, so there is nothing to integrate over: the log evidence "
            "is the log likelihood, `sum(v.sum() for v in lc.log_likelihood(model, samples, *args).values())`."
        )
    for site in program.latents.values():
        kinds = list(node_types(site.spec.treedef))
        masked = kinds.count(MaskedDistribution) > site.packed  # missing values have the mask that says which they are
        where = f"the latent site {site.name!r} ({site.line})"
        if ImproperUniform in kinds:
            raise EvidenceError(
                f"{owner}: {where} has an improper prior, ImproperUniform, under which no evidence exists: it would be known up to a "
                "factor that nobody has chosen. Write a proper prior, such as dist.Normal(0, 10)."
            )
        if masked or site.spec.scale is not None:
            raise EvidenceError(
                f"{owner}: {where} is {'masked' if masked else 'scaled'}: its density is no longer that of its draws, "
                "so it is no prior of which the evidence is the average. Mask or scale observed sites only."
            )


def node_types(treedef: Any) -> Iterator[type]:
    """The types of all nodes of a pytree's structure."""
    node = treedef.node_data()
    if node is not None:
        yield node[0]
    for child in treedef.children():
        yield from node_types(child)
