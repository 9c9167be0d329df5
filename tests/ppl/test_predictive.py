"""Predictive distributions and log likelihood: shapes, batches, keys, and what is drawn, kept or computed again."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from numpyro import distributions as dist
from numpyro import handlers
from scipy import stats

from luciole import ppl as lc
from luciole.ppl import predictive

pytestmark = pytest.mark.usefixtures("x64")

X = np.linspace(-1.0, 1.0, 6)
Y = np.array([0.1, -0.4, 0.3, 1.2, 0.7, 2.0])


def regression(x=X, y=Y):
    a = lc.sample("a", dist.Normal(0.0, 1.0))
    b = lc.sample("b", dist.Normal(jnp.zeros(2), 1.0))
    line = lc.deterministic("line", a + b[0] * x + b[1] * x**2)
    with lc.plate("n", len(x)):
        lc.sample("y", dist.Normal(line, 0.5), obs=y)


def samples(*lead):
    rng = np.random.default_rng(0)
    return {
        "a": rng.standard_normal(lead),
        "b": rng.standard_normal((*lead, 2)),
        "line": np.full((*lead, 6), 99.0),
    }


def test_prior():
    draws = lc.prior_predictive(regression, jax.random.key(0), 7)
    assert {n: v.shape for n, v in draws.items()} == {"a": (7,), "b": (7, 2), "line": (7, 6), "y": (7, 6)}
    assert all(isinstance(v, np.ndarray) for v in draws.values())
    assert len(np.unique(draws["y"])) == 42, "observed sites are drawn although an observation is there"
    expected = draws["a"][:, None] + draws["b"][:, :1] * X + draws["b"][:, 1:] * X**2
    np.testing.assert_allclose(draws["line"], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(draws["y"], lc.prior_predictive(regression, jax.random.key(0), 7, y=None)["y"])


COUNTS = {
    "poisson": (dist.Poisson(3.0), stats.poisson(3.0)),
    "gamma poisson": (dist.GammaPoisson(2.0, 0.5), stats.nbinom(2, 1 / 3)),
    "zero-inflated poisson": (dist.ZeroInflatedPoisson(1e-9, 3.0), stats.poisson(3.0)),
}


@pytest.mark.parametrize("name", ["poisson", *(pytest.param(n, marks=pytest.mark.slow) for n in list(COUNTS)[1:])])
def test_prior_of_counts(name):
    """JAX draws Poisson numbers with its own generator only."""
    distribution, expected = COUNTS[name]
    drawn = lc.prior_predictive(lambda: lc.sample("y", distribution.expand([4]).to_event(1)), jax.random.key(1), 500)["y"]
    cells = np.arange(8)
    observed = [*(drawn == k for k in cells[:-1]), drawn >= cells[-1]]
    probability = [*expected.pmf(cells[:-1]), expected.sf(cells[-1] - 1)]
    assert stats.chisquare([o.sum() for o in observed], np.multiply(probability, drawn.size)).pvalue > 1e-4


@pytest.mark.parametrize("lead", [(5,), (2, 3)])
def test_posterior(lead):
    given = samples(*lead)
    drawn = lc.posterior_predictive(regression, jax.random.key(0), given)
    assert {n: v.shape for n, v in drawn.items()} == {"line": (*lead, 6), "y": (*lead, 6)}
    line = given["a"][..., None] + given["b"][..., :1] * X + given["b"][..., 1:] * X**2
    np.testing.assert_allclose(drawn["line"], line, rtol=1e-4, atol=1e-5)  # computed again, not taken from the samples
    noise = (drawn["y"] - line) / 0.5
    assert 0 < np.abs(noise).min()
    assert np.abs(noise).max() < 6


def test_posterior_on_new_data():
    x = np.linspace(0.0, 1.0, 9)
    assert lc.posterior_predictive(regression, jax.random.key(0), samples(4), x, None)["y"].shape == (4, 9)


def test_latent_sites_that_are_left_open_are_drawn():
    with pytest.warns(lc.PriorDrawWarning, match="no 'b'"):
        drawn = lc.posterior_predictive(regression, jax.random.key(0), {"a": np.zeros(5)})
    assert set(drawn) == {"b", "line", "y"}
    assert len(np.unique(drawn["b"])) == 10


@pytest.mark.parametrize("lead", [(5,), (2, 3)])
def test_log_likelihood(lead):
    given = samples(*lead)
    found = lc.log_likelihood(handlers.scale(regression, scale=1.0), given)
    line = given["a"][..., None] + given["b"][..., :1] * X + given["b"][..., 1:] * X**2
    assert set(found) == {"y"}
    np.testing.assert_allclose(found["y"], stats.norm.logpdf(Y, line, 0.5), rtol=1e-12)


def test_log_likelihood_needs_every_latent_site():
    with pytest.raises(ValueError, match="no entry for the latent site 'b'"):
        lc.log_likelihood(regression, {"a": np.zeros(3)})


def test_log_likelihood_leaves_scale_out_and_sums_events():
    def model():
        m = lc.sample("m", dist.Normal(0.0, 1.0))
        with handlers.scale(scale=3.0):
            lc.sample("y", dist.Normal(m, 1.0).expand([4, 2]).to_event(1), obs=np.zeros((4, 2)))

    found = lc.log_likelihood(model, {"m": np.array([0.0, 1.0])})["y"]
    np.testing.assert_allclose(found, np.repeat(2 * stats.norm.logpdf([[0.0], [1.0]]), 4, axis=1), rtol=1e-12)


@pytest.mark.parametrize("bytes_per_batch", [pytest.param(1, marks=pytest.mark.slow), 300])
def test_batches_change_nothing(monkeypatch, bytes_per_batch):
    whole = lc.prior_predictive(regression, jax.random.key(3), 11), lc.log_likelihood(regression, samples(11))
    monkeypatch.setattr(predictive, "_BATCH_BYTES", bytes_per_batch)
    parts = lc.prior_predictive(regression, jax.random.key(3), 11), lc.log_likelihood(regression, samples(11))
    for a, b in zip(whole, parts, strict=True):
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-13, atol=1e-13, err_msg=name)


def test_memory_is_bounded_by_the_batch(monkeypatch):
    """No call of the compiled function returns more than the bound, and all calls have one shape."""
    sizes = []
    inner = predictive._batch

    def spy(*args):
        out = inner(*args)
        sizes.append(sum(v.nbytes for v in jax.tree.leaves(out)))
        return out

    monkeypatch.setattr(predictive, "_batch", spy)
    monkeypatch.setattr(predictive, "_BATCH_BYTES", 8000)
    draws = lc.prior_predictive(regression, jax.random.key(0), 1000)
    assert sum(v.nbytes for v in draws.values()) > 10 * 8000
    assert max(sizes) <= 8000
    assert len(set(sizes)) == 1
    assert len(sizes) > 10


def test_new_data_compile_nothing(monkeypatch):
    def make():
        return lambda y: lc.sample("y", dist.Normal(lc.sample("m", dist.Normal(0.0, 1.0)), 1.0), obs=y)

    predictive._batch.cache_clear()  # full, it would drop a program for each new one
    lc.log_likelihood(make(), {"m": np.zeros(3)}, Y)
    compiled = predictive._batch._cache_size()
    lc.log_likelihood(make(), {"m": np.ones(3)}, Y + 1.0)
    assert predictive._batch._cache_size() == compiled
    lc.log_likelihood(make(), {"m": np.ones(3)}, Y[:3])
    assert predictive._batch._cache_size() == compiled + 1


def test_keys():
    new, legacy = (lc.prior_predictive(regression, k, 3) for k in (jax.random.key(5), jax.random.PRNGKey(5)))
    other = lc.prior_predictive(regression, jax.random.key(6), 3)
    for name in new:
        np.testing.assert_array_equal(new[name], legacy[name])
        assert not np.array_equal(new[name], other[name])


def test_draws_are_a_prefix_of_more_draws():
    few, many = (lc.prior_predictive(regression, jax.random.key(5), n) for n in (3, 8))
    for name in few:
        np.testing.assert_allclose(few[name], many[name][:3], rtol=1e-5, atol=1e-6)


def test_no_draws():
    empty = {n: v for n, v in samples(2, 0).items() if n in ("a", "b")}
    assert lc.posterior_predictive(regression, jax.random.key(0), empty)["y"].shape == (2, 0, 6)
    assert lc.log_likelihood(regression, empty)["y"].shape == (2, 0, 6)


def test_observation_of_another_shape_than_its_distribution():
    """Broader or narrower than the distribution, outside plates: draws have the shape of the larger."""

    def model():
        m = lc.sample("m", dist.Normal(0.0, 1.0))
        lc.sample("broad", dist.Normal(m, 1.0), obs=np.zeros(4))
        lc.sample("narrow", dist.Normal(m + np.zeros(4), 1.0), obs=0.5)

    draws = lc.prior_predictive(model, jax.random.key(0), 3)
    assert draws["broad"].shape == draws["narrow"].shape == (3, 4)
    assert len(np.unique(draws["broad"])) == len(np.unique(draws["narrow"])) == 12
    assert lc.log_likelihood(model, {"m": np.zeros(3)})["narrow"].shape == (3, 4)


def test_improper_prior_cannot_be_drawn():
    def model():
        x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), ()))
        lc.sample("y", dist.Normal(x, 1.0))

    with pytest.raises(ValueError, match=r"site 'x': ImproperUniform cannot be sampled.*Give the site a proper prior"):
        lc.prior_predictive(model, jax.random.key(0), 2)
    assert lc.posterior_predictive(model, jax.random.key(0), {"x": np.zeros(3)})["y"].shape == (3,)


def test_conditioned_and_discrete_sites():
    def model():
        k = lc.sample("k", dist.Categorical(jnp.array([0.5, 0.5])))
        lc.sample("y", dist.Normal(10.0 * k, 0.1))

    draws = lc.prior_predictive(model, jax.random.key(0), 50)
    np.testing.assert_array_equal(draws["y"] > 5, draws["k"] == 1)
    assert set(np.unique(draws["k"])) == {0, 1}  # fails on a right program with probability 2**-49
    given = lc.posterior_predictive(lc.condition(model, {"y": 0.0}), jax.random.key(0), {"k": np.ones(5, int)})
    assert (given["y"] > 5).all()


def school(y=Y):
    mu = lc.sample("mu", dist.Normal(0.0, 1.0))
    tau = lc.sample("tau", dist.HalfNormal(1.0))
    theta = lc.sample("theta", dist.Normal(mu, tau).expand([6]))
    lc.deterministic("effect", theta - mu)
    lc.sample("y", dist.Normal(theta, 1.0), obs=y)


SCHOOLS = {"mu": np.zeros(3), "tau": np.ones(3), "theta": np.zeros((3, 6))}


@pytest.mark.parametrize("call", [lambda s: lc.posterior_predictive(school, jax.random.key(0), s), lambda s: lc.log_likelihood(school, s)])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tuu", r"'tuu', which is no site of the model \(did you mean 'tau'\?\)\. It has \['mu', 'tau'"),
        ("Theta", "did you mean 'theta'"),
        ("school/tau", "did you mean 'tau'"),
        ("zzz", r"'zzz', which is no site of the model\. It has"),
    ],
)
def test_names_that_are_no_site(call, name, words):
    with pytest.raises(ValueError, match=words):
        call({**SCHOOLS, name: np.zeros(3)})


def test_names_of_deterministic_and_observed_sites_are_ignored():
    named = {**SCHOOLS, "effect": np.ones((3, 6)), "y": np.full((3, 6), 9.0)}
    plain, more = (lc.posterior_predictive(school, jax.random.key(0), s) for s in (SCHOOLS, named))
    for name in ("effect", "y"):
        np.testing.assert_array_equal(plain[name], more[name])


def test_samples_that_are_no_dict():
    with pytest.raises(ValueError, match=r"samples are a ndarray; expected a dict by site, such as `mcmc\.get_samples\(\)`"):
        lc.posterior_predictive(school, jax.random.key(0), np.zeros(3))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("left_out", "below", "y"),
    [("tau", "theta", Y), ("mu", "theta", Y), ("tau", "theta", None), ("theta", "y", Y), ("theta", "y", None)],
)
def test_a_latent_site_that_is_left_out_is_a_warning(left_out, below, y):
    kept = {n: v for n, v in SCHOOLS.items() if n != left_out}
    with pytest.warns(lc.PriorDrawWarning, match=f"the samples have no '{left_out}' .* drawn from its prior, and '{below}' with it"):
        lc.posterior_predictive(school, jax.random.key(0), kept, y)


def test_data_that_are_left_out_are_none():
    """Nothing depends on them: they are what is asked for."""
    assert lc.posterior_predictive(school, jax.random.key(0), SCHOOLS, None)["y"].shape == (3, 6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda m: dist.Poisson(1e10 + 0.0 * m),
        *(
            pytest.param(make, marks=pytest.mark.exhaustive)
            for make in (
                lambda m: dist.GammaPoisson(2.0 + 0.0 * m, 1e-10),
                lambda m: dist.NegativeBinomial2(1e10, 5.0 + 0.0 * m),
                lambda m: dist.ZeroInflatedPoisson(0.5, 1e10 + 0.0 * m),
            )
        ),
    ],
)
def test_draws_beyond_the_range_of_their_dtype(make):
    """In single precision counts have 32 bits."""

    def model(y=None):
        lc.sample("y", make(lc.sample("m", dist.Normal(0.0, 1.0))).expand([3]), obs=y)

    with jax.enable_x64(False):
        with pytest.warns(lc.SaturatedDrawWarning, match="site 'y' .* draws of .* end of the range of int32, 2147483647"):
            lc.prior_predictive(model, jax.random.key(0), 5)
        with pytest.warns(lc.SaturatedDrawWarning):
            lc.posterior_predictive(model, jax.random.key(0), {"m": np.zeros(5)})


@pytest.mark.slow
def test_counts_of_a_narrow_dtype_are_drawn_in_a_wide_one():
    """Observations that fit in eight bits say nothing about draws."""

    def model():
        m = lc.sample("m", dist.Normal(0.0, 1.0))
        lc.sample("y", dist.Poisson(1000.0 * jnp.exp(0.0 * m)), obs=np.array([3, 200], np.uint8))

    assert lc.posterior_predictive(model, jax.random.key(0), {"m": np.zeros(5)})["y"].min() > 700


def test_substituted_values_stay():
    """NumPyro's meaning: `substitute` says what a site is, `condition` what was seen; predictives draw the second anew."""

    def model(y=0.0):
        x = lc.sample("x", dist.Normal(0, 1))
        lc.sample("y", dist.Normal(x, 1e-3), obs=y)

    fixed = handlers.substitute(model, data={"x": 10.0})
    drawn = lc.prior_predictive(fixed, jax.random.key(0), 3)
    assert (drawn["x"] == 10).all() and np.allclose(drawn["y"], 10, atol=0.01) and len(np.unique(drawn["y"])) == 3
    assert not (lc.prior_predictive(lc.condition(model, {"x": 10.0}), jax.random.key(0), 3)["x"] == 10).any()
    with pytest.warns(lc.density.SubstitutedSiteWarning, match=r"'x'.*handlers\.substitute.*lc\.condition"):
        density = lc.log_density(handlers.substitute(lambda: (model(), lc.sample("z", dist.Normal(0, 1))), data={"x": 10.0}))
    assert list(density.positions) == ["z"]
