"""The way out: groups, names, dimensions and labels for ArviZ, files, the summary table and the diagnosis."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import arviz as az
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import luciole as lc
from luciole.inference import MCMC, NUTS, Diagnosis
from luciole.inference.results.diagnosis import diagnose
from luciole.inference.results.export import Run, to_arviz
from luciole.inference.results.summary import summary_table
from luciole.ppl import deterministic, factor, plate, posterior_predictive, prior_predictive, sample, trace
from luciole.transforms import SamplerError

SCHOOLS = [
    "Choate",
    "Deerfield",
    "Phillips Andover",
    "Phillips Exeter",
    "Hotchkiss",
    "Lawrenceville",
    "St. Paul's",
    "Mt. Hermon",
]
EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def eight_schools(J, sigma, y=None):
    mu = sample("mu", dist.Normal(0, 5))
    tau = sample("tau", dist.HalfCauchy(5))
    with plate("school", J, coords=SCHOOLS):
        z = sample("z", dist.Normal(0, 1))
        theta = deterministic("theta", mu + tau * z)
        sample("y", dist.Normal(theta, sigma), obs=y)


def run(model, *args, num_warmup=100, num_samples=50, num_chains=2, **kwargs):
    mcmc = MCMC(
        NUTS(model),
        num_warmup=num_warmup,
        num_samples=num_samples,
        num_chains=num_chains,
        progress_bar=False,
        **{k: kwargs.pop(k) for k in ("thinning", "keep_warmup") if k in kwargs},
    )
    return mcmc.run(jax.random.key(0), *args, **kwargs)


def exported_prior(model, *args, **kwargs):
    """The export of a run that has draws from the prior for draws: quick, and the names do not know."""
    program = trace(model, *args, **kwargs)
    drawn = prior_predictive(model, jax.random.key(0), 100, *args, **kwargs)
    samples = {n: v.reshape(2, 50, *v.shape[1:]) for n, v in drawn.items() if not program.sites[n].observed}
    stats = {"diverging": np.zeros((2, 50), bool)}
    return to_arviz(Run(samples, stats, None, None, program, None, {}))


def group_names(data):
    """The groups of an InferenceData (a method) or of a DataTree (an attribute)."""
    return {n.strip("/") for n in (data.groups() if callable(data.groups) else data.groups)} - {""}


@pytest.fixture(scope="module")
def schools():
    return run(eight_schools, 8, ERRORS, y=EFFECTS, num_warmup=300, num_samples=250, num_chains=4)


@pytest.fixture(scope="module")
def exported(schools):
    return schools.to_arviz()


def test_result_is_of_the_installed_generation(exported):
    expected = "InferenceData" if az.__version__.startswith("0.") else "DataTree"
    assert type(exported).__name__ == expected


def test_groups(exported):
    assert group_names(exported) == {"posterior", "sample_stats", "log_likelihood", "observed_data", "constant_data"}
    assert set(exported["posterior"].data_vars) == {"mu", "tau", "z", "theta"}
    assert set(exported["log_likelihood"].data_vars) == {"y"} == set(exported["observed_data"].data_vars)
    stats = {
        "diverging",
        "tree_depth",
        "n_steps",
        "acceptance_rate",
        "energy",
        "lp",
        "step_size",
        "reached_max_treedepth",
        "reached_max_tree_depth",
    }
    assert set(exported["sample_stats"].data_vars) == stats
    assert all(exported["sample_stats"][name].dims == ("chain", "draw") for name in stats)


def test_reached_max_treedepth(schools, exported):
    assert not exported["sample_stats"]["reached_max_treedepth"].values.any()
    run = dataclasses.replace(schools._run, max_tree_depth=2)
    full = to_arviz(run, log_likelihood=False)["sample_stats"]
    np.testing.assert_array_equal(full["reached_max_treedepth"], full["n_steps"] >= 3)
    np.testing.assert_array_equal(full["reached_max_tree_depth"], full["n_steps"] >= 3)
    assert full.attrs["sample_dims"] == ["chain", "draw"]


def test_dims_and_coords_come_from_the_plates(schools, exported):
    posterior = exported["posterior"]
    assert posterior["mu"].dims == ("chain", "draw")
    assert posterior["theta"].dims == ("chain", "draw", "school") == exported["log_likelihood"]["y"].dims
    assert exported["observed_data"]["y"].dims == ("school",)
    assert posterior["school"].values.tolist() == SCHOOLS == exported["observed_data"]["school"].values.tolist()
    np.testing.assert_array_equal(posterior["theta"].sel(school="Hotchkiss"), schools.get_samples(group_by_chain=True)["theta"][:, :, 4])
    np.testing.assert_array_equal(posterior["draw"], np.arange(250))


def test_data_groups(exported):
    np.testing.assert_array_equal(exported["observed_data"]["y"], EFFECTS.astype(np.float32))
    assert set(exported["constant_data"].data_vars) == {"sigma"}  # y is observed, and J is no array
    np.testing.assert_array_equal(exported["constant_data"]["sigma"], ERRORS)
    assert exported["constant_data"]["sigma"].dims == ("school",)
    assert exported["constant_data"]["school"].values.tolist() == SCHOOLS


def test_attributes_tell_where_it_comes_from(schools, exported):
    for attributes in (exported["posterior"].attrs, exported["sample_stats"].attrs, exported.attrs):
        assert attributes["inference_library"] == attributes["creation_library"] == "luciole"
        assert attributes["kernel"] == "NUTS"
        assert attributes["target_accept_prob"] == 0.8
        assert (attributes["num_warmup"], attributes["num_samples"], attributes["num_chains"]) == (300, 250, 4)
        assert attributes["sampling_time"] == schools.cost["sampling_seconds"] > 0
        assert {"inference_library_version", "created_at"} <= set(attributes)


def test_log_likelihood_is_numpyros(schools, exported):
    samples = schools.get_samples(group_by_chain=True)
    expected = numpyro.infer.log_likelihood(eight_schools, {n: samples[n] for n in ("mu", "tau", "z")}, 8, ERRORS, y=EFFECTS, batch_ndims=2)
    np.testing.assert_allclose(exported["log_likelihood"]["y"], expected["y"], rtol=1e-5)


def test_log_likelihood_can_be_left_out(schools):
    assert "log_likelihood" not in group_names(schools.to_arviz(log_likelihood=False))


@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto:UserWarning")
def test_arviz_runs_on_the_result(exported):
    assert az.summary(exported).loc["theta[Choate]"].notna().all()
    loo = az.loo(exported)
    elpd = loo.elpd if hasattr(loo, "elpd") else loo.elpd_loo
    assert elpd == pytest.approx(-30.7, abs=0.5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")
def test_trace_plot(exported):
    plot = getattr(az, "plot_trace_dist", az.plot_trace)
    assert plot(exported, var_names=["mu", "tau"]) is not None
    plt.close("all")


def assert_equal_trees(found, expected):
    assert group_names(found) == group_names(expected)
    for name in group_names(expected):
        left, right = found[name], expected[name]
        left, right = getattr(left, "dataset", left), getattr(right, "dataset", right)
        assert left.identical(right), name
    assert found.attrs == expected.attrs


@pytest.mark.slow
def test_file_round_trip(tmp_path):
    def model(x, y=None):
        b = sample("b", dist.Normal(0, 1).expand([2]).to_event(1))
        with numpyro.handlers.scope(prefix="team"):
            skill = sample("skill", dist.HalfNormal(1.0))
        with plate("row", x.shape[0]):
            sample("y", dist.Bernoulli(logits=x @ b * skill), obs=y)

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 2)), rng.integers(0, 2, 30)
    data = run(model, x, y=y, keep_warmup=True).to_arviz(prior=prior_predictive(model, jax.random.key(1), 20, x))
    path = str(tmp_path / "run.nc")
    data.to_netcdf(path, engine="h5netcdf")
    found = az.from_netcdf(path)
    assert_equal_trees(found, data)
    assert "team.skill" in found["posterior"].data_vars
    found.close()


def test_slashes_become_dots_and_the_name_is_kept():
    def model():
        with numpyro.handlers.scope(prefix="a"):
            with plate("p", 3):
                sample("x", dist.Normal(0, 1))
        sample("a.x", dist.Normal(0, 1))

    posterior = exported_prior(model)["posterior"]
    assert set(posterior.data_vars) == {"a.x", "a.x_"}
    assert posterior["a.x"].attrs["site"] == "a/x"
    assert posterior["a.x"].shape == (2, 50, 3)
    assert posterior["a.x_"].attrs["site"] == "a.x"
    assert posterior["a.x_"].shape == (2, 50)
    assert not any("/" in d for d in posterior.dims)


def test_names_that_arviz_uses_itself():
    def model():
        with plate("x", 3):
            sample("x", dist.Normal(0, 1))  # a site called like its plate
        with plate("chain", 2, dim=-1):
            sample("draw", dist.Normal(0, 1))

    posterior = exported_prior(model)["posterior"]
    assert posterior["x"].dims == ("chain", "draw", "x_")
    assert posterior["draw_"].dims == ("chain", "draw", "chain_")


@pytest.mark.slow
def test_dims_of_every_kind():
    def model(y):
        with plate("outer", 2, dim=-2, coords=["o1", "o2"]), plate("inner", 3, dim=-1):
            sample("nested", dist.Normal(0, 1))
            sample("simplex", dist.Dirichlet(jnp.ones(4)))
        with plate("inner", 3):
            deterministic("total", jnp.ones(5))  # no axis of the plate's size
        sample("vector", dist.Normal(0, 1).expand([2]).to_event(1))

        def step(x, y_t):
            x = sample("x", dist.Normal(x, 1))
            sample("y", dist.MultivariateNormal(jnp.full(2, x), jnp.eye(2)), obs=y_t)
            return x, None

        jax.lax.scan(step, 0.0, y)
        factor("nothing", jnp.zeros(3))

    y = np.zeros((6, 2), np.float32)
    data = exported_prior(model, y)
    dims = {name: value.dims[2:] for name, value in data["posterior"].data_vars.items()}
    assert dims == {
        "nested": ("outer", "inner"),
        "simplex": ("outer", "inner", "simplex_dim_2"),
        "total": ("total_dim_0",),
        "vector": ("vector_dim_0",),
        "x": ("x_time",),
    }
    assert data["posterior"]["outer"].values.tolist() == ["o1", "o2"]
    assert data["posterior"]["inner"].values.tolist() == [0, 1, 2]
    assert data["observed_data"]["y"].dims == ("y_time", "y_dim_0")
    assert data["log_likelihood"]["y"].dims == ("chain", "draw", "y_time")  # one number for one event
    assert "nothing" not in data["log_likelihood"].data_vars


@pytest.mark.slow
def test_constant_data_of_nested_and_scoped_arguments():
    def model(rows, *more, scale, **options):
        b = sample("b", dist.Normal(0, 1))
        with plate("row", 4):
            sample("obs", dist.Normal(b * rows["x"] + more[0] + options["shift"], scale), obs=rows["y"])

    rows = {"x": np.arange(4.0), "y": np.ones(4), "label": "not an array"}
    data = exported_prior(numpyro.handlers.condition(model, data={}), rows, np.zeros(4), scale=2.0, shift=jnp.array(1.0))
    assert set(data["constant_data"].data_vars) == {"rows.x", "more.0", "shift"}
    assert data["constant_data"]["rows.x"].dims == ("row",)


@pytest.mark.slow
def test_constant_data_may_be_called_like_a_plate():
    def model(group, y):
        with plate("group", 3):
            a = sample("a", dist.Normal(0, 1))
        with plate("row", 6):
            sample("y", dist.Normal(a[group], 1), obs=y)

    data = exported_prior(model, np.array([0, 0, 1, 1, 2, 2]), np.ones(6))
    assert data["constant_data"]["group"].dims == ("row",)
    assert data["posterior"]["a"].dims == ("chain", "draw", "group")


@pytest.mark.filterwarnings("ignore::luciole.inference.DivergenceWarning")  # the warm-up is short
@pytest.mark.slow
def test_warmup_groups_and_thinning():
    mcmc = run(eight_schools, 8, ERRORS, y=EFFECTS, num_warmup=40, num_samples=60, thinning=3, keep_warmup=True)
    data = mcmc.to_arviz()
    assert group_names(data) >= {"warmup_posterior", "warmup_sample_stats"}
    assert data["posterior"].sizes["draw"] == 20 == data["sample_stats"].sizes["draw"]
    assert data["warmup_posterior"].sizes["draw"] == 13 == data["warmup_sample_stats"].sizes["draw"]
    assert data["warmup_posterior"]["theta"].dims == ("chain", "draw", "school")
    assert data["posterior"].attrs["thinning"] == 3


def test_predictive_groups(schools):
    prior = prior_predictive(eight_schools, jax.random.key(1), 30, 8, ERRORS)
    flat = posterior_predictive(eight_schools, jax.random.key(2), schools.get_samples(), 8, ERRORS)
    by_chain = posterior_predictive(eight_schools, jax.random.key(2), schools.get_samples(group_by_chain=True), 8, ERRORS)
    data = schools.to_arviz(prior=prior, posterior_predictive=flat)
    assert set(data["prior"].data_vars) == {"mu", "tau", "z", "theta"}
    assert data["prior"]["theta"].sizes == {"chain": 1, "draw": 30, "school": 8}
    assert set(data["prior_predictive"].data_vars) == {"y"}
    assert set(data["posterior_predictive"].data_vars) == {"y"}  # and no theta, which is in the posterior
    assert data["posterior_predictive"]["y"].sizes == {"chain": 4, "draw": 250, "school": 8}
    with pytest.raises(SamplerError, match=r"posterior_predictive has \['theta'\] and none of the observed sites \['y'\]"):
        schools.to_arviz(posterior_predictive={"theta": flat["theta"]})
    np.testing.assert_array_equal(data["posterior_predictive"]["y"], by_chain["y"])
    again = schools.to_arviz(posterior_predictive=by_chain)
    np.testing.assert_array_equal(again["posterior_predictive"]["y"], by_chain["y"])


@pytest.mark.slow
def test_predictions_of_another_size_get_dimensions_of_their_own():
    def model(x, y=None):
        b = sample("b", dist.Normal(0, 1))
        with plate("row", x.shape[0], coords=[f"r{i}" for i in range(x.shape[0])]):
            sample("y", dist.Normal(b * x, 1), obs=y)

    mcmc = run(model, np.ones(4), y=np.ones(4))
    drawn = posterior_predictive(model, jax.random.key(0), mcmc.get_samples(), np.ones(7))
    data = mcmc.to_arviz(posterior_predictive=drawn)
    assert data["posterior_predictive"]["y"].shape == (2, 50, 7)


@pytest.mark.parametrize("group", ["prior", "posterior_predictive"])
def test_predictive_draws_of_another_model_are_refused(schools, group):
    with pytest.raises(SamplerError, match=f"{group} has 'weight', which is no site"):
        schools.to_arviz(**{group: {"weight": np.zeros(3)}})
    with pytest.raises(SamplerError, match=rf"{group} has shape \(8,\) for the site 'y'"):
        schools.to_arviz(**{group: {"y": np.zeros(8)}})


@pytest.mark.slow
def test_a_density_that_is_no_model_has_posterior_and_statistics(targets):
    mcmc = run(targets.gaussian([0.0, 1.0], np.eye(2)))
    data = mcmc.to_arviz()
    assert group_names(data) == {"posterior", "sample_stats"}
    assert data["posterior"]["x"].dims == ("chain", "draw", "x_dim_0")
    assert set(mcmc.diagnose().rhat) == {"x"}


def test_before_a_run():
    for ask in ("to_arviz", "diagnose", "print_summary"):
        with pytest.raises(SamplerError, match="no draws yet"):
            getattr(MCMC(NUTS(eight_schools)), ask)()


@pytest.mark.slow
def test_arviz_is_imported_by_who_asks_for_it():
    code = "import sys, luciole.inference; sys.exit('arviz' in sys.modules or 'xarray' in sys.modules)"
    source = str(Path(lc.__file__).parents[1])
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": source}).returncode == 0


@pytest.mark.slow
def test_new_data_replace_the_old():
    mcmc = run(eight_schools, 8, ERRORS, y=EFFECTS)
    mcmc.run(jax.random.key(1), 8, 2 * ERRORS, y=-EFFECTS)
    data = mcmc.to_arviz()
    np.testing.assert_array_equal(data["observed_data"]["y"], -EFFECTS)
    np.testing.assert_array_equal(data["constant_data"]["sigma"], 2 * ERRORS)


def planted(**samples):
    """A run with these draws by site, of latent sites unless the name starts with "det"."""

    def model():
        for name, value in samples.items():
            if name.startswith("det"):
                deterministic(name, np.zeros(value.shape[2:]))
            else:
                sample(name, dist.Normal(0, 1).expand(value.shape[2:]))

    num_chains, num_draws = next(iter(samples.values())).shape[:2]
    rng = np.random.default_rng(1)
    stats = {
        "diverging": np.zeros((num_chains, num_draws), bool),
        "tree_depth": np.full((num_chains, num_draws), 3),
        "n_steps": np.full((num_chains, num_draws), 7),
        "energy": rng.normal(size=(num_chains, num_draws)).astype(np.float32),
    }
    return Run(samples, stats, None, None, trace(model), 10, {})


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


class TestDiagnosis:
    def test_good_draws_pass(self):
        factor = noise(4, 500, 2, 2)
        factor[..., 0, 0], factor[..., 0, 1] = 1, 0  # a Cholesky factor has constant elements
        found = diagnose(planted(x=noise(4, 500, 3), factor=factor, det_two=np.full((4, 500), 2.0)))
        assert isinstance(found, Diagnosis)
        assert found.ok
        assert "No problem found" in str(found)
        assert found.rhat["x"] < 1.01
        assert found.ess["x"] > 400
        assert np.isnan(found.rhat["det_two"])
        assert np.isnan(found.ess["det_two"])
        assert found.divergences == found.saturated == (0, 0, 0, 0)
        assert all(1 < v < 3 for v in found.bfmi)

    @pytest.mark.filterwarnings("ignore::luciole.inference.DivergenceWarning")
    @pytest.mark.slow
    def test_centred_eight_schools_does_not(self):
        def centred(sigma, y):
            mu = sample("mu", dist.Normal(0, 5))
            tau = sample("tau", dist.HalfCauchy(5))
            with plate("school", 8):
                theta = sample("theta", dist.Normal(mu, tau))
                sample("y", dist.Normal(theta, sigma), obs=y)

        found = run(centred, ERRORS, EFFECTS, num_warmup=300, num_samples=300, num_chains=4).diagnose()
        assert not found.ok
        assert sum(found.divergences) > 0
        assert f"{sum(found.divergences)} of 1200 transitions diverged" in str(found)
        assert found.rhat["tau"] > 1.01
        assert "R-hat above 1.01: " in str(found)
        assert found.ess["tau"] < 400
        assert "Effective sample size below 400" in str(found)

    def test_values_agree_with_arviz(self, schools, exported):
        found = schools.diagnose()
        posterior = getattr(exported["posterior"], "dataset", exported["posterior"]).astype(np.float64)
        rhat = az.rhat(posterior)
        bulk, tail = (az.ess(posterior, method=m) for m in ("bulk", "tail"))
        for name in ("mu", "tau", "theta"):
            assert found.rhat[name] == float(rhat[name].max())
            assert found.ess[name] == min(float(bulk[name].min()), float(tail[name].min()))

    def test_a_chain_that_does_not_move(self):
        x = noise(4, 500, 3)
        x[2, :, 1] = x[2, 0, 1]
        found = diagnose(planted(x=x, y=noise(4, 500)))
        assert found.stuck == {"x": (2,)}
        assert not found.ok
        assert "Elements that never moved: x chain 2." in str(found)
        assert found.rhat["x"] > 1.01 > found.rhat["y"]

    def test_one_chain_that_does_not_move(self):
        found = diagnose(planted(x=np.full((1, 20, 2), 0.3), det_y=np.full((1, 20), 0.3)))
        assert found.stuck == {"x": (0,)}
        assert "no R-hat" in str(found)

    def test_chains_that_disagree(self):
        x = noise(4, 500, seed=2)
        x[0] += 3
        found = diagnose(planted(x=x, y=noise(4, 500)))
        assert found.problems[0].startswith("R-hat above 1.01: x ")
        assert "y" not in found.problems[0]

    def test_values_that_are_not_finite(self):
        x = noise(4, 500, 2)
        x[0, 3, 1] = np.nan
        found = diagnose(planted(x=noise(4, 500), det_log_x=x))
        assert found.non_finite == {"det_log_x": 1}
        assert "NaN or infinite: det_log_x 1." in str(found)

    def test_saturated_trees_and_low_bfmi(self):
        good = planted(x=noise(4, 500))
        steps = good.sample_stats["n_steps"].copy()
        steps[1, :5] = 2**10 - 1
        stats = {**good.sample_stats, "n_steps": steps, "energy": np.cumsum(noise(4, 500, seed=3), axis=1)}
        found = diagnose(dataclasses.replace(good, sample_stats=stats))
        assert found.saturated == (0, 5, 0, 0)
        assert "5 of 2000 trajectories took all the steps that max_tree_depth allows (by chain: 0, 5, 0, 0)." in str(found)
        assert max(found.bfmi) < 0.3
        assert "BFMI below 0.3 (by chain: " in str(found)

    def test_draws_too_few_to_judge(self):
        found = diagnose(planted(x=noise(2, 3)))
        assert np.isnan(found.rhat["x"])
        assert found.bfmi is None
        assert found.ok

    def test_kernels_without_trees(self):
        good = planted(x=noise(2, 100))
        assert diagnose(dataclasses.replace(good, max_tree_depth=None)).saturated is None

    def test_many_sites_are_cut_short(self):
        found = diagnose(planted(**{f"x{i}": np.sort(noise(2, 10, seed=i)) for i in range(15)}))
        assert str(found).count(" and 5 more") == 2


class TestSummary:
    def test_table(self, schools, capsys):
        capsys.readouterr()
        schools.print_summary()
        printed = capsys.readouterr().out
        lines = printed.splitlines()
        assert lines[0].split() == ["mean", "sd", "hdi_90%_low", "hdi_90%_high", "ess_bulk", "ess_tail", "r_hat"]
        mu = schools.get_samples()["mu"].astype(np.float64)
        row = next(line.split() for line in lines if line.startswith("mu "))
        assert float(row[1]) == pytest.approx(mu.mean(), abs=0.006)
        assert float(row[2]) == pytest.approx(mu.std(ddof=1), abs=0.01)
        assert "theta[St. Paul's]" in printed
        assert lines[-1].startswith("Divergences: ")

    def test_digits_follow_the_spread(self):
        draws = noise(2, 100)
        table = summary_table(planted(x=1e6 + 500 * draws, y=1e-5 * draws, det_z=np.full((2, 100), 2.0))).splitlines()
        rows = {line.split()[0]: line.split()[1:] for line in table[1:]}
        assert len(rows["x"][1].replace(".", "")) == 3
        assert "." not in rows["x"][1]
        assert float(rows["y"][1]) == pytest.approx(1e-5 * draws.std(), rel=0.01)
        assert rows["det_z"][:2] == ["2.000", "0.000"]

    def test_choices(self, schools, capsys):
        schools.print_summary(prob=0.5, exclude_deterministic=True)
        printed = capsys.readouterr().out
        assert "hdi_50%_low" in printed
        assert "theta" not in printed
        assert "z[Choate]" in printed

    @pytest.mark.parametrize("prob", [0, 1, 90, "x"])
    def test_prob(self, schools, prob):
        with pytest.raises(SamplerError, match="strictly between 0 and 1"):
            schools.print_summary(prob=prob)

    @pytest.mark.slow
    def test_sampling_prints_nothing(self, capsys):
        run(eight_schools, 8, ERRORS, y=EFFECTS)
        assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_arguments_that_clash_or_prove_nothing():
    def model(row, twin, same, unused, y):
        with plate("row", 4):
            a = sample("a", dist.Normal(0, 1))
            sample("y", dist.Normal(a * row + twin + jnp.asarray(same), 1), obs=y)

    data = exported_prior(model, np.arange(4.0), np.ones(4), jnp.ones(4), np.full(4, 7.0), np.zeros(4))["constant_data"]
    dims = {name: value.dims for name, value in data.data_vars.items()}
    assert dims == {"row": ("row_dim_0",), "twin": ("twin_dim_0",), "same": ("same_dim_0",), "unused": ("unused_dim_0",)}


@pytest.mark.slow
def test_dates_survive_a_file(tmp_path):
    def model(y=None):
        a = sample("a", dist.Normal(0, 1))
        with plate("day", 3, coords=np.array(["2024-01-01", "2024-01-02", "2024-03-01"], "M8[D]")):
            sample("y", dist.Normal(a, 1), obs=y)

    data = exported_prior(model, np.zeros(3))
    path = str(tmp_path / "run.nc")
    data.to_netcdf(path, engine="h5netcdf")
    found = az.from_netcdf(path)
    assert_equal_trees(found, data)
    assert found["log_likelihood"]["y"].sel(day="2024-03-01").shape == (2, 50)
    assert found["observed_data"]["day"].dtype.kind == "M"
    found.close()
