"""A model may call its arguments what it likes: our own arguments are given by position, or by name where the position is empty."""

import jax
import numpy as np
import pytest
from numpyro import handlers

import luciole as lc
from luciole import dist
from luciole.inference.run import mcmc as module

KEY = jax.random.key(0)
WORDS = ("self", "key", "model", "function", "samples", "num_samples", "args", "program", "owner", "values", "rng_key", "position", "name")


def with_argument(word):
    """A model whose only argument is called `word`."""
    scope = {"lc": lc, "dist": dist}
    exec(f"def model({word}):\n    lc.sample('a', dist.Normal({word}, 1.0))\n    lc.sample('b', dist.Normal(0.0, 1.0), obs=0.5)", scope)
    return scope["model"]


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("word", WORDS)
def test_a_model_argument_may_have_any_name(word, marked, monkeypatch):
    model = lc.model(with_argument(word)) if marked else with_argument(word)
    seen = []
    monkeypatch.setattr(lc.ppl.predictive, "_in_batches", lambda one, program, *_: seen.append(program))
    monkeypatch.setattr(module.MCMC, "_run_compiled", lambda self, words, args, kwargs, *_: seen.append(lc.trace(model, *args, **kwargs)))
    given = {word: 3.0}
    lc.prior_predictive(model, KEY, 2, **given)
    lc.posterior_predictive(model, KEY, {"a": np.zeros(2)}, **given)
    lc.log_likelihood(model, {"a": np.zeros(2)}, **given)
    lc.MCMC(lc.NUTS(model), progress_bar=False).run(KEY, **given)
    assert len(seen) == 4
    assert [list(program.sites) for program in seen] == [["a", "b"]] * 4
    assert list(lc.trace(model, **given).sites) == ["a", "b"]
    assert lc.log_density(model, **given).dim == 1
    assert "a ~ Normal" in lc.render_model(model, **given)


@pytest.mark.parametrize("word", ["key", "num_samples", "samples", "data"])
def test_under_a_handler_and_condition(word):
    model = lc.condition(handlers.scale(with_argument(word), scale=2.0), {"a": 1.0})
    assert lc.trace(model, **{word: 3.0}).sites["a"].observed


def test_our_arguments_by_name_where_the_position_is_empty(monkeypatch):
    model = with_argument("x")
    monkeypatch.setattr(lc.ppl.predictive, "_in_batches", lambda one, program, key, given: given.total)
    assert lc.prior_predictive(model, key=KEY, num_samples=3, x=1.0) == 3
    assert lc.posterior_predictive(model, samples={"a": np.zeros(4)}, key=KEY, x=1.0) == 4


@pytest.mark.parametrize("word", ["init_params", "start", "extra_fields"])
def test_the_keywords_of_run_are_its_own_and_the_models_go_by_position(word, monkeypatch):
    model = with_argument(word)
    taken = []
    monkeypatch.setattr(module.MCMC, "_run_compiled", lambda self, words, args, kwargs, *others: taken.append((args, kwargs, *others)))
    lc.MCMC(lc.NUTS(model), progress_bar=False).run(KEY, 3.0)
    assert taken == [((3.0,), {}, None, ())]
    if word != "init_params":  # whose values may be of many kinds
        with pytest.raises(lc.SamplerError, match=f"The model has a parameter '{word}' too: give its value by position"):
            lc.MCMC(lc.NUTS(model), progress_bar=False).run(KEY, **{word: 3.0})


def test_the_keyword_of_render_model_is_its_own():
    model = with_argument("format")
    assert lc.render_model(model, 3.0, format="mermaid").startswith("flowchart")


@pytest.mark.parametrize("word", ["step_size", "order", "plate", "test"])
def test_the_keywords_of_sgd_evidence_are_its_own(word):
    with pytest.raises(lc.KeywordError, match="missing a required argument"):
        lc.sgd_evidence(with_argument(word), KEY, **{"step_size": 0.1, "num_steps": 2, word: 1.0})


@pytest.mark.parametrize("transform", [jax.jit, jax.grad, jax.vmap])
def test_verbs_inside_a_transformation(transform):
    model = with_argument("x")
    calls = (
        lambda x: lc.prior_predictive(model, KEY, 2, x)["a"].sum(),
        lambda x: lc.log_likelihood(model, {"a": np.zeros(2)}, x)["b"].sum(),
        lambda x: lc.MCMC(lc.NUTS(model), progress_bar=False).run(KEY, x).get_samples()["a"].mean(),
        lambda x: lc.sgd_evidence(model, KEY, x, step_size=0.1, num_steps=2).mean[-1],
    )
    for call in calls:
        with pytest.raises(lc.SamplerError, match=r"was called inside a function that jax.jit, jax.vmap, jax.grad"):
            transform(call)(np.ones(2) if transform is jax.vmap else 1.0)
