"""Models that cannot be summed out, or only wrongly: each is refused with the site, the user's line and what to write instead.

The line that has to be named is marked. Each mixing has a twin beside it that reads the same rows in order and is summed.
"""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro import distributions as dist
from numpyro import handlers

import luciole as lc

from .oracle import brute_force, value_of

# In one precision: JAX takes a NumPy array of an earlier trace as it was there, as long as the traceback of a refusal keeps that alive.
pytestmark = pytest.mark.usefixtures("x64")

N = 4
Y = np.array([0.3, -1.1, 2.0, 0.6])
MATRIX = np.random.default_rng(0).normal(size=(N, N)).round(2)
PERMUTATION = np.array([2, 0, 3, 1])


def weight(name="p"):
    return lc.sample(name, dist.Beta(2.0, 2.0))


def rows(p=None, name="z"):
    """A Bernoulli site in a plate of four rows, and where they are read."""
    p = weight() if p is None else p
    with lc.plate("rows", N):
        return lc.sample(name, dist.Bernoulli(p))


def read(loc, y=Y):
    lc.sample("y", dist.Normal(loc, 1.0), obs=y)


def reversed_rows():
    read(rows()[::-1])  # HERE


def less_their_mean():
    z = rows()
    read(z - z.mean())  # HERE


def their_sum():
    read(rows().sum(), 1.3)  # HERE


def times_a_matrix():
    read(rows() @ MATRIX)  # HERE


def running_sum():
    read(jnp.cumsum(rows()))  # HERE


def in_order():
    read(jnp.sort(rows()))  # HERE


def shifted():
    read(jnp.roll(rows(), 1))  # HERE


def each_with_each():
    z = rows()
    read(1.0 * (z[:, None] == z[None, :]), MATRIX)  # HERE


def some_of_them():
    z = rows()
    read(z[1:] - z[:-1], Y[1:])  # HERE


def the_largest():
    read(jnp.max(rows()), 0.8)  # HERE


def through_a_reshape():
    read(rows().reshape(2, 2).sum(0), Y[:2])  # HERE


def chosen_by_another():
    z = rows()
    with lc.plate("again", N):
        w = lc.sample("w", dist.Categorical(jnp.full(N, 0.25)))
    read(z[w])  # HERE


def sum_in_a_factor():
    lc.factor("f", jnp.square(rows().sum()))  # HERE


MIXED = [
    reversed_rows,
    less_their_mean,
    their_sum,
    times_a_matrix,
    running_sum,
    in_order,
    shifted,
    each_with_each,
    some_of_them,
    the_largest,
    through_a_reshape,
    chosen_by_another,
    sum_in_a_factor,
]


def running_count():
    """Of more steps than a table has room for; of a few it could be summed, as it depends on all of their states."""
    p = weight()

    def step(total, y):
        z = lc.sample("z", dist.Bernoulli(p))
        total = total + z  # HERE
        lc.sample("y", dist.Normal(total, 1.0), obs=y)
        return total, None

    jax.lax.scan(step, jnp.zeros((), int), jnp.zeros(40))  # SITE


def unbounded_counts():
    with lc.plate("rows", N):
        z = lc.sample("z", dist.Poisson(1.0 + weight()))  # HERE
    read(z)


def unbounded_waiting():
    with lc.plate("rows", N):
        z = lc.sample("z", dist.Geometric(weight()))  # HERE
    read(z)


def one_event_of_many():
    z = lc.sample("z", dist.Bernoulli(weight()).expand([N]).to_event(1))  # HERE
    read(z)


def multinomial_counts():
    z = lc.sample("z", dist.Multinomial(3, jnp.ones(N) / N + 0 * weight()))  # HERE
    read(z)


def number_of_tries_is_latent():
    n = lc.sample("n", dist.Categorical(jnp.full(4, 0.25)))
    z = lc.sample("z", dist.Binomial(total_count=n, probs=weight()))  # HERE
    read(z + Y, Y)


def number_of_tries_is_continuous():
    p = weight()
    z = lc.sample("z", dist.Binomial(total_count=jnp.round(4 * p).astype(int), probs=p))  # HERE
    read(z + Y, Y)


def highest_value_is_latent():
    p = weight()
    z = lc.sample("z", dist.DiscreteUniform(0, jnp.round(4 * p).astype(int)))  # HERE
    read(p * z, 0.4)


def highest_value_is_discrete():
    p, n = weight(), lc.sample("n", dist.Categorical(jnp.full(3, 1 / 3)))
    z = lc.sample("z", dist.DiscreteUniform(0, n))  # HERE
    read(p * z, 0.4)


def crossing_plates():
    p = weight()
    with lc.plate("a", 2, dim=-2):
        z = lc.sample("z", dist.Bernoulli(p))  # SITE
    with lc.plate("b", 3, dim=-1):
        w = lc.sample("w", dist.Bernoulli(p))  # SITE
    with lc.plate("a", 2, dim=-2), lc.plate("b", 3, dim=-1):
        lc.sample("y", dist.Normal(z * w, 1.0), obs=np.ones((2, 3)))


def support_of_a_continuous_one():
    p, z = weight(), lc.sample("z", dist.Bernoulli(0.3))
    x = lc.sample("x", dist.Uniform(0.0, 1.0 + z))  # HERE
    read(x + p, 0.4)


def support_by_row():
    z = rows()
    with lc.plate("rows", N):
        x = lc.sample("x", dist.TruncatedNormal(0.0, 1.0, low=-1.0 * z))  # HERE
    read(x)


def branch_on_it():
    p, z = weight(), lc.sample("z", dist.Bernoulli(0.3))

    def one(y):
        return lc.sample("y", dist.Normal(p, 1.0), obs=y)  # SITE

    def other(y):
        return lc.sample("y", dist.Normal(-p, 2.0), obs=y)  # SITE

    jax.lax.cond(z == 1, one, other, 0.4)  # HERE


def scaled():
    p = weight()
    with lc.plate("rows", N), handlers.scale(scale=2.0):
        z = lc.sample("z", dist.Bernoulli(p))  # HERE
    read(z)


OTHERS = [
    (running_count, "z"),
    (unbounded_counts, "z"),
    (unbounded_waiting, "z"),
    (one_event_of_many, "z"),
    (multinomial_counts, "z"),
    (number_of_tries_is_latent, "z"),
    (number_of_tries_is_continuous, "z"),
    (highest_value_is_latent, "z"),
    (highest_value_is_discrete, "z"),
    (crossing_plates, "z"),
    (crossing_plates, "w"),
    (support_of_a_continuous_one, "x"),
    (support_by_row, "x"),
    (branch_on_it, "z"),
    (scaled, "z"),
]


def marked(model):
    """file:line of the lines of a model that are marked."""
    lines, first = inspect.getsourcelines(model)
    return [f"test_refused.py:{first + i}" for i, line in enumerate(lines) if re.search("# (HERE|SITE)", line)]


def refusal(model, **options):
    with pytest.raises(lc.ModelError) as caught:
        lc.log_density(lc.marginalize(model, **options) if options else model)
    return str(caught.value)


@pytest.mark.parametrize(("model", "site"), [*((model, "z") for model in MIXED), *OTHERS], ids=lambda x: getattr(x, "__name__", x))
def test_refused(model, site):
    words = refusal(model)
    assert f"'{site}'" in words
    assert [place for place in marked(model) if place in words], f"none of {marked(model)} in: {words}"


def twice_the_rows():
    read(2.0 * rows())


def rows_of_a_matrix():
    """The same matrix, and each row of it picked by its own element."""
    read(jnp.where(rows()[:, None] == 1, MATRIX, 0.0), MATRIX)


def a_mean_of_columns():
    z = rows()
    read((z[:, None] - jnp.asarray(MATRIX)).mean(1))


def permuted():
    """Each row picks an element: whatever the index, it is known which."""
    read(rows()[PERMUTATION])


def picked_by_rows():
    read(rows()[PERMUTATION[np.array([0, 0, 1, 3, 3, 3])]], np.arange(6) / 3)


def sum_over_copies():
    """A sum over an axis that is not the rows'."""
    z = rows()
    read(jnp.broadcast_to(z[:, None], (N, 3)).sum(-1) * 0.5)


def count_of_two_steps():
    """A carry that remembers two steps, and no more."""
    p = weight()

    def step(carry, y):
        z = lc.sample("z", dist.Bernoulli(p))
        lc.sample("y", dist.Normal(z + carry[0] + carry[1], 1.0), obs=y)
        return (z, carry[0]), None

    jax.lax.scan(step, (jnp.zeros((), int),) * 2, jnp.asarray(Y))


def number_of_tries_is_known():
    z = lc.sample("z", dist.Binomial(total_count=3, probs=weight()))
    read(z + Y, Y)


def plates_that_are_nested():
    p = weight()
    with lc.plate("a", 2, dim=-2):
        z = lc.sample("z", dist.Bernoulli(p))
        with lc.plate("b", 2, dim=-1):
            w = lc.sample("w", dist.Bernoulli(p))
            lc.sample("y", dist.Normal(z * w, 1.0), obs=np.ones((2, 2)))


def location_of_a_continuous_one():
    p, z = weight(), lc.sample("z", dist.Bernoulli(0.3))
    x = lc.sample("x", dist.Normal(2.0 * z, 1.0))
    read(x + p, 0.4)


def branch_on_a_continuous_one():
    p, z = weight(), lc.sample("z", dist.Bernoulli(0.3))
    read(jax.lax.cond(p > 0.5, lambda: p, lambda: -p) * z, 0.4)


def scale_of_an_observation():
    """The scale weighs log p(y | z), inside of the sum, as NumPyro has it."""
    z = rows()
    with handlers.scale(scale=2.0):
        read(z)


ACCEPTED = [
    twice_the_rows,
    rows_of_a_matrix,
    permuted,
    picked_by_rows,
    a_mean_of_columns,
    sum_over_copies,
    count_of_two_steps,
    number_of_tries_is_known,
    plates_that_are_nested,
    location_of_a_continuous_one,
    branch_on_a_continuous_one,
    scale_of_an_observation,
]
SUPPORTS = {"number_of_tries_is_known": range(4)}


@pytest.mark.parametrize("model", ACCEPTED, ids=lambda model: model.__name__)
def test_accepted(model, assert_close):
    discrete = [n for n, s in lc.trace(model).latents.items() if s.spec.discrete]
    oracle = brute_force(model, {n: SUPPORTS.get(model.__name__, range(2)) for n in discrete})
    u = {n: np.full(s.shape, 0.3) for n, s in oracle.positions.items()}
    assert_close(value_of(lc.log_density(model), u), oracle.value(u))


def wide_table():
    p = weight()
    z = [lc.sample(f"z{i}", dist.Categorical(jnp.full(3, 1 / 3))) for i in range(4)]
    read(p * (z[0] + z[1]) * (z[2] + z[3]), 0.4)


def test_a_table_over_the_limit():
    """Four sites of three values meet in one term of 81 elements."""
    words = refusal(wide_table, max_table=10)
    assert re.search(r"\b81\b", words), words
    assert "z0" in words and "test_refused.py:" in words and "max_table" in words
    lc.log_density(lc.marginalize(wide_table, max_table=81))


def huge_table():
    p = weight()
    z = [lc.sample(f"z{i:02}", dist.Categorical(jnp.full(10, 0.1))) for i in range(12)]
    read(p * sum(z), 0.4)  # HERE


def test_a_table_that_no_memory_holds():
    """10^12 elements, of ten in the first site to all: the first that is too many is named, and nothing of that size is made."""
    words = refusal(huge_table)
    elements = max(int(number.replace(",", "")) for number in re.findall(r"([\d,]+) elements", words))
    assert elements > 2**26 and "z00" in words and "max_table" in words
    assert marked(huge_table)[0] in words
