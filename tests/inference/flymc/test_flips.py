"""Which rows are bright at a point: each with its own probability, independently, whatever was bright before."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from luciole.inference.flymc import flips, setup
from luciole.inference.flymc.flips import flip, redraw
from luciole.transforms.streams import key_words, stream_for

pytestmark = pytest.mark.slow
UPDATES = 20_000


@pytest.fixture(scope="module")
def found(small_logistic):
    """A set-up with about half of the rows bright now and then."""
    return small_logistic(softening=30.0)


def update_many(setup, flip=flip, at=0.7):
    """z after each of many updates at one point, bool (updates, obs), and r there."""
    f, conditional = setup.bound_data, setup.conditional
    num = len(f.anchor)

    @jax.jit
    def run(f, words):
        stream = stream_for(words, 0)
        bright = conditional.all_dark(f)
        point, _ = conditional.point_at(f, f.centre + f.scale @ (at * jnp.ones(2) / jnp.sqrt(2.0)))
        every = jnp.arange(num, dtype=jnp.int32)
        seen = conditional.evaluate(f, every, f.rows.astype(jnp.float64), every >= 0, point.natural)
        gap = jnp.where(point.inside, seen.gap, f.rate)

        def body(carry, _):
            bright, stream = carry
            stream = stream._replace(counter=stream.counter + 1)
            bright = bright._replace(gap=seen.gap[bright.index], pull=jax.tree.map(lambda x: x[bright.index], seen.pull))
            bright, _, short, refuted = flip(conditional, f, stream, point, bright)
            used = jnp.arange(len(bright.index)) < bright.count
            states = jnp.zeros(num, bool).at[jnp.where(used, bright.index, num)].set(True, mode="drop")
            return (bright, stream), (states, short | (refuted >= 0))

        bright, wrong = jax.lax.scan(body, (bright, stream), None, length=UPDATES)[1]
        return bright, wrong.any(), -jnp.expm1(-gap)

    with jax.enable_x64(True):
        bright, wrong, r = run(f, key_words(jax.random.key(5)))
    assert not wrong
    return np.asarray(bright)[100:], np.asarray(r)


def p_values(bright, r):
    """Of each row's frequency together (a chi-square of batch means), and of the number of bright rows against its distribution."""
    batches = bright.reshape(100, -1, bright.shape[1]).mean(1)
    often = r > 0.01
    z = (batches.mean(0) - r)[often] / (batches.std(0, ddof=1)[often] / 10)
    rows = stats.chi2.sf((z**2).sum(), often.sum())
    thin = bright[::10].sum(1)
    law = np.array([1.0])
    for chance in r:
        law = np.convolve(law, [1 - chance, chance])
    edges = np.unique(np.searchsorted(np.cumsum(law), np.linspace(0.05, 0.95, 10)))
    expected = np.diff([0.0, *np.cumsum(law)[edges], 1.0])
    observed = np.bincount(np.searchsorted(edges, thin), minlength=len(expected))
    return rows, stats.chisquare(observed, expected * len(thin)).pvalue


@pytest.mark.parametrize("update", [flip, redraw])
@pytest.mark.parametrize("at", [0.7, 9.0], ids=["inside", "outside"])
def test_rows_are_bright_with_their_probabilities_and_independently(found, update, at, monkeypatch):
    monkeypatch.setattr(flips, "PASS", 16)
    bright, r = update_many(found, flip=update, at=at)
    assert r.sum() > 5
    assert min(p_values(bright, r)) > 1e-4


def test_a_fixed_number_of_proposals_is_seen(small_logistic):
    few = small_logistic(softening=4.0)
    assert min(p_values(*update_many(few, at=9.0))) > 1e-4
    table = (np.arange(len(few.bound_data.poisson)) >= round(float(few.bound_data.cumulative[-1]))).astype(float)
    assert min(p_values(*update_many(replace(few, bound_data=few.bound_data._replace(poisson=table)), at=9.0))) < 1e-6


def test_proposals_that_follow_the_bright_rows_are_seen(found):
    def eager(conditional, bound_data, stream, point, bright):
        states = (
            jnp.zeros(len(bound_data.rate))
            .at[jnp.where(jnp.arange(len(bright.index)) < bright.count, bright.index, len(bound_data.rate))]
            .set(1.0, mode="drop")
        )
        rate = bound_data.rate * jnp.where(states > 0, 3.0, 1.0)
        return flip(conditional, bound_data._replace(rate=rate), stream, point, bright)

    assert min(p_values(*update_many(found, flip=eager))) < 1e-6


def test_gaps_of_the_bright_rows_that_are_out_of_date_are_seen(found):
    def late(conditional, bound_data, stream, point, bright):
        return redraw(conditional, bound_data, stream, point, bright._replace(gap=1.1 * bright.gap))

    assert min(p_values(*update_many(found, flip=late))) < 1e-6


def test_where_many_rows_are_bright_all_are_drawn_anew(small_logistic):
    chosen = [small_logistic(**options).conditional.explicit for options in ({}, {"softening": 30.0}, {"softening": 60.0})]
    assert chosen == [False, False, True]
    assert small_logistic(z_update="explicit").conditional.explicit
    assert not small_logistic(softening=60.0, z_update="implicit").conditional.explicit


def test_proposals_never_reach_the_end_of_their_table(found):
    """Whatever the uniform number: the table ends with 1, and leaves out next to nothing."""
    table = np.asarray(found.bound_data.poisson)
    assert np.searchsorted(table, np.nextafter(1.0, 0.0), side="right") < len(table)
    for mean in (1e-9, 0.3, 5.0, 300.0, 1e5):
        size = setup._buffer_size(mean + 10 * np.sqrt(mean) + 16)
        whole = stats.poisson.cdf(np.arange(2 * size), mean)
        np.testing.assert_allclose(setup._table(size, mean), whole[:size], rtol=0, atol=1e-15)
        assert setup._table(size, mean)[-1] == 1.0
    assert found.conditional.with_larger_buffer(60).capacity == 64 and found.conditional.with_larger_buffer(10**6).capacity >= 128
