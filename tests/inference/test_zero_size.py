"""Sites without elements, such as the coefficients of a design that has no columns: everything that is done with a site works."""

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import luciole as lc
from luciole import transforms as lt
from luciole.inference.kernels.prior import colour, gaussian_prior, whiten

EMPTY = {
    "positive": lambda: dist.HalfNormal(1).expand([0]),
    "correlated": lambda: dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)).expand([0]),
    "interval": lambda: dist.Uniform(0, 1).expand([2, 0]).to_event(1),
    "simplex": lambda: dist.Dirichlet(jnp.ones(3)).expand([0]),
    "factor": lambda: dist.LKJCholesky(2).expand([0]),
}


def regression(x, y=None):
    a = lc.sample("a", dist.Normal(0, 1))
    b = lc.sample("b", dist.Normal(0, 1).expand([x.shape[1]]).to_event(1))
    lc.deterministic("twice", 2 * b)
    with lc.plate("row", x.shape[0]):
        lc.sample("y", dist.Normal(a + x @ b, 1), obs=y)


X, Y = np.zeros((5, 0), np.float32), np.arange(5.0, dtype=np.float32)


@pytest.mark.parametrize("name", ["correlated", *(pytest.param(n, marks=pytest.mark.slow) for n in EMPTY if n != "correlated")])
def test_the_density_is_that_of_the_other_sites(name):
    def model():
        lc.sample("a", dist.Normal(0, 1))
        lc.sample("empty", EMPTY[name]())
        lc.sample("seen", EMPTY[name](), obs=np.zeros(EMPTY[name]().shape()))

    density = lc.log_density(model)
    position = density.init(jax.random.key(0))
    assert density(position) == pytest.approx(-0.5 * float(position["a"]) ** 2 - 0.5 * np.log(2 * np.pi))
    again = density.unconstrain(density.constrain(position))
    assert jax.tree.map(jnp.shape, again) == jax.tree.map(jnp.shape, position)


@pytest.mark.parametrize("kept", [[], [2, 0]])
def test_an_affine_map_without_rows(kept):
    matrix = np.ones((0, len(kept)), np.float32)
    answer = lt.affine_in(lambda v: jnp.asarray(matrix) @ v[np.asarray(kept, int)], jnp.zeros(3))
    assert answer.offset.shape == (0,)


@pytest.mark.slow
def test_gaussian_priors_of_no_elements():
    def model():
        lc.sample("a", dist.Normal(0, 2))
        lc.sample("b", dist.MultivariateNormal(jnp.zeros(3), 2 * jnp.eye(3)).expand([0]))

    density = lc.log_density(model)
    prior = gaussian_prior(density, lc.inference.kernels.layout.Layout.of(density.positions))
    np.testing.assert_allclose(whiten(prior, colour(prior, jnp.ones(1))), [1.0])


@pytest.mark.slow
def test_a_run(tmp_path, capsys):
    mcmc = lc.MCMC(lc.NUTS(regression), num_warmup=20, num_samples=20, num_chains=2, progress_bar=False, keep_warmup=True)
    mcmc.run(jax.random.key(0), X, Y)
    flat, grouped = mcmc.get_samples(), mcmc.get_samples(group_by_chain=True)
    assert (flat["b"].shape, flat["twice"].shape, grouped["b"].shape) == ((40, 0), (40, 0), (2, 20, 0))
    drawn = lc.posterior_predictive(regression, jax.random.key(1), flat, X)
    assert (drawn["y"].shape, drawn["twice"].shape) == ((40, 5), (40, 0))
    assert lc.posterior_predictive(regression, jax.random.key(1), grouped, X)["y"].shape == (2, 20, 5)
    assert lc.log_likelihood(regression, flat, X, Y)["y"].shape == (40, 5)
    mcmc.print_summary()
    assert "b[" not in capsys.readouterr().out
    assert set(mcmc.diagnose().stuck) == set()
    data = mcmc.to_arviz(prior=lc.prior_predictive(regression, jax.random.key(2), 5, X), posterior_predictive=drawn)
    assert set(data["posterior"].data_vars) == {"a"}  # ArviZ's plots cannot take variables without elements
    assert az.extract(data).sizes["sample"] == 40
    data.to_netcdf(str(tmp_path / "run.nc"), engine="h5netcdf")
    found = az.from_netcdf(str(tmp_path / "run.nc"))
    assert found["posterior"]["a"].shape == (2, 20)
    found.close()


@pytest.mark.slow
def test_a_model_that_has_no_coordinates():
    def model(x, y):
        b = lc.sample("b", dist.Normal(0, 1).expand([x.shape[1]]).to_event(1))
        with lc.plate("row", x.shape[0]):
            lc.sample("y", dist.Normal(x @ b, 1), obs=y)

    mcmc = lc.MCMC(lc.NUTS(model, dense_mass=True), num_warmup=10, num_samples=10, num_chains=2, progress_bar=False)
    mcmc.run(jax.random.key(0), X, Y)
    assert mcmc.get_samples()["b"].shape == (20, 0)
    assert mcmc.diagnose().ok
