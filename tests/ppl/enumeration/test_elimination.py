"""Python loops over states against the same chain as a `scan`: their sums are rolled up into one step, where steps have one form."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import luciole as lc
from luciole import dist
from luciole.transforms.equations import merged_jaxpr, run_jaxpr
from luciole.transforms.jax_compat import open_jaxpr

pytestmark = pytest.mark.usefixtures("x64")

RNG = np.random.default_rng(2)
T = 12
Y, ROWS = RNG.normal(size=T), RNG.normal(size=(T, 4))


def parameters():
    return lc.sample("mu", dist.Normal(0, 1).expand([3])), lc.sample("move", dist.Dirichlet(jnp.ones((3, 3))))


def unrolled(y, switch=False, end=False, odd=False):
    """`odd`: one turn in the middle has a second observation, so that steps have not all one form."""
    mu, move = parameters()
    shift = lc.sample("s", dist.Bernoulli(0.3)) if switch else 0.0
    z = jnp.zeros(y.shape[1:], int)
    for t in range(len(y)):
        z = lc.sample(f"z{t}", dist.Categorical(move[z]))
        lc.sample(f"y{t}", dist.Normal(mu[z] + shift, 1), obs=y[t])
        if odd and t == 5:
            lc.sample("twice", dist.Normal(mu[z], 2), obs=0.4)
    if end:
        lc.sample("end", dist.Normal(mu[z], 0.5), obs=0.3)


def rolled(y, switch=False, end=False, odd=False):
    mu, move = parameters()
    shift = lc.sample("s", dist.Bernoulli(0.3)) if switch else 0.0

    def step(z, y):
        z = lc.sample("z", dist.Categorical(move[z]))
        lc.sample("y", dist.Normal(mu[z] + shift, 1), obs=y)
        return z, z

    last, z = jax.lax.scan(step, jnp.zeros(y.shape[1:], int), y)
    if odd:
        lc.sample("twice", dist.Normal(mu[z], 2).mask(jnp.arange(len(y)) == 5), obs=jnp.full(len(y), 0.4))
    if end:
        lc.sample("end", dist.Normal(mu[last], 0.5), obs=0.3)


CASES = {
    "one chain": (Y, {}),
    "a plate of chains": (ROWS, {}),
    "under a switch": (Y, {"switch": True}),
    "with an end": (Y, {"end": True}),
    "not all of one form": (Y, {"odd": True}),
}


@pytest.mark.parametrize("name", [n if n == "under a switch" else pytest.param(n, marks=pytest.mark.slow) for n in CASES])
def test_a_python_loop_is_the_scan(name, assert_close):
    y, words = CASES[name]
    ours, theirs = lc.log_density(unrolled, y, **words), lc.log_density(rolled, y, **words)
    u = {"mu": np.array([0.3, -1.0, 2.0]), "move": RNG.normal(size=(3, 2))}
    jax.tree.map(assert_close, *(jax.jit(lc.transforms.value_and_grad(d))(u) for d in (ours, theirs)))
    samples = {n: np.asarray(v)[None] for n, v in ours.constrain(u).items()}
    one, other = (lc.infer_discrete(m, jax.random.key(0), samples, y, mode="marginals", **words) for m in (unrolled, rolled))
    assert_close(np.stack([one[f"z{t}"] for t in range(T)], 1), other["z"])


def test_what_compiles_is_one_step():
    """Twice the turns are no more sums; a twin whose turns differ in form has one each."""

    def sums(model, turns):
        jaxpr = lc.trace(model, RNG.normal(size=turns)).enumeration.jaxpr
        return collections.Counter(eqn.primitive.name for eqn in jaxpr.jaxpr.eqns)["ruled_call"]

    def uneven(y):
        mu, move = parameters()
        z = 0
        for t in range(len(y)):
            z = lc.sample(f"z{t}", dist.Categorical(move[z]))
            lc.sample(f"y{t}", dist.Normal(mu[z], 1), obs=y[t])
            if t % 2:
                lc.sample(f"again{t}", dist.Normal(mu[z], 2), obs=y[t])

    assert sums(unrolled, 12) == sums(unrolled, 24) < 6
    assert sums(uneven, 24) > 20


def test_equal_equations_are_computed_once():
    def program(x, y):
        return jnp.sin(x) * jnp.sin(x) + jnp.cumsum(y) - jnp.cumsum(y) + jnp.sin(y) + np.arange(3.0) + np.arange(3.0), jnp.sin(x)

    x, y = np.array([0.1, 0.2, 0.3]), np.array([1.0, 2.0, 4.0])
    before, consts = open_jaxpr(jax.make_jaxpr(program)(x, y))
    after, kept = merged_jaxpr(before, consts)
    count = collections.Counter(eqn.primitive.name for eqn in after.eqns)
    assert count["sin"] == 2
    assert len(after.eqns) < len(before.eqns)
    for one, other in zip(run_jaxpr(after, kept, (x, y)), program(x, y), strict=True):
        np.testing.assert_array_equal(one, other)
