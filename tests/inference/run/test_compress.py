"""Chains on less of the data: the same posterior, and all that is read of a run is of all the data."""

import jax
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.diagnostics import effective_sample_size

import luciole as lc
from luciole.transforms import SamplerError

RNG = np.random.default_rng(0)


def regression(x, y):
    b, s = lc.sample("b", dist.Normal(0, 2).expand([x.shape[1]]).to_event(1)), lc.sample("s", dist.HalfNormal(2))
    with lc.plate("rows", len(y)):
        lc.sample("y", dist.Normal(x @ b, s), obs=y)


def data(n=300, number=2):
    x = np.random.default_rng(n).normal(size=(n, number))
    return x, x.sum(1) + np.random.default_rng(n + 1).normal(size=n)


def run(kernel, *args, seed=0, draws=300, **options):
    mcmc = lc.MCMC(kernel, num_warmup=draws, num_samples=draws, num_chains=4, progress_bar=False, **options)
    mcmc.run(jax.random.key(seed), *args)
    return mcmc


@pytest.mark.parametrize("kernel", [lc.NUTS, lc.Slice])
def test_chains_have_the_same_posterior(kernel):
    """Means within five standard errors of the difference; kernels take it unless they are told not to."""
    x, y = data()
    found = [run(kernel(regression, compress=compress), x, y) for compress in ("auto", False)]
    assert [m.cost["rows_compressed"] for m in found] == [298, 0]
    ours, theirs = (np.concatenate([m.get_samples(True)["b"], m.get_samples(True)["s"][..., None]], -1) for m in found)
    error = sum(v.var((0, 1)) / effective_sample_size(v) for v in (ours, theirs)) ** 0.5
    assert (np.abs(ours.mean((0, 1)) - theirs.mean((0, 1))) < 5 * error).all()


def test_what_is_read_of_a_run_is_of_all_the_data():
    x, y = data()
    mcmc = run(lc.NUTS(regression), x, y, draws=50)
    draws = mcmc.get_samples(group_by_chain=True)
    density = lc.log_density(regression, x, y)
    scores = lc.log_likelihood(regression, mcmc.get_samples(), x, y)["y"]
    assert scores.shape == (200, 300)
    one = {n: v[0, 7] for n, v in draws.items()}
    expected = -0.5 * ((y - x @ one["b"]) / one["s"]) ** 2 - np.log(one["s"]) - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(scores[7], expected, rtol=1e-4)
    lp = mcmc.sample_stats["lp"][0, 7]
    assert abs(float(density(density.unconstrain(one))) - lp) < 1e-2


def test_other_data_find_the_compiled_program(backend_compiles):
    kernel = lc.NUTS(regression)
    run(kernel, *data(300), draws=100)
    before = len(backend_compiles)
    run(kernel, *data(412), draws=100)
    assert len(backend_compiles) == before


@pytest.mark.parametrize("value", [True, None, "yes", 1])
def test_another_setting_is_refused(value):
    with pytest.raises(SamplerError, match=r'compress is .*, .auto. or False expected; write compress="auto"'):
        lc.NUTS(regression, compress=value)


def test_a_run_goes_on_as_it_began(tmp_path):
    """The store holds the choice: the second half is that of a run in one piece, bit by bit."""
    x, y = data()
    for compress in ("auto", False):
        whole = run(lc.NUTS(regression, compress=compress), x, y, draws=100)
        path = tmp_path / str(compress)
        mcmc = lc.MCMC(lc.NUTS(regression, compress=compress), num_warmup=100, num_samples=50, num_chains=4, progress_bar=False, store=path)
        mcmc.run(jax.random.key(0), x, y)
        gone_on = lc.MCMC.resume(path, regression, (x, y), num_samples=100, progress_bar=False)
        np.testing.assert_array_equal(gone_on.get_samples()["b"], whole.get_samples()["b"])
