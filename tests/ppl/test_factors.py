"""Factors found in models: rows and the rest add up to the model's log density, for every family and many ways to write a model."""

import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from jax.scipy import special, stats
from numpyro import distributions as dist
from numpyro import handlers

from luciole import ppl as lc
from luciole.ppl.factors import find_factor
from luciole.transforms import ModelError

TOLERANCE = 1e-12  # relative, float64

N, D, K = 30, 3, 3
RNG = np.random.default_rng(20)
X = RNG.normal(size=(N, D))
GROUP = RNG.integers(0, 4, N)
EXPOSURE = RNG.uniform(0.5, 2.0, N)
BINARY = RNG.integers(0, 2, N)
COUNTS = RNG.poisson(2.0, N)
TRIALS = COUNTS + RNG.integers(1, 4, N)
REAL = RNG.normal(size=N)
CLASS = RNG.integers(0, K, N)

pytestmark = pytest.mark.usefixtures("x64")


def vector_of(density, position):
    return jnp.concatenate([jnp.ravel(position[name]) for name in density.positions])


def from_factor(factor, data, u):
    """The log density from the parts of a factor."""
    eta = factor.rows.design @ factor.coefficients(u) + factor.rows.offset
    each = jax.vmap(factor.family.log_likelihood, (0, 0, None))(eta, factor.rows.params, factor.shared(u))
    return each.sum() + factor.log_prior(data, u)


@pytest.fixture
def found(random_position):
    """found(model, *args): the factor, after the comparison with the model's log density at random positions."""

    def check(model, *args, plate=None, tolerance=TOLERANCE, **kwargs):
        density = lc.log_density(model, *args, **kwargs)
        factor = find_factor(density, plate)

        @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
        def both(density, z, u):
            return density(z), from_factor(factor, density.data, u)

        differences = set()
        for seed in range(3):
            position = random_position(density, seed)
            u = vector_of(density, position)
            expected, value = both(density, position, u)
            assert abs(value - expected) <= tolerance * max(1, abs(expected))
            differences.add(float(expected))
            coefficients = factor.coefficients(u)
            if factor.columns is not None:
                np.testing.assert_array_equal(u[factor.columns], coefficients)
            if factor.coefficient_matrix is not None:
                affine = factor.coefficient_matrix @ u + factor.coefficient_offset
                np.testing.assert_allclose(affine.reshape(coefficients.shape), coefficients, rtol=1e-12, atol=1e-13)
        assert len(differences) == 3, "the comparison would show nothing"
        assert {factor.family: 1}[factor.family] == 1, "a family is hashable"
        return factor

    return check


def normals(name, *shape):
    return lc.sample(name, dist.Normal(0, 1).expand(shape).to_event(len(shape)))


def positive(name="scale"):
    return lc.sample(name, dist.HalfNormal(1.0))


def linear():
    """alpha + X @ beta."""
    return normals("alpha") + X @ normals("beta", D)


def in_a_plate(likelihood, y):
    """A model from the function that makes its likelihood, Luciole's statements."""

    def model():
        distribution = likelihood()
        with lc.plate("rows", N):
            lc.sample("y", distribution, obs=y)

    return model


FAMILIES = {  # name: (likelihood, observations, its class, its link, names of latent shared parameters)
    "bernoulli": (lambda: dist.Bernoulli(logits=linear()), BINARY, dist.discrete.BernoulliLogits, "identity", []),
    "bernoulli, sigmoid": (lambda: dist.Bernoulli(probs=jax.nn.sigmoid(linear())), BINARY, dist.discrete.BernoulliProbs, "logit", []),
    "bernoulli, by hand": (lambda: dist.Bernoulli(probs=1 / (1 + jnp.exp(-linear()))), BINARY, dist.discrete.BernoulliProbs, "logit", []),
    "bernoulli, exp": (lambda: odds(jnp.exp(linear())), BINARY, dist.discrete.BernoulliProbs, "logit", []),
    "probit": (lambda: dist.Bernoulli(probs=dist.Normal(0, 1).cdf(linear())), BINARY, dist.discrete.BernoulliProbs, "probit", []),
    "probit, jax": (lambda: dist.Bernoulli(probs=stats.norm.cdf(linear())), BINARY, dist.discrete.BernoulliProbs, "probit", []),
    "probit, erf": (
        lambda: dist.Bernoulli(0.5 * (1 + special.erf(linear() / jnp.sqrt(2.0)))),
        BINARY,
        dist.discrete.BernoulliProbs,
        "probit",
        [],
    ),
    "binomial": (lambda: dist.Binomial(TRIALS, logits=linear()), COUNTS, dist.discrete.BinomialLogits, "identity", []),
    "binomial, constant": (lambda: dist.Binomial(20, logits=linear()), COUNTS, dist.discrete.BinomialLogits, "identity", []),
    "binomial, expit": (lambda: dist.Binomial(TRIALS, special.expit(linear())), COUNTS, dist.discrete.BinomialProbs, "logit", []),
    "normal": (lambda: dist.Normal(linear(), 0.7), REAL, dist.Normal, "identity", []),
    "normal, scale": (lambda: dist.Normal(linear(), positive()), REAL, dist.Normal, "identity", ["scale"]),
    "normal, log scale": (lambda: dist.Normal(linear(), jnp.exp(normals("s"))), REAL, dist.Normal, "identity", ["scale"]),
    "normal, row scales": (lambda: dist.Normal(linear(), EXPOSURE), REAL, dist.Normal, "identity", []),
    "student": (lambda: dist.StudentT(4.0, linear(), positive()), REAL, dist.StudentT, "identity", ["scale"]),
    "student, df": (lambda: dist.StudentT(2 + positive("nu"), linear(), positive()), REAL, dist.StudentT, "identity", ["df", "scale"]),
    "cauchy": (lambda: dist.Cauchy(linear(), positive()), REAL, dist.Cauchy, "identity", ["scale"]),
    "logistic": (lambda: dist.Logistic(linear(), positive()), REAL, dist.Logistic, "identity", ["scale"]),
    "poisson": (lambda: dist.Poisson(jnp.exp(linear())), COUNTS, dist.Poisson, "log", []),
    "poisson, exposure": (lambda: dist.Poisson(EXPOSURE * jnp.exp(linear())), COUNTS, dist.Poisson, "log", []),
    "poisson, offset": (lambda: dist.Poisson(jnp.exp(linear() + np.log(EXPOSURE))), COUNTS, dist.Poisson, "log", []),
    "negative binomial, logits": (
        lambda: dist.NegativeBinomialLogits(positive("total_count"), linear()),
        COUNTS,
        dist.NegativeBinomialLogits,
        "identity",
        ["total_count"],
    ),
    "constant mean": (lambda: dist.Normal(normals("mu"), positive()), REAL, dist.Normal, "identity", ["scale"]),
    "constant rate": (lambda: dist.Poisson(jnp.exp(normals("mu"))), COUNTS, dist.Poisson, "log", []),
}


def odds(x):
    return dist.Bernoulli(probs=x / (1 + x))


def quickly(names, quick):
    """All names; those that are not in `quick` only in the slow set."""
    assert set(quick) <= set(names)
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", quickly(FAMILIES, {"bernoulli", "probit, jax", "binomial, expit", "student", "poisson, exposure"}))
def test_families(found, name):
    likelihood, y, distribution, link, shared = FAMILIES[name]
    factor = found(in_a_plate(likelihood, y))
    assert (factor.family.distribution, factor.family.link, factor.family.predictors) == (distribution, link, 1)
    assert (factor.site, factor.plate) == ("y", "rows")
    assert sorted(factor.shared(jnp.zeros(9))) == shared
    assert factor.columns is not None
    np.testing.assert_array_equal(factor.rows.params["value"], y)


NEGATIVE_BINOMIAL = {
    "constant": (lambda: dist.NegativeBinomial2(jnp.exp(linear()), 3.0), "log"),
    "by rows": (lambda: dist.NegativeBinomial2(EXPOSURE * jnp.exp(linear()), EXPOSURE), "log"),
    "probs": (lambda: dist.NegativeBinomialProbs(2.0, jax.nn.sigmoid(linear())), "logit"),
    "latent": (lambda: dist.NegativeBinomial2(jnp.exp(linear()), positive("concentration")), "log"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", quickly(NEGATIVE_BINOMIAL, {"latent"}))
def test_negative_binomial(found, random_position, name):
    """NumPyro's constant, from `betaln`, is off by up to 1e-6 for each row; it does not depend on the predictor."""
    likelihood, link = NEGATIVE_BINOMIAL[name]
    model = in_a_plate(likelihood, COUNTS)
    factor = found(model, tolerance=1e-6)
    assert factor.family.link == link
    density = lc.log_density(model)
    first, second = random_position(density, 1), random_position(density, 2)
    if "concentration" in first:
        second["concentration"] = first["concentration"]
    ours = [from_factor(factor, density.data, vector_of(density, p)) for p in (first, second)]
    assert abs((ours[0] - ours[1]) - (density(first) - density(second))) < 1e-11 * abs(ours[0])


@pytest.mark.slow
def test_a_family_is_the_same_for_two_models(found):
    first, second = (
        find_factor(lc.log_density(in_a_plate(lambda: dist.Gamma(positive(), jnp.exp(linear())), y))) for y in (EXPOSURE, 2 * EXPOSURE)
    )
    assert first.family == second.family
    assert hash(first.family) == hash(second.family)
    other = find_factor(lc.log_density(in_a_plate(lambda: dist.Gamma(positive(), jnp.exp(jnp.tanh(linear()))), EXPOSURE)))
    assert first.family != other.family


class Gumbel2(dist.Distribution):
    """A user's own distribution: log p = -r - exp(-r) - log scale."""

    arg_constraints = {"loc": dist.constraints.real, "scale": dist.constraints.positive}  # noqa: RUF012
    support = dist.constraints.real

    def __init__(self, loc, scale):
        self.loc, self.scale = loc, scale
        super().__init__(jnp.broadcast_shapes(jnp.shape(loc), jnp.shape(scale)))

    def log_prob(self, value):
        r = (value - self.loc) / self.scale
        return -r - jnp.exp(-r) - jnp.log(self.scale)


TRACED = {  # name: (likelihood, observations, link, names of data, names of latent shared parameters)
    "user's own": (lambda: Gumbel2(linear(), positive()), REAL, "identity", [], ["scale"]),
    "user's own, row scales": (lambda: Gumbel2(linear(), EXPOSURE), REAL, "identity", ["scale"], []),
    "user's own, scaled rows": (lambda: Gumbel2(linear(), positive() * EXPOSURE), REAL, "traced", None, ["'scale'"]),
    "gamma": (lambda: dist.Gamma(positive("concentration"), jnp.exp(linear())), EXPOSURE, "log", None, None),
    "lognormal": (lambda: dist.LogNormal(linear(), positive()), EXPOSURE, "identity", None, None),
    "weighted student": (lambda: dist.StudentT(4.0, linear(), positive() * EXPOSURE), REAL, "traced", None, ["'scale'"]),
    "cloglog": (lambda: dist.Bernoulli(probs=1 - jnp.exp(-jnp.exp(linear()))), BINARY, "traced", [], []),
    "clipped": (lambda: dist.Bernoulli(probs=jnp.clip(jax.nn.sigmoid(linear()), 0.01, 0.99)), BINARY, "traced", [], []),
    "weibull": (lambda: dist.Weibull(jnp.exp(linear()), positive("concentration")), EXPOSURE, "log", None, None),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", quickly(TRACED, {"user's own", "weighted student"}))
def test_other_likelihoods_are_traced(found, name):
    likelihood, y, link, data, shared = TRACED[name]
    factor = found(in_a_plate(likelihood, y))
    assert factor.family.link == link
    assert data is None or sorted({*factor.rows.params} - {"value"}) == data
    assert shared is None or sorted(factor.shared(jnp.zeros(9))) == shared


def test_a_traced_likelihood_may_be_computed_in_double_precision():
    with jax.enable_x64(False):
        factor = find_factor(lc.log_density(in_a_plate(lambda: Gumbel2(linear(), 2.0), REAL)))
        assert factor.rows.design.dtype == jnp.float32
    eta, y = 0.3, 0.1
    value = factor.family.log_likelihood(jnp.float64(eta), {"value": jnp.float64(y), "scale": jnp.float64(2.0)}, {})
    r = (y - eta) / 2
    assert abs(value - (-r - np.exp(-r) - np.log(2.0))) < 1e-15


def with_group_effects():
    mu, tau = normals("mu"), positive("tau")
    alpha = lc.sample("alpha", dist.Normal(mu, tau).expand([4]).to_event(1))
    return alpha[GROUP] + X @ normals("beta", D)


def not_centred():
    alpha = normals("mu") + positive("tau") * normals("z", 4)
    return alpha[GROUP] + X @ normals("beta", D)


def several_slopes():
    a, b, c = normals("a"), normals("b"), normals("c")
    return a + b * X[:, 0] - c * (X[:, 1] - X[:, 1].mean())


def varying_slopes():
    return normals("alpha", 4)[GROUP] + normals("beta", 4)[GROUP] * X[:, 0]


def in_group_plates():
    with numpyro.plate("groups", 4):
        alpha = numpyro.sample("alpha", dist.Normal(numpyro.sample("mu", dist.StudentT(3.0, 0.0, 1.0)), 0.5))
    return alpha[GROUP] + X @ numpyro.sample("beta", dist.Laplace(0.0, 1.0).expand([D]).to_event(1))


def horseshoe():
    lam = lc.sample("lam", dist.HalfCauchy(1.0).expand([D]).to_event(1))
    return X @ (positive("tau") * lam * normals("z", D))


def orthogonalised():
    _, r = np.linalg.qr(X)
    return lc.deterministic("eta", X @ jnp.linalg.solve(r, normals("theta", D)))


PREDICTORS = {  # name: (predictor, number of coefficients, are they coordinates, are they affine in the position)
    "intercept and slopes": (linear, 4, True, True),
    "sum": (lambda: (X * normals("b", D)).sum(-1), 3, True, True),
    "einsum": (lambda: jnp.einsum("nd,d->n", X, normals("b", D)), 3, True, True),
    "several slopes": (several_slopes, 3, True, True),
    "elements": (lambda: (lambda b: b[0] + b[1] * X[:, 0] + b[2] * X[:, 1])(normals("b", 3)), 3, True, True),
    "group effects": (with_group_effects, 7, True, True),
    "in a plate": (in_group_plates, 7, True, True),
    "varying slopes": (varying_slopes, 8, True, True),
    "not centred": (not_centred, 7, False, False),
    "scalar times rows": (lambda: positive("tau") * (X @ normals("z", D)), 3, False, False),
    "scalar times data": (lambda: positive("tau") * X @ normals("z", D), 3, False, False),
    "scalar times groups": (lambda: normals("mu") + positive("tau") * normals("z", 4)[GROUP], 5, False, False),
    "scalar times everything": (lambda: positive("tau") * (1 + normals("mu") + X @ normals("z", D)), None, False, False),
    "horseshoe": (horseshoe, 3, False, False),
    "positive slope": (lambda: normals("a") + positive("b") * X[:, 0], 2, False, False),
    "negated": (lambda: -(X @ -normals("b", D)), 3, None, True),
    "orthogonalised": (orthogonalised, 3, None, True),
    "jitted": (lambda: jax.jit(lambda a, b: a + jnp.dot(X, b))(normals("a"), normals("b", D)), 4, True, True),
    "scanned": (lambda: jax.lax.map(lambda x: x @ jnp.ones(D), X) * normals("b"), 1, True, True),
    "standardised": (lambda: ((X - X.mean(0)) / X.std(0)) @ normals("b", D), 3, True, True),
    "jax data": (lambda: jnp.asarray(X) @ normals("b", D) + jnp.asarray(EXPOSURE), 3, True, True),
    "sum to zero": (lambda: (lambda b: jnp.append(b, -b.sum()))(normals("b", 3))[GROUP], None, None, True),
}


@pytest.mark.parametrize("name", quickly(PREDICTORS, {"group effects", "not centred", "scalar times groups", "several slopes"}))
def test_predictors(found, name):
    predictor, size, plain, affine = PREDICTORS[name]
    factor = found(in_a_plate(lambda: dist.Normal(predictor(), positive()), REAL))
    assert size is None or factor.rows.design.shape == (N, size)
    assert plain is None or (factor.columns is not None) == plain
    assert (factor.coefficient_matrix is not None) == affine


@pytest.mark.slow
@pytest.mark.parametrize("prior", [dist.Laplace(0.0, 1.0), dist.StudentT(4.0, 0.0, 1.0)], ids=lambda p: type(p).__name__)
def test_priors(found, prior):
    def model(X, y):
        beta = numpyro.sample("beta", prior.expand([D]).to_event(1))
        numpyro.factor("more", -0.1 * jnp.sum(beta**4))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Bernoulli(logits=X @ beta), obs=y)

    assert found(model, X, BINARY).rows.design.shape == (N, D)


def test_the_design_is_the_data():
    factor = find_factor(lc.log_density(in_a_plate(lambda: dist.Normal(X @ normals("b", D) + EXPOSURE, 1.0), REAL)))
    np.testing.assert_array_equal(factor.rows.design, X)
    np.testing.assert_array_equal(factor.rows.offset, EXPOSURE)


def test_the_prior_does_not_read_the_rows():
    density = lc.log_density(in_a_plate(lambda: dist.Normal(X @ normals("b", D), positive()), REAL))
    factor = find_factor(density)
    jaxpr = jax.make_jaxpr(factor.log_prior)(density.data, jnp.zeros(density.dim))
    assert all(v.aval.size < N for eqn in jaxpr.eqns for v in eqn.outvars)


SOFTMAX = {  # name: (logits, link, predictors, number of coefficients of a class)
    "matrix": (lambda: X @ normals("B", D, K) + normals("a", K), "softmax", 3, 4),
    "transposed": (lambda: X @ normals("B", K, D).T, "softmax", 3, 3),
    "pinned first": (lambda: jnp.concatenate([jnp.zeros((N, 1)), X @ normals("B", D, K - 1)], 1), "reference softmax", 2, 3),
    "pinned last": (
        lambda: jnp.concatenate([X @ normals("B", D, K - 1) + normals("a", K - 1), EXPOSURE[:, None]], 1),
        "reference softmax",
        2,
        4,
    ),
    "pinned column": (lambda: X @ jnp.concatenate([jnp.zeros((D, 1)), normals("B", D, K - 1)], 1), "reference softmax", 2, 3),
    "padded": (lambda: jnp.pad(X @ normals("B", D, K - 1), ((0, 0), (1, 0))), "reference softmax", 2, 3),
    "stacked": (lambda: jnp.stack([jnp.zeros(N), X @ normals("b", D), X @ normals("c", D) + normals("a")], -1), "reference softmax", 2, 4),
    "groups": (lambda: normals("A", 4, K)[GROUP] + X @ normals("B", D, K), "softmax", 3, 7),
    "hierarchical": (lambda: X @ (positive() * normals("B", D, K)), "softmax", 3, 3),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", quickly(SOFTMAX, {"matrix", "pinned first"}))
def test_softmax(found, name):
    logits, link, predictors, size = SOFTMAX[name]
    factor = found(in_a_plate(lambda: dist.Categorical(logits=logits()), CLASS))
    assert (factor.family.link, factor.family.predictors) == (link, predictors)
    assert factor.rows.design.shape == (N, size)
    assert factor.rows.offset.shape == (N, predictors)


def test_masked_rows_are_left_out(found):
    keep = np.arange(N) % 3 > 0
    y = np.where(keep, REAL, np.nan)

    def model():
        predictor = linear()
        with numpyro.plate("rows", N), handlers.mask(mask=keep):
            numpyro.sample("y", dist.Normal(predictor, 1.0), obs=y)

    assert found(model).rows.design.shape == (keep.sum(), D + 1)


@pytest.mark.slow
def test_a_mask_of_whole_events(found):
    keep = np.array([True, False, True, True, False])

    def model():
        predictor = linear().reshape(5, 6)
        with lc.plate("events", 5):
            lc.sample("y", dist.Normal(predictor, 1.0).to_event(1).mask(keep), obs=REAL.reshape(5, 6))

    assert found(model).rows.design.shape == (18, D + 1)


@pytest.mark.slow
def test_rows_of_two_axes(found):
    def model():
        b, row = normals("b", D), normals("row", 5)
        with numpyro.plate("outer", 5, dim=-2), numpyro.plate("inner", 6, dim=-1):
            numpyro.sample("y", dist.Bernoulli(logits=(X @ b).reshape(5, 6) + row[:, None]), obs=BINARY.reshape(5, 6))

    assert found(model).rows.design.shape == (N, D + 5)


def test_an_event_is_no_obstacle_where_it_only_sums(found):
    def model():
        lc.sample("y", dist.Normal(linear(), 1.0).to_event(1), obs=REAL)

    assert found(model).plate == ""


@pytest.mark.slow
def test_two_observed_sites(found):
    def model():
        b = normals("b", D)
        with lc.plate("rows", N):
            lc.sample("y", dist.Bernoulli(logits=X @ b), obs=BINARY)
        with lc.plate("others", 4):
            lc.sample("z", dist.Normal(b[0], 1.0), obs=np.ones(4))

    assert found(model, plate="rows").site == "y"
    assert found(model, plate="others").site == "z"
    assert found(model, plate="z").rows.design.shape == (4, 1)
    with pytest.raises(ModelError, match=r"several observed sites.*'y' in plate 'rows'.*'z' in plate 'others'.*plate="):
        find_factor(lc.log_density(model))


def test_new_data_by_the_same_factor_is_found_again(found):
    """The rest of the density takes the data as an argument."""

    def model(shift, y):
        b = lc.sample("b", dist.Normal(shift, 1.0))
        with lc.plate("rows", N):
            lc.sample("y", dist.Normal(b, 1.0), obs=y)

    density, other = (lc.log_density(model, jnp.float64(shift), REAL) for shift in (0.0, 1.0))
    prior = find_factor(density).log_prior
    u = jnp.array([0.3])
    assert prior(other.data, u) - prior(density.data, u) == pytest.approx((-0.5 * 0.49) - (-0.5 * 0.09))


@pytest.mark.parametrize(("posterior", "design"), [("wells_data-wells_dist100_model", (3020, 2)), ("dogs-dogs", (750, 3))])
def test_open_posteriors(found, acceptance, posterior, design):
    """NumPyro's text unchanged, without a plate."""
    if str(acceptance) not in sys.path:
        sys.path.append(str(acceptance))
    import models_numpyro

    spec = models_numpyro.REGISTRY[posterior]
    data = spec.prep(json.loads((acceptance / "posteriors" / posterior / "data.json").read_text()))
    factor = found(spec.model, **data)
    assert factor.family.distribution is dist.discrete.BernoulliLogits
    assert factor.rows.design.shape == design
    assert factor.columns is not None


def test_a_scaled_row_is_caught(found, monkeypatch):
    """Broken twins: the comparison above has power."""
    import luciole.ppl.factors.find as find

    plain = find._rows

    def scaled(*args):
        rows = plain(*args)
        return rows._replace(design=rows.design.at[7].multiply(1 + 1e-6))

    monkeypatch.setattr(find, "_rows", scaled)
    with pytest.raises(AssertionError):
        found(in_a_plate(lambda: dist.Normal(linear(), 1.0), REAL))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_precision_is_that_of_the_model(dtype):
    with jax.enable_x64(dtype == "float64"):
        X, y = np.ones((2000, 7), dtype), np.zeros(2000, dtype)
        factor = find_factor(lc.log_density(functools.partial(_regression, X, y)))
        assert factor.rows.design.dtype == dtype
        assert factor.rows.params["value"].dtype == dtype


def _regression(X, y):
    b = lc.sample("b", dist.Normal(0, 1).expand([X.shape[1]]).to_event(1))
    with lc.plate("rows", len(y)):
        lc.sample("y", dist.StudentT(4.0, X @ b, 1.0), obs=y)
