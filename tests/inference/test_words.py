"""What is said to words of NumPyro and PyMC: every row of docs/you-typed-write.md is typed, and its error is the sentence of the page.

To write the page anew: PYTHONPATH=src python tests/inference/test_words.py
"""

from pathlib import Path

import jax
import numpy as np
import numpyro
import pytest

import luciole as lc
from luciole import dist
from luciole.inference.kernels.words import KERNEL
from luciole.inference.run import mcmc as module
from luciole.inference.run.words import ATTRIBUTES, MCMC_WORDS, RUN
from luciole.ppl.words import PREDICTIVE

PAGE = Path(__file__).resolve().parents[2] / "docs" / "you-typed-write.md"

ERRORS = {
    **{f"lc.MCMC(lc.NUTS(model), {word}=...)": says for word, says in MCMC_WORDS.items()},
    **{f"lc.NUTS(model, {word}=...)": says for word, says in KERNEL.items()},
    **{f"mcmc.run(key, x, y=y, {word}=...)": says for word, says in RUN.items()},
    **{f"mcmc.{word}": says for word, says in ATTRIBUTES.items()},
    **{f"lc.posterior_predictive(model, key, samples, x, {word}=...)": PREDICTIVE[word] for word in PREDICTIVE if word != "samples"},
    "lc.prior_predictive(model, key, 10, x, samples=...)": PREDICTIVE["samples"],
    "lc.MCMC(numpyro.infer.NUTS(model))": "write lc.MCMC(lc.NUTS(model))",
    "lc.MCMC(numpyro.infer.HMC(model))": "write lc.MCMC(lc.HMC(model))",
    "lc.MCMC(numpyro.infer.BarkerMH(model))": "write lc.MCMC(lc.NUTS(model))",
    "lc.MCMC(model)": "write MCMC(NUTS(model), ...)",
    "mcmc.run(x, y=y)": "a random key expected; write jax.random.key(0)",
    "mcmc.run()": "write mcmc.run(jax.random.key(0), *args, **kwargs)",
    "lc.prior_predictive(model, num_samples=10)": "write lc.prior_predictive(model, key, num_samples, *args, **kwargs)",
    "lc.posterior_predictive(model, samples, x)": "write lc.posterior_predictive(model, key, samples, *args, **kwargs)",
    "lc.posterior_predictive(model, mcmc, x)": "write lc.posterior_predictive(model, key, samples, *args, **kwargs)",
    "lc.log_likelihood(model)": "write lc.log_likelihood(model, samples, *args, **kwargs)",
    "lc.log_density(model, (x,), {'y': y}, {'slope': 1.0})": "write lc.log_density(model, *args, **kwargs).joint(params)",
}
WORKS = {
    "lc.NUTS(model, step_size=0.1, adapt_step_size=True)": "warm-up starts from that step size, as NumPyro's does",
    "lc.NUTS(model, inverse_mass_matrix={('slope',): np.ones(1)}, adapt_mass_matrix=True)": "warm-up starts from that metric",
    "lc.NUTS(model, init_strategy=numpyro.infer.init_to_median)": "NumPyro's strategies, called or not, mean ours of the same name",
    "mcmc.run(rng_key=key, x=x, y=y)": "the same as mcmc.run(key, x=x, y=y)",
    "mcmc.run(key, x, y=y, extra_fields=('num_steps', 'potential_energy'))": "mcmc.get_extra_fields() returns them; all are kept anyway",
    "lc.posterior_predictive(model, key, mcmc, x)": "a run in the place of samples gives its draws",
    "lc.posterior_predictive(model, rng_key=key, posterior_samples=samples, x=x)": "NumPyro's names for the key and the samples",
    "lc.log_density(model, x, y=y).joint({'slope': 1.0})": "NumPyro's log_density(model, (x,), {'y': y}, {'slope': 1.0})[0]",
}


def model(x, y=None):
    slope = lc.sample("slope", dist.Normal(0.0, 1.0))
    lc.sample("y", dist.Normal(slope * x, 1.0), obs=y)


class Drawn(lc.MCMC):
    """A run that has draws, and was not run."""

    def get_samples(self, group_by_chain=False):
        return {"slope": np.ones(3, np.float32)}


def names():
    x = np.ones(2, np.float32)
    mcmc = Drawn(lc.NUTS(model), progress_bar=False)
    return {
        "lc": lc, "np": np, "numpyro": numpyro, "model": model, "x": x, "y": x, "key": jax.random.key(0), "mcmc": mcmc,
        "samples": mcmc.get_samples(),
    }  # fmt: skip


@pytest.mark.parametrize("typed", ERRORS)
def test_every_row_of_the_page_is_the_error(typed):
    with pytest.raises(lc.LucioleError) as caught:
        eval(typed, names())
    assert ERRORS[typed] in str(caught.value)


@pytest.mark.parametrize("typed", WORKS)
def test_what_works_is_accepted(typed, monkeypatch):
    monkeypatch.setattr(module.MCMC, "_run_compiled", lambda self, *arguments: self)
    monkeypatch.setattr(lc.ppl.predictive, "_in_batches", lambda *arguments: {})
    assert eval(typed, names()) is not None


def test_the_page_says_what_the_errors_say():
    assert PAGE.read_text() == page(), "write it anew: PYTHONPATH=src python tests/inference/test_words.py"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: lc.MCMC(lc.NUTS(model), num_warm=3), "MCMC: there is no argument 'num_warm'; did you mean 'num_warmup'?"),
        (lambda: lc.HMC(model, num_step=3), "HMC: there is no argument 'num_step'; did you mean 'num_steps'?"),
        (lambda: lc.Slice(model, zzz=3), "Slice: there is no argument 'zzz'; it has model, width"),
        (lambda: lc.FlyMC(model, kernal="hmc"), "did you mean 'kernel'?"),
        (lambda: lc.prior_predictive(model, jax.random.key(0), 3, foo=1), "model(x, y=None) has no argument 'foo'; it has x, y"),
        (
            lambda: lc.prior_predictive(model, jax.random.key(0), 3),
            "do not fit the model model(x, y=None): missing a required",
        ),
    ],
)
def test_an_unknown_keyword_is_a_type_error_that_names_the_nearest(call, words):
    with pytest.raises(TypeError) as caught:
        call()
    assert words in str(caught.value)


def test_an_unknown_attribute_is_an_attribute_error():
    mcmc = lc.MCMC(lc.NUTS(model))
    assert not hasattr(mcmc, "warmup")
    with pytest.raises(AttributeError, match="no attribute 'draws'"):
        _ = mcmc.draws


@pytest.mark.parametrize(
    ("fields", "words"),
    [("num_steps", "a tuple of names expected"), (("num_step",), "perhaps 'num_steps' is meant"), (3, "a tuple of names expected")],
)
def test_fields_that_there_are_not(fields, words):
    def swallowing(x, **kwargs):
        model(x)

    with pytest.raises(lc.SamplerError, match=words):
        lc.MCMC(lc.NUTS(swallowing), progress_bar=False).run(jax.random.key(0), 1.0, extra_fields=fields)


@pytest.mark.slow
def test_extra_fields_are_returned_under_their_names():
    mcmc = lc.MCMC(lc.NUTS(model), num_warmup=5, num_samples=4, num_chains=2, progress_bar=False)
    mcmc.run(jax.random.key(0), 1.0, y=1.0, extra_fields=("num_steps", "potential_energy"))
    fields = mcmc.get_extra_fields(group_by_chain=True)
    assert sorted(fields) == ["diverging", "num_steps", "potential_energy"]
    np.testing.assert_array_equal(fields["potential_energy"], -mcmc.sample_stats["lp"])
    assert mcmc.get_extra_fields()["num_steps"].shape == (8,)


def test_the_joint_density_is_numpyros():
    def positive(y=None):
        scale = lc.sample("scale", dist.HalfNormal(2.0))
        with lc.plate("row", 3):
            effect = lc.sample("effect", dist.Normal(0.0, scale))
            lc.sample("y", dist.Normal(effect, 1.0), obs=y)

    values = {"scale": np.float32(0.7), "effect": np.float32([0.1, -0.3, 2.0])}
    y = np.float32([1.0, 2.0, 3.0])
    density = lc.log_density(positive, y=y)
    expected, _ = numpyro.infer.util.log_density(positive, (), {"y": y}, values)
    np.testing.assert_allclose(density.joint(values), expected, rtol=1e-6)
    with pytest.raises(lc.ModelError, match="no entry for the latent site 'effect'"):
        density.joint({"scale": 1.0})
    with pytest.raises(lc.ModelError, match="'effect': the value has shape"):
        density.joint({"scale": 1.0, "effect": 1.0})


def page():
    rows = [f"| `{typed}` | {says} |" for typed, says in ERRORS.items()]
    works = [f"| `{typed}` | {says} |" for typed, says in WORKS.items()]
    return "\n".join(
        [
            "# You typed, write",
            "",
            "Words of NumPyro and PyMC, and what to write here. The errors say the same; a test types every row.",
            "",
            "## Works as it stands",
            "",
            "| you typed | here |",
            "|---|---|",
            *works,
            "",
            "## An error that says what to write",
            "",
            "| you typed | write |",
            "|---|---|",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    PAGE.write_text(page())
