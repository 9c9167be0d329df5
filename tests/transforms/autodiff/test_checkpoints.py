"""Checkpoints of a loop: no strategy changes a bit of exact arithmetic, and what they are said to hold and to compute is what they do."""

import math
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from luciole.transforms import DerivativeError
from luciole.transforms import autodiff as ad
from luciole.transforms.autodiff.checkpoints import Checkpoints

SIGNS, INIT = np.array([1.0, -1.0, 1.0, -1.0]), np.array([3.0, -2.0, 5.0, 7.0])
STRATEGIES = ("tape", "sqrt", "tree")
slow = pytest.mark.slow


def exact(i, x, theta):
    """All numbers that this turn and its derivatives meet are small integers: there is nothing to round, in whatever order."""
    return theta * jnp.roll(x, 1) + i


def total(n, theta, init, checkpoint, capacity):
    out = ad.dynamic_loop(n, exact, theta, init, max_trips=capacity, checkpoint=checkpoint)
    return jnp.sum(out * np.array([1.0, 2.0, 3.0, 4.0]))


def by_hand(n):
    """The gradient in (theta, init), in NumPy."""
    xs = [INIT]
    for i in range(n):
        xs.append(SIGNS * np.roll(xs[-1], 1) + i)
    ct, ct_theta = np.array([1.0, 2.0, 3.0, 4.0]), np.zeros(4)
    for i in reversed(range(n)):
        ct_theta += ct * np.roll(xs[i], 1)
        ct = np.roll(ct * SIGNS, -1)
    return ct_theta, ct


def same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize(
    ("checkpoint", "capacity"),
    [
        ("tree", 37),
        *(pytest.param(s, c, marks=slow) for s in STRATEGIES for c in (1, 5, 37) if (s, c) != ("tree", 37)),
    ],
)
def test_the_gradient_is_exact_for_every_number_of_turns(checkpoint, capacity):
    gradient = jax.jit(lambda n: ad.grad(lambda *a: total(n, *a, checkpoint, capacity), (0, 1))(SIGNS, INIT))
    for n in range(capacity + 1):
        same(gradient(n), by_hand(n))
    assert np.isnan(gradient(capacity + 1)[0]).all()


@slow
@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize(("t", "n", "axis"), [(ad, [0, 1, 13, 22], 0), (jax, 17, None)], ids=["ours", "jax"])
def test_strategies_agree_to_the_bit_in_every_transformation(t, n, axis):
    def all_of(checkpoint):
        def derivatives(n, theta):
            f = lambda x: total(n, x * x, INIT, checkpoint, 22)  # noqa: E731
            forward = t.jvp(f, (theta,), (SIGNS,))
            second = t.jvp(t.grad(f), (theta,), (INIT,))
            return forward, second

        return jax.jit(jax.vmap(derivatives, (axis, 0)))(jnp.array(n), jnp.stack([SIGNS, -SIGNS, SIGNS, -SIGNS]))

    tape, *others = map(all_of, STRATEGIES)
    assert np.abs(tape[1][1][2]).max() > 100
    for made in others:
        same(made, tape)


def simulate(fanouts, n):
    """(evaluations, carries held) of a gradient, by doing what the module says, in plain Python."""
    spans = [math.prod(fanouts[level + 1 :]) for level in range(len(fanouts))]
    seen, held = Counter(forward=n), [0]

    def back(level, start, stop, below):
        held[0] = max(held[0], below + fanouts[level])
        for first in reversed(range(start, stop, spans[level])):
            end = min(first + spans[level], stop)
            if level + 1 == len(fanouts):
                seen["linearized"] += 1
            else:
                seen["again"] += range(first, end, spans[level + 1])[-1] - first
                back(level + 1, first, end, below + fanouts[level])

    back(0, 0, n, 0)
    return seen, held[0]


@pytest.mark.parametrize("checkpoint", STRATEGIES)
def test_counts(checkpoint):
    for capacity in (1, 2, 4, 5, 16, 17, 63, 64, 65, 100, 1000):
        way = Checkpoints.of(checkpoint, capacity)
        assert math.prod(way.fanouts) >= capacity
        for n in {1, capacity // 2, capacity - 1, capacity} - {0}:
            seen, held = simulate(way.fanouts, n)
            assert seen["linearized"] == n
            assert (way.evaluations(n), way.carries_held) == (seen.total(), held)
    assert way.evaluations(0) == 0


def test_the_law_of_a_tree():
    for k in (2, 3, 4, 10):
        for capacity in (k + 1, 100, 1000, 10_000, 50_000):
            way, depth = Checkpoints.of("tree", capacity, fanout=k), math.ceil(math.log(capacity, k) - 1e-9)
            assert len(way.fanouts) == depth
            assert way.carries_held <= k * depth
            assert way.evaluations() <= (1 + depth) * capacity
        way = Checkpoints.of("tree", k**4, fanout=k)
        assert (way.carries_held, way.evaluations()) == (4 * k, 2 * k**4 + 3 * (k - 1) * k**3)
    assert Checkpoints.of("tree", 10_000).fanouts == (3, 4, 4, 4, 4, 4, 4)
    assert Checkpoints.of("sqrt", 10_000).fanouts == (100, 100)


@pytest.mark.parametrize("checkpoint", ["tree", *(pytest.param(s, marks=slow) for s in ("tape", "sqrt"))])
def test_counts_of_what_really_runs(checkpoint):
    """Every evaluation of a step reports; its derivative reads what was reported, so that it cannot be left out."""
    seen = Counter()

    def report(i):
        seen["step"] += 1
        return np.asarray(i, np.int32)

    def step(i, x, theta):
        return jnp.sin(x * theta + jax.pure_callback(report, jax.ShapeDtypeStruct((), np.int32), i))

    def value(n, theta):
        return ad.dynamic_loop(n, step, theta, 0.3, max_trips=22, checkpoint=checkpoint) ** 2

    gradient = jax.jit(lambda n: ad.grad(lambda theta: value(n, theta))(0.7))
    way = Checkpoints.of(checkpoint, 22)
    for n in (0, 1, 17, 22):
        seen.clear()
        jax.block_until_ready(gradient(n))
        assert seen["step"] == way.evaluations(n)


@slow
@pytest.mark.parametrize(("checkpoint", "carries"), [("tape", 1000), ("sqrt", 64), ("tree", 20)])
def test_the_compiled_gradient_holds_what_is_said(checkpoint, carries):
    """Beside the kept carries: the carry that is worked on, its cotangent, that of theta, and one that is on its way; nothing is copied."""
    size = 50_000
    f = lambda n, x: ad.grad(lambda t: jnp.sum(ad.dynamic_loop(n, step, t, x, max_trips=1000, checkpoint=checkpoint)))(x)  # noqa: E731
    step = lambda i, c, theta: jnp.tanh(c * theta + 0.1 * i)  # noqa: E731
    temp = jax.jit(f).lower(1000, np.ones(size)).compile().memory_analysis().temp_size_in_bytes
    assert Checkpoints.of(checkpoint, 1000).carries_held == carries
    assert carries <= temp / (8 * size) < carries + 4.1


def test_a_tree_grows_the_program_by_one_loop_per_level():
    def steps_in(capacity):
        value = lambda n, t: ad.dynamic_loop(n, lambda i, c, t: jnp.sin(c * t), t, 1.0, max_trips=capacity, checkpoint="tree")  # noqa: E731
        return jax.jit(lambda n, t: ad.grad(lambda t: value(n, t))(t)).lower(3, 0.5).as_text().count(" stablehlo.sine ")

    assert [steps_in(4**levels) - steps_in(4) for levels in (2, 3, 7)] == [1, 2, 6]


def test_bad_requests():
    with pytest.raises(DerivativeError, match="checkpoint='trees' is no strategy; expected one of 'tape', 'sqrt', 'tree'"):
        ad.dynamic_loop(1, exact, SIGNS, INIT, max_trips=2, checkpoint="trees")
    with pytest.raises(DerivativeError, match="fanout of at least 2, found 1"):
        Checkpoints.of("tree", 10, fanout=1)
    for fanouts in ((), (3, 3), (0, 99), (-5, -5)):
        with pytest.raises(DerivativeError, match="at least the capacity"):
            Checkpoints(10, fanouts)
