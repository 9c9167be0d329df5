"""`lc.FlyMC` as users run it: exact whatever kernel moves the parameters and whatever the rows' likelihood, honest about what it costs."""

import warnings
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import discrete

import luciole as lc
from luciole import bounds, dist
from luciole.inference import BreakEvenWarning
from luciole.inference.flymc import kernel
from luciole.inference.flymc.conditional import Conditional
from luciole.inference.flymc.kinds import Parabola
from luciole.ppl.factors import Family, families

pytestmark = [pytest.mark.filterwarnings("ignore::luciole.inference.flymc.kernel.BreakEvenWarning")]
RNG = np.random.default_rng(3)
X = RNG.normal(size=(60, 2)).astype(np.float32)
Y = (RNG.uniform(size=60) < 1 / (1 + np.exp(-X @ [1.0, -0.5]))).astype(np.float32)


def logistic(x, y):
    w = lc.sample("w", dist.Normal(0, 2).expand([2]).to_event(1))
    with lc.plate("row", len(x)):
        lc.sample("y", dist.Bernoulli(logits=x @ w), obs=y)


def run(model, *data, chains=8, draws=2500, warmup=300, key=0, **options):
    mcmc = lc.MCMC(lc.FlyMC(model, **options), num_warmup=warmup, num_samples=draws, num_chains=chains, progress_bar=False)
    return mcmc.run(jax.random.key(key), *data)


def z_of(draws, expected, batches=10):
    """z-scores of the means over (chain, draw, k), by means of batches."""
    chains, num, k = draws.shape
    means = draws[:, : num // batches * batches].reshape(chains * batches, -1, k).mean(1)
    return (means.mean(0) - expected) / (means.std(0, ddof=1) / np.sqrt(len(means)))


def moments(w):
    return np.stack([w[..., 0], w[..., 1], w[..., 0] ** 2, w[..., 1] ** 2, w[..., 0] * w[..., 1]], -1)


@pytest.fixture(scope="module")
def truth():
    """Moments of the logistic posterior, by quadrature."""
    grid = np.linspace(-4, 6, 401)
    w = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)
    eta = w @ X.T.astype(float)
    log_p = -((w / 2) ** 2).sum(1) / 2 + (Y * eta - np.logaddexp(0, eta)).sum(1)
    p = np.exp(log_p - log_p.max())
    return moments(w).T @ (p / p.sum())


SETTINGS = {"softening": 15.0, "radius": 1.5}  # a ball that is left in a third of the iterations, and rows that are often bright
KERNELS = {"rotation_hmc": {}, "hmc": {"num_steps": 3}, "nuts": {"max_tree_depth": 4}, "mala": {}, "rwm": {}, "slice": {}}


RARE = pytest.mark.exhaustive


@pytest.mark.parametrize("kernel", [pytest.param(k, marks=pytest.mark.slow if k == "nuts" else RARE) for k in KERNELS])
def test_exact_whatever_kernel_moves_the_parameters(kernel, truth):
    mcmc = run(logistic, X, Y, kernel=kernel, kernel_options={**SETTINGS, **KERNELS[kernel]})
    assert np.abs(z_of(moments(mcmc.get_samples(group_by_chain=True)["w"]), truth)).max() < 4.5
    assert mcmc.sample_stats["n_bright"].mean() > 3


@pytest.mark.parametrize(
    ("kernel", "bounds"), [pytest.param("rotation_hmc", "auto", marks=pytest.mark.slow), pytest.param("rwm", "untuned", marks=RARE)]
)
def test_exact_if_every_row_is_drawn_anew(kernel, bounds, truth):
    options = SETTINGS if bounds == "auto" else {"softening": 0.0}
    mcmc = run(logistic, X, Y, kernel=kernel, bounds=bounds, kernel_options={**options, "z_update": "explicit"})
    assert np.abs(z_of(moments(mcmc.get_samples(group_by_chain=True)["w"]), truth)).max() < 4.5
    bright, queries = mcmc.sample_stats["n_bright"], mcmc.sample_stats["n_queries"]
    assert bright.mean() > 3
    assert (queries[:, 1:] >= len(X) - bright[:, :-1]).all()


@pytest.mark.filterwarnings("ignore::luciole.inference.run.notices.DivergenceWarning")
@pytest.mark.parametrize("kernel", [pytest.param("rotation_hmc", marks=RARE), pytest.param("nuts", marks=RARE)])
def test_rejection_outside_the_ball_is_seen(kernel, truth, monkeypatch):
    class Truncated(Conditional):
        def whole(self, bound_data, natural, skip):
            return jnp.where(skip, jnp.float64(0), -jnp.inf)

    fit = lc.FlyMC.fit

    def truncated(*args):
        found = fit(*args)
        transition = type(found.transition)(**{**vars(found.transition), "conditional": Truncated(**vars(found.transition.conditional))})
        return found._replace(transition=transition, starts=0 * found.starts + np.asarray(found.tuning.options["bound_data"].centre))

    monkeypatch.setattr(lc.FlyMC, "fit", truncated)
    mcmc = run(logistic, X, Y, kernel=kernel, kernel_options=SETTINGS)
    assert np.abs(z_of(moments(mcmc.get_samples(group_by_chain=True)["w"]), truth)).max() > 8


def unknown_scales(x, y):
    tau = lc.sample("tau", dist.HalfCauchy(1.0))
    sigma = lc.sample("sigma", dist.HalfCauchy(1.0))
    w = lc.sample("w", dist.Normal(0, tau).expand([4]).to_event(1))
    with lc.plate("row", len(x)):
        lc.sample("y", dist.StudentT(4.0, x @ w, sigma), obs=y)


def softmax(x, y):
    w = lc.sample("w", dist.Normal(0, 1).expand([4, 2]).to_event(2))
    with lc.plate("row", len(x)):
        lc.sample("y", dist.Categorical(logits=jnp.concatenate([jnp.zeros((len(x), 1)), x @ w], 1)), obs=y)


def poisson(x, y):
    w = lc.sample("w", dist.Normal(0, 1).expand([4]).to_event(1))
    with lc.plate("row", len(x)):
        lc.sample("y", dist.Poisson(jnp.exp(x @ w)), obs=y)


def laplace_prior(x, y):
    w = lc.sample("w", dist.Laplace(0, 0.3).expand([4]).to_event(1))
    with lc.plate("row", len(x)):
        lc.sample("y", dist.StudentT(4.0, x @ w, 0.7), obs=y)


def not_centred(x, y):
    tau = lc.sample("tau", dist.HalfNormal(1.0))
    w = lc.deterministic("w", tau * lc.sample("z", dist.Normal(0, 1).expand([4]).to_event(1)))
    with lc.plate("row", len(x)):
        lc.sample("y", dist.Bernoulli(logits=x @ w), obs=y)


def data_for(model, num=300):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(num, 4)).astype(np.float32)
    eta = x @ [0.5, -0.4, 0.3, 0.0]
    if model is softmax:
        return x, rng.integers(0, 3, num).astype(np.int32)
    if model is poisson:
        return x, rng.poisson(np.exp(eta)).astype(np.float32)
    if model is not_centred:
        return x, (rng.uniform(size=num) < 1 / (1 + np.exp(-eta))).astype(np.float32)
    return x, (eta + 0.7 * rng.standard_t(4, size=num)).astype(np.float32)


MODELS = [pytest.param(m, marks=pytest.mark.slow) for m in (unknown_scales,)]
MODELS += [pytest.param(m, marks=RARE) for m in (softmax, poisson, laplace_prior, not_centred)]


@pytest.mark.parametrize("model", MODELS, ids=lambda f: f.__name__)
def test_the_posterior_is_that_of_nuts(model):
    """First and second moments of every site, against NUTS on all rows; bounds are lowered until many rows are bright."""
    data = data_for(model)
    fly = run(model, *data, draws=2000, kernel_options={"softening": 16.0})
    nuts = lc.MCMC(lc.NUTS(model, target_accept_prob=0.9), num_warmup=500, num_samples=2000, num_chains=8, progress_bar=False)
    nuts.run(jax.random.key(1), *data)
    assert fly.sample_stats["n_bright"].mean() > 3
    z = []
    for name, ours in fly.get_samples(group_by_chain=True).items():
        theirs = nuts.get_samples(group_by_chain=True)[name]
        a, b = (np.asarray(v, np.float64).reshape(*v.shape[:2], -1) for v in (ours, theirs))
        middle = b.mean((0, 1))
        for one, other in ((a, b), ((a - middle) ** 2, (b - middle) ** 2)):
            parts = [v.reshape(80, -1, v.shape[-1]).mean(1) for v in (one, other)]
            error = np.sqrt(sum(p.var(0, ddof=1) / 80 for p in parts))
            z.append((parts[0].mean(0) - parts[1].mean(0)) / error)
    z = np.concatenate(z)
    assert np.abs(z).max() < 4.5 and np.sqrt(np.mean(z**2)) < 1.8


@pytest.mark.slow
def test_queries_are_counted_once_and_all():
    mcmc = lc.MCMC(lc.FlyMC(logistic), num_warmup=50, num_samples=100, num_chains=2, keep_warmup=True, progress_bar=False)
    mcmc.run(jax.random.key(0), X, Y)
    warmup, sampling = (int(s["n_queries"].sum()) for s in (mcmc.warmup_stats, mcmc.sample_stats))
    cost = mcmc.cost
    assert cost["likelihood_queries_warmup"] == warmup
    assert cost["likelihood_queries"] == cost["likelihood_queries_setup"] + warmup + sampling
    assert cost["likelihood_queries_setup"] % len(X) == 0 and cost["likelihood_queries_setup"] > 3 * len(X)
    assert 0 < cost["utilisation"] <= 1
    bright, steps = mcmc.sample_stats["n_bright"], mcmc.sample_stats["n_steps"]
    assert (mcmc.sample_stats["n_queries"][:, 1:] >= steps[:, 1:] * bright[:, :-1]).all()
    assert {"n_bright", "n_queries"} <= set(mcmc.to_arviz().sample_stats.data_vars)


def test_float32_in_float32_out():
    mcmc = run(logistic, X, Y, chains=2, draws=50, warmup=50)
    assert mcmc.get_samples()["w"].dtype == np.float32 and mcmc.state.position.dtype == np.float64


def test_a_run_is_a_function_of_its_key():
    one, other, third = (run(logistic, X, Y, chains=2, draws=50, warmup=50, key=k).get_samples()["w"] for k in (1, 1, 2))
    np.testing.assert_array_equal(one, other)
    assert np.abs(one - third).max() > 0.1


def test_few_rows_are_warned_of():
    def setup(num, predicted, explicit=False):
        rows, conditional = SimpleNamespace(rows=np.zeros((num, 20))), SimpleNamespace(explicit=explicit)
        return SimpleNamespace(bound_data=rows, predicted=predicted, factor=SimpleNamespace(site="y"), conditional=conditional)

    with pytest.warns(BreakEvenWarning, match="site 'y' has 60 rows of 20 numbers.*lc.NUTS on all of them will be faster"):
        kernel._warn_of_few(setup(60, 1.0))
    with pytest.warns(BreakEvenWarning, match="about 8001 likelihoods"):
        kernel._warn_of_few(setup(20_000, 2000.0))
    with pytest.warns(BreakEvenWarning, match="about 20120 likelihoods"):
        kernel._warn_of_few(setup(20_000, 30.0, explicit=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kernel._warn_of_few(setup(20_000, 30.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": "gibbs"}, "kernel is 'gibbs', one of 'rotation_hmc', 'hmc'"),
        ({"bounds": "loose"}, "bounds is 'loose', 'auto', 'global' or 'untuned' expected"),
        ({"kernel_options": {"num_step": 3}}, r"kernel_options has \['num_step'\]; for 'rotation_hmc' there are softening"),
        ({"kernel_options": {"z_update": "gibbs"}}, r"kernel_options\['z_update'\] is 'gibbs', 'implicit' or 'explicit'"),
        ({"kernel_options": {"softening": -1.0}}, r"kernel_options\['softening'\] is -1.0"),
        ({"kernel_options": {"num_steps": 0}}, r"kernel_options\['num_steps'\] is 0, a whole number of at least 1"),
        ({"kernel": "nuts", "kernel_options": {"depth": 3}}, "kernel_options of 'nuts'.*depth"),
        ({"kernel": "nuts", "kernel_options": {"target_accept_prob": 2}}, "target_accept_prob is 2"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(lc.SamplerError, match=message):
        lc.FlyMC(logistic, **options)


def test_models_without_bounds_are_refused():
    def gamma_shape(x, y):
        w = lc.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
        k = lc.sample("k", dist.LogNormal(0, 1))
        with lc.plate("row", len(x)):
            lc.sample("y", dist.NegativeBinomial2(jnp.exp(x @ w), k), obs=y)

    def flat(x, y):
        w = lc.sample("w", dist.ImproperUniform(dist.constraints.real_vector, (), (2,)))
        with lc.plate("row", len(x)):
            lc.sample("y", dist.Bernoulli(logits=x @ w), obs=y)

    with pytest.raises(lc.SamplerError, match=r"site 'y' .* latent parameters besides its linear predictor \(.*concentration.*\).*lc.NUTS"):
        run(gamma_shape, X, Y)
    with pytest.raises(lc.SamplerError, match=r"no mode of the posterior was found.*perfectly separated"):
        run(flat, X, (X[:, 0] > 0).astype(np.float32))
    bad = X.copy()
    bad[7, 1] = np.nan
    with pytest.raises(lc.ModelError, match="the design matrix is NaN or infinite in row 7"):
        run(logistic, bad, Y)


def test_a_bound_of_the_users_that_exceeds_the_likelihood_is_reported_with_its_row():
    from numpyro.distributions import BernoulliLogits

    def tangent(share):
        def bound(anchor, radius, params):
            p = jax.nn.sigmoid(anchor)
            return params["value"] - p, share * p * (1 - p)

        return bound

    try:
        for share in (0.3, 1.0):  # too small at the anchor; just right there, and too small beside it
            lc.bounds.register(BernoulliLogits, tangent(share))
            with pytest.raises(lc.BoundError, match=r"the bound of BernoulliLogits does not hold at row \d+: at the offset"):
                run(logistic, X, Y, chains=2, draws=200)
    finally:
        lc.bounds.register(BernoulliLogits, None)


@pytest.mark.slow
def test_a_bound_that_fails_where_a_chain_comes_is_reported_with_its_row(monkeypatch):
    fit = lc.FlyMC.fit

    def raised(*args):
        found = fit(*args)
        f = found.tuning.options["bound_data"]
        lifted = f._replace(bound=f.bound._replace(value=np.asarray(f.bound.value) * 0.99))
        return replace(found, tuning=found.tuning._replace(options={**found.tuning.options, "bound_data": lifted}))

    monkeypatch.setattr(lc.FlyMC, "fit", raised)
    with pytest.raises(lc.BoundError, match=r"the bound of row \d+ of site 'y' \(BernoulliLogits\) exceeds its likelihood"):
        run(logistic, X, Y, chains=2, draws=500, kernel_options={"softening": 3.0})


@pytest.mark.parametrize("inner", [pytest.param("rotation_hmc", marks=pytest.mark.slow), pytest.param("slice", marks=RARE)])
def test_with_too_little_room_the_run_begins_again(inner, monkeypatch, caplog):
    def cramped(*args, **options):
        found = set_up(*args, **options)
        return replace(found, conditional=replace(found.conditional, capacity=32))

    options = {"kernel": inner, "kernel_options": {"softening": 200.0}, "chains": 2, "draws": 200}
    expected = run(logistic, X, Y, **options)
    set_up = kernel.set_up
    monkeypatch.setattr(kernel, "set_up", cramped)
    found = run(logistic, X, Y, **options)
    assert expected.sample_stats["n_bright"].max() > 32
    assert "begins again with a capacity of 64 instead of 32" in caplog.text
    np.testing.assert_array_equal(found.get_samples()["w"], expected.get_samples()["w"])
    setup = "likelihood_queries_setup"
    assert found.cost[setup] > expected.cost[setup]
    assert found.cost["likelihood_queries"] - found.cost[setup] == expected.cost["likelihood_queries"] - expected.cost[setup]


@pytest.mark.parametrize("case", ["two classes", "residual", "softmax"])
def test_untuned_bounds_touch_where_the_paper_says_and_hold_elsewhere(case):
    params = {"value": np.array([0.0, 1.0, 0.0, 1.0])}
    anchor, touching = RNG.standard_normal(4), np.full(4, 1.5)
    family = Family(discrete.BernoulliLogits, "identity", 1, families.KNOWN[discrete.BernoulliLogits].links["identity"])
    if case == "residual":
        params |= {"df": np.full(4, 4.0), "scale": np.ones(4)}
        family, touching = Family(dist.StudentT, "identity", 1, families.KNOWN[dist.StudentT].links["identity"]), params["value"]
    if case == "softmax":
        params = {"value": np.array([0, 1, 2, 0])}
        family = Family(discrete.CategoricalLogits, "reference softmax", 2, families.reference_softmax)
        anchor, touching = RNG.standard_normal((4, 2)), np.zeros((4, 2))
    with jax.enable_x64(True):
        kind = Parabola(family, on_ball=False, untuned=True)
        bound = kind.fit(jnp.asarray(anchor), 0.0, params, {})
        for offset, touches in ((touching - anchor, True), (RNG.standard_normal(anchor.shape), False)):
            value = bounds.log_likelihood(family, jnp.asarray(anchor + offset), params)
            reference = family.link == "reference softmax"
            gap, again = kind.gap(bound, anchor, offset, params, {}), bounds.gap_of(value, bound, jnp.asarray(offset), reference)
            np.testing.assert_allclose(gap.gap, again.gap, atol=1e-12)
            assert not gap.refuted.any() and (np.abs(gap.gap) < 1e-12).all() == touches
            wrong = bounds.gap_of(value, bound._replace(value=bound.value + 0.01), jnp.asarray(offset), reference)
            assert wrong.refuted.all() or not touches
