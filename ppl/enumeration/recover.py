"""Discrete states drawn back, given everything else: one gradient of the sum that summed them out.

With a table f_z of zeros added to the log probabilities of the states of every site, the gradient of log Z in f_z is

    p(z = k | x, y)                       by log sum exp as it is: the marginals, of each element by itself;
    one-hot of a joint draw of all z      where the derivative of each sum is that of one term, drawn with its probability;
    one-hot of the most probable z        where the sums are maxima.

The transpose of a loop is backward sampling, or the way back of Viterbi's algorithm, without a line of either.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ...transforms import grad
from .choices import Draw, LogSum, Most
from .marginal import marginal_log_density

__all__ = ["MODES", "recovered"]

MODES = ("sample", "map", "marginals")


def recovered(program: Any, data: Sequence[Any], values: Mapping[str, Any], key: Any, mode: str) -> dict[str, Any]:
    """The discrete states of one draw.

    Args:
        program: its `enumerated` names the sites.
        values: of all other latent sites, constrained.
        key: read by mode "sample" alone.
        mode: one of `MODES`.

    Returns:
        By site, values of the site's shape; of "marginals" probabilities (*site shape, states).
    """
    sum_over = {"sample": lambda: Draw(key), "map": Most, "marginals": LogSum}[mode]()
    states = program.states
    sites = {n: program.sites[n] for n in states}
    dtype = jnp.result_type(float)
    probes = {n: jnp.zeros((*s.loops, len(states[n]), *s.spec.shape), dtype) for n, s in sites.items()}

    def log_sum(probes: dict[str, Any]) -> Any:
        return marginal_log_density(program, data, values, unconstrained=False, sum_over=sum_over, probes=probes)

    found = {}
    for name, weights in grad(log_sum)(probes).items():
        axis = len(sites[name].loops)
        if mode == "marginals":
            found[name] = jnp.moveaxis(weights, axis, -1)
        else:
            found[name] = jnp.asarray(np.asarray(states[name]))[jnp.argmax(weights, axis)]
    return program.missing.gather(data, found)
