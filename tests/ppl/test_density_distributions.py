"""One latent site for every family of distributions: density and gradient equal NumPyro's, through every bijection."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from numpyro import distributions as dist
from numpyro.distributions import constraints, transforms
from numpyro.infer.util import potential_energy

from luciole import ppl as lc

pytestmark = pytest.mark.usefixtures("x64")

MATRIX = np.array([[2.0, 0.3, 0.1], [0.3, 1.5, -0.2], [0.1, -0.2, 1.1]])
TRIANGLE = np.linalg.cholesky(MATRIX)
ADJACENT = np.array([[0.0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0]])
WEIGHTS = np.array([0.2, 0.5, 0.3])


class Quartic(dist.Distribution):
    """exp(-power |x|**4): a user's own distribution, with an array field and a static one."""

    arg_constraints = {"rate": constraints.positive}  # noqa: RUF012
    support = constraints.real
    pytree_data_fields = ("rate",)
    pytree_aux_fields = ("power",)

    def __init__(self, rate, power, *, validate_args=None):
        self.rate, self.power = jnp.asarray(rate), power
        super().__init__(jnp.shape(rate), (), validate_args=validate_args)

    def log_prob(self, value):
        return -self.rate * value**self.power


# name -> m -> distribution of a latent site; m is a latent number, so that parameters have gradients too
LATENT = {
    "asymmetric laplace": lambda m: dist.AsymmetricLaplace(m, 1.2, 0.7),
    "beta": lambda m: dist.Beta(jnp.exp(m), 2.0),
    "beta proportion": lambda m: dist.BetaProportion(0.3, jnp.exp(m)),
    "car": lambda m: dist.CAR(m, 0.4, jnp.exp(m), ADJACENT),
    "cauchy": lambda m: dist.Cauchy(m, 2.0),
    "chi2": lambda m: dist.Chi2(2.0 + jnp.exp(m)),
    "circulant normal": lambda m: dist.CirculantNormal(m * jnp.ones(4), jnp.array([2.0, 0.5, 0.1, 0.5])),
    "custom": lambda m: Quartic(jnp.exp(m), 4),
    "dirichlet": lambda m: dist.Dirichlet(jnp.exp(m) * jnp.array([1.0, 2.0, 3.0])),
    "euler-maruyama": lambda m: dist.EulerMaruyama(
        jnp.arange(5) * 0.1, lambda x, t: (-0.3 * x, 0.7 * jnp.ones_like(x)), dist.Normal(m, 1.0)
    ),
    "exponential": lambda m: dist.Exponential(jnp.exp(m)),
    "gamma": lambda m: dist.Gamma(2.0, jnp.exp(m)),
    "gaussian random walk": lambda m: dist.GaussianRandomWalk(jnp.exp(m), 5),
    "gompertz": lambda m: dist.Gompertz(jnp.exp(m), 0.5),
    "gumbel": lambda m: dist.Gumbel(m, 1.5),
    "half cauchy": lambda m: dist.HalfCauchy(jnp.exp(m)),
    "half normal": lambda m: dist.HalfNormal(jnp.exp(m)),
    "inverse gamma": lambda m: dist.InverseGamma(3.0, jnp.exp(m)),
    "kumaraswamy": lambda m: dist.Kumaraswamy(jnp.exp(m), 1.4),
    "laplace": lambda m: dist.Laplace(m, 1.5),
    "left truncated": lambda m: dist.LeftTruncatedDistribution(dist.Normal(0.0, 1.0), low=m),
    "lkj": lambda m: dist.LKJ(3, jnp.exp(m)),
    "lkj cholesky": lambda m: dist.LKJCholesky(4, jnp.exp(m)),
    "logistic": lambda m: dist.Logistic(m, 1.5),
    "log normal": lambda m: dist.LogNormal(m, 0.8),
    "log uniform": lambda m: dist.LogUniform(0.5, 1.0 + jnp.exp(m)),
    "low rank normal": lambda m: dist.LowRankMultivariateNormal(m * jnp.ones(3), TRIANGLE[:, :2], jnp.ones(3)),
    "matrix normal": lambda m: dist.MatrixNormal(m * jnp.ones((3, 2)), TRIANGLE, jnp.eye(2)),
    "mixture": lambda m: dist.MixtureSameFamily(dist.Categorical(probs=WEIGHTS), dist.Normal(m * jnp.arange(3.0), 1.0)),
    "mixture of families": lambda m: dist.MixtureGeneral(
        dist.Categorical(probs=WEIGHTS), [dist.Normal(m, 1.0), dist.Cauchy(0.0, 1.0), dist.StudentT(4.0, m, 2.0)]
    ),
    "normal": lambda m: dist.Normal(m, 1.5),
    "normal covariance": lambda m: dist.MultivariateNormal(m * jnp.ones(3), covariance_matrix=MATRIX),
    "normal precision": lambda m: dist.MultivariateNormal(m * jnp.ones(3), precision_matrix=MATRIX * jnp.exp(m)),
    "normal triangle": lambda m: dist.MultivariateNormal(m * jnp.ones(3), scale_tril=TRIANGLE),
    "ordered": lambda m: dist.TransformedDistribution(dist.Normal(m, 1.0).expand([4]).to_event(1), transforms.OrderedTransform()),
    "pareto": lambda m: dist.Pareto(jnp.exp(m), 2.5),
    "relaxed bernoulli": lambda m: dist.RelaxedBernoulliLogits(0.7, m),
    "right truncated": lambda m: dist.RightTruncatedDistribution(dist.Cauchy(0.0, 1.0), high=m),
    "von mises event": lambda m: dist.VonMises(m, 2.0).expand([2]).to_event(1),
    "soft laplace": lambda m: dist.SoftLaplace(m, 1.5),
    "student t": lambda m: dist.StudentT(4.0, m, 1.5),
    "transformed": lambda m: dist.TransformedDistribution(
        dist.Gamma(2.0, 1.0), transforms.AffineTransform(m, 2.0, domain=constraints.positive)
    ),
    "truncated cauchy": lambda m: dist.TruncatedCauchy(m, 1.0, low=-1.0, high=2.0),
    "truncated normal": lambda m: dist.TruncatedNormal(m, 1.0, low=-1.0, high=2.0),
    "two-sided truncated": lambda m: dist.TwoSidedTruncatedDistribution(dist.Normal(0.0, 1.0), low=m, high=m + 3.0),
    "uniform": lambda m: dist.Uniform(m, m + 2.0),
    "von mises": lambda m: dist.VonMises(m, 2.0),
    "weibull": lambda m: dist.Weibull(jnp.exp(m), 1.5),
    "wishart": lambda m: dist.Wishart(5.0, jnp.exp(m) * MATRIX),
    "multivariate student": lambda m: dist.MultivariateStudentT(5.0, m * jnp.ones(3), TRIANGLE),
    "zero sum": lambda m: dist.ZeroSumNormal(jnp.exp(m), (4,)),
}

# name -> (m -> distribution of an observed site, its observation)
OBSERVED = {
    "bernoulli logits": (lambda m: dist.Bernoulli(logits=m), np.array([0, 1, 1])),
    "bernoulli probs": (lambda m: dist.BernoulliProbs(jnp.exp(-jnp.exp(m))), np.array([0.0, 1.0])),
    "beta binomial": (lambda m: dist.BetaBinomial(jnp.exp(m), 2.0, 10), np.array([0, 4, 10])),
    "binomial": (lambda m: dist.Binomial(10, logits=m), np.array([0, 4, 10])),
    "binomial totals": (lambda m: dist.Binomial(np.array([5, 6]), probs=jnp.exp(-jnp.exp(m))), np.array([5, 2])),
    "categorical": (lambda m: dist.Categorical(logits=m * jnp.arange(4.0)), np.array([0, 3, 1])),
    "delta": (lambda m: dist.Delta(2.0, log_density=m**2), np.array([2.0])),
    "dirichlet multinomial": (lambda m: dist.DirichletMultinomial(jnp.exp(m) * WEIGHTS, 6), np.array([1, 2, 3])),
    "discrete uniform": (lambda m: dist.DiscreteUniform(0, 4).mask(m > -9.0), np.array([3, 0])),
    "gamma poisson": (lambda m: dist.GammaPoisson(2.0, jnp.exp(m)), np.array([0, 4])),
    "geometric": (lambda m: dist.Geometric(logits=m), np.array([0, 4])),
    "multinomial": (lambda m: dist.Multinomial(6, logits=m * jnp.arange(3.0)), np.array([1, 2, 3])),
    "negative binomial": (lambda m: dist.NegativeBinomial2(jnp.exp(m), 3.0), np.array([0, 4])),
    "ordered logistic": (lambda m: dist.OrderedLogistic(m, jnp.array([-1.0, 0.5, 2.0])), np.array([0, 3, 1])),
    "poisson": (lambda m: dist.Poisson(jnp.exp(m)), np.array([0, 4])),
    "uniform": (lambda m: dist.Uniform(-jnp.exp(m), 1.0 + jnp.exp(m)), jnp.array([0.5, 0.9])),
    "zero-inflated": (
        lambda m: dist.ZeroInflatedDistribution(dist.NegativeBinomial2(jnp.exp(m), 2.0), gate=0.3),
        np.array([0, 4]),
    ),
    "zero-inflated poisson": (lambda m: dist.ZeroInflatedPoisson(0.3, jnp.exp(m)), np.array([0, 4])),
}


# What compiles for longest, and families that share a bijection; the quick set keeps one of each kind and wrapper.
SLOW = {"asymmetric laplace", "beta", "beta binomial", "beta proportion", "car", "cauchy", "chi2", "circulant normal"}
SLOW |= {"dirichlet multinomial", "gompertz", "gumbel", "inverse gamma", "kumaraswamy", "left truncated", "lkj"}
SLOW |= {"lkj cholesky", "log uniform", "logistic", "low rank normal", "matrix normal", "mixture of families"}
SLOW |= {
    "multivariate student",
    "normal covariance",
    "normal precision",
    "pareto",
    "relaxed bernoulli",
    "right truncated",
}
SLOW |= {"soft laplace", "truncated cauchy", "two-sided truncated", "weibull", "wishart", "zero-inflated"}


def marked(names):
    return [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in names]


@pytest.mark.parametrize("name", marked(LATENT))
def test_latent(name, assert_equals_numpyro):
    def model():
        numpyro.sample("x", LATENT[name](numpyro.sample("m", dist.Normal(0.0, 1.0))))

    density = assert_equals_numpyro(model, points=2)
    assert density.program.sites["x"].latent


@pytest.mark.parametrize("name", marked(OBSERVED))
def test_observed(name, assert_equals_numpyro):
    make, obs = OBSERVED[name]

    def model(obs):
        numpyro.sample("y", make(numpyro.sample("m", dist.Normal(0.0, 1.0))), obs=obs)

    density = assert_equals_numpyro(model, obs, points=2)
    assert density.program.sites["y"].observed


@pytest.mark.parametrize("validate", [None, True, False])
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda x, **kw: dist.Uniform(0.0, jnp.exp(x), **kw), id="bound"),
        pytest.param(lambda x, **kw: dist.Uniform(0.0, jnp.exp(x), **kw).expand([2]).to_event(1), id="wrapped"),
    ],
)
def test_observation_outside_a_latent_support(make, validate):
    """The density is NumPyro's there too: zero, unless the user switched validation off."""
    y = jnp.array([1.5, 2.5])

    def model():
        numpyro.sample("y", make(numpyro.sample("x", dist.Normal(0.0, 1.0)), validate_args=validate), obs=y)

    density = jax.jit(lc.log_density(model))
    theirs = jax.jit(lambda z: -potential_energy(model, (), {}, z))
    for x in (0.1, 0.7, 1.2):  # between, below and above the two observations
        assert float(density({"x": x})) == pytest.approx(float(theirs({"x": x})), rel=1e-12), x
    outside = {float(density({"x": x})) for x in (0.1, 0.7, 1.2)}
    assert (float("-inf") in outside) == (validate is not False)


@pytest.mark.parametrize("name", marked(["half cauchy", "lkj cholesky", "left truncated", "uniform", "wishart", "zero sum", "car"]))
def test_round_trip(name, random_position, assert_close):
    """unconstrain is the inverse of constrain, and constrain lands in the support."""

    def model():
        numpyro.sample("x", LATENT[name](numpyro.sample("m", dist.Normal(0.0, 1.0))).expand([2]))

    density = lc.log_density(model)
    z = random_position(density)
    values = density.constrain(z)
    back = density.unconstrain(values)
    for n in z:
        assert_close(back[n], z[n], 1e-8, n)
    support = LATENT[name](values["m"]).support
    assert bool(jnp.all(support(values["x"])))
