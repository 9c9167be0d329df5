"""How the statistical tests decide, and the one failure rate that all of them share.

Every test asks many statistics at once and fails if the largest |z| passes the Bonferroni bound, so that a correct program fails
it with probability `FAILURE_RATE` at most. Seeds are fixed: the rate is that of choosing an unlucky seed once, not of a flaky test.
"""

from typing import NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from scipy import stats

from luciole import dist
from luciole.ppl import LogDensity

__all__ = [
    "FAILURE_RATE",
    "Verdict",
    "WithoutJacobian",
    "against_reference",
    "judge",
    "scalars",
    "stein",
    "uniform_ranks",
]

FAILURE_RATE = 1e-4


class Verdict(NamedTuple):
    """The largest |z|, its bound, and the statistic it belongs to."""

    z: float
    bound: float
    worst: str

    @property
    def passed(self) -> bool:
        return bool(np.isfinite(self.z) and self.z < self.bound)


def judge(z: dict[str, float], dof: float = np.inf) -> Verdict:
    """Of named statistics that are each Student-t with `dof` degrees of freedom (normal by default) when the program is right."""
    values = np.abs(np.array(list(z.values())))
    worst = int(np.argmax(np.where(np.isfinite(values), values, np.inf)))
    return Verdict(float(values[worst]), float(stats.t.isf(FAILURE_RATE / 2 / len(z), dof)), list(z)[worst])


def scalars(draws):
    """By site (chain, draw, ...) -> by scalar, named as Stan does: (chain, draw)."""
    out = {}
    for name, value in draws.items():
        for index in np.ndindex(value.shape[2:]):
            suffix = f"[{','.join(str(i + 1) for i in index)}]" if index else ""
            out[name + suffix] = np.asarray(value, np.float64)[(slice(None), slice(None), *index)]
    return out


def against_reference(draws, reference, batches_per_chain=20) -> Verdict:
    """Mean and variance of every scalar parameter against a reference with known Monte-Carlo errors.

    Our own error comes from batch means, which needs batches longer than the autocorrelation.

    Args:
        draws: by site, (chain, draw, ...).
        reference: by scalar: `mean`, `var` and their standard errors `mcse_mean`, `mcse_var`.
        batches_per_chain: batches that a chain is cut into.
    """
    draws = scalars(draws)
    z, dof = {}, None
    for name, known in reference.items():
        x = draws[name]
        for statistic, values in {"mean": x, "var": (x - known["mean"]) ** 2}.items():
            means = values.reshape(x.shape[0] * batches_per_chain, -1).mean(1)
            dof = len(means) - 1
            error = np.hypot(means.std(ddof=1) / np.sqrt(len(means)), known[f"mcse_{statistic}"])
            z[f"{name}:{statistic}"] = (means.mean() - known[statistic]) / error
    return judge(z, dof)


def stein(density, values) -> Verdict:
    """Stein's identities for a density and exact draws from it, in unconstrained space:

        E[d log p / d q_i] = 0,        E[(q_i - c_i) d log p / d q_j] = -delta_ij      (any constant c; here the mean)

    A missing Jacobian, a wrong prior or a wrong transform breaks them, and no sampler plays a part.

    Source: Stein (1972); Gorham & Mackey (2015), "Measuring sample quality with Stein's method", equation (2), with linear test
    functions.

    Args:
        density: a `LogDensity`.
        values: constrained draws of its latent sites, by name, (draw, ...).
    """

    def one(values):
        position = density.unconstrain(values)
        flat, unravel = jax.flatten_util.ravel_pytree(position)
        return flat, jax.grad(lambda q: density(unravel(q)))(flat)

    q, score = map(np.asarray, jax.jit(jax.vmap(one))({n: jnp.asarray(values[n]) for n in density.positions}))
    labels = [f"{n}[{i}]" for n, s in sorted(density.positions.items()) for i in range(int(np.prod(s.shape, dtype=int)))]
    centred = q - q.mean(0)
    products = centred[:, :, None] * score[:, None, :] + np.eye(q.shape[1])
    z = {}
    for i, label in enumerate(labels):
        z[f"E d/d{label}"] = _z(score[:, i])
        for j, other in enumerate(labels):
            z[f"E {label} d/d{other}"] = _z(products[:, i, j])
    return judge(z)


def _z(x):
    error = x.std(ddof=1) / np.sqrt(len(x))
    return float(x.mean() / error) if error > 0 else 0.0 if abs(x.mean()) < 1e-12 else np.inf


def uniform_ranks(ranks, num_draws, num_bins) -> float:
    """p-value of the chi-square test that `ranks`, in 0..num_draws, are uniform.

    Args:
        ranks: int, (simulation,).
        num_draws: draws among which a value was ranked; num_draws + 1 is a multiple of num_bins.
        num_bins: bins of the histogram.
    """
    assert (num_draws + 1) % num_bins == 0
    counts = np.bincount(np.asarray(ranks) * num_bins // (num_draws + 1), minlength=num_bins)
    return float(stats.chisquare(counts).pvalue)


@jax.tree_util.register_pytree_node_class
class WithoutJacobian(LogDensity):
    """The broken twin: a log density that forgets log |det dx/du| of every site whose support depends on no other site."""

    @classmethod
    def of(cls, density):
        return cls(density.data, density.skeleton)

    def __call__(self, position):
        return self.evaluate(self.prepare(), position)

    def evaluate(self, prepared, position):
        return super().evaluate(prepared, position) - self._log_jacobian(position)

    def _log_jacobian(self, position):
        total = 0.0
        for name, site in self.program.latents.items():
            if all(isinstance(bound, (int, float, np.ndarray, jax.Array)) for bound in jax.tree.leaves(site.support)):
                bijection = dist.biject_to(site.support)
                total = total + bijection.log_abs_det_jacobian(position[name], bijection(position[name])).sum()
        return total
