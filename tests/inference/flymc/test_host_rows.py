"""Rows in host memory or in a file: the same draws, and rows that never are on the device."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import luciole as lc
from luciole.inference import RowsOnDeviceWarning
from luciole.inference.run import compilation
from luciole.ppl.factors import find_factor
from luciole.transforms.affine import host_design as host

pytestmark = pytest.mark.filterwarnings("ignore::luciole.inference.BreakEvenWarning")
RNG = np.random.default_rng(5)
N, D = 3000, 4
X = RNG.standard_normal((N, D)).astype(np.float32)
Y = (RNG.uniform(size=N) < 1 / (1 + np.exp(-0.3 - X @ np.linspace(-1, 1, D)))).astype(np.float32)


def logistic(x, y):
    w = lc.sample("w", dist.Normal(0, 2).expand([x.shape[1]]).to_event(1))
    a = lc.sample("a", dist.Normal(0, 2))
    with lc.plate("row", len(x)):
        lc.sample("y", dist.Bernoulli(logits=a + x @ w), obs=y)


def standardised(x, y):
    logistic((jnp.asarray(x) - jnp.asarray(x).mean(0)) / jnp.asarray(x).std(0), y)


@pytest.fixture
def file(tmp_path):
    """The rows as a memory-mapped array."""
    np.save(tmp_path / "x.npy", X)
    return np.load(tmp_path / "x.npy", mmap_mode="r")


def run(model, x, y, draws=40, **options):
    mcmc = lc.MCMC(lc.FlyMC(model, **options), num_warmup=30, num_samples=draws, num_chains=2, progress_bar=False)
    return mcmc.run(jax.random.key(0), x, y)


@pytest.fixture(scope="module")
def on_device():
    return run(logistic, X, Y)


def same(one, other):
    for name, values in other.get_samples().items():
        np.testing.assert_array_equal(one.get_samples()[name], values)
    assert one.cost["likelihood_queries"] == other.cost["likelihood_queries"]


@pytest.mark.slow
def test_the_draws_are_those_of_rows_on_the_device(on_device, file):
    same(run(logistic, file, Y), on_device)
    same(run(logistic, X, Y, rows="host"), on_device)


@pytest.mark.exhaustive
def test_outside_the_ball_and_with_another_kernel(file):
    options = {"kernel": "nuts", "kernel_options": {"radius": 1.0}}
    mcmc = run(logistic, file, Y, **options)
    assert mcmc.sample_stats["n_queries"].max() > N
    same(mcmc, run(logistic, X, Y, **options))


def rows_on_device():
    """The arrays on the device that have a row of numbers for each row of X."""
    return [a for a in jax.live_arrays() if a.ndim == 2 and len(a) == N and a.shape[1] >= D]


@pytest.mark.slow
def test_rows_are_never_on_the_device(monkeypatch):
    before, seen = rows_on_device(), []  # of other runs

    def fetch(self, index, dtype, plain=host._Source.rows):
        seen.append(len(rows_on_device()))
        return plain(self, index, dtype)

    monkeypatch.setattr(host._Source, "rows", fetch)
    mcmc = run(logistic, X + 1, Y, rows="host")
    assert len(seen) > 100 and max(seen) <= len(before) >= len(rows_on_device())
    assert mcmc.get_samples()["w"].shape == (80, D)


def test_rows_on_the_device_would_be_seen():
    before = rows_on_device()
    kept = find_factor(lc.log_density(logistic, X, Y)).rows.design
    assert kept.shape == (N, D + 1) and len(rows_on_device()) > len(before)


def test_masked_rows(file):
    keep = RNG.uniform(size=N) < 0.9

    def masked(x, y):
        w = lc.sample("w", dist.Normal(0, 2).expand([D]).to_event(1))
        a = lc.sample("a", dist.Normal(0, 2))
        with lc.plate("row", N), numpyro.handlers.mask(mask=jnp.asarray(keep)):
            lc.sample("y", dist.Bernoulli(logits=a + x @ w), obs=y)

    design = find_factor(lc.log_density(masked, file, Y), rows="auto").rows.design
    index = np.array([[0, 5], [7, keep.sum() - 1]])
    assert isinstance(design, host.HostDesign) and design.shape == (keep.sum(), D + 1)
    np.testing.assert_array_equal(design[index], find_factor(lc.log_density(masked, X, Y)).rows.design[index])


def test_rows_that_are_not_finite_are_named():
    bad = X.copy()
    bad[7, 1] = np.nan
    with pytest.raises(lc.ModelError, match="the design matrix is NaN or infinite in row 7"):
        run(logistic, bad, Y, rows="host")


def with_deterministic(x, y):
    logistic(x, y)
    lc.deterministic("mean", jnp.asarray(x).mean())


def classes(x, y):
    w = lc.sample("w", dist.Normal(0, 2).expand([D, 2]).to_event(2))
    with lc.plate("row", len(x)):
        lc.sample("y", dist.Categorical(logits=x @ w), obs=y.astype(int))


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (standardised, X, r"site 'y' .*cannot stay in host memory, because `\w+` .* computes something from them.*change the array before"),
        (with_deterministic, X, "another site of the model is computed from them"),
        (classes, X, "several logits cannot stay in host memory"),
        (logistic, jnp.asarray(X), "no array is them. Expected a NumPy array"),
    ],
    ids=["standardised", "deterministic", "classes", "jax array"],
)
def test_rows_that_cannot_stay_are_refused(model, x, message):
    with pytest.raises(lc.ModelError, match=message):
        run(model, x, Y, rows="host")


@pytest.mark.slow
def test_a_file_that_cannot_stay_is_copied_with_a_warning(file):
    with pytest.warns(RowsOnDeviceWarning, match="cannot stay in host memory.*It is copied to the device now"):
        copied = run(standardised, file, Y)
    same(copied, run(standardised, X, Y))


@pytest.mark.slow
def test_new_rows_find_the_compiled_program(monkeypatch):
    one = run(logistic, X, Y, rows="host")
    monkeypatch.setattr(compilation, "_compile", None)
    other = run(logistic, -X, Y, rows="host")
    assert np.abs(one.get_samples()["w"].mean(0) + other.get_samples()["w"].mean(0)).max() < 0.1


def test_the_option_is_checked():
    with pytest.raises(lc.SamplerError, match="rows is 'disk', 'auto', 'host' or 'device' expected"):
        lc.FlyMC(logistic, rows="disk")


def test_other_arrays_of_as_many_rows_may_be_used_otherwise(file):
    z = RNG.standard_normal((N, 2)).astype(np.float32)

    def with_offset(x, y):
        w = lc.sample("w", dist.Normal(0, 2).expand([D]).to_event(1))
        with lc.plate("row", N):
            lc.sample("y", dist.Bernoulli(logits=x @ w + jnp.asarray(z).sum(1)), obs=y)

    rows = find_factor(lc.log_density(with_offset, X, Y), rows="host").rows
    assert isinstance(rows.design, host.HostDesign) and rows.design.shape == (N, D)
    np.testing.assert_allclose(rows.offset, z.sum(1), rtol=1e-6)
