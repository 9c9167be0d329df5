"""The oracle of the other tests against closed forms, the scores of conditioned models, and what a masked site is worth."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro import distributions as dist
from numpyro import handlers
from numpyro.contrib.control_flow import scan as contrib_scan
from scipy.special import logsumexp, softmax
from scipy.stats import norm

import luciole as lc

from .oracle import brute_force, value_and_gradient

pytestmark = pytest.mark.usefixtures("x64")

K = 3
ROWS = np.array([-1.3, 0.2, 0.9, 2.2])
SERIES = np.array([-0.4, 1.1, 0.3, 1.9, 0.7])
POSITION = {"pi": np.array([0.3, -0.5]), "mu": np.array([-1.0, 0.4, 1.3])}


def mixture(y, mask=True):
    pi = lc.sample("pi", dist.Dirichlet(jnp.ones(K)))
    mu = lc.sample("mu", dist.Normal(0, 2).expand([K]).to_event(1))
    with lc.plate("rows", len(y)), handlers.mask(mask=mask):
        z = lc.sample("z", dist.Categorical(pi))
        lc.sample("y", dist.Normal(mu[z], 1.0), obs=y)


def summed_mixture(y):
    pi = lc.sample("pi", dist.Dirichlet(jnp.ones(K)))
    mu = lc.sample("mu", dist.Normal(0, 2).expand([K]).to_event(1))
    with lc.plate("rows", len(y)):
        lc.sample("y", dist.MixtureSameFamily(dist.Categorical(pi), dist.Normal(mu, 1.0)), obs=y)


def chain(y, loop=jax.lax.scan):
    mu = lc.sample("mu", dist.Normal(0, 2).expand([K]).to_event(1))

    def step(z, y):
        z = lc.sample("z", dist.Categorical(logits=jnp.log(TRANSITION)[z]))
        lc.sample("y", dist.Normal(mu[z], 1.0), obs=y)
        return z, None

    loop(step, jnp.zeros((), int), y)


TRANSITION = np.array([[0.6, 0.3, 0.1], [0.0, 0.5, 0.5], [0.2, 0.0, 0.8]])


def test_mixture(assert_close):
    oracle = brute_force(mixture, {"z": range(K)}, ROWS)
    assert len(oracle.scores(POSITION)) == K ** len(ROWS)
    by_hand = lc.log_density(summed_mixture, ROWS)
    jax.tree.map(assert_close, oracle.value_and_gradient(POSITION), value_and_gradient(by_hand, POSITION))
    values = by_hand.constrain(POSITION)
    joint = np.log(values["pi"]) + norm.logpdf(ROWS[:, None], values["mu"])
    assert_close(oracle.marginals(POSITION)["z"], softmax(joint, -1))
    best, ahead = oracle.best(POSITION)
    np.testing.assert_array_equal(best["z"], joint.argmax(-1))
    assert_close(ahead, np.diff(np.sort(joint))[:, -1].min())


def test_chain(assert_close):
    """Forwards, backwards and Viterbi by hand; some transitions are forbidden."""
    oracle = brute_force(chain, {"z": range(K)}, SERIES)
    u = {"mu": POSITION["mu"]}
    with np.errstate(divide="ignore"):
        step = np.log(TRANSITION)[None] + norm.logpdf(SERIES[:, None], u["mu"])[:, None, :]  # (time, before, now)
    forwards, backwards, best = [step[0, 0]], [np.zeros(K)], [step[0, 0]]
    for t in range(1, len(SERIES)):
        forwards.append(logsumexp(forwards[-1][:, None] + step[t], 0))
        best.append((best[-1][:, None] + step[t]).max(0))
        backwards.insert(0, logsumexp(step[-t] + backwards[0], 1))
    prior = norm.logpdf(u["mu"], 0, 2).sum()
    assert_close(oracle.value(u), prior + logsumexp(forwards[-1]))
    assert_close(oracle.marginals(u)["z"], softmax(np.stack(forwards) + np.stack(backwards), -1))
    assert_close(oracle.scores(u).max(), prior + best[-1].max())
    assert_close(oracle.posterior(u).sum(), 1.0)


def test_as_conditioned(assert_close):
    """Scores of single assignments are densities of the model with the states observed."""
    model = functools.partial(chain, loop=contrib_scan)
    oracle = brute_force(model, {"z": range(K)}, SERIES)
    u = {"mu": POSITION["mu"]}
    scores = oracle.scores(u)
    for i in range(0, K ** len(SERIES), 50):
        given = lc.condition(model, {"z": oracle.assignments["z"][i]})
        assert_close(scores[i], lc.log_density(given, SERIES)(u))


def test_masked_is_absent(assert_close):
    """A mixture with a masked row is that of the other rows."""
    mask = np.array([True, False, True, True])
    masked, without = brute_force(mixture, {"z": range(K)}, ROWS, mask), brute_force(mixture, {"z": range(K)}, ROWS[mask])
    assert_close(masked.value(POSITION), without.value(POSITION))
    assert_close(masked.marginals(POSITION)["z"][1], np.full(K, 1 / K))


def test_what_it_refuses():
    with pytest.raises(AssertionError, match="supports are given"):
        brute_force(mixture, {"c": range(K)}, ROWS)
    with pytest.raises(AssertionError, match="4096"):
        brute_force(mixture, {"z": range(K)}, np.zeros(8))
