"""The gate: what a user hands in keeps its meaning, or is refused by name, whichever verb it is handed to."""

import re
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats

import luciole as lc
from luciole import dist
from luciole.ppl.gate import admit, as_array
from luciole.transforms import ModelError

Y = np.array([1.0, 3.0, 2.0])
BIG = 3_000_000_000 + np.array([0, 100, 250])


def regression(x, y=None):
    b = lc.sample("b", dist.Normal(0, 1))
    lc.sample("y", dist.Normal(b * x, 1), obs=y)


def density(model, *args, b=0.5):
    return float(lc.log_density(model, *args)({"b": jnp.asarray(b)}))


def expected(x, y, b=0.5):
    return stats.norm.logpdf(b) + stats.norm.logpdf(y, b * np.asarray(x), 1).sum()


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(list(Y), id="list"),
        pytest.param([1, 3, 2], id="list of integers"),
        pytest.param(pd.Series(Y, index=[7, 8, 9]), id="series"),
        pytest.param(pd.Series([1, 3, 2], dtype="Int64"), id="nullable integers"),
        pytest.param(pd.Index([1.0, 3.0, 2.0]), id="index"),
        pytest.param(pd.array([1.0, 3.0, 2.0], dtype="Float64"), id="pandas array"),
        pytest.param(xr.DataArray(Y, dims="t"), id="data array"),
        pytest.param(np.ma.array(Y), id="masked array without a mask"),
        pytest.param(np.array([1, 3.0, Fraction(2)], object), id="objects that are numbers"),
        pytest.param(np.array([1, 3, 2], np.int8), id="small integers"),
        pytest.param(Y.astype(np.float16), id="half"),
    ],
)
def test_means_the_same_as_argument_and_as_observation(given):
    assert density(regression, given, Y) == pytest.approx(expected(Y, Y), abs=1e-5)
    assert density(regression, Y, given) == pytest.approx(expected(Y, Y), abs=1e-5)
    assert density(lambda: regression(Y, given)) == pytest.approx(expected(Y, Y), abs=1e-5)  # an observation past the arguments


def wide(x, y):
    b = lc.sample("b", dist.Normal(0, 100))
    lc.sample("y", dist.Normal(3e9 + b + 0 * x, 1000), obs=y)


def wide_reference(b):
    return stats.norm.logpdf(b, 0, 100) + stats.norm.logpdf(BIG, 3e9 + b, 1000).sum()


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, "Int64", "list"])
def test_integers_beyond_the_runs_own_become_floats(dtype):
    big = BIG.tolist() if dtype == "list" else pd.Series(BIG, dtype=dtype) if isinstance(dtype, str) else BIG.astype(dtype)
    # float32 knows 3e9 to 128: the error of the density is a fraction of a nat, where wrapping costs 1e13
    assert density(wide, Y, big, b=20.0) == pytest.approx(wide_reference(20.0), abs=1.0)
    assert density(wide, big, BIG.astype(float), b=20.0) == pytest.approx(wide_reference(20.0), abs=1.0)


def test_integers_that_numpy_code_reads_keep_their_values():
    def model(seconds, y):
        b = lc.sample("b", dist.Normal(0, 1))
        lc.sample("y", dist.Normal(b * ((seconds - seconds.min()) // 50), 1), obs=y)

    assert density(model, BIG, Y) == pytest.approx(expected([0, 2, 5], Y), abs=1e-5)
    assert density(model, np.int64(4_000_000_000) + np.array([0, 50, 100]), Y) == pytest.approx(expected([0, 1, 2], Y), abs=1e-5)


def test_scalars_beyond_the_runs_own(x64):
    assert lc.trace(regression, np.int64(2**40), 1.0).arguments["x"].value == 2**40


def test_scalars_of_numpy_beyond_32_bits_become_floats():
    program = lc.trace(regression, np.int64(3_000_000_000), 1.0)
    assert program.arguments["x"].value == 3e9 and float(lc.log_density(regression, np.int64(3_000_000_000), 1.0)({"b": 0.0})) < 0


def test_closures_pass_no_gate_and_are_refused():
    with pytest.raises(
        ModelError, match=r"array 'BIG', which the model reads from around it, has integers from 3000000000.*astype\(float\)"
    ):
        lc.trace(lambda y: lc.sample("y", dist.Normal(lc.sample("b", dist.Normal(0, 1)) * BIG, 1), obs=y), Y)
    masked = np.ma.array(Y, mask=[0, 1, 0])
    with pytest.raises(ModelError, match=r"array 'masked', which the model reads.*masked array with 1 of 3"):
        lc.trace(lambda y: lc.sample("y", dist.Normal(lc.sample("b", dist.Normal(0, 1)) * masked, 1), obs=y), Y)


REFUSED = {
    "masked": (np.ma.array([1.0, 99.0, 2.0], mask=[0, 1, 0]), ["masked array with 1 of 3 elements", "obs_mask=~y.mask", "handlers.mask"]),
    "categories": (pd.Series(["a", "b", "a"], dtype="category"), ["pandas.Series of categories", "cat.codes"]),
    "bare categories": (pd.Categorical(["a", "b", "a"]), ["pandas.Categorical of categories", "cat.codes"]),
    "too large": (np.array([1.0, 1e300, 2.0]), ["1e+300 at index 1", "float32", "jax_enable_x64"]),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_by_name(kind):
    value, words = REFUSED[kind]
    for name, args in {"argument 'y'": (Y, value), "argument 'x'": (value, Y)}.items():
        with pytest.raises(ModelError) as caught:
            lc.log_density(regression, *args)
        assert all(word in str(caught.value) for word in [name, *words]), caught.value
    box = {"y": value}
    with pytest.raises(ModelError, match=r"site 'y': obs .*test_gate\.py:"):
        lc.trace(lambda: regression(Y, box["y"]))


OBSERVED = {
    "missing numbers": (pd.Series([1, None, 3], dtype="Int64"), ["site 'y'", "NaN at index 1"]),
    "missing objects": (np.array([1.0, None, 3.0], object), ["site 'y'", "NaN at index 1"]),
    "dates": (np.array(["2020-01-01"] * 3, "datetime64[D]"), ["site 'y'", "dates or durations", "timedelta64"]),
    "text": (np.array(["a", "b", "c"]), ["site 'y'", "of text", "np.unique"]),
    "strings of pandas": (pd.Series(["a", "b", "c"]), ["site 'y'", "np.unique"]),
}


@pytest.mark.parametrize("kind", OBSERVED)
def test_no_observation(kind):
    value, words = OBSERVED[kind]
    with pytest.raises(ModelError) as caught:
        lc.log_density(regression, Y, value)
    assert all(word in str(caught.value) for word in [*words, "test_gate.py:"]), caught.value


@pytest.mark.parametrize(
    "value", [np.array(["2020-01-01", "2020-01-02", "2020-01-04"], "datetime64[D]"), np.array(["a", "b", "c"]), pd.Series(list("abc"))]
)
def test_what_is_not_numbers_is_left_to_the_model_and_named_where_it_meets_jax(value):
    def model(when, y):
        numbers = np.unique(np.asarray(when), return_inverse=True)[1]
        lc.sample("y", dist.Normal(lc.sample("b", dist.Normal(0, 1)) * numbers, 1), obs=y)

    assert density(model, value, Y) == pytest.approx(expected([0, 1, 2], Y), abs=1e-5)
    with pytest.raises(ModelError, match=r"'x' \(.*\).*Make numbers of them"):
        lc.trace(regression, value, Y)


def line_of(function, mark="# HERE"):
    import inspect

    lines, start = inspect.getsourcelines(function)
    return start + next(i for i, line in enumerate(lines) if mark in line)


def test_a_data_frame_in_the_model_is_the_users_line():
    def model(frame, y):
        b = lc.sample("b", dist.Normal(0, 1))
        lc.sample("y", dist.Normal(b * frame["x"], 1), obs=y)  # HERE

    frame = pd.DataFrame({"x": Y})
    with pytest.raises(ModelError, match=rf"pandas object met a latent.*{re.escape(__file__)}:{line_of(model)}.*to_numpy\(\)"):
        lc.trace(model, frame, Y)
    assert density(lambda f, y: regression(f["x"].to_numpy(), y), frame, Y) == pytest.approx(expected(Y, Y), abs=1e-5)


def test_numpy_indexed_by_what_is_traced():
    table = np.arange(9.0).reshape(3, 3)

    def model(y):
        k = lc.sample("k", dist.Categorical(logits=jnp.zeros(3)), obs=jnp.asarray(1) + 0 * jnp.asarray(y[0], int))
        lc.sample("y", dist.Normal(lc.sample("b", dist.Normal(0, 1)) + table[k], 1), obs=y)  # HERE

    with pytest.raises(ModelError, match=r"jnp\.asarray\(x\)\[index\]") as caught:
        lc.trace(model, Y)
    assert f"{__file__}:{line_of(model)}" in str(caught.value)


def test_methods_of_what_was_converted():
    def model(x, y):
        lc.sample("y", dist.Normal(lc.sample("b", dist.Normal(0, 1)) * x.sort_values(), 1), obs=y)

    with pytest.raises(ModelError, match=r"sort_values.*test_gate\.py:\d+.*'x' \(a pandas\.Series\)"):
        lc.trace(model, pd.Series(Y), Y)


def test_labels_of_a_data_array_are_kept():
    x = xr.DataArray(Y, dims="t", coords={"t": [4, 5, 6]})
    argument = lc.trace(regression, x, Y).arguments["x"]
    assert argument.dims == ("t",) and argument.coords["t"].tolist() == [4, 5, 6] and argument.given == "xarray.DataArray"


def test_names_of_arguments():
    def model(x, *rest, table, **others):
        pass

    given = admit(model, (Y, Y, None), {"table": {"a": Y, "b": [Y, "text"]}, "z": Y})
    assert list(given.arrays) == ["x", "rest.0", "table.a", "table.b.0", "z"] and given.absent == ("rest.1",)
    assert admit(lambda x, y=None, z=Y: None, (Y,), {}).absent == ("y",)
    assert list(admit(lambda x, y=None, z=Y: None, (Y,), {}).arrays) == ["x", "z"]


def test_tuples_are_no_data():
    shapes = admit(lambda shape, sizes: None, ((2, 3), [2, 3]), {})
    assert shapes.args[0] == (2, 3) and isinstance(shapes.args[1], np.ndarray)


def test_too_large_a_number_of_python():
    with pytest.raises(ModelError, match=r"Python integer does not fit.*test_gate\.py:\d+.*3e9"):
        lc.trace(lambda y: lc.sample("y", dist.Normal(lc.sample("b", dist.Normal(0, 1)) * 3_000_000_000, 1), obs=y), 1.0)


@pytest.mark.parametrize(
    "labels", [np.array([0.0, 2.0, 1.0]), np.array([False, True, True]), [0, 2, 1], pd.Series([0.0, 2.0, 1.0])], ids=str
)
def test_labels_of_categories(labels):
    def model(y):
        lc.sample("y", dist.Categorical(logits=lc.sample("l", dist.Normal(0, 1).expand([3]).to_event(1))), obs=y)

    logits = np.array([0.1, -0.4, 1.0])
    right = stats.norm.logpdf(logits).sum() + jax.nn.log_softmax(logits)[np.asarray(labels, int)].sum()
    assert float(lc.log_density(model, labels)({"l": logits})) == pytest.approx(float(right), abs=1e-5)


def test_labels_that_are_none():
    with pytest.raises(ModelError, match=r"'y': the observed value 0.5 at index 1 .*outside the support"):
        lc.trace(lambda y: lc.sample("y", dist.Categorical(logits=lc.sample("l", dist.Normal(0, 1).expand([3]))), obs=y), [0.0, 0.5, 1.0])


def test_parameters_that_numpyro_refuses_come_with_the_line():
    with pytest.raises(ModelError, match=r"VonMises distribution got invalid concentration parameter \(.*test_gate\.py:\d+\)"):
        lc.trace(lambda: lc.sample("a", dist.VonMises(0.0, 0.0)))
    with pytest.raises(ModelError, match=r"Normal distribution got invalid scale parameter \(.*test_gate\.py:\d+\)"):
        lc.trace(lambda s: lc.sample("a", dist.Normal(0.0, s)), np.array([1.0, -1.0]))


def test_factors_count_once_for_each_element_of_a_plate():
    def model(weight):
        lc.sample("b", dist.Normal(0, 1))
        with lc.plate("n", 4):
            lc.factor("f", weight)

    for weight, total in [(-0.5, -2.0), (jnp.asarray(-0.5), -2.0), (np.arange(4.0), 6.0)]:
        assert density(model, weight, b=0.0) == pytest.approx(stats.norm.logpdf(0) + total, abs=1e-5)


def test_rows_without_a_plate():
    def model(y):
        m = lc.sample("m", dist.Normal(0, 1))
        with lc.plate("n", 3):
            lc.sample("y", dist.Normal(m, 1), obs=y)

    with pytest.warns(lc.MissingPlateWarning, match=r"'y'.*\(5, 3\).*the 5 rows in front.*plate\(name, 5, dim=-2\)"):
        lc.trace(model, np.zeros((5, 3)))


def test_a_forgotten_observation():
    with pytest.warns(lc.NothingObservedWarning, match="the argument 'y' is None.*density of the prior.*y=y"):
        lc.log_density(regression, Y)

    def weighed(x, y=None):
        regression(x, y)
        lc.factor("f", -1.0)

    lc.log_density(weighed, Y)  # a factor is data as well
    lc.log_density(lambda: lc.sample("b", dist.Normal(0, 1)))  # nothing was forgotten


def test_values_outside_of_models():
    assert as_array([1, 2], "x").dtype == np.int32
    assert as_array(pd.Series([1, None], dtype="Int64"), "x").dtype == np.float32
    tracer = []
    jax.make_jaxpr(lambda x: tracer.append(as_array(x, "x") is x))(1.0)
    assert tracer == [True]


MASKED = np.ma.array([1.0, 2.0], mask=[0, 1])


def two(y=0.0):
    b = lc.sample("b", dist.Normal(0, 1).expand([2]).to_event(1))
    lc.sample("y", dist.Normal(b.sum(), 1), obs=y)


def run(**settings):
    kernel = lc.NUTS(two, **{k: v for k, v in settings.items() if k == "init_strategy"})
    mcmc = lc.MCMC(kernel, num_warmup=1, num_samples=1, num_chains=1, progress_bar=False)
    return mcmc.run(jax.random.key(0), 0.0, **{k: v for k, v in settings.items() if k != "init_strategy"})


@pytest.mark.parametrize(
    "verb",
    [
        lambda b: lc.log_density(two)({"b": b}),
        lambda b: lc.log_density(two).constrain({"b": b}),
        lambda b: lc.log_density(two).unconstrain({"b": b}),
        lambda b: lc.log_density(two).joint({"b": b}),
        lambda b: lc.posterior_predictive(two, jax.random.key(0), {"b": b[None]}),
        lambda b: lc.log_likelihood(two, {"b": b[None]}),
        lambda b: run(init_params={"b": b}),
        lambda b: run(init_strategy=lc.init_to_value({"b": b})),
        lambda b: lc.trace(lc.condition(lambda: (two(), lc.sample("c", dist.Normal(0, 1))), {"b": b})),
    ],
    ids=[
        "density",
        "constrain",
        "unconstrain",
        "joint",
        "posterior_predictive",
        "log_likelihood",
        "init_params",
        "init_to_value",
        "condition",
    ],
)
def test_every_verb_has_the_gate(verb):
    with pytest.raises(lc.LucioleError, match=r"b.*masked array with 1 of 2 elements masked"):
        verb(MASKED)


def test_values_of_other_libraries_at_every_verb():
    b = xr.DataArray([1.0, 2.0], dims="i")
    assert float(lc.log_density(two)({"b": b})) == float(lc.log_density(two)({"b": np.array([1.0, 2.0])}))
    assert lc.log_likelihood(two, {"b": xr.DataArray(np.ones((3, 2)), dims=("draw", "i"))})["y"].shape == (3,)
