"""States drawn back, beside all assignments: joint draws by chi-square, marginals to the last digits, the most probable assignment."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro import distributions as dist
from scipy import stats

import luciole as lc
from luciole.ppl.enumeration import choices

from .oracle import brute_force

DRAWS = 20_000
LEVEL = 1e-3  # of a test; the seeds are fixed
Y = np.random.default_rng(0).normal(size=5)
SERIES = np.random.default_rng(1).normal(size=(3, 2))


def levels(states=2):
    return lc.sample("mu", dist.Normal(0, 1).expand([states]).to_event(1))


def moves(*shape):
    return lc.sample("P", dist.Dirichlet(jnp.ones(shape)).to_event(len(shape) - 1))


def read(loc, y):
    lc.sample("y", dist.Normal(loc, 1.0), obs=y)


def mixture(y):
    mu, pi = levels(3), moves(3)
    with lc.plate("rows", len(y)):
        read(mu[lc.sample("z", dist.Categorical(pi))], y)


def switch(y, on=0.3):
    mu, s = levels(), lc.sample("s", dist.Bernoulli(on))
    with lc.plate("rows", len(y)):
        read(mu[lc.sample("z", dist.Bernoulli(0.2 + 0.5 * s))] + s, y)


def chain(y, reverse=False):
    mu, P = levels(), moves(2, 2)

    def step(z, y):
        z = lc.sample("z", dist.Categorical(P[z]))
        read(mu[z], y)
        return z, None

    jax.lax.scan(step, jnp.zeros((), int), y, reverse=reverse)


def second_order(y):
    mu, P = levels(), moves(2, 2, 2)

    def step(carry, y):
        z = lc.sample("z", dist.Categorical(P[carry]))
        read(mu[z], y)
        return (carry[1], z), None

    jax.lax.scan(step, (jnp.zeros((), int),) * 2, y)


def handed_out(y):
    mu, P = levels(), moves(2, 2)

    def step(z, _):
        z = lc.sample("z", dist.Categorical(P[z]))
        return z, z

    last, z = jax.lax.scan(step, jnp.zeros((), int), None, length=len(y))
    with lc.plate("time", len(y)):
        read(mu[z], y)
    lc.sample("w", dist.Normal(mu[last], 1.0), obs=0.3)


def chains_in_a_plate(y):
    mu, P = levels(), moves(2, 2)

    def step(z, y):
        with lc.plate("series", y.shape[0]):
            z = lc.sample("z", dist.Categorical(P[z]))
            read(mu[z], y)
        return z, None

    jax.lax.scan(step, jnp.zeros(y.shape[1], int), y)


backwards = functools.partial(chain, reverse=True)
TWO = {"z": range(2)}
CASES = {
    "mixture": (mixture, {"z": range(3)}, Y[:4]),
    "switch": (switch, {"s": range(2), **TWO}, Y),
    "chain": (chain, TWO, Y),
    "second_order": (second_order, TWO, Y),
    "handed_out": (handed_out, TWO, Y),
    "chains_in_a_plate": (chains_in_a_plate, TWO, SERIES),
    "backwards": (backwards, TWO, Y),
}


def cases(*quick):
    return pytest.mark.parametrize("name", [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in CASES])


def case(name):
    """The model, its data, the oracle, a point u, and the point constrained, as one sample."""
    model, supports, y = CASES[name]
    oracle = brute_force(model, supports, y)
    rng = np.random.default_rng(2)
    u = {n: rng.standard_normal(s.shape) for n, s in oracle.positions.items()}
    x = lc.log_density(model, y).constrain(u)
    return model, y, oracle, u, {n: np.asarray(x[n])[None] for n in u}


def chance(oracle, u, drawn):
    """The p-value of drawn states, (draw, *shape) by site, beside the posterior over assignments; rare ones are taken together."""
    rows = {tuple(row): i for i, row in enumerate(flat(oracle.assignments))}
    number = len(flat(drawn))
    counts = np.bincount([rows[tuple(row)] for row in flat(drawn)], minlength=len(rows))
    expected = number * oracle.posterior(u)
    common = expected > 5
    counts, expected = (np.append(v[common], v[~common].sum()) for v in (counts, expected))
    kept = expected > 1e-9 * number
    assert not counts[~kept].any()
    return stats.chisquare(counts[kept], expected[kept] * (number / expected[kept].sum())).pvalue


def flat(states):
    """(assignment, element), of all sites in one order."""
    return np.concatenate([np.reshape(states[n], (len(states[n]), -1)) for n in sorted(states)], 1)


def many(x, number=DRAWS):
    return {n: np.broadcast_to(v, (number, *v.shape[1:])) for n, v in x.items()}


@cases("chain")
def test_joint_draws(name, x64):
    model, y, oracle, u, x = case(name)
    drawn = lc.infer_discrete(model, jax.random.key(1), many(x), y)
    assert {n: v.shape for n, v in drawn.items()} == {n: (DRAWS, *a.shape[1:]) for n, a in oracle.assignments.items()}
    assert chance(oracle, u, drawn) > LEVEL
    again, other = (lc.infer_discrete(model, jax.random.key(k), many(x), y) for k in (1, 2))
    assert all((again[n] == drawn[n]).all() and (other[n] != drawn[n]).any() for n in drawn)


@cases("switch")
def test_marginals(name, x64, assert_close):
    model, y, oracle, u, x = case(name)
    found = lc.infer_discrete(model, jax.random.key(1), x, y, mode="marginals")
    for site, expected in oracle.marginals(u).items():
        assert_close(found[site][0], expected, what=site)


@cases("switch")
def test_most_probable(name, x64):
    model, y, oracle, u, x = case(name)
    best, ahead = oracle.best(u)
    assert ahead > 1e-6, "two assignments are equally probable, so that the comparison would show nothing"
    found = lc.infer_discrete(model, jax.random.key(1), x, y, mode="map")
    for site, expected in best.items():
        np.testing.assert_array_equal(found[site][0], expected)


def test_without_noise_is_found(x64, monkeypatch):
    """A twin whose choice is always that of the largest term. Its model is no other test's, as programs are compiled once."""
    *_, oracle, u, x = case("switch")
    drawn = choices._drawn
    monkeypatch.setattr(choices, "_drawn", lambda x, noise: drawn(x, jnp.zeros_like(noise)))
    states = lc.infer_discrete(functools.partial(switch, on=0.3 + 1e-9), jax.random.key(1), many(x), Y)
    assert chance(oracle, u, states) < LEVEL


def test_element_by_element_is_found(x64):
    """A chain drawn by its marginals has the right share of each state in each turn, and is no draw of the chain."""
    _, _, oracle, u, _ = case("chain")
    ones = oracle.marginals(u)["z"][:, 1]
    drawn = {"z": (np.random.default_rng(3).random((DRAWS, len(ones))) < ones).astype(int)}
    assert chance(oracle, u, drawn) < LEVEL


@pytest.fixture(scope="module")
def run():
    kernel = lc.Slice(mixture_with_names)
    return lc.MCMC(kernel, num_warmup=10, num_samples=6, num_chains=2, progress_bar=False).run(jax.random.key(0), Y[:4])


def mixture_with_names(y):
    mu = lc.sample("mu", dist.Normal(0, 1))
    with lc.plate("row", len(y), coords=list("abcd")):
        read(mu + lc.sample("z", dist.Categorical(jnp.ones(3) / 3)), y)


@pytest.mark.slow
def test_of_a_run(run):
    states = lc.infer_discrete(run, jax.random.key(1))
    assert {n: v.shape for n, v in states.items()} == {"z": (12, 4)}
    assert lc.infer_discrete(run, jax.random.key(1), mode="map")["z"].shape == (12, 4)
    marginals = lc.infer_discrete(run, jax.random.key(1), mode="marginals")["z"]
    assert marginals.shape == (12, 4, 3)
    np.testing.assert_allclose(marginals.sum(-1), 1, rtol=1e-5)
    z = run.to_arviz(discrete=states)["posterior"]["z"]
    assert z.dims == ("chain", "draw", "row")
    assert list(z.coords["row"].values) == list("abcd")
    np.testing.assert_array_equal(z.values.reshape(12, 4), states["z"])


def no_discrete_site(y):
    read(lc.sample("a", dist.Normal(0, 1)), y)


@pytest.mark.parametrize(
    ("model", "args", "mode", "error", "words"),
    [
        (mixture_with_names, ({"mu": np.zeros(1)}, Y[:4]), "maximum", lc.SamplerError, "'maximum'.*'sample', 'map', 'marginals'"),
        (mixture_with_names, (), "sample", lc.SamplerError, "no samples"),
        (mixture_with_names, ({}, Y[:4]), "sample", lc.ModelError, "'mu'"),
        (mixture, ({"mu": np.zeros((1, 2)), "P": np.full((1, 3), 1 / 3)}, Y[:4]), "sample", lc.ModelError, "'mu'"),
        (no_discrete_site, ({"a": np.zeros(1)}, 0.3), "sample", lc.ModelError, "no discrete latent site"),
    ],
)
def test_bad_arguments(model, args, mode, error, words):
    with pytest.raises(error, match=words):
        lc.infer_discrete(model, jax.random.key(0), *args, mode=mode)


@pytest.mark.slow
def test_a_run_takes_no_arguments(run):
    with pytest.raises(lc.SamplerError, match="brings its own data"):
        lc.infer_discrete(run, jax.random.key(0), Y[:4])
