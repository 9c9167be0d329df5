"""Masked elements are no observations: NaN among the pointwise log likelihoods, and absent where ArviZ counts."""

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import luciole as lc
from luciole.inference.results.export import Run, to_arviz
from luciole.inference.results.scores import scores_by_variable
from luciole.ppl import interpreters

KEEP = np.array([True, False, True, True, False, True])
Y = np.where(KEEP, np.linspace(-1, 1, 6), 99).astype(np.float32)
NAN = np.nan


def normal(y, loc=0.0):
    return -0.5 * (np.asarray(y) - loc) ** 2 - 0.5 * np.log(2 * np.pi)


def by_handler():
    with lc.plate("row", 6), numpyro.handlers.mask(mask=KEEP):
        lc.sample("y", dist.Normal(0, 1), obs=Y)


def by_distribution():
    lc.sample("y", dist.Normal(jnp.zeros(6), 1).mask(KEEP), obs=Y)


def in_a_scan():
    def step(carry, row):
        with numpyro.handlers.mask(mask=row[1]):
            lc.sample("y", dist.Normal(carry, 1), obs=row[0])
        return carry, None

    jax.lax.scan(step, 0.0, (Y, KEEP))


def under_vmap():
    jax.vmap(lambda y, keep: lc.sample("y", dist.Normal(0, 1).mask(keep), obs=y))(Y, KEEP)


MODELS = {f.__name__: f for f in (by_handler, by_distribution, in_a_scan, under_vmap)}


def pointwise(model, **values):
    program = lc.trace(model)
    return interpreters.pointwise(program, program.data, values)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n if n == "by_distribution" else pytest.param(n, marks=pytest.mark.slow) for n in MODELS])
def test_masked_rows_are_not_a_number(name):
    np.testing.assert_allclose(pointwise(MODELS[name])["y"], np.where(KEEP, normal(Y), NAN), rtol=1e-6)


@pytest.mark.slow
def test_masks_that_hide_nothing_or_everything():
    def model():
        lc.sample("all", dist.Normal(jnp.zeros(2), 1).mask(True), obs=np.zeros(2))
        lc.sample("none", dist.Normal(jnp.zeros(2), 1).mask(False), obs=np.zeros(2))

    found = pointwise(model)
    np.testing.assert_allclose(found["all"], normal([0, 0]), rtol=1e-6)
    assert np.isnan(found["none"]).all()


@pytest.mark.slow
def test_an_event_counts_if_a_part_of_it_does():
    keep = np.array([[True, False], [False, False], [True, True]])

    def model():
        lc.sample("y", dist.Normal(jnp.zeros((3, 2)), 1).mask(keep).to_event(1).mask(np.array([True, True, False])), obs=np.ones((3, 2)))

    np.testing.assert_allclose(pointwise(model)["y"], [normal(1.0), NAN, NAN], rtol=1e-6)


@pytest.mark.slow
def test_an_observation_broader_than_its_masked_distribution():
    def model():
        lc.sample("y", dist.Normal(jnp.zeros(3), 1).mask(np.array([True, True, False])), obs=np.zeros((2, 3)))

    assert np.isnan(pointwise(model)["y"]).tolist() == [[False, False, True]] * 2


@pytest.mark.slow
def test_a_branch_that_is_not_taken_has_no_observations():
    def model(taken):
        def observe():
            return lc.sample("y", dist.Normal(0, 1), obs=np.float32(1.0))

        jax.lax.cond(taken, observe, lambda: jnp.float32(0.0))

    for taken, expected in ((True, normal(1.0)), (False, NAN)):
        program = lc.trace(model, jnp.asarray(taken))
        np.testing.assert_allclose(interpreters.pointwise(program, program.data, {})["y"], expected, rtol=1e-6)


def scores(absent, labels=None, name="y", dims=("row", "column")):
    values = np.where(absent, NAN, np.arange(24.0).reshape(1, 2, 3, 4))
    return scores_by_variable({name: values}, {name: dims}, labels or {}).get(name)


def test_whole_rows_are_left_out_with_their_labels():
    absent = np.array([False, True, False])[:, None]
    found = scores(absent, {"row": ["a", "b", "c"]})
    assert (found.values.shape, found.dims, found.left_out) == ((1, 2, 2, 4), ("row", "column"), 4)
    assert found.labels["row"].tolist() == ["a", "c"]
    columns = scores(np.array([True, False, False, True]))
    assert columns.labels["column"].tolist() == [1, 2]
    np.testing.assert_array_equal(columns.values[0, 0, 0], [1, 2])


def test_scattered_elements_leave_one_axis():
    absent = np.zeros((3, 4), bool)
    absent[0, 1] = absent[2, 3] = True
    found = scores(absent, {"row": ["a", "b", "c"]})
    assert found.dims == ("y_counted",)
    np.testing.assert_array_equal(found.values[0, 0], np.arange(12.0)[~absent.ravel()])
    assert found.labels["y_counted"].tolist()[:4] == ["a, 0", "a, 2", "a, 3", "b, 0"]


def test_what_is_masked_in_some_draws_counts_as_the_density_has_it():
    absent = np.zeros((1, 2, 3, 4), bool)
    absent[0, 1] = True
    found = scores(absent)
    np.testing.assert_array_equal(found.values[0], np.where(absent, 0, np.arange(24.0).reshape(1, 2, 3, 4))[0])
    assert scores(np.ones(1, bool)) is None


def test_two_sites_of_one_plate_that_are_cut_differently():
    values = {"a": np.array([[[1.0, NAN, 3.0]]]), "b": np.array([[[1.0, 2.0, 3.0]]]), "c": np.array([[[NAN, NAN, 3.0]]])}
    found = scores_by_variable(values, dict.fromkeys(values, ("row",)), {})
    assert {n: s.dims for n, s in found.items()} == {"a": ("a_row",), "b": ("row",), "c": ("c_row",)}
    assert found["a"].labels["a_row"].tolist() == [0, 2]


@pytest.mark.slow
def test_loo_is_that_of_the_rows_that_count():
    def model(y, keep):
        a = lc.sample("a", dist.Normal(0, 1))
        with lc.plate("row", len(y)), numpyro.handlers.mask(mask=keep):
            lc.sample("y", dist.Normal(a, 1), obs=y)
        with lc.plate("hidden", 2):
            lc.sample("z", dist.Normal(a, 1).mask(False), obs=np.zeros(2))

    def exported(y, keep):
        samples = {"a": 0.4 * np.random.default_rng(0).normal(size=(2, 100)).astype(np.float32)}
        return to_arviz(Run(samples, {"diverging": np.zeros((2, 100), bool)}, None, None, lc.trace(model, y, keep), None, {}))

    masked, without = exported(Y, KEEP), exported(Y[KEEP], np.ones(4, bool))
    assert set(masked["log_likelihood"].data_vars) == {"y"}
    assert masked["log_likelihood"]["row"].values.tolist() == [0, 2, 3, 5]
    assert masked["log_likelihood"]["y"].attrs == {"masked": 2}
    for judge in (az.loo, *([az.waic] if hasattr(az, "waic") else [])):
        found, expected = judge(masked), judge(without)
        value = "elpd" if hasattr(found, "elpd") else f"elpd_{judge.__name__}"
        assert found[value] == pytest.approx(expected[value], rel=1e-6)
        assert found.n_data_points == expected.n_data_points == 4
