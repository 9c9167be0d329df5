"""The path itself, repeated by hand with JAX's own derivatives: constrained, several and deterministic sites; models that are refused."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from scipy.special import digamma, gammaln
from scipy.stats import norm

import luciole as lc
from luciole import dist
from luciole.inference.evidence.objective import Objective, check_model
from luciole.inference.kernels.layout import Layout

COUNTS = np.array([3, 0, 2, 4, 1, 2, 6, 3])
A, B = 2.0, 1.5


def rates(counts):
    rate = lc.sample("rate", dist.Gamma(A, B))
    lc.deterministic("log_rate", jnp.log(rate))
    lc.sample("n", dist.Poisson(rate).expand([len(counts)]).to_event(1), obs=counts)


def mixed(y):
    scale = lc.sample("scale", dist.HalfNormal(1.0))
    mean = lc.sample("mean", dist.Normal(0, scale).expand([2]).to_event(1))
    weights = lc.sample("weights", dist.Dirichlet(jnp.ones(3)))
    lc.factor("pull", -(weights[0] ** 2))
    lc.sample("y", dist.Normal(mean[0] + weights[1], 0.5 + scale), obs=y)


def by_hand(model, data, keys, step_size, num_steps):
    """(restart, step), the bound with exact log-determinants, by JAX's autodiff on the model's whole density."""
    density = lc.log_density(model, data)
    objective = Objective(density.program, Layout.of(density.positions))
    log_prior = partial(objective.log_prior, density.data)

    def joint(u):
        return density(objective.layout.unravel(u))

    def step(u):
        return u - step_size * jax.grad(lambda u: log_prior(u) - joint(u))(u)

    @jax.jit
    def path(key):
        def move(carry, _):
            u, entropy = carry
            change = jnp.linalg.slogdet(jax.jacobian(step)(u))[1]
            return (step(u), entropy + change), joint(u) + entropy

        start = objective.draw(density.data, key)
        return jax.lax.scan(move, (start, -log_prior(start)), length=num_steps + 1)[1]

    return np.array([path(key) for key in keys])


@pytest.mark.parametrize(
    ("model", "data"),
    [pytest.param(rates, COUNTS, id="gamma"), pytest.param(mixed, np.array([0.3, 1.2, -0.4]), id="several", marks=pytest.mark.exhaustive)],
)
def test_the_path_is_that_of_jaxs_own_derivatives(x64, quiet, model, data):
    key = jax.random.key(5)
    estimate = quiet(model, key, data, step_size=0.004, num_steps=6, num_restarts=3, order="exact")
    draws = [jax.random.split(jax.random.fold_in(key, i), 3)[0] for i in range(3)]
    expected = by_hand(model, data, draws, 0.004, 6)
    np.testing.assert_allclose(estimate.log_evidence, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_constrained_sites_are_below_the_exact_evidence(x64, quiet):
    total, n = COUNTS.sum(), COUNTS.size
    exact = A * np.log(B) - gammaln(A) + gammaln(A + total) - (A + total) * np.log(B + n) - gammaln(COUNTS + 1).sum()
    estimate = quiet(rates, jax.random.key(0), COUNTS, step_size=0.004, num_steps=100, num_restarts=512, order="exact")
    low, high = estimate.mean - 4 * estimate.stderr, estimate.mean + 4 * estimate.stderr
    assert np.all(low < exact)
    assert 0 < estimate.best_step < 100
    assert high[estimate.best] > exact - 1.0
    # E log p(y | rate) and the Gamma's entropy are known at step 0, where the bound is E log p(y | rate)
    expected = total * (digamma(A) - np.log(B)) - n * A / B - gammaln(COUNTS + 1).sum()
    assert low[0] < expected < high[0]
    # without the Jacobian of the bijection in the final density the bound would be above the evidence
    jacobian = np.log(estimate.samples["rate"])
    wrong = estimate.log_evidence[:, estimate.best] - jacobian
    assert abs(wrong.mean() - estimate.mean[estimate.best]) > 4 * wrong.std(ddof=1) / np.sqrt(wrong.size)


def test_samples_are_constrained_and_carry_deterministic_sites(x64, quiet):
    estimate = quiet(rates, jax.random.key(0), COUNTS, step_size=0.004, num_steps=6, num_restarts=3, order="exact")
    assert list(estimate.samples) == ["rate", "log_rate"]
    assert estimate.samples["rate"].shape == (3,)
    np.testing.assert_allclose(np.log(estimate.samples["rate"]), estimate.samples["log_rate"])
    pointwise = lc.log_likelihood(rates, {"rate": estimate.samples["rate"]}, COUNTS)["n"]
    np.testing.assert_allclose(pointwise.reshape(3), estimate.log_likelihood[:, estimate.best], rtol=1e-10)


def test_a_discrete_latent_site_is_refused_by_name(quiet):
    def model(y):
        z = lc.sample("which", dist.Bernoulli(0.5))
        lc.sample("y", dist.Normal(z, 1.0), obs=y)

    with pytest.raises(lc.ModelError, match=r"'which'.*latent and discrete.*sum it out"):
        quiet(model, jax.random.key(0), 0.3, step_size=0.1, num_steps=2)


def test_a_model_without_data_is_refused(quiet):
    with pytest.raises(lc.EvidenceError, match="no observed site and no factor"):
        quiet(lambda: lc.sample("x", dist.Normal()), jax.random.key(0), step_size=0.1, num_steps=2)


@pytest.mark.parametrize("how", ["masked", "scaled"])
def test_priors_whose_draws_have_another_density_are_refused(quiet, how):
    def model(y):
        with numpyro.handlers.scale(scale=2.0) if how == "scaled" else numpyro.handlers.mask(mask=jnp.array(False)):
            x = lc.sample("x", dist.Normal())
        lc.sample("y", dist.Normal(x, 1.0), obs=y)

    with pytest.raises(lc.EvidenceError, match=rf"'x'.*is {how}"):
        quiet(model, jax.random.key(0), 0.3, step_size=0.1, num_steps=2)


def test_an_improper_prior_is_refused(quiet):
    def model(y):
        x = lc.sample("x", dist.ImproperUniform(dist.constraints.real, (), ()))
        lc.sample("y", dist.Normal(x, 1.0), obs=y)

    with pytest.raises(lc.EvidenceError, match=r"sgd_evidence.*'x'.*improper prior.*Write a proper prior"):
        quiet(model, jax.random.key(0), 0.3, step_size=0.1, num_steps=2)


@pytest.mark.slow
def test_missing_values_are_drawn_from_what_they_are_scored_with():
    def model(y):
        mean = lc.sample("mean", dist.Normal(0, 2))
        lc.sample("y", dist.Normal(mean, 0.5).expand([4]), obs=y, obs_mask=~np.isnan(y))

    density = lc.log_density(model, np.array([0.3, np.nan, 1.2, np.nan]))
    check_model(density.program)
    objective = Objective(density.program, Layout.of(density.positions))
    u = objective.draw(density.data, jax.random.key(0))
    mean, missing = u[0], u[1:]
    assert missing.shape == (2,)
    expected = norm.logpdf(mean, 0, 2) + norm.logpdf(missing, mean, 0.5).sum()
    np.testing.assert_allclose(objective.log_prior(density.data, u), expected, rtol=1e-5)
