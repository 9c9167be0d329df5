"""`lc.hypergradient`: equal to a tape, by every way back; honest where it fails; clear where it is asked for nonsense."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import luciole as lc
from luciole.inference.hypergradient.program import roomy
from luciole.transforms import DerivativeError

STEPS = 100


def quadratic(params: Any, h: Any, step: Any) -> Any:
    return jnp.sum(h["scale"] * (params - 1.0) ** 2)


def size(params: Any) -> Any:
    return jnp.sum(params**2)


PARAMS = np.arange(3.0)
HYPERS = {"step_size": 0.1, "decay": 0.9, "scale": np.ones(3)}


def run(train_loss: Any = quadratic, valid_loss: Any = size, params: Any = PARAMS, hypers: Any = None, **more: Any) -> Any:
    keywords = {"num_steps": 5, "strategy": "reversible", "probe": False, **more}
    return lc.hypergradient(train_loss, valid_loss, params, HYPERS if hypers is None else hypers, **keywords)


def largest_error(found: Any, expected: Any) -> float:
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return max(float(jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(b))) for a, b in pairs)


@pytest.mark.slow
def test_every_kind_of_hyperparameter_by_every_way_back(x64, training, by_tape):
    value, expected = by_tape(training)
    for strategy, tolerance in (("reversible", 1e-7), ("tape", 1e-10), ("sqrt", 1e-10), ("tree", 1e-10)):
        found = lc.hypergradient(*training, num_steps=STEPS, strategy=strategy, probe=False)
        np.testing.assert_allclose(found.value, value, rtol=1e-8)
        assert largest_error(found.gradient, expected) < tolerance, strategy
        assert found.exact and found.in_range and found.strategy == strategy
    forgetful = {**expected, "weights": expected["weights"].at[3].multiply(1 + 1e-5)}  # the broken twin
    assert largest_error(found.gradient, forgetful) > 1e-7


@pytest.mark.slow
def test_in_float32_with_memory_as_predicted(training):
    found = lc.hypergradient(*training, num_steps=STEPS, strategy="reversible", snapshot_every=30)
    again = lc.hypergradient(*training, num_steps=STEPS, strategy="tape", probe=False)
    assert largest_error(found.gradient, again.gradient) < 1e-4
    assert found.exact and found.repaired == 0 and found.smoothness > 0.9
    assert found.evaluations == 3 * STEPS and again.evaluations == 2 * STEPS
    assert abs(again.predicted_bytes / again.bytes - 1) < 0.1
    assert "reversible, 300 gradients" in repr(found)


def test_a_program_is_compiled_once():
    first = run()
    moved = run(hypers={**HYPERS, "step_size": 0.11, "decay": 0.89})
    assert moved.compile_seconds == first.compile_seconds  # the same record of the same program
    assert moved.value != first.value
    np.testing.assert_allclose(first.params, run(strategy="tape").params, rtol=1e-5)


def test_functions_that_compute_the_same_share_a_program():
    """What they close over is data."""

    def of(target: Any) -> Any:
        return run(train_loss=lambda p, h, i: jnp.sum(h["scale"] * (p - target) ** 2), valid_loss=lambda p: jnp.sum(p**2), num_steps=7)

    one, two = of(jnp.ones(3)), of(2 * jnp.ones(3))
    assert two.compile_seconds == one.compile_seconds
    assert two.value > one.value


def test_params_before_the_first_step_and_hypers_of_the_validation_loss():
    def valid(params: Any, h: Any) -> Any:
        return jnp.sum(h["scale"] * params)

    found = run(valid_loss=valid, hypers={**HYPERS, "seed": 3})
    direction = np.array([0.0, 1.0, 0.0])
    ends = [run(valid_loss=valid, params=PARAMS + s * direction, hypers={**HYPERS, "seed": 3}).value for s in (0.05, -0.05)]
    np.testing.assert_allclose((ends[0] - ends[1]) / 0.1, found.initial_gradient[1], rtol=1e-3)
    ends = [run(valid_loss=valid, hypers={**HYPERS, "scale": HYPERS["scale"] + s * direction, "seed": 3}).value for s in (0.05, -0.05)]
    np.testing.assert_allclose((ends[0] - ends[1]) / 0.1, found.gradient["scale"][1], rtol=1e-2)
    assert found.gradient["seed"].dtype == jax.dtypes.float0
    np.testing.assert_allclose(run(valid_loss=lambda params, power=2: jnp.sum(params**power)).value, run().value, rtol=1e-6)


@pytest.mark.slow
def test_optimisers_of_optax_and_plain_ones(x64):
    def valid(params: Any) -> Any:
        return jnp.sum(params**3)

    for optimiser in (lambda h: optax.adam(h["step_size"], eps=0.3), optax.sgd(0.05, momentum=0.9), "sgd", "nesterov"):
        keywords = {"valid_loss": valid, "params": PARAMS + 0.3, "optimiser": optimiser, "num_steps": 5}
        by_tree, by_tape = (run(**keywords, strategy=s) for s in ("tree", "tape"))
        assert largest_error(by_tree.gradient["scale"], by_tape.gradient["scale"]) < 1e-12
        ends = [run(**keywords, strategy="tape", hypers={**HYPERS, "scale": jnp.array([1.0, 1.0 + s, 1.0])}).value for s in (1e-5, -1e-5)]
        np.testing.assert_allclose((ends[0] - ends[1]) / 2e-5, by_tree.gradient["scale"][1], rtol=1e-5)
    with pytest.raises(DerivativeError, match='strategy="reversible" needs an update that can be undone'):
        run(optimiser="sgd", strategy="reversible")


def test_values_beyond_the_range():
    hypers = {**HYPERS, "step_size": 400.0}
    with pytest.raises(DerivativeError, match=r"\['position'\] went beyond 2048 in size, or was not finite, at step . of 5"):
        run(hypers=hypers)
    with pytest.raises(DerivativeError, match=r"\['position'\]\['w'\] went beyond 2048"):
        run(hypers=hypers, params={"w": PARAMS}, train_loss=_of_dict, valid_loss=lambda p: size(p["w"]))
    found = run(hypers=hypers, on_failure="nan")
    assert not found.in_range and np.isnan(found.gradient["scale"]).all() and "in_range=False" in repr(found)


def _of_dict(params: Any, h: Any, step: Any) -> Any:
    return quadratic(params["w"], h, step)


def test_a_gradient_that_does_not_repeat_itself():
    rng = np.random.default_rng(0)

    def random_loss(params: Any, h: Any, step: Any) -> Any:
        noise = jax.pure_callback(lambda _: np.float32(1 + 0.1 * rng.normal()), jax.ShapeDtypeStruct((), np.float32), step)
        return noise * quadratic(params, h, step)

    with pytest.raises(DerivativeError, match="not the same when it is computed twice, first at step 0 in params, so that"):
        run(train_loss=random_loss)
    assert not run(train_loss=random_loss, on_failure="nan").exact


def test_chaos_is_seen_and_said():
    def bumpy(params: Any, h: Any, step: Any) -> Any:
        return jnp.sum(jnp.cos(3 * params)) + 0.05 * jnp.sum(params**2)

    keywords = {"train_loss": bumpy, "params": np.linspace(-2, 2, 40), "num_steps": 60, "probe": True}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stable = run(**keywords, hypers={**HYPERS, "step_size": 0.15})
    with pytest.warns(lc.RoughHypergradientWarning, match="Training is chaotic here"):
        chaotic = run(**keywords, hypers={**HYPERS, "step_size": 6.0})
    assert stable.smoothness > 0.9 and chaotic.smoothness < 0.5


@pytest.mark.slow
def test_what_leaving_an_example_out_does():
    """Attribution: minus the gradient in an example's weight is what training without it adds to the validation loss."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 3)).astype(np.float32), rng.integers(0, 2, 60)

    def nll(w: Any, x: Any, y: Any) -> Any:
        return jnp.logaddexp(0.0, x @ w) - y * (x @ w)

    def train_loss(w: Any, h: Any, step: Any) -> Any:
        return jnp.mean(h["weights"] * nll(w, x[:40], y[:40])) + 0.01 * jnp.sum(w**2)

    def valid_loss(w: Any) -> Any:
        return jnp.mean(nll(w, x[40:], y[40:]))

    def at(weights: Any) -> Any:
        hypers = {"step_size": 2.0, "decay": 0.8, "weights": weights}
        return lc.hypergradient(train_loss, valid_loss, jnp.zeros(3), hypers, num_steps=60, strategy="reversible", probe=False)

    whole = at(jnp.ones(40))
    predicted = -whole.gradient["weights"]
    retrained = np.array([at(jnp.ones(40).at[n].set(0.0)).value - whole.value for n in range(40)])
    assert np.corrcoef(predicted, retrained)[0, 1] > 0.95
    assert abs(np.corrcoef(np.roll(predicted, 1), retrained)[0, 1]) < 0.5  # the broken twin


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"num_steps": 2.5}, "num_steps is 2.5, a whole number of at least 1 expected"),
        ({"strategy": "backprop"}, "strategy is 'backprop', one of 'reversible'"),
        ({"memory_bytes": -1}, "memory_bytes is -1, a positive number expected"),
        ({"memory_bytes": 10}, r'"reversible" \(keeps .*The others: .*"tape"'),
        ({"on_failure": "ignore"}, "on_failure is 'ignore', 'raise' or 'nan' expected"),
        ({"optimiser": "adam"}, "optimiser is 'adam'; one of 'sgd_momentum', 'sgd', 'nesterov', an optax gradient transformation"),
        ({"optimiser": lambda h: 3, "strategy": "tape"}, r"optimiser\(hypers\) is a int, an optax gradient transformation expected"),
        ({"hypers": [0.1]}, "hypers is a list; a dict with 'step_size' and 'decay' expected"),
        ({"hypers": {"step_size": 0.1}}, r"has the entries \['step_size'\] and lacks 'decay', which optimiser='sgd_momentum' reads"),
        ({"hypers": {**HYPERS, "decay": 1.5}}, r"hypers\['decay'\] is 1.5; a number in \(0, 1\] expected"),
        ({"hypers": {**HYPERS, "decay": jnp.array([0.9, 0.9, 0.0, 0.9, 0.9])}}, r"hypers\['decay'\] is 0 at step 2"),
        ({"hypers": {**HYPERS, "step_size": jnp.ones(4)}}, r"hypers\['step_size'\] has the shape \(4,\); \(\) or \(num_steps,\) = \(5,\)"),
        (
            {"hypers": {**HYPERS, "step_size": {"a": 0.1}}},
            r"hypers\['step_size'\] has the structure .*one for each leaf or branch of params",
        ),
        ({"hypers": {**HYPERS, "scale": jnp.array([1.0, np.nan, 1.0])}}, r"hypers\['scale'\] has entries that are infinite or NaN"),
        ({"hypers": {**HYPERS, "scale": "one"}}, r"hypers\['scale'\] is a str; an array or a number expected"),
        ({"params": jnp.arange(3)}, "params has the type int32; real floating point numbers expected"),
        ({"params": {}}, "params has no leaves"),
        ({"train_loss": lambda p, h, i: p}, r"train_loss returns float32\[3\]; one real scalar expected"),
        ({"valid_loss": lambda p: (1.0, p)}, "valid_loss returns float32"),
        ({"valid_loss": 3}, "valid_loss is a int; a function"),
    ],
)
def test_bad_input(keywords, words):
    with pytest.raises(DerivativeError, match=words):
        run(**keywords)


def test_inside_another_program():
    with pytest.raises(DerivativeError, match="called inside jit, grad or vmap; it compiles programs of its own"):
        jax.jit(lambda a: run(hypers={**HYPERS, "step_size": a}).value)(0.1)


def test_decays_that_fall_a_little_at_each_call_have_one_program():
    arguments = {"a": jnp.zeros(2)}
    sizes = [roomy("a problem", arguments, words) for words in ((100, 50), (106, 50), (200, 70), (140, 40))]  # type: ignore
    assert sizes == [(105, 52), (215, 103), (215, 103), (215, 103)]
    assert roomy("a problem", arguments, (10, 15)) == (10, 15)  # type: ignore
