"""Values that reach the steps of a loop from outside, of every length; and what comes after the last of them."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from jax.scipy import stats
from numpyro import distributions as dist
from numpyro import handlers
from numpyro.contrib.control_flow import scan as contrib_scan

from luciole import inference, transforms
from luciole import ppl as lc
from luciole.transforms import ModelError

pytestmark = pytest.mark.usefixtures("x64")

N = stats.norm.logpdf
Y = np.random.default_rng(1).standard_normal(4)
DRAWS = 4000
KEY = jax.random.key(3)


def assert_moments(draws, mean, variance):
    """Means and variances of independent draws, each within five standard errors of a normal distribution."""
    mean, variance = np.broadcast_to(mean, draws.shape[1:]), np.broadcast_to(variance, draws.shape[1:])
    assert np.all(np.abs(draws.mean(0) - mean) < 5 * np.sqrt(variance / len(draws)))
    assert np.all(np.abs(draws.var(0) / variance - 1) < 5 * np.sqrt(2 / len(draws)))


def walk(scan, steps):
    """A random walk with s = 1 from 0, observed with noise."""

    def step(x, _):
        x = lc.sample("x", dist.Normal(x, 1.0))
        lc.sample("y", dist.Normal(x, 2.0))
        return x, None

    scan(step, 0.0, None, length=steps)


def continued(y, future, scan=contrib_scan, handler=handlers.condition, **options):
    """NumPyro's forecasting idiom: the series is shorter than the scan that it conditions."""
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))

    def step(before, _):
        y_t = numpyro.sample("y", dist.Normal(a * before, 1.0))
        return y_t, y_t

    with handler(data={"y": y}):
        _, ys = scan(step, 1.0, jnp.arange(len(y) + future), **options)
    if future > 0:
        numpyro.deterministic("forecast", ys[-future:])


def density_by_hand(z):
    y = jnp.concatenate([jnp.asarray(Y), z["y_unobserved"]])
    return N(z["a"]) + N(y, z["a"] * jnp.concatenate([jnp.ones(1), y[:-1]])).sum()


@pytest.mark.filterwarnings("ignore::luciole.SubstitutedSiteWarning")
@pytest.mark.parametrize("handler", [handlers.condition, pytest.param(handlers.substitute, marks=pytest.mark.slow)])
def test_the_rest_of_a_series_is_latent_in_a_density(handler, assert_close):
    density = lc.log_density(continued, Y, 3, handler=handler)
    assert {n: s.shape for n, s in density.positions.items()} == {"a": (), "y_unobserved": (3,)}
    z = {"a": jnp.asarray(0.4), "y_unobserved": jnp.array([0.3, -2.0, 1.0])}
    assert_close(density(z), density_by_hand(z))
    short = lc.log_density(continued, Y, 0, handler=handler)
    assert_close(short({"a": z["a"]}), density_by_hand({"a": z["a"], "y_unobserved": jnp.zeros(0)}))


def ar_forecast(a, steps, last=Y[-1]):
    """Mean and variance of an AR(1) with unit noise, steps 1, 2, ... after `last`."""
    powers = a ** np.arange(steps)
    return a * powers * last, np.cumsum(powers**2)


@pytest.mark.slow
def test_the_rest_of_a_series_is_drawn_in_a_predictive():
    drawn = lc.posterior_predictive(continued, KEY, {"a": np.full(DRAWS, 0.7)}, Y, 3)
    assert set(drawn) == {"y", "y_unobserved", "forecast"}
    np.testing.assert_array_equal(drawn["y"][:, :4], np.broadcast_to(Y, (DRAWS, 4)))
    np.testing.assert_array_equal(drawn["y"][:, 4:], drawn["forecast"])
    np.testing.assert_array_equal(drawn["y_unobserved"], drawn["forecast"])
    assert_moments(drawn["forecast"], *ar_forecast(0.7, 3))
    np.testing.assert_array_equal(inference.predict(continued, KEY, {"a": np.full(DRAWS, 0.7)}, Y, 3)["y"], drawn["y"])


@pytest.mark.slow
def test_forecasts_have_numpyros_moments():
    ours = lc.posterior_predictive(continued, KEY, {"a": np.full(DRAWS, 0.7)}, Y, 3)["forecast"]
    theirs = numpyro.infer.Predictive(continued, {"a": jnp.full(DRAWS, 0.7)})(KEY, Y, 3)["forecast"]
    np.testing.assert_allclose(ours.mean(0), theirs.mean(0), atol=0.1)
    np.testing.assert_allclose(ours.var(0), theirs.var(0), rtol=0.15)


@pytest.mark.slow
def test_the_prior_uses_no_observation():
    drawn = lc.prior_predictive(continued, KEY, 50, Y, 2)
    assert len(np.unique(drawn["y"])) == 50 * 6


@pytest.mark.parametrize("scan", [jax.lax.scan, pytest.param(contrib_scan, marks=pytest.mark.slow)])
def test_samples_of_the_first_steps(scan):
    """The latent past of 20 steps in a model that runs 25: variances 1, 2, 3, 4, 5 from where the past ended."""
    past = np.random.default_rng(0).standard_normal((DRAWS, 20)).cumsum(1)
    drawn = lc.posterior_predictive(walk, KEY, {"x": past}, scan, 25)
    np.testing.assert_array_equal(drawn["x"][:, :20], past)
    ahead = drawn["x"][:, 20:] - past[:, -1:]
    assert_moments(ahead, 0.0, np.arange(1.0, 6.0))
    assert_moments(drawn["y"] - drawn["x"], 0.0, 4.0)


@pytest.mark.slow
def test_samples_in_a_loop_of_loops():
    def model(steps):
        def cell(c, _):
            x = lc.sample("x", dist.Normal(c, 1e-3).expand([2]))
            return x[0], None

        jax.lax.scan(lambda c, _: jax.lax.scan(cell, c, None, length=3), 5.0, None, length=steps)

    past = np.arange(7.0)[:, None, None, None] + np.zeros((7, 2, 3, 2))
    drawn = lc.posterior_predictive(model, KEY, {"x": past}, 4)["x"]
    np.testing.assert_array_equal(drawn[:, :2], past)
    np.testing.assert_allclose(drawn[:, 2:], np.arange(7.0)[:, None, None, None] + np.zeros((7, 2, 3, 2)), atol=0.1)


def plated(y, steps):
    def step(c, _):
        with numpyro.plate("n", 2):
            return numpyro.sample("y", dist.Normal(c, 1.0)), None

    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    with handlers.condition(data={"y": y}):
        contrib_scan(step, m * jnp.ones(2), None, length=steps)


def looped(y):
    def inner(c, _):
        return numpyro.sample("y", dist.Normal(c, 1.0)), None

    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    with handlers.condition(data={"y": y}):
        contrib_scan(lambda c, _: contrib_scan(inner, c, None, length=2), m, None, length=4)


@pytest.mark.slow
def test_plates_and_loops_inside(assert_close):
    y = np.random.default_rng(5).standard_normal((4, 2))
    z = {"m": jnp.asarray(0.5)}
    assert_close(lc.log_density(plated, y, 4)(z), N(0.5) + N(y, np.concatenate([np.full((1, 2), 0.5), y[:-1]])).sum())
    assert_close(lc.log_density(looped, y)(z), N(0.5) + N(y.ravel(), np.concatenate([[0.5], y.ravel()[:-1]])).sum())
    assert lc.log_density(plated, y, 7).positions["y_unobserved"].shape == (6,)
    assert lc.log_density(plated, y[:0], 7).positions["y_unobserved"].shape == (14,)
    assert lc.log_density(looped, y[:3]).positions["y_unobserved"].shape == (2,)


def conditioned(loop, value):
    def model():
        body = lambda c, _: (lc.sample("x", dist.Normal(c, 1.0)), None)  # noqa: E731
        with handlers.condition(data={"x": value}):
            loop(body)

    return model


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: continued(Y, -1), r"site 'y': .* `scan` of 3 steps gives it a value of shape \(4,\); expected one for every step, \(3,\)"),
        (lambda: continued(np.ones((4, 2)), 3), r"site 'y': .* shape \(4, 2\); expected one for every step, \(7,\)"),
        (lambda: continued(Y, 2, reverse=True), r"site 'y': .* 4 of 6 steps of a `scan` with reverse=True"),
        (lambda: looped(np.ones((4, 1))), r"site 'y': .* shape \(4, 1\); expected one for every step, \(4, 2\)"),
        (lambda: looped(np.ones(4)), r"site 'y': .* shape \(4,\); expected one for every step, \(4, 2\)"),
        (conditioned(lambda f: jax.lax.scan(f, 0.0, None, length=4), Y), "site 'x'.* a handler outside of a `jax.lax.scan` or `jax.vmap`"),
        (conditioned(lambda f: jax.vmap(lambda c: f(c, None)[0])(jnp.zeros(4)), Y), "site 'x'.* a handler outside of a"),
    ],
)
def test_series_that_do_not_fit(model, words):
    with pytest.raises(ModelError, match=words):
        lc.trace(model)


def test_samples_that_do_not_fit():
    with pytest.raises(ModelError, match=r"site 'x': the samples have shape \(5, 25\)"):
        lc.posterior_predictive(walk, KEY, {"x": np.zeros((5, 25))}, jax.lax.scan, 3)
    with pytest.raises(ModelError, match=r"site 'x': the samples have shape \(5, 20\)"):
        lc.log_likelihood(walk, {"x": np.zeros((5, 20)), "y": np.zeros((5, 25))}, jax.lax.scan, 25)


def test_samples_of_a_loop_that_runs_backwards():
    def model(steps):
        jax.lax.scan(lambda c, _: (lc.sample("x", dist.Normal(c, 1.0)), None), 0.0, None, length=steps, reverse=True)

    with pytest.raises(ModelError, match=r"site 'x': the samples have shape \(5, 3\)"):
        lc.posterior_predictive(model, KEY, {"x": np.zeros((5, 3))}, 4)


def test_samples_of_a_plate_that_has_grown():
    def model(n):
        with lc.plate("row", n):
            lc.sample("e", dist.Normal(0.0, 1.0))

    with pytest.raises(ModelError, match=r"site 'e': .* \(5, 20\); expected .*Only a site of a loop .* as a `jax.lax.scan`"):
        lc.posterior_predictive(model, KEY, {"e": np.zeros((5, 20))}, 25)


# --- lc.predict: given the past -----------------------------------------------------------------------------------------------------


def ar(y):
    a = lc.sample("a", dist.Normal(0.0, 1.0))

    def step(before, y_t):
        y_t = lc.sample("y", dist.Normal(a * before, 1.0), obs=y_t, obs_mask=~jnp.isnan(y_t))
        return y_t, None

    last, _ = jax.lax.scan(step, 1.0, y)
    lc.deterministic("last", last)


def local_level(y):
    def step(level, y_t):
        level = lc.sample("level", dist.Normal(level, 0.5))
        lc.sample("y", dist.Normal(level, 1.0), obs=y_t, obs_mask=~jnp.isnan(y_t))
        return level, None

    jax.lax.scan(step, 0.0, y)


@pytest.mark.slow
def with_future(y, steps):
    return np.concatenate([y, np.full(steps, np.nan)])


def test_forecast_of_an_autoregression_given_its_past():
    y = np.array([0.2, np.nan, 1.0, 1.6])
    samples = {"a": np.full(DRAWS, 0.7), "y_unobserved": np.full((DRAWS, 1), 0.5)}
    drawn = inference.predict(ar, KEY, samples, with_future(y, 3))
    assert set(drawn) == {"y", "y_unobserved", "last"}
    np.testing.assert_array_equal(drawn["y"][:, :4], np.broadcast_to([0.2, 0.5, 1.0, 1.6], (DRAWS, 4)))
    assert_moments(drawn["y_unobserved"][:, 1:], *ar_forecast(0.7, 3, last=1.6))
    np.testing.assert_array_equal(drawn["last"], drawn["y"][:, -1])


@pytest.mark.slow
def test_forecast_of_a_state_space_model_given_its_past():
    """The filter's mean and variance, where the levels are drawn from the filter's distribution of the last one."""
    level = np.random.default_rng(0).normal(1.5, 0.6, (DRAWS, 4, 1)) + np.zeros((1, 1, 4))
    level = level[:, 0]
    drawn = inference.predict(local_level, KEY, {"level": level}, with_future(Y, 3))
    np.testing.assert_array_equal(drawn["level"][:, :4], level)
    np.testing.assert_array_equal(drawn["y"][:, :4], np.broadcast_to(Y, (DRAWS, 4)))
    ahead = 0.36 + 0.25 * np.arange(1.0, 4.0)
    assert_moments(drawn["level"][:, 4:], 1.5, ahead)
    assert_moments(drawn["y_unobserved"], 1.5, ahead + 1.0)


@pytest.mark.slow
def test_a_forecast_by_a_second_loop():
    """A model that goes on from its last state: replicates forget the past, predictions do not."""

    def model(y, future):
        def step(before, y_t):
            return lc.sample("y", dist.Normal(0.8 * before + a, 1.0), obs=y_t), None

        a = lc.sample("a", dist.Normal(0.0, 1.0))
        last, _ = jax.lax.scan(step, 0.0, y)
        jax.lax.scan(lambda before, _: (lc.sample("next", dist.Normal(0.8 * before + a, 1.0)), None), last, None, length=future)

    y, samples = np.array([0.0, 1.0, 2.0]), {"a": np.zeros(DRAWS)}
    drawn = inference.predict(model, KEY, samples, y, 2)
    assert set(drawn) == {"next"}
    assert_moments(drawn["next"], *ar_forecast(0.8, 2, last=2.0))


def test_predict_new_rows():
    def model(x, y=None):
        b = lc.sample("b", dist.Normal(0.0, 1.0))
        with lc.plate("n", len(x)):
            lc.sample("y", dist.Normal(b * x, 1e-3), obs=y)

    b = np.linspace(0.0, 1.0, 5)
    drawn = inference.predict(model, KEY, {"b": b}, np.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(drawn["y"], b[:, None] * [1.0, 2.0, 3.0], atol=0.01)
    with pytest.raises(ModelError, match=r"every site of the model is given.*nothing to predict"):
        inference.predict(model, KEY, {"b": b}, np.ones(3), np.ones(3))
    with pytest.raises(transforms.SamplerError, match=r"write lc\.predict\(mcmc, key"):
        inference.predict(model, KEY)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "samples", "y", "words"),
    [
        (
            local_level,
            {"level": np.zeros((3, 4))},
            np.r_[Y, 1.0],
            "of site 'level' .* end before step 4, and 'y_observed' is given up to step 4",
        ),
        (ar, {"a": np.zeros(3)}, np.r_[Y, np.nan, 1.0], "of site 'y_unobserved' .* before step 4, and 'y_observed' .* step 5"),
        (
            ar,
            {"y_unobserved": np.zeros((3, 1))},
            np.r_[Y, np.nan],
            "no 'a' .* drawn from its prior, and 'y_observed' with it",
        ),
    ],
)
def test_draws_that_do_not_look_at_observations(model, samples, y, words):
    with pytest.warns(lc.PriorDrawWarning, match=words):
        inference.predict(model, KEY, samples, y)


@pytest.mark.slow
def test_a_missing_covariate_is_not_drawn_without_a_word():
    def model(x, y):
        x = lc.sample("x", dist.Normal(jnp.zeros(3), 1.0), obs=x, obs_mask=~np.isnan(x))
        b = lc.sample("b", dist.Normal(0.0, 1.0))
        lc.sample("y", dist.Normal(b * x, 1.0), obs=y)

    x = np.array([1.0, np.nan, 2.0])
    with pytest.warns(lc.PriorDrawWarning, match="no 'x_unobserved' .* without a look at the observations"):
        inference.predict(model, KEY, {"b": np.zeros(3)}, x, np.ones(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert inference.predict(model, KEY, {"b": np.zeros(3)}, x, None)["y"].shape == (3, 3)
