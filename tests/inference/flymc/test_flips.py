"""Which rows are bright at a point: each with its own probability, independently, whatever was bright before."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from luciole.inference.flymc import flips
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
    f, conditional = setup.fireflies, setup.conditional
    num = len(f.anchor)

    @jax.jit
    def run(f, words):
        stream = stream_for(words, 0)
        lit = conditional.nothing_lit(f)
        point, _ = conditional.arrive(f, f.centre + f.scale @ (at * jnp.ones(2) / jnp.sqrt(2.0)))
        every = jnp.arange(num, dtype=jnp.int32)
        seen = conditional.look(f, every, f.rows.astype(jnp.float64), every >= 0, point.natural)
        gap = jnp.where(point.inside, seen.gap, f.rate)

        def body(carry, _):
            lit, stream = carry
            stream = stream._replace(counter=stream.counter + 1)
            lit = lit._replace(gap=seen.gap[lit.index], pull=jax.tree.map(lambda x: x[lit.index], seen.pull))
            lit, _, short, refuted = flip(conditional, f, stream, point, lit)
            bright = jnp.zeros(num, bool).at[jnp.where(jnp.arange(len(lit.index)) < lit.count, lit.index, num)].set(True, mode="drop")
            return (lit, stream), (bright, short | (refuted >= 0))

        bright, wrong = jax.lax.scan(body, (lit, stream), None, length=UPDATES)[1]
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
    table = (np.arange(len(few.fireflies.poisson)) >= round(float(few.fireflies.cumulative[-1]))).astype(float)
    assert min(p_values(*update_many(replace(few, fireflies=few.fireflies._replace(poisson=table)), at=9.0))) < 1e-6


def test_proposals_that_follow_the_bright_rows_are_seen(found):
    def eager(conditional, fireflies, stream, point, lit):
        bright = (
            jnp.zeros(len(fireflies.rate))
            .at[jnp.where(jnp.arange(len(lit.index)) < lit.count, lit.index, len(fireflies.rate))]
            .set(1.0, mode="drop")
        )
        rate = fireflies.rate * jnp.where(bright > 0, 3.0, 1.0)
        return flip(conditional, fireflies._replace(rate=rate), stream, point, lit)

    assert min(p_values(*update_many(found, flip=eager))) < 1e-6


def test_gaps_of_the_bright_rows_that_are_out_of_date_are_seen(found):
    def late(conditional, fireflies, stream, point, lit):
        return redraw(conditional, fireflies, stream, point, lit._replace(gap=1.1 * lit.gap))

    assert min(p_values(*update_many(found, flip=late))) < 1e-6


def test_where_many_rows_are_bright_all_are_drawn_anew(small_logistic):
    chosen = [small_logistic(**options).conditional.explicit for options in ({}, {"softening": 30.0}, {"softening": 60.0})]
    assert chosen == [False, False, True]
    assert small_logistic(z_update="explicit").conditional.explicit
    assert not small_logistic(softening=60.0, z_update="implicit").conditional.explicit


def test_too_little_room_is_reported(found):
    f = found.fireflies
    with jax.enable_x64(True):
        run = jax.jit(lambda stream: flips.propose(f, stream, 4))
        short = [bool(run(stream_for(key_words(jax.random.key(k)), 0))[2]) for k in range(3)]
    assert all(short)
