"""One loop, four ways back: they agree, compose with JAX's transformations, and refuse what cannot be done."""

import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from luciole import transforms as lt
from luciole.transforms import DerivativeError
from luciole.transforms.reversible import Add, Multiply, Update, nesterov, reversible_loop, sgd, sgd_momentum

STEPS = 30
HYPERS = {"step_size": 0.1, "decay": 0.9, "penalty": 0.01}


def inputs() -> tuple[Any, Any]:
    """params, hypers: a step size and a decay for each step, and a penalty for each weight."""
    rng = np.random.default_rng(0)
    params = {"a": jnp.asarray(0.3 * rng.normal(size=(5, 4)), float), "b": jnp.asarray(rng.normal(size=4), float)}
    hypers = {
        "step_size": jnp.asarray(rng.uniform(0.05, 0.3, STEPS), float),
        "decay": jnp.asarray(rng.uniform(0.5, 0.95, STEPS), float),
        "penalty": jnp.full((5, 4), 0.01, float),
        "x": jnp.asarray(rng.normal(size=(20, 5)), float),
    }
    return params, hypers


def noisy_loss(params: Any, hypers: Any, i: Any) -> Any:
    noise = jax.random.normal(jax.random.fold_in(jax.random.key(0), i), (20,))
    made = jnp.tanh(hypers["x"] @ params["a"]) @ params["b"]
    return jnp.mean((made - 0.5 + 0.1 * noise) ** 2) + jnp.sum(hypers["penalty"] * params["a"] ** 2)


def trained(params: Any, hypers: Any, strategy: str, loss: Any = noisy_loss, **more: Any) -> Any:
    update = sgd_momentum(lambda p, i: loss(p, hypers, i), hypers["step_size"], hypers["decay"], decay_at_least=0.4)
    state = {"position": params, "velocity": jax.tree.map(jnp.zeros_like, params)}
    return reversible_loop(update, state, STEPS, strategy, **more)


def objective(params: Any, hypers: Any, strategy: str, **more: Any) -> Any:
    return sum(jnp.sum(x**2) for x in jax.tree.leaves(trained(params, hypers, strategy, **more)["position"]))


def assert_close(found: Any, expected: Any, tolerance: float) -> None:
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        assert np.max(np.abs(a - b)) <= tolerance * np.max(np.abs(b))


def by_scan(params: Any, hypers: Any) -> Any:
    """The same training written out for JAX, with its own reverse mode."""
    decay = np.round(np.asarray(hypers["decay"], np.float64) * 2**16) / 2**16 if not isinstance(hypers["decay"], jax.core.Tracer) else None
    decay = (
        hypers["decay"] + jax.lax.stop_gradient(jnp.round(hypers["decay"] * 2**16) / 2**16 - hypers["decay"]) if decay is None else decay
    )

    def step(s: Any, i: Any) -> Any:
        x, v = s
        g = jax.grad(noisy_loss)(x, hypers, i)
        v = jax.tree.map(lambda v, g: decay[i] * v - (1 - decay[i]) * g, v, g)
        return (jax.tree.map(lambda x, v: x + hypers["step_size"][i] * v, x, v), v), None

    start = params, jax.tree.map(jnp.zeros_like, params)
    (x, _), _ = jax.lax.scan(step, start, jnp.arange(STEPS, dtype=jnp.int32))
    return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(x))


@pytest.mark.slow
def test_all_strategies_have_the_derivatives_of_a_tape_in_float64(x64):
    params, hypers = inputs()
    expected = jax.jit(jax.value_and_grad(by_scan, (0, 1)))(params, hypers)
    for strategy, tolerance in (("tape", 1e-12), ("sqrt", 1e-12), ("tree", 1e-12), ("reversible", 1e-8)):
        found = jax.jit(lambda p, h, s=strategy: lt.value_and_grad(lambda p, h: objective(p, h, s), (0, 1))(p, h))(params, hypers)
        assert_close(found, expected, tolerance)


@pytest.mark.slow
def test_in_float32_with_the_same_random_numbers():
    """And the process's switch for 64 bits is not touched."""
    params, hypers = inputs()
    both = [jax.jit(lambda p, h, s=s: jax.value_and_grad(lambda p, h: objective(p, h, s), (0, 1))(p, h)) for s in ("tape", "reversible")]
    expected, found = (f(params, hypers) for f in both)
    assert_close(found, expected, 3e-6)
    assert jnp.result_type(float) == jnp.float32
    assert_close(jax.jit(lambda p: trained(p, hypers, "reversible"))(params), trained(params, hypers, "tape"), 3e-6)


@pytest.mark.slow
def test_it_composes():
    params, hypers = inputs()

    def objective(p: Any, h: Any, strategy: str) -> Any:
        loss = lambda p, h, i: jnp.sum(jnp.sin(p["a"]) ** 2 * p["b"] + h["penalty"] * p["a"])  # noqa: E731
        return sum(jnp.sum(x**2) for x in jax.tree.leaves(trained(p, h, strategy, loss)["position"]))

    def gradient(p: Any, h: Any) -> Any:
        return lt.grad(lambda p, h: objective(p, h, "reversible"), (0, 1))(p, h)

    expected = jax.jit(gradient)(params, hypers)
    two = jax.tree.map(lambda x: jnp.stack([x, 1.01 * x]), params)
    for f in (jax.vmap(gradient, (0, None)), jax.vmap(jax.jit(gradient), (0, None))):
        assert_close(jax.tree.map(lambda x: x[0], f(two, hypers)), expected, 2e-5)
    of_sum = lt.grad(lambda p: jnp.sum(jax.vmap(lambda q: objective(q, hypers, "reversible"))(p)))(two)
    assert_close(jax.tree.map(lambda x: x[0], of_sum), expected[0], 2e-5)
    _, moved = lt.jvp(lambda h: objective(params, h, "reversible"), (hypers,), (jax.tree.map(jnp.ones_like, hypers),))
    np.testing.assert_allclose(moved, sum(jnp.sum(x) for x in jax.tree.leaves(expected[1])), rtol=1e-4)


def test_a_run_whose_way_back_fails_has_no_gradient():
    """A factor below the declared bound: the store is too small."""
    params, hypers = inputs()
    hypers["decay"] = jnp.full((STEPS,), 0.001)
    value, gradient = jax.jit(jax.value_and_grad(lambda p, h: objective(p, h, "reversible")))(params, hypers)
    assert np.isfinite(value) and all(np.isnan(g).all() for g in jax.tree.leaves(gradient))


def test_values_beyond_the_range_are_nan():
    params, hypers = inputs()
    large = {**params, "b": 3000.0 + params["b"]}
    end = jax.jit(lambda p: trained(p, hypers, "reversible"))(large)
    assert all(np.isnan(x).all() for x in jax.tree.leaves(end))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(trained(params, hypers, "tape")))


def test_auto_takes_the_fewest_evaluations_that_fit(caplog):
    params, hypers = inputs()
    with caplog.at_level(logging.INFO, "luciole"):
        for memory, taken in ((1e9, "tape"), (3500, "sqrt"), (2000, "reversible"), (10, "reversible")):
            caplog.clear()
            jax.eval_shape(lambda p, m=memory: trained(p, hypers, "auto", memory_bytes=m), params)
            (message,) = (r.getMessage() for r in caplog.records)
            assert f'30 steps by the strategy "{taken}" (keeps' in message and message.count("evaluations of a step") == 4


@pytest.mark.slow
def test_plain_steps_come_back_by_what_is_kept(x64):
    params, hypers = inputs()

    def end(h: Any, strategy: str, which: Any) -> Any:
        loss = lambda p, i: noisy_loss(p, h, i)  # noqa: E731
        start = {"position": params}
        if which is nesterov:
            step, start["velocity"] = nesterov(loss, h["step_size"], h["decay"]), jax.tree.map(jnp.zeros_like, params)
        else:
            step = sgd(loss, h["step_size"])
        return jnp.sum(reversible_loop(step, start, STEPS, strategy)["position"]["b"] ** 2)

    for which in (sgd, nesterov):
        by_tree = jax.jit(lambda h, w=which: lt.grad(lambda h: end(h, "tree", w))(h))(hypers)
        assert_close(by_tree, jax.jit(lambda h, w=which: jax.grad(lambda h: end(h, "tape", w))(h))(hypers), 1e-12)
        step = 1e-6
        moved = [end({**hypers, "step_size": hypers["step_size"].at[3].add(s)}, "tape", which) for s in (step, -step)]
        np.testing.assert_allclose((moved[0] - moved[1]) / (2 * step), by_tree["step_size"][3], rtol=1e-6)
        with pytest.raises(DerivativeError, match='strategy="reversible" needs an update that can be undone'):
            end(hypers, "reversible", which)


STATE = {"x": jnp.ones(3), "v": jnp.zeros(3)}
DRIFT = Add("x", lambda i, s: 0.1 * s["v"])


@pytest.mark.parametrize(
    ("update", "state", "words"),
    [
        (lambda: Update(), STATE, "at least one operation"),
        (lambda: Update(lambda s: s), STATE, "Update takes Add and Multiply; found a function"),
        (lambda: Update(Multiply("v", 0.0)), STATE, r"factor of \['v'\] at step 0 is 0, a number in \(0, 1\] expected"),
        (lambda: Update(Multiply("v", lambda i: 1 + 0.1 * i)), STATE, r"factor of \['v'\] at step 1 is 1.1, a number in \(0, 1\]"),
        (lambda: Update(Multiply("v", 0.5, at_least=0.6)), STATE, "is 0.5, a number from at_least=0.6 to 1 expected"),
        (lambda: Update(Multiply("v", jnp.full(3, 0.5))), STATE, r"has the shape \(3,\); expected one number for each leaf"),
        (lambda: Update(Multiply("v", {"a": 0.5})), STATE, "expected one number, or a number for each leaf"),
        (lambda: Update(Add("x", lambda i, s: s["x"])), STATE, "reads 'x' itself, so that the update is not invertible"),
        (lambda: Update(Add("x", lambda i, s: s["w"])), STATE, r"reads the entry 'w'; the state has \['v'\] besides"),
        (lambda: Update(Add("x", lambda i, s: s["v"][:2])), STATE, r"increment of 'x' is float32\[2\], expected the structure"),
        (
            lambda: Update(Add("y", lambda i, s: s["v"])),
            STATE,
            r"changes the entry 'y' of the state, a dict; found the entries \['v', 'x'\]",
        ),
        (
            lambda: Update(DRIFT),
            {"x": jnp.ones(3), "v": jnp.zeros(3), "n": jnp.int32(0)},
            r"\['n'\] is int32\[\]; a reversible update works",
        ),
        (lambda: Update(DRIFT), [1.0], "works on a dict of named entries; found a list"),
    ],
)
def test_what_an_update_cannot_be(update, state, words):
    with pytest.raises(DerivativeError, match=words):
        reversible_loop(update(), state, 5, "reversible")


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"num_steps": 0}, "num_steps is 0, a whole number of at least 1 expected"),
        ({"strategy": "magic"}, "strategy is 'magic', one of 'reversible', 'tape', 'sqrt', 'tree', 'auto' expected"),
        ({"snapshot_every": 0}, "snapshot_every is 0"),
        (
            {"strategy": "tape", "memory_bytes": 10},
            r'"tape" \(keeps 0.00012 MB, 10 evaluations of a step\) for 5 steps, which is more than',
        ),
    ],
)
def test_keywords_that_make_no_sense(keywords, words):
    with pytest.raises(DerivativeError, match=words):
        reversible_loop(Update(DRIFT), STATE, **{"num_steps": 5, **keywords})


def test_a_traced_factor_needs_a_bound():
    with pytest.raises(DerivativeError, match=r"the factor is traced, so the size of the store is not known. Give a lower bound"):
        jax.jit(lambda f: reversible_loop(Update(Multiply("v", f), DRIFT), STATE, 5, "reversible"))(0.5)


def test_second_derivatives_are_refused():
    def end(f: Any) -> Any:
        return reversible_loop(Update(Multiply("v", f, at_least=0.1), DRIFT), {"x": jnp.ones(3), "v": jnp.ones(3)}, 5, "reversible")["x"][0]

    with pytest.raises(DerivativeError, match="a second derivative of a loop whose carries come back by Undo"):
        lt.hvp(end, (0.5,), (1.0,))
