"""The log likelihood of rows whose states are summed out, against sums that are written out in NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro import handlers
from scipy.special import logsumexp
from scipy.stats import norm

import luciole as lc
from luciole import dist

pytestmark = pytest.mark.usefixtures("x64")

RNG = np.random.default_rng(3)
Y, X = RNG.normal(size=5), RNG.normal(size=5)
VOTES = RNG.integers(0, 3, (5, 4))
SHOWN = RNG.uniform(size=(5, 4)) < 0.6
SHOWN[3] = False
ITEM = np.array([0, 0, 1, 2, 2, 2, 4])
SCORES = RNG.normal(size=7)
SEQUENCES = RNG.normal(size=(4, 3))
SHARE, MEANS = 0.3, np.array([-1.0, 0.8])
MATRIX = RNG.dirichlet(np.ones(3), (4, 2))
MOVE = np.array([[0.7, 0.3], [0.2, 0.8]])
START = np.log([1 - SHARE, SHARE])


def parameters():
    return lc.sample("share", dist.Beta(2, 2)), lc.sample("means", dist.Normal(0, 1).expand([2]).to_event(1))


def states(share):
    return lc.sample("z", dist.Bernoulli(share))


def mixture():
    share, means = parameters()
    with lc.plate("row", 5):
        lc.sample("y", dist.Normal(means[states(share)], 1.0), obs=Y)


def weighed():
    share, means = parameters()
    with lc.plate("row", 5):
        z = states(share)
        with handlers.scale(scale=3.0):
            lc.sample("y", dist.Normal(means[z], 1.0), obs=Y)


def two_sites():
    share, means = parameters()
    with lc.plate("row", 5):
        z = states(share)
        lc.sample("y", dist.Normal(means[z], 1.0), obs=Y)
        lc.sample("x", dist.Normal(z, 2.0), obs=X)
        lc.sample("alone", dist.Normal(means[0], 1.0), obs=X)


def annotation():
    """Votes of four people on five items, not all of them shown: a row is an item."""
    share, _ = parameters()
    with lc.plate("item", 5, dim=-2):
        z = states(share)
        with lc.plate("person", 4, dim=-1), handlers.mask(mask=SHOWN):
            lc.sample("y", dist.Categorical(jnp.asarray(MATRIX)[jnp.arange(4), z]), obs=VOTES)


def long_form():
    """Scores that pick their item: a row is an item, and item 3 has none."""
    share, means = parameters()
    with lc.plate("item", 5):
        z = states(share)
    with lc.plate("score", 7):
        lc.sample("y", dist.Normal(means[z[ITEM]], 1.0), obs=SCORES)


def local_latent():
    share, means = parameters()
    with lc.plate("row", 5):
        z = states(share)
        t = lc.sample("t", dist.Normal(means[z], 1.0))
        lc.sample("y", dist.Normal(t + z, 1.0), obs=Y)


def sequences():
    _, means = parameters()

    def step(z, y):
        z = lc.sample("z", dist.Categorical(jnp.asarray(MOVE)[z]))
        lc.sample("y", dist.Normal(means[z], 1.0), obs=y)
        return z, None

    with lc.plate("sequence", 3):
        jax.lax.scan(step, jnp.zeros(3, int), SEQUENCES)


def switch():
    """A state that all rows share: one row."""
    share, means = parameters()
    s = lc.sample("s", dist.Bernoulli(share))
    with lc.plate("row", 5):
        lc.sample("y", dist.Normal(means[s], 1.0), obs=Y)


def independent_turns():
    """A loop in which no turn reads another: a row is a turn."""
    share, means = parameters()

    def step(carry, y):
        lc.sample("y", dist.Normal(means[states(share)], 1.0), obs=y)
        return carry, None

    jax.lax.scan(step, 0, Y)


def by_sequence():
    def path(states, y):
        return sum(np.log(MOVE[a, b]) for a, b in itertools.pairwise((0, *states))) + norm.logpdf(y, MEANS[list(states)]).sum()

    return np.array([logsumexp([path(s, y) for s in itertools.product(range(2), repeat=4)]) for y in SEQUENCES.T])


BY_STATE = START[:, None] + norm.logpdf(Y, MEANS[:, None])
WITH_X = BY_STATE + norm.logpdf(X, np.arange(2)[:, None], 2)
VOTED = np.where(SHOWN, np.log(MATRIX[np.arange(4), np.arange(2)[:, None, None], VOTES]), 0.0).sum(-1)
OF_ITEMS = np.stack([norm.logpdf(SCORES, m) @ (ITEM[:, None] == np.arange(5)) for m in MEANS])
T = RNG.normal(size=5)
OF_T = START[:, None] + norm.logpdf(T, MEANS[:, None])
ABSENT = np.array([0, 0, 0, np.nan, 0])

CASES = {
    "a mixture": (mixture, {"y": logsumexp(BY_STATE, 0)}),
    "scaled": (weighed, {"y": logsumexp(BY_STATE, 0)}),
    "two sites": (two_sites, {"y, x": logsumexp(WITH_X, 0), "alone": norm.logpdf(X, MEANS[0])}),
    "annotation": (annotation, {"y": logsumexp(START[:, None] + VOTED, 0) + ABSENT}),
    "long form": (long_form, {"y": logsumexp(START[:, None] + OF_ITEMS, 0) + ABSENT}),
    "a local latent": (local_latent, {"y": logsumexp(OF_T + norm.logpdf(Y, T + np.arange(2)[:, None]), 0) - logsumexp(OF_T, 0)}),
    "sequences": (sequences, {"y": by_sequence()}),
    "a switch": (switch, {"y": logsumexp(START + norm.logpdf(Y, MEANS[:, None]).sum(1))}),
    "independent turns": (independent_turns, {"y": logsumexp(BY_STATE, 0)}),
}


@pytest.mark.parametrize("name", CASES)
def test_rows_are_as_written_out(name):
    model, expected = CASES[name]
    samples = {"share": np.full(2, SHARE), "means": np.stack([MEANS, MEANS])} | ({"t": np.stack([T, T])} if model is local_latent else {})
    found = lc.log_likelihood(model, samples)
    assert set(found) == set(expected)
    for site, value in expected.items():
        np.testing.assert_allclose(found[site], np.stack([value, value]), rtol=1e-12, err_msg=site)
    states = {n: np.zeros((2, *lc.trace(model).sites[n].shape), int) for n in ("z", "s") if n in lc.trace(model).sites}
    given = lc.log_likelihood(model, {**samples, **states})  # the twin: scored given states, which is another number
    assert not np.allclose(np.nansum(given["y"]), np.nansum([np.nansum(v) * 2 for n, v in expected.items() if n != "alone"]))
