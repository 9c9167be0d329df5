"""Bridge sampling: exact draws from conjugate posteriors and exact evidence; chains of every kernel; what is refused and what is warned of.

The scores (estimate - exact) / standard error of repeated runs have mean 0 and sd 1 if both are right. Of 60 repeats the mean is known to
0.13 and the sd to 0.09; the limits are about four times as wide.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from scipy import special, stats

import luciole as lc
from luciole import dist
from luciole.inference.evidence import bridge, density, optimal_bridge

COUNTS = np.array([3, 0, 2, 4, 1, 2, 6, 3])
A, B = 2.0, 1.5
SHAPE, RATE = A + COUNTS.sum(), B + COUNTS.size
EXACT = A * np.log(B) - special.gammaln(A) + special.gammaln(SHAPE) - SHAPE * np.log(RATE) - special.gammaln(COUNTS + 1).sum()


def rates(counts):
    rate = lc.sample("rate", dist.Gamma(A, B))
    lc.deterministic("log_rate", jnp.log(rate))
    with lc.plate("rows", len(counts)):
        lc.sample("n", dist.Poisson(rate), obs=counts)


class Ready(lc.MCMC):
    """A run whose draws are given, (chain, draw, *site shape) by site."""

    def __init__(self, model, samples, *args, diverging=0):
        super().__init__(lc.NUTS(model))
        self.samples, self.traced = samples, lc.trace(model, *args)
        lead = next(iter(samples.values())).shape[:2]
        self.stats = {"diverging": np.arange(np.prod(lead)).reshape(lead) < diverging}

    def get_samples(self, group_by_chain=False):
        assert group_by_chain
        return self.samples

    program = property(lambda self: self.traced)
    sample_stats = property(lambda self: self.stats)


def correlated(rng, chains, draws, correlation):
    """Standard normal, (chain, draw), stationary, with an autocorrelation."""
    z = rng.normal(size=(chains, draws))
    for t in range(1, draws):
        z[:, t] = correlation * z[:, t - 1] + np.sqrt(1 - correlation**2) * z[:, t]
    return z


def gamma_run(rng, chains=4, draws=250, correlation=0.0, **options):
    uniform = stats.norm.cdf(correlated(rng, chains, draws, correlation))
    rate = stats.gamma.ppf(uniform, SHAPE, scale=1 / RATE).astype(np.float32)
    return Ready(rates, {"rate": rate, "log_rate": np.log(rate)}, COUNTS, **options)


def scores(correlation, repeats=60):
    found = [lc.bridge_evidence(gamma_run(np.random.default_rng(i), 4, 1000, correlation), jax.random.key(i)) for i in range(repeats)]
    return np.array([(f.log_evidence - EXACT) / f.stderr for f in found])


def right(found):
    return abs(found.mean()) < 0.5 and 0.65 < found.std() < 1.35


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_the_error_is_as_large_as_it_says(correlation):
    assert right(scores(correlation))


@pytest.mark.slow
def test_without_the_effective_sample_size_it_would_not_be(monkeypatch):
    monkeypatch.setattr(optimal_bridge, "_effective", lambda values: float(values.size))
    assert scores(0.9).std() > 1.6


def test_without_the_jacobian_the_evidence_would_be_wrong(monkeypatch):
    """One estimate is enough: its error is a hundredth of what the Jacobian is worth."""

    def score():
        found = lc.bridge_evidence(gamma_run(np.random.default_rng(0)))
        return (found.log_evidence - EXACT) / found.stderr

    assert abs(score()) < 4
    of_u = density.Density.__call__
    monkeypatch.setattr(density.Density, "__call__", lambda self, u: of_u(self, u) - u[:, 0])  # d rate / du = exp(u)
    assert abs(score()) > 40


def test_the_record():
    mcmc = gamma_run(np.random.default_rng(0), chains=3, draws=101)
    found = lc.bridge_evidence(mcmc)
    assert (found.num_chains, found.num_kept, found.num_draws, found.num_proposals) == (3, 303, 153, 306)
    assert 50 < found.effective_draws < 500
    assert found.problems == ()
    assert f"log evidence {found.log_evidence:.6g} (standard error" in repr(found)
    assert lc.bridge_evidence(mcmc) == found
    assert lc.bridge_evidence(mcmc, jax.random.key(7)).log_evidence != found.log_evidence


def holes(y):
    mean = lc.sample("mean", dist.Normal(0, 2))
    with lc.plate("rows", len(y)):
        lc.sample("y", dist.Normal(mean, 1.0), obs=y, obs_mask=~np.isnan(y))


def test_missing_data_leave_the_evidence_of_what_is_there():
    y = np.array([0.3, np.nan, 1.2, -0.4, np.nan])
    given, rng = y[~np.isnan(y)], np.random.default_rng(0)
    precision = 1 / 4 + given.size
    mean = rng.normal(given.sum() / precision, precision**-0.5, size=(4, 400))
    draws = {"mean": mean, "y_unobserved": mean[..., None] + rng.normal(size=(4, 400, 2))}
    found = lc.bridge_evidence(Ready(holes, {n: v.astype(np.float32) for n, v in draws.items()}, y))
    exact = stats.multivariate_normal(np.zeros(3), np.eye(3) + 4).logpdf(given)
    assert abs(found.log_evidence - exact) < 4 * found.stderr < 0.1


@pytest.mark.slow
def test_draws_in_double_precision_are_evaluated_in_it():
    with jax.enable_x64(True):
        mcmc = gamma_run(np.random.default_rng(0))
        mcmc.samples = {n: v.astype(np.float64) for n, v in mcmc.samples.items()}
    found = lc.bridge_evidence(mcmc)
    assert found.rounding < 1e-13
    assert abs(found.log_evidence - lc.bridge_evidence(gamma_run(np.random.default_rng(0))).log_evidence) < 1e-4


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore::luciole.BreakEvenWarning")
@pytest.mark.parametrize(
    "kernel",
    [lc.NUTS, partial(lc.HMC, trajectory_length=1.5), lc.Slice, lc.EllipticalSlice, partial(lc.FlyMC, kernel="nuts")],
    ids=["NUTS", "HMC", "Slice", "EllipticalSlice", "FlyMC"],
)
def test_every_kernel_has_the_same_evidence(conjugate, dtype, kernel):
    problem = conjugate.random(40, 3)
    mcmc = lc.MCMC(kernel(conjugate.model), thinning=2, compact=True, progress_bar=False)
    found = lc.bridge_evidence(mcmc.run(jax.random.key(0), *problem))
    assert abs(found.log_evidence - problem.log_evidence) < 4 * found.stderr < 0.3


@pytest.mark.slow
def test_a_run_of_nuts(conjugate):
    problem = conjugate.random(40, 3)
    mcmc = lc.MCMC(lc.NUTS(conjugate.model), num_warmup=200, num_samples=200, progress_bar=False)
    found = lc.bridge_evidence(mcmc.run(jax.random.key(0), *problem))
    assert abs(found.log_evidence - problem.log_evidence) < 4 * found.stderr < 0.2


def test_chains_that_do_not_agree_are_warned_of():
    mcmc = gamma_run(np.random.default_rng(0))
    mcmc.samples["rate"] = mcmc.samples["rate"] * np.array([1, 1, 1, 1.5])[:, None]
    with pytest.warns(lc.UnmixedChainsWarning, match="R-hat is"):
        found = lc.bridge_evidence(mcmc)
    assert "the chains have not mixed" in repr(found)


def test_few_effective_draws_are_warned_of():
    with pytest.warns(lc.FewEffectiveDrawsWarning, match="effective draws"):
        lc.bridge_evidence(gamma_run(np.random.default_rng(0), chains=1, correlation=0.97))


@pytest.mark.parametrize("number", [1, 300])
def test_divergences_are_told_and_many_are_warned_of(number):
    mcmc = gamma_run(np.random.default_rng(0), diverging=number)
    if number == 1:
        found = lc.bridge_evidence(mcmc)
    else:
        with pytest.warns(lc.DivergenceWarning, match="300 transitions"):
            found = lc.bridge_evidence(mcmc)
    assert any(f"{number} transitions diverged" in words for words in found.problems)


def improper(y):
    lc.sample("y", dist.Normal(lc.sample("x", dist.ImproperUniform(dist.constraints.real, (), ())), 1.0), obs=y)


def twice_masked(y):
    with numpyro.handlers.mask(mask=jnp.array(True)):
        lc.sample("y", dist.Normal(lc.sample("x", dist.Normal()), 1.0).expand([2]), obs=y, obs_mask=~np.isnan(y))


def masked(y):
    with numpyro.handlers.mask(mask=jnp.array(True)):
        x = lc.sample("x", dist.Normal())
    lc.sample("y", dist.Normal(x, 1.0), obs=y)


def scaled(y):
    with numpyro.handlers.scale(scale=2.0):
        x = lc.sample("x", dist.Normal())
    lc.sample("y", dist.Normal(x, 1.0), obs=y)


def unobserved(y):
    lc.sample("x", dist.Normal(y, 1.0))


def empty(y):
    lc.sample("x", dist.Normal().expand([0]).to_event(1))
    lc.sample("y", dist.Normal(0.0, 1.0), obs=y)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (improper, r"bridge_evidence.*'x'.*improper prior.*proper prior"),
        (masked, "bridge_evidence.*'x'.*is masked"),
        (twice_masked, "bridge_evidence.*'x'.*is masked"),
        (scaled, "bridge_evidence.*'x'.*is scaled"),
        (unobserved, "bridge_evidence: .*no observed site and no factor"),
        (empty, "nothing to integrate over.*log_likelihood"),
    ],
)
def test_models_without_an_evidence_are_refused(model, words):
    with pytest.raises(lc.EvidenceError, match=words):
        lc.bridge_evidence(Ready(model, {"x": np.zeros((4, 100), np.float32)}, 0.3))


def test_what_is_no_finished_run_is_refused(targets):
    with pytest.raises(lc.EvidenceError, match=r"found a function.*lc\.bridge_evidence"):
        lc.bridge_evidence(rates)
    with pytest.raises(lc.SamplerError, match="no draws yet"):
        lc.bridge_evidence(lc.MCMC(lc.NUTS(rates)))
    mcmc = gamma_run(np.random.default_rng(0))
    mcmc.traced = targets.gaussian([0.0], np.eye(1)).program
    with pytest.raises(lc.EvidenceError, match="a log density and no model"):
        lc.bridge_evidence(mcmc)


@pytest.mark.parametrize("draws", [0, 7])
def test_too_few_draws_are_refused(draws):
    with pytest.raises(lc.EvidenceError, match=f"{draws} draws in each of 4 chains.*num_samples=8"):
        lc.bridge_evidence(gamma_run(np.random.default_rng(0), draws=draws))


def test_draws_on_the_edge_and_draws_that_do_not_move_are_refused():
    mcmc = gamma_run(np.random.default_rng(0))
    mcmc.samples["rate"][2, 3] = 0.0
    with pytest.raises(lc.EvidenceError, match=r"1 of 1000 draws of the site 'rate'.*edge of their support in float32"):
        lc.bridge_evidence(mcmc)
    mcmc.samples["rate"][:] = 2.0
    with pytest.raises(lc.EvidenceError, match=r"singular: elements of \['rate'\] have one value"):
        lc.bridge_evidence(mcmc)


def test_densities_that_do_not_overlap_are_an_error():
    with pytest.raises(lc.EvidenceError, match="do not overlap"):
        optimal_bridge.optimal_bridge(np.zeros((2, 50)), np.full(200, -np.inf))


@pytest.mark.slow
def test_the_proposal_is_bounded_by_batches(monkeypatch):
    """Batches of other sizes give the same numbers."""
    mcmc = gamma_run(np.random.default_rng(0))
    whole = lc.bridge_evidence(mcmc)
    monkeypatch.setattr(density, "_BATCH_BYTES", 4 * 8 * 37)
    cut = bridge.bridge_evidence(mcmc)
    np.testing.assert_allclose(cut.log_evidence, whole.log_evidence, rtol=1e-6)
