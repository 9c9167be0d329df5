"""Runs of models whose discrete sites are summed out: what reads them, what goes on from them, and what says that it cannot."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import logsumexp
from scipy.stats import norm

import luciole as lc
from luciole import dist

RNG = np.random.default_rng(1)
Y = np.concatenate([RNG.normal(-2, 1, 20), RNG.normal(2, 1, 40)])
KEY = jax.random.key(0)


def mixture(y=None, n=60):
    a = lc.sample("a", dist.Normal(0, 1))
    share = lc.sample("share", dist.Beta(2, 2))
    with lc.plate("n", n):
        z = lc.sample("z", dist.Bernoulli(share))
        mean = lc.deterministic("mean", jnp.array([-2.0, 2.0])[z] + a)
        lc.sample("y", dist.Normal(mean, 1.0), obs=y)


def chain(y, n):
    move = lc.sample("move", dist.Dirichlet(jnp.ones((2, 2)) + 5 * jnp.eye(2)))
    series = jnp.asarray(y)

    def step(z, t):
        z = lc.sample("z", dist.Categorical(move[z]))
        lc.sample("y", dist.Normal(jnp.array([-1.0, 1.0])[z], 0.5), obs=series[t], obs_mask=~jnp.isnan(series[t]))
        return z, None

    jax.lax.scan(step, jnp.zeros((), int), jnp.arange(n))


@pytest.fixture(scope="module")
def run():
    mcmc = lc.MCMC(lc.NUTS(mixture), num_warmup=300, num_samples=500, num_chains=2, progress_bar=False)
    mcmc.run(KEY, Y)
    return mcmc


@pytest.mark.slow
def test_what_a_run_holds(run):
    """States and what depends on them are no draws of a run; they come back with the plate's dimension."""
    assert set(run.get_samples()) == {"a", "share"}
    states = lc.infer_discrete(run, KEY)
    assert states["z"].shape == (1000, 60)
    assert np.abs(states["z"].mean(0)[Y > 1.5] - 1).max() < 0.2
    assert run.to_arviz(discrete=states).posterior["z"].dims == ("chain", "draw", "n")


@pytest.mark.slow
def test_rows_for_leave_one_out(run):
    """The group log_likelihood has the plate's dimension, and its draws are those of the mixture written as one distribution."""
    group = run.to_arviz().log_likelihood
    assert group["y"].dims == ("chain", "draw", "n")
    draws = run.get_samples()
    means = np.array([-2.0, 2.0])[:, None, None] + draws["a"][:, None]
    weights = np.stack([1 - draws["share"], draws["share"]])[:, :, None]
    expected = logsumexp(np.log(weights) + norm.logpdf(Y, means), axis=0)
    np.testing.assert_allclose(np.asarray(group["y"]).reshape(1000, 60), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_replicates_keep_their_states(run):
    """y_rep ~ p(y | z), z ~ p(z | y): it follows the data, which a draw from the prior of z would not."""
    replicate = lc.posterior_predictive(mixture, KEY, run.get_samples(), Y)["y"].mean(0)
    assert np.corrcoef(replicate, Y)[0, 1] > 0.9
    new = lc.predict(run, KEY, None, 5)
    assert new["y"].shape == new["z"].shape == (1000, 5)


@pytest.mark.slow
def test_evidence_by_bridge(run):
    """Against a sum over a fine grid of both parameters; 5 standard errors and the grid's own error."""
    density = lc.log_density(mixture, Y)
    a, share = jnp.linspace(-2.5, 2.5, 401), (jnp.arange(400) + 0.5) / 400
    table = jax.vmap(lambda u: jax.vmap(lambda p: density.joint({"a": u, "share": p}))(share))(a)
    exact = float(logsumexp(table)) + np.log(5 / 400) - np.log(400)
    found = lc.bridge_evidence(run, KEY)
    assert abs(found.log_evidence - exact) < 5 * found.stderr + 1e-2


@pytest.mark.slow
def test_a_forecast_goes_on_from_the_last_state():
    """The last state is almost surely 1, and the chance to leave it 1/7 a priori: the forecast starts there, not at the first state."""
    y = np.repeat([-1.0, 1.0, -1.0, 1.0], 8)
    mcmc = lc.MCMC(lc.NUTS(chain), num_warmup=200, num_samples=500, num_chains=2, progress_bar=False)
    mcmc.run(KEY, y, 32)
    future = lc.predict(mcmc, KEY, np.append(y, np.full(3, np.nan)), 35)["y"][:, 32:].mean(0)
    assert 0.4 < future[0] < 0.95
    assert future[0] > future[2]


REFUSED = {
    "FlyMC": lambda: lc.MCMC(lc.FlyMC(mixture), num_warmup=1, num_samples=1, progress_bar=False).run(KEY, Y),
    "sgd_evidence": lambda: lc.sgd_evidence(mixture, KEY, Y),
    "train": lambda: lc.train(mixture, KEY, Y, num_steps=1),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name):
    with pytest.raises(lc.LucioleError, match=rf"{name}.*'z'"):
        REFUSED[name]()
