"""What is masked is absent, what is forbidden has no NaN gradient, and tables are named without being made."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro import distributions as dist
from numpyro import handlers
from scipy.special import logsumexp
from scipy.stats import norm

import luciole as lc

from .oracle import brute_force, value_and_gradient

ROWS = np.array([-1.3, 0.2, 0.9, 2.2])
MASK = np.array([True, False, True, False])
POSITION = {"pi": np.array([0.3, -0.5]), "mu": np.array([-1.0, 0.4, 1.3])}
SERIES = np.array([-0.4, 0.3, 1.1, 1.9, 2.4])


def mixture(y, mask=True):
    pi = lc.sample("pi", dist.Dirichlet(jnp.ones(3)))
    mu = lc.sample("mu", dist.Normal(0, 2).expand([3]).to_event(1))
    with lc.plate("rows", len(y)), handlers.mask(mask=mask):
        z = lc.sample("z", dist.Categorical(pi))
        lc.sample("y", dist.Normal(mu[z], 1.0), obs=y)


def test_a_masked_row_is_absent(x64, assert_close):
    masked = value_and_gradient(lc.log_density(mixture, ROWS, MASK), POSITION)
    jax.tree.map(assert_close, masked, value_and_gradient(lc.log_density(mixture, ROWS[MASK]), POSITION))
    value, _ = value_and_gradient(lc.log_density(mixture, ROWS), POSITION)
    assert abs(masked[0] - value) > 0.1, "the mask does something"


def test_states_that_nothing_reads(x64, assert_close):
    """Their probabilities sum to one, also where all are the same and no number depends on the state."""

    def model(y, more):
        mu = lc.sample("mu", dist.Normal(0, 2).expand([3]).to_event(1))
        if more:
            lc.sample("uniform", dist.DiscreteUniform(1, 3).expand([4]))
            lc.sample("even", dist.Categorical(jnp.full(3, 1 / 3)))
            jax.lax.scan(lambda c, _: (c, lc.sample("turn", dist.DiscreteUniform(0, 1))), 0, None, length=3)
        lc.sample("y", dist.Normal(mu[0], 1.0), obs=y)

    u = {"mu": POSITION["mu"]}
    found = (value_and_gradient(lc.log_density(model, ROWS, more), u) for more in (True, False))
    jax.tree.map(assert_close, *found)


def test_what_is_infinite_for_a_state_that_is_not_chosen(x64):
    """It is computed while the program is traced, and nobody is warned of 1 / 0 (pytest makes an error of a warning)."""

    def model(y):
        level = lc.sample("level", dist.Normal(0, 1))
        with lc.plate("rows", len(y)):
            z = lc.sample("z", dist.Categorical(jnp.full(3, 1 / 3)))
            lc.sample("y", dist.Normal(level + jnp.where(z > 0, 1.0 / z + jnp.log(1.0 * z), 2.0), 1.0), obs=y)

    values = np.array([2.0, 1.0, 0.5 + np.log(2.0)])
    expected = logsumexp(norm.logpdf(ROWS, 0.3 + values[:, None]) - np.log(3), axis=0).sum() + norm.logpdf(0.3)
    found = lc.log_density(model, ROWS)({"level": 0.3})
    assert abs(found - expected) < 1e-13


def only_the_site_is_masked(y, mask=True):
    """The masked site has one probability for all states, and what is observed of it counts."""
    mu = lc.sample("mu", dist.Normal(0, 2).expand([3]).to_event(1))
    with lc.plate("rows", len(y)):
        with handlers.mask(mask=mask):
            z = lc.sample("z", dist.Categorical(jnp.array([0.5, 0.3, 0.2])))
        lc.sample("y", dist.Normal(mu[z], 1.0), obs=y)


def test_a_masked_site_that_is_read(x64, assert_close):
    oracle = brute_force(only_the_site_is_masked, {"z": range(3)}, ROWS, MASK)
    u = {"mu": POSITION["mu"]}
    found = value_and_gradient(lc.log_density(only_the_site_is_masked, ROWS, MASK), u)
    jax.tree.map(assert_close, found, oracle.value_and_gradient(u))


def left_right(y, form="probs"):
    """A chain of three states that stays or goes on by one: the rest is exactly zero. It starts in the first, so that at first none of
    the ways to the last is open."""
    stay = lc.sample("stay", dist.Beta(2.0, 2.0).expand([2]).to_event(1))
    mu = lc.sample("mu", dist.Normal(0, 2).expand([3]).to_event(1))
    P = jnp.zeros((3, 3)).at[[0, 1], [0, 1]].set(stay).at[[0, 1], [1, 2]].set(1 - stay).at[2, 2].set(1.0)

    def step(z, y):
        row = dist.Categorical(P[z]) if form == "probs" else dist.Categorical(logits=jnp.log(P)[z])
        z = lc.sample("z", row)
        lc.sample("y", dist.Normal(mu[z], 1.0), obs=y)
        return z, None

    jax.lax.scan(step, jnp.zeros((), int), y)


FORMS = ["logits", pytest.param("probs", marks=pytest.mark.slow)]
U = {"stay": np.array([0.4, -0.3]), "mu": np.array([-0.5, 0.8, 2.0])}


@pytest.mark.parametrize("form", FORMS)
def test_forbidden_transitions(form, x64):
    density = lc.log_density(left_right, SERIES, form)
    _, gradient = value_and_gradient(density, U)
    for name, at in U.items():
        for i in range(len(at)):
            step = np.eye(len(at))[i] * 1e-5
            (above, _), (below, _) = (value_and_gradient(density, {**U, name: at + sign * step}) for sign in (1, -1))
            np.testing.assert_allclose(gradient[name][i], (above - below) / 2e-5, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("form", FORMS)
def test_forbidden_transitions_in_single_precision(form):
    value, gradient = value_and_gradient(lc.log_density(left_right, SERIES.astype(np.float32), form), U)
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() and g.any() for g in gradient.values())


def tall(y):
    mu = lc.sample("mu", dist.Normal(0, 1).expand([3]).to_event(1))
    with lc.plate("rows", len(y)):
        z = lc.sample("z", dist.Categorical(jnp.ones(3) / 3))
        lc.sample("y", dist.Normal(mu[z], 1.0), obs=y)


def test_a_million_rows():
    enumeration = lc.log_density(tall, np.zeros(1_000_000, np.float32)).program.enumeration
    assert enumeration.largest.elements == 3_000_000
    assert "3 x 1000000 = 3,000,000 elements, 11.4 MB" in str(enumeration)


def endless():
    p = lc.sample("p", dist.Beta(2.0, 2.0))
    with lc.plate("rows", 2**40):
        z = lc.sample("z", dist.Bernoulli(p))
        lc.factor("f", p * z)


def test_more_than_memory_holds():
    """Two tebibytes of elements are named, so that none of them was made."""
    enumeration = lc.log_density(lc.marginalize(endless, max_table=2**45)).program.enumeration
    assert enumeration.largest.elements == 2 * 2**40
