"""Firefly Monte Carlo against quadrature, with a ball that is left in a third of the iterations and rows that are often bright."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from luciole.inference.flymc.conditional import Conditional
from luciole.inference.flymc.rotation import Location, iterate
from luciole.transforms.streams import key_words, normal, stream_for

pytestmark = pytest.mark.slow
ITERATIONS = 40_000


@pytest.fixture(scope="module")
def found(small_logistic):
    return small_logistic(softening=15.0, radius=1.5)


def quadrature(setup):
    """E[w], E[w^2], E[w1 w2], E|w|, P(outside), over a grid of whitened coordinates."""
    f, conditional = setup.bound_data, setup.conditional
    grid = np.linspace(-7, 7, 141)
    w = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)
    with jax.enable_x64(True):

        def one(f, w):
            log_prior, natural = conditional.natural(f, f.centre + f.scale @ w)
            return log_prior + conditional.whole(f, natural, False)

        log_p = np.asarray(jax.jit(jax.vmap(one, in_axes=(None, 0)))(f, w))
    weight = np.exp(log_p - log_p.max())
    return functions(w, f) @ (weight / weight.sum())


def functions(w, f):
    outside = ((w @ (np.asarray(f.metric) @ np.asarray(f.scale)[np.asarray(f.matrix)]).T) ** 2).sum(-1) > float(f.radius) ** 2
    return np.stack([w[:, 0], w[:, 1], w[:, 0] ** 2, w[:, 1] ** 2, w[:, 0] * w[:, 1], np.abs(w).sum(-1), outside])


def sample(setup, conditional=None, step=0.8, num_steps=2, key=1):
    """Draws, the numbers of bright rows, and what the iterations did."""
    conditional = conditional or setup.conditional

    @jax.jit
    def run(f, words):
        stream = stream_for(words, 0)
        here = Location(jnp.zeros_like(f.centre), conditional.point_at(f, f.centre)[0], conditional.all_dark(f))

        def body(carry, _):
            here, stream = carry
            stream = stream._replace(counter=stream.counter + 1)
            momentum = normal(stream, 1, here.w.shape, dtype=here.w.dtype)
            here, did = iterate(conditional, f, stream, here, momentum, jnp.float64(step), jnp.int32(num_steps))
            return (here, stream), (here.w, here.bright.count, did)

        return jax.lax.scan(body, (here, stream), None, length=ITERATIONS)[1]

    with jax.enable_x64(True):
        w, count, did = run(setup.bound_data, key_words(jax.random.key(key)))
    return np.asarray(w)[500:], np.asarray(count), did


def z_scores(setup, w):
    values = functions(w, setup.bound_data)
    batches = values[:, : len(w) // 50 * 50].reshape(len(values), 50, -1).mean(-1)
    return (batches.mean(1) - quadrature(setup)) / np.maximum(batches.std(1, ddof=1) / np.sqrt(50), 1e-6)


def test_exact_where_the_ball_is_often_left(found):
    w, count, did = sample(found)
    outside = functions(w, found.bound_data)[-1]
    assert 0.2 < outside.mean() < 0.5
    assert count.mean() > 3
    assert not did.short.any() and (did.refuted < 0).all()
    assert np.abs(z_scores(found, w)).max() < 4


def test_rejection_outside_the_ball_is_seen(found):
    class Truncated(Conditional):
        def whole(self, bound_data, natural, skip):
            return jnp.float64(-jnp.inf)

    w, *_ = sample(found, Truncated(**vars(found.conditional)))
    assert np.abs(z_scores(found, w)).max() > 6


def test_a_bound_raised_by_a_percent_is_refuted(found):
    f = found.bound_data
    raised = f._replace(bound=f.bound._replace(value=np.asarray(f.bound.value) * 0.99))
    *_, did = sample(replace(found, bound_data=raised))
    assert (did.refuted >= 0).any()


def test_queries_are_those_of_the_bright_rows(small_logistic):
    setup = small_logistic(softening=1.0)
    _, count, did = sample(setup, num_steps=3)
    moved = 3 * np.concatenate([count[:-1]])
    asked = np.asarray(did.queries)[1:] - moved
    assert (asked >= 0).all() and asked.mean() < float(setup.bound_data.cumulative[-1])
    assert asked.mean() > 0.7 * float(setup.bound_data.cumulative[-1])
