"""Whole runs, warm-up included, recover closed-form moments; trajectories are as deep as NumPyro's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.diagnostics import effective_sample_size
from numpyro.infer.hmc_util import IntegratorState, build_tree, euclidean_kinetic_energy, velocity_verlet
from scipy.stats import chi2_contingency

from luciole.inference import HMC, MCMC, NUTS, Slice
from luciole.inference.kernels.integrator import Phase, energy
from luciole.inference.kernels.metric import metric_of
from luciole.inference.kernels.trajectory import Start, iterative
from luciole.transforms import stream_for
from luciole.transforms.autobatch import autobatch, program

SHAPES = np.array([1.0, 2.0, 6.0])


def worst_z(draws, expected):
    """Largest |z| over coordinates of the mean of `draws`, (chain, draw, dim), with its Monte Carlo error from the ESS."""
    ess = effective_sample_size(draws)
    assert ess.min() > 400, "too few effective draws to judge"
    error = draws.std((0, 1)) / np.sqrt(ess)
    return np.abs((draws.mean((0, 1)) - expected) / error).max()


@pytest.mark.filterwarnings("ignore::luciole.inference.DivergenceWarning")
@pytest.mark.parametrize(
    "kernel",
    [
        lambda d: NUTS(d),
        pytest.param(lambda d: NUTS(d, dense_mass=True), marks=pytest.mark.slow),
        pytest.param(lambda d: HMC(d, num_steps=6, jitter=0.5), marks=pytest.mark.slow),
        pytest.param(lambda d: Slice(d), marks=pytest.mark.slow),
    ],
    ids=["nuts", "nuts_dense", "hmc", "slice"],
)
def test_moments_of_a_skewed_target(kernel, targets):
    mcmc = MCMC(kernel(targets.log_gammas(SHAPES)), num_warmup=500, num_samples=2000, progress_bar=False)
    gamma = mcmc.run(jax.random.key(11)).get_samples(group_by_chain=True)["gamma"].astype(np.float64)
    assert worst_z(gamma, SHAPES) < 5
    assert worst_z((gamma - SHAPES) ** 2, SHAPES) < 5
    # The twin: a target without its Jacobian has shapes lower by one, and the same check sees it.
    assert worst_z(gamma, SHAPES - 1) > 10


@pytest.mark.slow
def test_trajectories_are_as_deep_as_numpyro_s():
    dim, num, step = 5, 20_000, np.float32(0.35)
    rng = np.random.default_rng(0)
    root = (rng.normal(size=(dim, dim)) / 2 + np.eye(dim)).astype(np.float32)
    precision = np.linalg.inv(root @ root.T).astype(np.float32)
    start = (rng.normal(size=(num, dim)) @ root.T).astype(np.float32)
    inverse_mass = np.exp(rng.normal(size=dim) / 3).astype(np.float32)
    momenta = (rng.normal(size=(num, dim)) / np.sqrt(inverse_mass)).astype(np.float32)

    def log_density(x):
        return -0.5 * jnp.vdot(x, precision @ x)

    value_and_grad = jax.value_and_grad(log_density)

    @program
    def density(x, auxiliary):
        return *value_and_grad(x), auxiliary

    def begin(chain, x, p):
        value, gradient = value_and_grad(x)
        metric, stream = metric_of(jnp.asarray(inverse_mass)), stream_for(np.array([0, 1], np.uint32), chain)
        return Start(metric, jnp.asarray(step), stream, Phase(x, p, gradient), value, energy(metric, value, p))

    def ours(chain, x, p):
        result = autobatch(iterative(density, 8))(jax.jit(jax.vmap(begin))(chain, x, p))
        return result.n_steps, result.sum_acceptance / result.n_steps.astype(jnp.float32)

    _, verlet = velocity_verlet(lambda x: -log_density(x), euclidean_kinetic_energy)

    def theirs(key, x, p):
        value, gradient = value_and_grad(x)
        state = IntegratorState(x, p, -value, -gradient)
        tree = build_tree(verlet, euclidean_kinetic_energy, state, inverse_mass, step, key, max_tree_depth=8)
        return tree.num_proposals, tree.sum_accept_probs / tree.num_proposals

    steps, acceptance = ours(np.arange(num, dtype=np.uint32), start, momenta)
    with jax.numpy_dtype_promotion("standard"):
        their_steps, their_acceptance = jax.jit(jax.vmap(theirs))(jax.random.split(jax.random.key(1), num), start, momenta)
    counts = np.stack([np.bincount(np.asarray(s), minlength=256) for s in (steps, their_steps)])
    counts = np.concatenate([counts[:, counts.sum(0) >= 20], counts[:, counts.sum(0) < 20].sum(1, keepdims=True)], 1)
    counts = counts[:, counts.sum(0) > 0]
    assert (counts > 0).sum() > 6, "the trajectories are all alike, nothing is compared"
    assert chi2_contingency(counts).pvalue > 1e-5
    difference = np.asarray(acceptance - their_acceptance, np.float64)
    assert abs(difference.mean()) < 5 * difference.std() / np.sqrt(num)
