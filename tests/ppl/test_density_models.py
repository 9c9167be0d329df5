"""The log density of NumPyro models and its gradient equal NumPyro's, whatever handlers and statements they use."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from numpyro import distributions as dist
from numpyro import handlers
from numpyro.contrib.control_flow import cond, scan
from numpyro.distributions import constraints
from numpyro.infer.reparam import LocScaleReparam, TransformReparam

import luciole as lc

pytestmark = pytest.mark.usefixtures("x64")

RNG = np.random.default_rng(3)
Y = RNG.standard_normal(8)
X = RNG.standard_normal((8, 3))
Y_2D = RNG.standard_normal((3, 4))
SEEN = np.array([True, False, True, True, False, True, True, True])
COUNTS = RNG.poisson(3.0, 8)


def schools(y=Y):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("school", 8):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, 1.3), obs=y)


def plates_nested():
    with numpyro.plate("a", 3, dim=-2):
        row = numpyro.sample("row", dist.Normal(0, 2))
        with numpyro.plate("b", 4, dim=-1):
            cell = numpyro.sample("cell", dist.Gamma(2.0, jnp.exp(row)))
            numpyro.sample("y", dist.Normal(cell, 1), obs=Y_2D)


def plates_crossed():
    rows, columns = numpyro.plate("rows", 3, dim=-2), numpyro.plate("columns", 4, dim=-1)
    with rows:
        a = numpyro.sample("a", dist.Normal(0, 2))
    with columns:
        b = numpyro.sample("b", dist.HalfNormal(2))
    with rows, columns:
        numpyro.sample("y", dist.Normal(a, b), obs=Y_2D)


def events():
    beta = numpyro.sample("beta", dist.Normal(0, 1).expand([3]).to_event(1))
    free = numpyro.sample("free", dist.Normal(jnp.zeros(3), 2.0))
    numpyro.sample("y", dist.Normal(X @ (beta + free), 1).to_event(1), obs=Y)


def sample_shape():
    x = numpyro.sample("x", dist.Gamma(2.0, 1.0), sample_shape=(8,))
    numpyro.sample("y", dist.Normal(x, 1), obs=Y)


def mask_handler():
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    with numpyro.plate("n", 8), handlers.mask(mask=SEEN):
        numpyro.sample("y", dist.Normal(mu, 1), obs=Y)
    with handlers.mask(mask=False):
        numpyro.sample("z", dist.Normal(mu, 1), obs=3.0)


def mask_on_latent():
    with numpyro.plate("n", 8), handlers.mask(mask=SEEN):
        x = numpyro.sample("x", dist.Gamma(2.0, 1.0))
    numpyro.sample("y", dist.Normal(x, 1), obs=Y)


def mask_from_latent():
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    with numpyro.plate("n", 8), handlers.mask(mask=mu > Y):
        numpyro.sample("y", dist.Normal(mu, 1), obs=Y)


def mask_of_distribution():
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    numpyro.sample("y", dist.Normal(mu, 1).expand([8]).mask(SEEN), obs=np.where(SEEN, Y, np.nan))
    numpyro.sample("z", dist.Normal(mu, 1).mask(SEEN[:4]).expand([3, 4]).to_event(2), obs=Y_2D)


def scale_observed():
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    with handlers.scale(scale=2.5):
        numpyro.sample("y", dist.Normal(mu, 1).expand([8]), obs=Y)
        numpyro.factor("f", -(mu**2))
    with handlers.scale(scale=jnp.arange(1.0, 9.0)):
        numpyro.sample("z", dist.Normal(mu, 1).expand([8]), obs=Y)
    with handlers.scale(scale=0.3):
        numpyro.sample("real", dist.Normal(mu, 1))  # scaled and latent, on the reals: no Jacobian, no difference


def scale_by_latent():
    s = numpyro.sample("s", dist.HalfNormal(1))
    with handlers.scale(scale=s):
        numpyro.sample("y", dist.Normal(s, 1).expand([8]), obs=Y)


def scoped():
    def half(n):
        return numpyro.sample("x", dist.Gamma(n, 1.0))

    with handlers.scope(prefix="left"):
        a = half(2.0)
    with handlers.scope(prefix="right"):
        b = half(3.0)
    numpyro.sample("y", dist.Normal(a - b, 1), obs=Y)


def blocked():
    with handlers.block(), handlers.seed(rng_seed=0):
        noise = numpyro.sample("hidden", dist.Normal(0, 1))
    numpyro.sample("x", dist.Normal(noise, 1))


def hints():
    x = numpyro.sample("x", dist.HalfNormal(1), infer={"is_auxiliary": True})
    numpyro.sample("y", dist.Normal(x, 1), obs=Y, infer={"anything": 3})


def bounds():
    low = numpyro.sample("low", dist.Normal(0, 1))
    width = numpyro.sample("width", dist.LogNormal(0, 1))
    with numpyro.plate("n", 8):
        x = numpyro.sample("x", dist.Uniform(low, low + width))
        numpyro.sample("y", dist.Normal(x, 1), obs=Y)


def improper():
    real = numpyro.sample("real", dist.ImproperUniform(constraints.real, (), ()))
    simplex = numpyro.sample("simplex", dist.ImproperUniform(constraints.simplex, (2,), (3,)))
    interval = numpyro.sample("interval", dist.ImproperUniform(constraints.interval(-2.0, 3.0), (4,), ()))
    ordered = numpyro.sample("ordered", dist.ImproperUniform(constraints.ordered_vector, (), (4,)))
    numpyro.sample("y", dist.Normal(real + simplex.sum() + interval + ordered, 1), obs=Y[:4])


def statements():
    x = numpyro.sample("x", dist.Beta(2.0, 3.0))
    numpyro.deterministic("twice", 2 * x)
    numpyro.factor("f", -(x**2))
    with numpyro.plate("n", 8):
        numpyro.factor("g", x * Y)


def narrow_and_broad():
    x = numpyro.sample("x", dist.Normal(0, 1))
    numpyro.sample("broad", dist.Normal(x, 1), obs=Y)
    numpyro.sample("narrow", dist.Normal(x + Y, 1), obs=0.5)


def centred_in_the_model():
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    with handlers.reparam(config={"x": LocScaleReparam(0)}), numpyro.plate("n", 8):
        x = numpyro.sample("x", dist.Normal(mu, 2.0))
    numpyro.sample("y", dist.Normal(x, 1), obs=Y)


def transformed_in_the_model():
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    with handlers.reparam(config={"x": TransformReparam()}), numpyro.plate("n", 8):
        base = dist.TransformedDistribution(dist.Normal(0, 1), dist.transforms.AffineTransform(mu, 2.0))
        x = numpyro.sample("x", base)
    numpyro.sample("y", dist.Normal(x, 1), obs=Y)


def scan_plain():
    tau = numpyro.sample("tau", dist.HalfNormal(1))

    def step(x, y):
        x = numpyro.sample("x", dist.Normal(0.9 * x, tau))
        numpyro.sample("y", dist.Normal(x, 0.5), obs=y)
        return x, None

    scan(step, 0.0, Y)


def scan_with_plate():
    tau = numpyro.sample("tau", dist.HalfNormal(1))

    def step(x, y):
        with numpyro.plate("series", 4):
            x = numpyro.sample("x", dist.Normal(0.9 * x, tau))
            numpyro.sample("y", dist.Normal(x, 0.5), obs=y)
        return x, x

    scan(step, jnp.zeros(4), Y_2D)


def scan_simplex():
    def step(p, y):
        p = numpyro.sample("p", dist.Dirichlet(1.0 + p))
        numpyro.sample("y", dist.Normal(p[0], 1), obs=y)
        return p, None

    scan(step, jnp.ones(3), Y)


def scan_scaled():
    tau = numpyro.sample("tau", dist.HalfNormal(1))

    def step(x, y):
        x = numpyro.sample("x", dist.Normal(0.9 * x, tau))
        numpyro.sample("y", dist.Normal(x, 0.5), obs=y)
        return x, None

    with handlers.scale(scale=0.25):
        scan(step, 0.0, Y)


def scan_masked():
    def step(x, y):
        x = numpyro.sample("x", dist.Gamma(2.0, 1.0 + x))
        with handlers.mask(mask=y > 0):
            x = x + numpyro.sample("e", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(x, 0.5), obs=y)
        return x, None

    scan(step, 0.0, Y)


def scan_without_xs():
    def step(x, _):
        x = numpyro.sample("x", dist.Normal(x, 1))
        return x, None

    scan(step, 0.0, None, length=5)


def cond_observed():
    x = numpyro.sample("x", dist.Normal(0, 1))

    def yes(y):
        numpyro.sample("y", dist.Normal(x, 1), obs=y)

    def no(y):
        numpyro.sample("y", dist.Normal(-x, 2), obs=y)

    cond(x > 0, yes, no, Y)


MODELS = [v for v in list(vars().values()) if getattr(v, "__module__", "") == __name__]


SLOW = {scan_simplex, scan_with_plate, improper}


@pytest.mark.parametrize(
    "model",
    [pytest.param(m, id=m.__name__, marks=[pytest.mark.slow] if m in SLOW else []) for m in MODELS],
)
def test_equals_numpyro(model, assert_equals_numpyro):
    assert_equals_numpyro(model)


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda m: handlers.condition(m, {"mu": 0.7}), id="condition"),
        pytest.param(
            lambda m: handlers.substitute(m, {"tau": 0.7}),
            id="substitute",
            marks=pytest.mark.filterwarnings("ignore::luciole.SubstitutedSiteWarning"),
        ),
        pytest.param(lambda m: handlers.do(m, {"mu": 0.7}), id="do"),
        pytest.param(lambda m: handlers.seed(m, 0), id="seed"),
        pytest.param(lambda m: handlers.scope(m, "inner"), id="scope"),
        pytest.param(lambda m: handlers.reparam(m, {"theta": LocScaleReparam(0)}), id="reparam"),
        pytest.param(lambda m: handlers.infer_config(m, lambda site: {"hint": 1}), id="infer_config"),
        pytest.param(lambda m: handlers.condition(handlers.scope(m, "a"), {"a/mu": 0.1}), id="condition-around-scope"),
    ],
)
def test_handlers_around_the_model(wrap, assert_equals_numpyro):
    assert_equals_numpyro(wrap(schools))


@pytest.mark.slow
def test_conditioned_series(assert_equals_numpyro):
    """`condition` around a contrib scan gives each step its own element."""

    def model():
        def step(x, _):
            with numpyro.plate("n", 3):
                x = numpyro.sample("x", dist.Normal(0.9 * x, 0.5))
                numpyro.sample("y", dist.Normal(x, 1.0))
            return x, None

        scan(step, jnp.zeros(3), None, length=6)

    series = jnp.asarray(np.random.default_rng(0).standard_normal((6, 3)))
    assert_equals_numpyro(handlers.condition(model, {"y": series}))


def test_without_jit():
    """`jax.disable_jit()` changes nothing but speed."""

    def model():
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        numpyro.sample("y", dist.Normal(mu, 1.3), obs=Y)

    expected = float(dist.Normal(0.0, 5.0).log_prob(0.4) + dist.Normal(0.4, 1.3).log_prob(Y).sum())
    with jax.disable_jit():
        assert float(lc.log_density(model)({"mu": 0.4})) == pytest.approx(expected, rel=1e-12)
