"""Training undone: every bit of the state at the start comes back, and where it does not, that is seen."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from luciole.transforms.reversible import Add, Multiply, Update, check_reversal, numbers, rational, store
from luciole.transforms.reversible.reversal import Reversal
from luciole.transforms.reversible.steps import Steps
from luciole.transforms.reversible.traced import trace_update

SMALL = ("elementwise", "normalised", "convolution", "segments", "inner_scan")


def there_and_back(update: Any, state: Any, num_steps: int, segment: int | None = None, kind: type = Reversal, **more: Any) -> Any:
    """The state at the end, and the report of the way back."""
    program, consts, theta = trace_update(lambda _: update, (), state, num_steps)
    reversal = kind(program, segment or num_steps, **more)

    def run(carry: Any) -> Any:
        outs, kept = reversal.record(consts, theta, carry)
        return outs, reversal.reverse(consts, theta, carry, kept, [2 * x for x in outs])[2], jnp.stack(kept.held.places)

    return jax.jit(run)(jax.tree.leaves(state))


@pytest.mark.parametrize("factor", [1.0, 0.98, 0.9, 0.5, 0.3, 0.01, 2.0**-16])
def test_products_are_undone(factor):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        n = numbers.numerator(jnp.float64(factor))
        units = jnp.asarray(rng.integers(-(2**62), 2**62, 200))
        remainder = jnp.asarray(rng.integers(0, 2**48, 200).astype(np.uint64))
        product, left = numbers.multiply(units, remainder, n)
        again = numbers.divide(product, left, n)
        error = np.abs(np.asarray(product, np.float64) - np.asarray(units, np.float64) * float(n) / 2**16)
    np.testing.assert_array_equal(again[0], units)
    np.testing.assert_array_equal(again[1], remainder)
    assert error.max() <= 2**16 + 2**10  # 2^-36, and the rounding of this comparison


def test_the_schedule_spills_what_the_products_lose():
    factors = np.stack([np.full(3000, 0.9), np.full(3000, 0.5), np.linspace(0.3, 1.0, 3000)], 1)
    words = store.words_for(factors)
    with jax.enable_x64(True):
        spills = store.schedule(numbers.numerator(jnp.asarray(factors)))
    np.testing.assert_array_equal(np.asarray(spills).sum(0), words)
    lost = np.log2(1 / factors).sum(0)
    assert np.all(16 * np.array(words) <= 1.02 * lost)
    assert np.all(16 * np.array(words) + 64 >= lost)
    assert words[0] <= store.words_within(0.9, 3000) <= words[0] + 2


@pytest.mark.parametrize("name", [*SMALL[:1], *(pytest.param(n, marks=pytest.mark.slow) for n in SMALL[1:])])
def test_undone(problem, name):
    p = problem(name)
    _, report, places = there_and_back(p.update(), p.state(), 300)
    assert bool(report.exact) and bool(report.in_range)
    assert int(places.min()) > 0  # something was spilled


@pytest.mark.exhaustive
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_undone_after_ten_thousand_steps(problem, name, wide):
    with jax.enable_x64(wide):
        p = problem(name)
        _, report, _ = there_and_back(p.update(), p.state(), 10_000)
        assert bool(report.exact) and bool(report.in_range)


def test_floating_point_is_not_undone(problem):
    """The broken twin: the same steps in floating point, undone by the same formulas."""
    p = problem("elementwise")
    gradient = jax.grad(p.loss)

    def forward(i: Any, s: Any) -> Any:
        v = 0.9 * s[1] - 0.1 * gradient(s[0], i)
        return s[0] + 0.05 * v, v

    def back(k: Any, s: Any) -> Any:
        x = s[0] - 0.05 * s[1]
        return x, (s[1] + 0.1 * gradient(x, 299 - k)) / 0.9

    start = p.params, jnp.zeros_like(p.params)
    with jax.enable_x64(True):
        x, _ = jax.lax.fori_loop(0, 300, back, jax.lax.fori_loop(0, 300, forward, start))
    assert np.mean(np.asarray(x) != np.asarray(start[0])) > 0.8


class OneUlp(Steps):
    """Steps of which one, on the way back, has a gradient that is wrong in the last place."""

    at: Any = -1
    undoing = False

    def backward(self, i: Any, state: Any, given: Any) -> Any:
        object.__setattr__(self, "undoing", True)
        try:
            return super().backward(i, state, given)
        finally:
            object.__setattr__(self, "undoing", False)

    def increments(self, op: Any, i: Any, units: Any, given: Any) -> Any:
        made = super().increments(op, i, units, given)
        if not self.undoing:
            return made
        return [jnp.where(i == self.at, jnp.nextafter(x, jnp.full_like(x, jnp.inf)), x) for x in made]


class FailsAt(Reversal):
    """A reversal that goes wrong by one unit in the last place at one step."""

    at: Any = -1

    @property
    def steps(self) -> Any:
        made = OneUlp(self.program)
        object.__setattr__(made, "at", self.at)
        return made


def failing(problem: Any, segment: int, at: Any, num_steps: int = 40) -> Any:
    p = problem("normalised")
    update, state = p.update(), p.state()
    program, consts, theta = trace_update(lambda _: update, (), state, num_steps)
    carry = jax.tree.leaves(state)

    def run(at: Any) -> Any:
        reversal = FailsAt(program, segment)
        object.__setattr__(reversal, "at", at)
        outs, kept = reversal.record(consts, theta, carry)
        of_carry, _, report = reversal.reverse(consts, theta, carry, kept, [2 * x for x in outs])
        return of_carry, report

    return jax.jit(lambda at: jax.lax.map(run, at))(at)


@pytest.mark.slow
def test_an_error_of_one_ulp_is_seen_wherever_it_is(problem):
    _, report = failing(problem, 40, jnp.arange(-1, 40))
    assert bool(report.exact[0])
    assert not np.asarray(report.exact[1:]).any()


@pytest.mark.slow
def test_a_segment_that_does_not_arrive_is_pulled_back_from_its_snapshot(problem):
    of_carry, report = failing(problem, 12, jnp.arange(-1, 40))
    assert np.asarray(report.exact).all()
    np.testing.assert_array_equal(report.repaired, [0] + [1] * 40)
    for ct in of_carry:
        np.testing.assert_allclose(ct, np.broadcast_to(ct[:1], ct.shape), rtol=2e-5, atol=2e-6)


def test_a_user_writes_an_update(problem):
    """Leapfrog: no products at all. And two products in one step."""

    def force(i: Any, s: Any) -> Any:
        return jax.tree.map(lambda x: -0.1 * jnp.sin(x), s["q"])

    leapfrog = Update(Add("p", force), Add("q", lambda i, s: 0.1 * s["p"]), Add("p", force))
    state = {"q": jnp.linspace(-1, 1, 5), "p": jnp.zeros(5)}
    assert check_reversal(leapfrog, state, 20) == (20, 0.0, pytest.approx(1.0, abs=0.2))
    shrinking = Update(Multiply("p", 0.9), Multiply("q", lambda i: 0.5 + 0.4 / (i + 1)), Add("q", lambda i, s: s["p"] + i), Add("p", force))
    found = check_reversal(shrinking, state, 200)
    assert 0.3 < found.bits < 0.6
    f = rational(jnp.float32(0.123))
    assert float(f * 65536) == round(0.123 * 65536) and abs(float(f) - 0.123) < 2**-17
