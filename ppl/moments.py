"""What a model expects where it is not told: mean and variance of its observed sites, given values of the latent ones."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from ..transforms import ModelError
from .interpreters import site_value
from .program import ModelProgram
from .spec import Spec
from .walker import walk

__all__ = ["moments"]


def moments(program: ModelProgram, data: Sequence[Any], values: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """E[y | values] and Var[y | values] of every sample site that is observed or has no value, each of the site's shape.

    Where a later site depends on one without a value, it is given that one's mean.

    Raises:
        ModelError: the distribution of such a site has no mean or variance in closed form.
    """

    def rule(spec: Spec, operands: Sequence[Any], value: Any) -> tuple[Any, Any]:
        if spec.kind != "sample":
            return site_value(spec, operands, None) if spec.kind == "deterministic" else operands[spec.num_leaves], None
        if value is not None:
            return jnp.asarray(value, spec.dtype), None
        try:
            mean, variance = spec.apply(lambda dist, scale, obs: (dist.mean, dist.variance), operands)
        except NotImplementedError as e:
            raise ModelError(
                f"site {spec.name!r}: its distribution has no mean or variance in closed form; draw from it: lc.predict."
            ) from e
        shape = jnp.broadcast_shapes(jnp.shape(mean), spec.shape)
        mean, variance = jnp.broadcast_to(mean, shape), jnp.broadcast_to(variance, shape)
        return operands[spec.num_leaves] if spec.observed else mean.astype(spec.dtype), (mean, variance)

    _, records = walk(program.jaxpr, data, program.missing.rule(rule), program.missing.spread(data, values))
    return {name: found for name, found in records.items() if found is not None}
