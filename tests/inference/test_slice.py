"""The slice samplers: what they cost, what they adapt, which priors they take, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from numpyro import handlers
from numpyro.diagnostics import effective_sample_size

import luciole as lc
from luciole import dist
from luciole.inference.kernels.layout import Layout
from luciole.inference.kernels.prior import colour, gaussian_prior, whiten


def halving(x):
    """Has no reverse derivative: the number of turns depends on x."""
    return lax.while_loop(lambda c: c[0] > 1, lambda c: (c[0] / 2, c[1] + 1.0), (jnp.abs(x) + 1, jnp.zeros_like(x)))[1]


def rough(y):
    x = lc.sample("x", dist.Normal(0.0, 2.0))
    lc.sample("y", dist.Normal(halving(x), 1.0), obs=y)


@pytest.fixture(scope="module")
def rough_run():
    kernel = lc.Slice(rough)
    return lc.MCMC(kernel, num_warmup=100, num_samples=1000, progress_bar=False).run(jax.random.key(3), np.float32([0.5, 1.5, 2.0]))


def test_slice_needs_no_gradient(rough_run):
    draws = rough_run.get_samples(group_by_chain=True)["x"].astype(np.float64)
    grid = np.linspace(-15, 15, 30_001)
    turns = np.asarray(jax.jit(jax.vmap(halving))(grid.astype(np.float32)), np.float64)
    weight = np.exp(-0.125 * grid**2 - 0.5 * ((np.array([[0.5], [1.5], [2.0]]) - turns) ** 2).sum(0))
    expected = (weight * grid**2).sum() / weight.sum()
    error = (draws**2).std() / np.sqrt(effective_sample_size(draws**2))
    assert abs((draws**2).mean() - expected) < 5 * error < 1
    prior = 4.0  # the twin: what the likelihood is there for
    assert abs((draws**2).mean() - prior) > 5 * error


def test_slice_counts_log_densities_and_queries(rough_run):
    cost, stats, tries = rough_run.cost, rough_run.sample_stats, 4
    assert cost["gradient_evaluations"] == cost["gradient_slots"] == 0
    assert cost["utilisation"] == cost["log_density_evaluations"] / cost["log_density_slots"] <= 1
    assert cost["likelihood_queries"] == 3 * cost["log_density_evaluations"]
    assert cost["likelihood_queries"] - cost["likelihood_queries_warmup"] - 3 * tries == 3 * stats["n_steps"].sum()
    assert set(stats) == {"n_steps", "nstep_out", "nstep_in", "lp"}
    assert (stats["n_steps"] > stats["nstep_out"] + stats["nstep_in"]).all(), "the point that was taken was not counted"
    assert rough_run.state.gradient.shape == (4, 0)


def test_slice_run_is_reported_without_divergences(rough_run, capsys):
    assert rough_run.diagnose().divergences is None and "divergences" not in str(rough_run.diagnose())
    rough_run.print_summary()
    assert "Divergences" not in capsys.readouterr().out
    assert "diverging" not in rough_run.to_arviz()["sample_stats"]


@pytest.mark.slow
def test_widths_are_adapted_and_then_frozen(targets):
    density = targets.gaussian(np.zeros(3), np.diag([1e-4, 1.0, 1e4]))
    mcmc = lc.MCMC(lc.Slice(density), num_warmup=500, num_samples=500, progress_bar=False, keep_warmup=True).run(jax.random.key(0))
    np.testing.assert_allclose(mcmc.inverse_mass_matrix / [1e-4, 1.0, 1e4], 1, rtol=0.6)
    assert mcmc.sample_stats["n_steps"].mean() < 18 < mcmc.warmup_stats["n_steps"][:, :75].mean()
    longer = lc.MCMC(lc.Slice(density), num_warmup=500, num_samples=700, progress_bar=False).run(jax.random.key(0))
    np.testing.assert_array_equal(mcmc.inverse_mass_matrix, longer.inverse_mass_matrix)


@pytest.mark.slow
def test_slice_that_finds_no_start_says_so_without_a_gradient():
    def model():
        x = lc.sample("x", dist.Normal(0.0, 1.0))
        lc.factor("nowhere", jnp.where(halving(x) < 0, 0.0, -jnp.inf))

    with pytest.raises(lc.InitError, match=r"a log density that is not finite(?s:.*)'nowhere'") as error:
        lc.MCMC(lc.Slice(model), num_warmup=0, num_samples=1, num_chains=1, progress_bar=False).run(jax.random.key(0))
    assert "gradient" not in str(error.value).split("Check")[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 0.0}, "width is 0.0, a positive number"),
        ({"width": [1.0, np.nan]}, "width is"),
        ({"width": "wide"}, "write width=None"),
        ({"max_steps_out": -1}, "max_steps_out is -1, a whole number from 0 to 1024"),
        ({"max_steps_out": 2.0}, "write max_steps_out=32"),
        ({"max_steps_out": True}, "max_steps_out is True"),
    ],
)
def test_settings_of_slice_that_make_no_sense(options, words):
    with pytest.raises(lc.SamplerError, match=f"Slice: .*{words}"):
        lc.Slice(rough, **options)


def test_a_width_for_each_dimension():
    with pytest.raises(lc.SamplerError, match=r"width has shape \(3,\), \(\) or \(2,\) expected: the model has 2"):
        lc.Slice(rough, width=[1.0, 2.0, 3.0]).tuning(2, np.dtype(np.float32))
    tuning = lc.Slice(rough, width=[1.0, 2.0]).tuning(2, np.dtype(np.float32))
    np.testing.assert_allclose(tuning.step_size * np.sqrt(tuning.inverse_mass_matrix), [1.0, 2.0], rtol=1e-6)
    assert not tuning.adapt_metric and not tuning.adapt_step_size


def process(x, y=None):
    """A Gaussian process with an intercept: the posterior is Gaussian."""
    covariance = jnp.exp(-0.5 * (x[:, None] - x) ** 2) + 0.1 * jnp.eye(len(x))
    f = lc.sample("f", dist.MultivariateNormal(x, covariance))
    b = lc.sample("b", dist.Normal(2.0, 1.5))
    lc.sample("y", dist.Normal(f + b, 1.0), obs=y)


def run_process(x, y, num_samples=8000):
    mcmc = lc.MCMC(lc.EllipticalSlice(process), num_warmup=100, num_samples=num_samples, progress_bar=False)
    return mcmc.run(jax.random.key(5), x, y=y)


@pytest.mark.slow
def test_elliptical_slice_recovers_a_gaussian_posterior(backend_compiles):
    x, y = np.float32([0.0, 0.7, 2.0]), np.float32([1.0, 2.0, 0.5])
    mcmc = run_process(x, y)
    first = len(backend_compiles)
    samples = mcmc.get_samples(group_by_chain=True)
    draws = np.concatenate([samples["f"], samples["b"][..., None]], -1).astype(np.float64)
    prior = np.zeros((4, 4))
    prior[:3, :3], prior[3, 3] = np.exp(-0.5 * (x[:, None] - x) ** 2) + 0.1 * np.eye(3), 1.5**2
    mean, design = np.append(x, 2.0), np.column_stack([np.eye(3), np.ones(3)])
    covariance = np.linalg.inv(np.linalg.inv(prior) + design.T @ design)
    posterior = mean + covariance @ design.T @ (y - design @ mean)

    def worst_z(values, expected):
        ess = effective_sample_size(values)
        assert ess.min() > 400, "too few effective draws to judge"
        return np.abs((values.mean((0, 1)) - expected) / (values.std((0, 1)) / np.sqrt(ess))).max()

    assert worst_z(draws, posterior) < 5
    assert worst_z((draws - posterior) ** 2, np.diag(covariance)) < 5
    assert worst_z(draws, mean) > 10  # the twin: the prior's

    moved = run_process(x + 100, y + 100)
    assert len(backend_compiles) == first, "new data of the same shapes compiled something"
    assert abs(moved.get_samples()["f"].mean() - 100) < 3, "the prior of the old data was used"
    assert set(mcmc.sample_stats) == {"n_steps", "theta", "lp"} and mcmc.cost["gradient_evaluations"] == 0
    assert mcmc.cost["likelihood_queries"] == 3 * mcmc.cost["log_density_evaluations"]


def shapes_of_all_kinds(loc, lower):
    def step(carry, shift):
        with lc.plate("inner", 2):
            return carry, lc.sample("loop", dist.MultivariateNormal(shift + jnp.zeros(2), scale_tril=lower))

    with lc.plate("pair", 2):
        lc.sample("plate", dist.MultivariateNormal(loc, scale_tril=lower))
        lc.sample("scales", dist.Normal(loc[0], jnp.array([0.5, 2.0])))
    lax.scan(step, 0.0, jnp.arange(3.0))
    jax.vmap(lambda m: lc.sample("mapped", dist.Normal(m, 2.0).expand([2]).to_event(1)))(jnp.arange(3.0))
    jax.vmap(lambda m: lc.sample("mapped_dense", dist.MultivariateNormal(m + loc, scale_tril=lower)))(jnp.arange(3.0))
    several = jnp.stack([lower, 2 * lower])
    lc.sample("several", dist.MultivariateNormal(loc, scale_tril=several).to_event(1))


@pytest.mark.slow
def test_the_prior_is_read_off_sites_of_all_kinds(x64):
    """Against the model's own log density, which here is the prior's."""
    density = lc.log_density(shapes_of_all_kinds, np.array([1.0, -1.0]), np.array([[1.0, 0.0], [0.6, 0.5]]))
    layout = Layout.of(density.positions)
    prior = gaussian_prior(density, layout)
    points = np.random.default_rng(0).normal(size=(2, layout.dim))
    one, other = (0.5 * jnp.vdot(z, z) + density(layout.unravel(x)) for x in points for z in [whiten(prior, jnp.asarray(x))])
    np.testing.assert_allclose(one, other, rtol=1e-10)
    np.testing.assert_allclose(colour(prior, whiten(prior, jnp.asarray(points[0]))), points[0], rtol=1e-9)


def hierarchical():
    mu = lc.sample("mu", dist.Normal(0.0, 1.0))
    twice = lc.deterministic("twice", 2 * mu)
    lc.sample("theta", dist.Normal(twice, 1.0))


def positive():
    lc.sample("mu", dist.Normal(0.0, 1.0))
    lc.sample("tau", dist.HalfNormal(1.0))


def masked():
    lc.sample("half", dist.Normal(jnp.zeros(2), 1.0).mask(jnp.array([True, False])))


def scaled():
    with handlers.scale(scale=2.0):
        lc.sample("weighed", dist.Normal(0.0, 1.0))


def without_scale():
    lc.sample("flat", dist.Normal(jnp.zeros(2), jnp.array([1.0, jnp.inf]), validate_args=False))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (hierarchical, r"site 'theta' \(.*test_slice.py:\d+.*\): .*depend on the latent site 'mu'.*lc.deterministic"),
        (positive, r"site 'tau' \(.*\): its prior is HalfNormal, Normal or MultivariateNormal expected.*NUTS or Slice"),
        (masked, "site 'half' .*masked"),
        (scaled, "site 'weighed' .*scaled by a handler"),
        (without_scale, "site 'flat' .*not finite"),
    ],
)
def test_priors_that_elliptical_slice_refuses(model, words):
    with pytest.raises(lc.SamplerError, match=f"EllipticalSlice: {words}"):
        lc.MCMC(lc.EllipticalSlice(model), progress_bar=False).run(jax.random.key(0))


def test_elliptical_slice_refuses_a_density_without_sites(targets):
    with pytest.raises(lc.SamplerError, match="a log density without sites found, a model expected"):
        lc.MCMC(lc.EllipticalSlice(targets.log_gammas([1.0, 2.0])), progress_bar=False).run(jax.random.key(0))
