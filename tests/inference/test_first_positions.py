"""Where a run's chains start: what `init_params`, `start` and `init_strategy` accept, and in which space they are read.

The runs here end where compilation would begin.
"""

import logging
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest

import luciole as lc
from luciole import dist
from luciole.inference.kernels.layout import Layout
from luciole.inference.kernels.metric import Metric
from luciole.inference.kernels.records import ChainState
from luciole.inference.results.record import Record
from luciole.inference.run import running as module
from luciole.inference.run.memory import Arrays

KEY = jax.random.key(0)
CHAINS = 2
POSITIONS = np.arange(4 * CHAINS, dtype=np.float32).reshape(CHAINS, 4)  # tau, then z: program order is not that of names


def model():
    lc.sample("tau", dist.HalfNormal(1.0))
    lc.sample("beta", dist.Normal(0.0, 1.0).expand([3]))


DENSITY = lc.log_density(model)


class Begun(Exception):
    """What a run begins with: positions (chain, dim), whether they are the user's, and fixed values by site."""

    def __init__(self, *begin_args):
        self.positions, given, self.fixed = begin_args
        self.given = given.all()


@pytest.fixture
def first(monkeypatch):
    """A function of the arguments of `run` that returns what the run begins with."""

    def stop(spec):
        def begin(words, plan, positions):
            raise Begun(positions, spec.begin.given, spec.begin.fixed)

        return SimpleNamespace(begin=begin)

    monkeypatch.setattr(module, "compiled_sampler", stop)

    def run(kernel=None, **options):
        with pytest.raises(Begun) as caught:
            chains(kernel).run(KEY, **options)
        return caught.value

    return run


def chains(kernel=None):
    return lc.MCMC(kernel or lc.NUTS(DENSITY), num_chains=CHAINS, progress_bar=False)


def state_at(positions):
    ones = np.ones((CHAINS, 4), np.float32)
    metric = Metric(ones, ones)
    return ChainState(np.asarray(positions), *[np.zeros(CHAINS)] * 3, metric, *[np.zeros(CHAINS)] * 2)


def finished(started=True):
    """A run that ended at POSITIONS, without running."""
    done = chains()
    layout = Layout.of(DENSITY.positions)
    draws = Arrays({}, {})
    done._last = Record(
        draws, 0, 0, 0, False, state_at(POSITIONS), started, layout, DENSITY.program, DENSITY, False, None, {"kernel": "NUTS"}, {}, ()
    )
    return done


@pytest.mark.parametrize(
    "given",
    [
        {"init_params": POSITIONS},
        {"init_params": jnp.asarray(POSITIONS)},
        {"init_params": state_at(POSITIONS)},
        {"init_params": {"beta": POSITIONS[:, 1:], "tau": POSITIONS[:, 0]}},
        {"start": state_at(POSITIONS)},
        {"start": finished()},
        {"init_params": finished()},
    ],
    ids=["array", "jax array", "state", "dict", "start state", "start run", "run"],
)
def test_an_earlier_run_is_a_start(first, given):
    begun = first(**given)
    assert begun.given
    np.testing.assert_array_equal(begun.positions, POSITIONS)


def test_one_position_for_all_chains(first):
    np.testing.assert_array_equal(first(init_params=POSITIONS[1]).positions, POSITIONS[[1, 1]])


def test_constrained_values_as_init_params(first):
    begun = first(init_params=lc.init_to_value({"tau": 2.0}))
    assert not begun.given
    np.testing.assert_array_equal(begun.fixed["tau"], [2.0, 2.0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"init_params": {"tau": np.ones(20), "beta": np.ones((20, 3))}}, r"shape \(20,\) found.*unconstrained.*init_to_value"),
        ({"init_params": {"tau": "a", "beta": np.ones(3)}}, r"init_params\['tau'\] is a builtins.str; expected a number"),
        ({"init_params": 3.0}, "float found, a dict of unconstrained arrays by site expected, or an earlier MCMC"),
        ({"init_params": np.ones((3, 4))}, r"init_params: shape \(3, 4\) found, \(4,\) or"),
        ({"start": {"tau": 1.0}}, "start is a dict, an earlier MCMC or its state expected; write init_params="),
        ({"start": finished(), "init_params": POSITIONS}, "start and init_params are both given"),
        ({"start": chains()}, "no draws yet"),
        ({"start": finished(started=False)}, "interrupted before its chains had started"),
    ],
)
def test_what_is_no_start(options, words):
    with pytest.raises(lc.SamplerError, match=words):
        chains().run(KEY, **options)


def test_the_log_says_in_which_space_a_dict_is_read(first, caplog):
    with caplog.at_level(logging.INFO, logger="luciole"):
        first(init_params={"tau": 1.0, "beta": np.ones(3)})
    assert "unconstrained" in caplog.text


@pytest.mark.slow
def test_a_run_goes_on_from_another():
    options = {"num_warmup": 0, "num_samples": 5, "num_chains": CHAINS, "progress_bar": False}
    earlier = lc.MCMC(lc.NUTS(model), **options).run(KEY)
    there = lc.MCMC(lc.NUTS(model, step_size=1e-6), **options).run(KEY, start=earlier)
    assert np.abs(np.asarray(there.state.position) - np.asarray(earlier.state.position)).max() < 0.01


class Anchored(lc.NUTS):
    """A kernel that brings starts of its own, as FlyMC does."""

    def fit(self, density, words, num_chains):
        return replace(super().fit(density, words, num_chains), starts=np.zeros((num_chains, 4), np.float32))


def test_a_kernel_with_starts_of_its_own_starts_where_it_is_told(first):
    assert not first(Anchored(DENSITY)).positions.any()
    begun = first(Anchored(DENSITY), init_params=lc.init_to_value({"tau": [1.0, 2.0]}))
    np.testing.assert_allclose(begun.positions[:, 0], np.log([1.0, 2.0]), atol=1e-6)
    assert begun.given
    assert begun.positions[:, 1:].all()


def heavy():
    lc.sample("scale", dist.HalfCauchy(1.0))
    lc.sample("rate", dist.Exponential(4.0))
    lc.sample("flat", dist.ImproperUniform(dist.constraints.positive, (), ()))
    lc.sample("count", dist.Uniform(2.0, 6.0))


@pytest.mark.parametrize(
    "strategy",
    [
        lc.init_to_median,
        lc.init_to_mean,
        lc.init_to_sample,
        lc.init_to_feasible,
        lc.init_to_uniform,
        partial(lc.init_to_median, num_samples=3),
        numpyro.infer.init_to_median,
        numpyro.infer.init_to_mean(),
        numpyro.infer.init_to_uniform(radius=1),
        numpyro.infer.init_to_feasible(),
        numpyro.infer.init_to_value(values={"rate": 1.0}),
    ],
)
def test_strategies_with_and_without_their_call_and_numpyros(strategy):
    for kernel in (lc.NUTS(heavy, init_strategy=strategy), lc.Slice(heavy, init_strategy=strategy)):
        assert isinstance(kernel.init_strategy, lc.ppl.InitStrategy)


@pytest.mark.parametrize("strategy", [lc.init_to_value, numpyro.infer.init_to_value, numpyro.infer.init_to_value(values={})])
def test_init_to_value_without_values(strategy):
    with pytest.raises(lc.InitError, match="write init_to_value"):
        lc.NUTS(heavy, init_strategy=strategy)


@pytest.mark.parametrize("strategy", [3, "median", print, dist.Normal(0, 1)])
def test_what_is_no_strategy(strategy):
    with pytest.raises(lc.InitError, match=r"init_strategy is .*write init_to_uniform\(\)"):
        lc.HMC(heavy, init_strategy=strategy)


@pytest.mark.slow
def test_mean_and_feasible_start_where_they_say(caplog):
    density = lc.log_density(heavy)
    mean = density.constrain(density.init(KEY, lc.init_to_mean))
    np.testing.assert_allclose([mean["rate"], mean["count"]], [0.25, 4.0], rtol=1e-5)
    assert np.isfinite(mean["scale"]), "a Cauchy has no mean: the median stands for it"
    assert "site 'flat': ImproperUniform cannot be sampled" in caplog.text
    assert all(value == 0 for value in density.init(KEY, lc.init_to_feasible()).values())


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rate": -1.0}, r"the value -1\.0 of site 'rate' is outside its support, .*give a value inside"),
        ({"count": [3.0, 7.0]}, r"the value 7\.0 at index 1 of site 'count'"),
        ({"flat": 0.0}, "site 'flat' is outside its support"),
        ({"rate": "a"}, "site 'rate' is a builtins.str; expected a number"),
    ],
)
def test_values_outside_of_a_support_are_refused_before_anything_runs(first, values, words):
    with pytest.raises(lc.InitError, match=words):
        chains(lc.NUTS(heavy, init_strategy=lc.init_to_value(values))).run(KEY)


@pytest.mark.slow
def test_a_value_outside_of_a_support_that_hangs_on_another_site():
    def nested():
        top = lc.sample("top", dist.Uniform(1.0, 2.0))
        lc.sample("x", dist.Uniform(0.0, top))

    kernel = lc.NUTS(nested, init_strategy=lc.init_to_value({"x": 5.0}))
    with pytest.raises(lc.InitError, match=r"init_to_value: the value 5\.0 of site 'x' .*depends on other sites"):
        lc.MCMC(kernel, num_warmup=1, num_samples=1, num_chains=1, progress_bar=False).run(KEY)
