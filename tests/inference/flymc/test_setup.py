"""The set-up: where the mode is, whatever the units of the columns; how wide each row's ball is; what is refused, and in which words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro import handlers

import luciole as lc
from luciole import dist
from luciole.inference.flymc import laplace, setup
from luciole.inference.flymc.setup import set_up
from luciole.ppl.factors import POWER, FullEvaluationWarning, find_factor, usable

RNG = np.random.default_rng(7)


def logistic(x, y, scale):
    w = lc.sample("w", dist.Normal(jnp.zeros(x.shape[1]), scale).to_event(1))
    with lc.plate("row", len(x)):
        lc.sample("y", dist.Bernoulli(logits=x @ w), obs=y)


def columns(num=400):
    """Designs of three columns that nothing is wrong with, by name."""
    one, z = np.ones(num), RNG.normal(size=(num, 2))
    seconds = 1.7e9 + np.round(RNG.uniform(0, 3e7, num) / 128) * 128  # which float32 can tell apart
    return {
        "year": np.stack([one, 1990.0 + RNG.integers(0, 30, num), z[:, 0]], 1),
        "sizes": np.stack([one, 1e-6 * z[:, 0], 1e6 * z[:, 1]], 1),
        "seconds": np.stack([one, seconds, z[:, 0]], 1),
        "extremes": np.stack([1e-12 * one, 1e-8 * z[:, 0], 1e9 * z[:, 1]], 1),
    }


def newton(x, y, precision):
    """The mode and the covariance, in columns that are centred and scaled; the first is the intercept's."""
    middle, size = x.mean(0), x.std(0)
    middle[0], size[0] = 0, x[0, 0]
    change = np.diag(1 / size)  # w = change @ v: x w = ((x - middle) / size) v, the intercept taking the middle
    change[0, 1:] -= (middle / size / x[0, 0])[1:]
    q, v = (x - middle) / size, np.zeros(x.shape[1])
    prior = change.T @ (precision[:, None] * change)
    for _ in range(50):
        p = 1 / (1 + np.exp(-q @ v))
        hessian = q.T @ ((p * (1 - p))[:, None] * q) + prior
        v = v + np.linalg.solve(hessian, q.T @ (y - p) - prior @ v)
    return change @ v, change @ np.linalg.inv(hessian) @ change.T


@pytest.mark.slow
@pytest.mark.parametrize("double", [False, True])
def test_the_mode_is_found_whatever_the_units_of_the_columns(double):
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", double)
    try:
        for x in columns().values():
            scale = 30 / np.abs(x).max(0)
            x = x if double else x.astype(np.float32)
            y = (RNG.uniform(size=len(x)) < 0.3) * 1.0
            density = lc.log_density(lc.model(logistic), x, y, scale)
            found = set_up(find_factor(density), density)
            mode, covariance = newton(x.astype(float), y, 1 / np.asarray(scale, x.dtype).astype(float) ** 2)
            error = np.asarray(found.bound_data.centre) - mode
            assert error @ np.linalg.solve(covariance, error) < 0.05
            ours = np.asarray(found.bound_data.scale) @ np.asarray(found.bound_data.scale).T
            # the bounds' own covariance is nearly the posterior's
            assert 0.7 < np.linalg.eigvals(np.linalg.solve(covariance, ours)).real.min() <= 1.1
            assert found.predicted < 40
    finally:
        jax.config.update("jax_enable_x64", before)


def test_a_scaled_eigendecomposition_knows_no_units():
    a = RNG.normal(size=(5, 5))
    matrix, units = a @ a.T, 10.0 ** np.array([-9.0, 6, 0, 3, -2])
    values, vectors = laplace.scaled_eigh(units[:, None] * matrix * units)
    np.testing.assert_allclose(values, laplace.scaled_eigh(matrix)[0], rtol=1e-9)
    inverse = units[:, None] * (vectors / values) @ vectors.T * units
    np.testing.assert_allclose(inverse, np.linalg.inv(matrix), rtol=1e-7)
    saddle = np.array([[0.0, 1.0], [1.0, 2.0]])  # a diagonal element that vanishes
    values, vectors = laplace.scaled_eigh(saddle)
    np.testing.assert_allclose((vectors / values) @ vectors.T, np.linalg.inv(saddle), atol=1e-12)
    assert np.isfinite(laplace.scaled_eigh(np.zeros((2, 2)))[0]).all()


@pytest.mark.slow
@pytest.mark.parametrize("bits", [24, 11])
def test_no_row_falls_short_of_its_ball(bits, monkeypatch):
    """In the precision of float32; the twin has matrix units that round their operands, as they do where that is not forbidden."""
    d, num = 20, 500
    a = RNG.normal(size=(d, d))
    x = np.concatenate([np.ones((num, 1)), 50 + RNG.normal(size=(num, d - 1))], 1).astype(np.float32)
    half = np.linalg.inv(np.linalg.cholesky(x.T.astype(float) @ x + 1e-3 * a @ a.T)).T  # much cancels in x @ half
    normal = setup._Normal(np.eye(d), np.zeros(d), half[:, None, :], np.zeros((0, d)))
    if bits == 11:
        rounded = lambda v: jnp.asarray(v).astype(jnp.bfloat16).astype(v.dtype)  # noqa: E731
        monkeypatch.setattr(setup, "product", lambda a, b: jnp.matmul(rounded(a), rounded(b)))
    with jax.enable_x64(True):
        rows = setup.Rows(jnp.asarray(x), jnp.zeros(num), {})
        _, _, width = setup._anchored.__wrapped__(rows, jnp.zeros(d), normal)
    exact = np.sqrt(((x.astype(np.longdouble) @ half.astype(np.longdouble)) ** 2).sum(1)).astype(float)
    short = np.asarray(width) < exact
    assert not short.any() if bits == 24 else short.any()
    assert (np.asarray(width) < 1.01 * exact).mean() > 0.9 or bits == 11


def test_what_was_computed_is_what_is_refused():
    """Whatever a second look would give: one row is refuted by its second derivative, one on its ball, one does not touch."""
    quiet = setup._Judged(*np.zeros((2, 5)), np.ones(5, bool), *np.zeros((2, 5)), np.zeros(5, bool))
    kind = type("Kind", (), {"family": type("Family", (), {"distribution": dist.Poisson})})
    setup._refuse(kind, quiet)
    refuted = np.array([False, False, True, False, True])
    found = quiet._replace(refuted=refuted, gap=np.array([0, 0, -1e-9, 0, -1e-3]), offset=np.array([0, 0, 0, 0, 0.25]))
    with pytest.raises(lc.BoundError, match=r"the bound of Poisson does not hold at row 4: at the offset 0.25 .* 0.001 nats above.*2 of 5"):
        setup._refuse(kind, found)
    with pytest.raises(lc.BoundError, match="does not hold at row 2"):  # NaN is the worst
        setup._refuse(kind, found._replace(gap=np.array([0, 0, np.nan, 0, -1e-3])))
    with pytest.raises(lc.BoundError, match=r"value or slope at its anchor, first at row 3 \(1 of 5 rows\)"):
        setup._refuse(kind, quiet._replace(touches=np.arange(5) != 3))


X = RNG.normal(size=(30, 2)).astype(np.float32)
Y = (RNG.uniform(size=30) < 0.5).astype(np.float32)
GROUP = RNG.integers(0, 5, 30)


def rows(distribution, y=Y, name="row", site="y"):
    with lc.plate(name, len(y)):
        lc.sample(site, distribution, obs=y)


def normals(name, *shape):
    return lc.sample(name, dist.Normal(0, 1).expand(shape).to_event(len(shape)))


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.25, "data"])
def test_survey_weights_and_tempering_are_powers(scale):
    weights = RNG.gamma(2.0, 0.5, 30).astype(np.float32)

    def model(x, weights):
        w = normals("w", 2)
        with handlers.scale(scale=0.25 if scale == 0.25 else weights):
            rows(dist.Bernoulli(logits=x @ w))

    density = lc.log_density(lc.model(model), X, weights)
    factor = find_factor(density)
    np.testing.assert_allclose(factor.rows.params[POWER], 0.25 if scale == 0.25 else weights)
    u = np.array([0.3, -0.7], np.float32)
    each = jax.vmap(factor.family.log_likelihood, (0, 0, None))(factor.rows.design @ u, factor.rows.params, {})
    total = (factor.rows.params[POWER] * each).sum() + factor.log_prior(factor.data, u)
    np.testing.assert_allclose(total, density({"w": u}), rtol=1e-6)


def test_rows_of_weight_nothing_are_left_out():
    """NumPyro refuses a scale of 0 that it can see; one that is computed it cannot."""
    powers = jnp.asarray(np.where(np.arange(30) % 3 == 0, 0.0, 2.0))
    used = usable.used_rows(None, [], powers, (30,), [], "site 'y'")
    np.testing.assert_array_equal(used, np.flatnonzero(np.arange(30) % 3))
    assert usable.used_rows(None, [], None, (30,), [], "site 'y'") is None


def hierarchy(scale):
    def model():
        mu, tau = lc.sample("mu", dist.Normal(0, 2)), lc.sample("tau", dist.HalfNormal(1.0))
        with lc.plate("group", 5):
            a = scale(mu, tau)
        rows(dist.Bernoulli(logits=a[GROUP]))

    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("site", "count"),
    [
        (lambda mu, tau: lc.sample("a", dist.Normal(mu, tau)), 5),
        (lambda mu, tau: lc.sample("a", dist.StudentT(4.0, mu, 2 * tau)), 5),
        (lambda mu, tau: jnp.log(lc.sample("a", dist.LogNormal(mu, tau))), 5),
        (lambda mu, tau: lc.sample("a", dist.MultivariateNormal(mu * jnp.ones(2), scale_tril=tau * jnp.eye(2)))[:, 0], 10),
        (lambda mu, tau: mu + tau * lc.sample("a", dist.Normal(0, 1)), None),
    ],
)
def test_a_centred_hierarchy_has_its_mode_where_it_has_one_uncentred(site, count):
    density = lc.log_density(lc.model(hierarchy(site)))
    factor = find_factor(density)
    assert (factor.log_scales is None) == (count is None)
    if count is not None:
        at = [0.0 if n != "tau" else 0.3 for n, s in density.positions.items() for _ in range(int(np.prod(s.shape)))]
        zero = [0.0] * len(at)
        rise = factor.log_scales(factor.data, jnp.asarray(at)) - factor.log_scales(factor.data, jnp.asarray(zero))
        np.testing.assert_allclose(rise, 0.3 * count, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_zero_inflated_counts_of_any_type_and_size(kind):
    """A distribution that is only traced, whose terms are of the size of the counts times their logarithm."""
    counts = np.where(np.arange(30) % 3 == 0, 0, 20_000 + RNG.integers(-300, 300, 30)).astype(kind)

    def model(x):
        rows(dist.ZeroInflatedPoisson(0.3, jnp.exp(lc.sample("a", dist.Normal(10, 2)) + x @ normals("w", 2))), counts)

    density = lc.log_density(lc.model(model), X)
    found = set_up(find_factor(density), density)
    assert abs(np.asarray(found.bound_data.centre)[0] - np.log(20_000)) < 0.05


def test_another_tall_site_is_named():
    long = np.zeros(2000, np.float32)

    def two():
        b = normals("b")
        rows(dist.Normal(b * jnp.ones(2000), 1.0), long)
        rows(dist.Poisson(jnp.exp(b * jnp.ones(1500))), long[:1500].astype(int), "other", "counts")

    with pytest.warns(FullEvaluationWarning, match=r"site 'counts' .* has 1500 observations.*only 'y' .* taken apart"):
        find_factor(lc.log_density(lc.model(two)), "y")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            lambda w, p: dist.NegativeBinomial2(jnp.exp(X @ w), p),
            r"NegativeBinomial2, has latent .*\(concentration\).*dispersion must",
        ),
        (lambda w, p: dist.ZeroInflatedPoisson(0.5 * p / (1 + p), jnp.exp(X @ w)), r"ZeroInflatedPoisson, has latent .*\('p'\).*lc.NUTS"),
        (lambda w, p: dist.ZeroInflatedNegativeBinomial2(jnp.exp(X @ w), p, gate=0.3), r"ZeroInflatedProbs, has latent .*\('p'\)"),
    ],
)
def test_other_latent_parameters_are_named(model, message):
    def whole():
        w, p = normals("w", 2), lc.sample("p", dist.Gamma(2, 1))
        rows(model(w, p), Y.astype(int))

    density = lc.log_density(lc.model(whole))
    with pytest.raises(lc.SamplerError, match=message):
        set_up(find_factor(density), density)
