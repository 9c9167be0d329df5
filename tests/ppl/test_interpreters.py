"""The interpreters agree with one another and with the distributions; a density never bakes its data in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro import distributions as dist
from scipy import stats

from luciole import ppl as lc
from luciole.ppl import interpreters

pytestmark = pytest.mark.usefixtures("x64")

Y = np.array([0.3, -1.2, 2.0, 0.1])

# Every statistical test here fails on a right program with this probability, over all its comparisons (Bonferroni).
FAILURE_RATE = 1e-6


def everything(y=Y):
    """Plates, a loop, a map, a simplex, a deterministic site and a factor."""
    mu = lc.sample("mu", dist.Normal(1.0, 2.0))
    tau = lc.sample("tau", dist.Exponential(2.0))
    p = lc.sample("p", dist.Dirichlet(jnp.array([1.0, 2.0, 3.0])))

    def step(x, _):
        return lc.sample("walk", dist.Normal(0.5 * x, 1.0)), None

    jax.lax.scan(step, 0.0, None, length=3)
    jax.vmap(lambda s: lc.sample("mapped", dist.Normal(0.0, s)))(jnp.array([1.0, 4.0]))
    lc.deterministic("sum", mu + tau)
    lc.factor("f", 0.0 * mu)
    with lc.plate("n", 4):
        theta = lc.sample("theta", dist.Normal(0.0, 1.0))
        lc.sample("y", dist.Normal(theta + p[0], 1.0), obs=y)


# site -> (mean, variance) of every element under the prior, from closed forms
MOMENTS = {
    "mu": (1.0, 4.0),
    "tau": (0.5, 0.25),
    "p": (np.array([1, 2, 3]) / 6, np.array([5, 8, 9]) / (36 * 7)),
    "walk": (np.zeros(3), np.array([1.0, 1.25, 1.3125])),
    "mapped": (np.zeros(2), np.array([1.0, 16.0])),
    "theta": (np.zeros(4), np.ones(4)),
    "y": (np.full(4, 1 / 6), 2 + 5 / (36 * 7)),
}


def largest_z(draws, moments):
    """The largest |z| of the means and of the mean squares over all elements, and how many there were."""
    scores = []
    for name, (mean, variance) in moments.items():
        x = np.asarray(draws[name], np.float64)
        n = len(x)
        scores.append((x.mean(0) - mean) / np.sqrt(variance / n))
        squares = (x - mean) ** 2
        scores.append((squares.mean(0) - variance) / (squares.std(0) / np.sqrt(n)))
    flat = np.concatenate([np.ravel(s) for s in scores])
    return np.abs(flat).max(), flat.size


def limit(count):
    return stats.norm.isf(FAILURE_RATE / (2 * count))


@pytest.fixture(scope="module")
def draws():
    with jax.enable_x64(True):
        return lc.prior_predictive(everything, jax.random.key(1), 4000)


def test_generate_has_the_moments_of_the_prior(draws):
    found, count = largest_z(draws, MOMENTS)
    assert found < limit(count)


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param({"tau": (0.5, 0.15)}, id="another variance"),
        pytest.param({"mu": (1.3, 4.0)}, id="another mean"),
        pytest.param({"walk": (np.zeros(3), np.ones(3))}, id="steps that forget"),
    ],
)
def test_moments_twin(draws, broken):
    """The same check against wrong moments must fail: it has the power to see them."""
    found, count = largest_z(draws, {**MOMENTS, **broken})
    assert found > limit(count)


def correlations(draws):
    """The largest |correlation| between any two of the independent standard coordinates, and how many pairs."""
    walk = np.asarray(draws["walk"])
    innovations = walk - 0.5 * np.concatenate([np.zeros((len(walk), 1)), walk[:, :-1]], axis=1)
    mapped = np.asarray(draws["mapped"]) / [1.0, 4.0]
    columns = np.concatenate([np.asarray(draws["mu"])[:, None], innovations, mapped, np.asarray(draws["theta"])], axis=1)
    c = np.corrcoef(columns.T)
    off = np.abs(c[np.triu_indices_from(c, 1)])
    return off.max(), off.size, columns


def test_sites_steps_and_examples_have_their_own_randomness(draws):
    found, pairs, columns = correlations(draws)
    assert found < limit(pairs) / np.sqrt(4000)
    assert len(np.unique(columns)) == columns.size


def test_correlation_twin(draws):
    mapped = np.stack([draws["mapped"][:, 0], 4.0 * draws["mapped"][:, 0]], axis=1)  # one key for both examples
    found, pairs, _ = correlations({**draws, "mapped": mapped})
    assert found > limit(pairs) / np.sqrt(4000)


def test_given_values_are_kept():
    program = lc.trace(everything)
    values = {"mu": jnp.asarray(7.0), "walk": jnp.arange(3.0), "p": jnp.array([0.2, 0.3, 0.5])}
    generate = jax.jit(interpreters.generate, static_argnums=0, static_argnames="resample_observed")
    out = generate(program, program.data, jax.random.key(0), values)
    assert float(out["mu"]) == 7.0
    assert out["walk"].tolist() == [0.0, 1.0, 2.0]
    assert float(out["sum"]) == pytest.approx(7.0 + float(out["tau"]))
    np.testing.assert_allclose(out["y"], Y, rtol=1e-6)
    again = generate(program, program.data, jax.random.key(0), values, resample_observed=True)
    assert np.abs(again["y"] - Y).min() > 1e-6
    assert float(again["tau"]) == float(out["tau"])


def test_round_trip(random_position, assert_close):
    density = lc.log_density(everything)
    z = random_position(density)
    values = density.constrain(z)
    assert set(values) == {*density.positions, "sum"}
    assert bool((values["p"] > 0).all())
    assert float(values["p"].sum()) == pytest.approx(1.0)
    back = density.unconstrain(values)
    assert list(back) == list(density.positions)
    for name in z:
        assert_close(back[name], z[name], 1e-10, name)


def test_the_parts_sum_to_the_density(random_position, assert_close):
    density = lc.log_density(everything)
    program, z = density.program, random_position(density)
    values = density.constrain(z)
    scores = interpreters.score_sites(program, density.data, z)
    assert set(scores) == {*density.positions, "y", "f"}
    assert scores["walk"].shape == (3,)
    assert_close(density(z), sum(float(jnp.sum(s)) for s in scores.values()))
    elements = interpreters.pointwise(program, density.data, values)
    assert elements["y"].shape == (4,)
    assert_close(elements["y"].sum(), scores["y"])
    jacobian = {
        "tau": z["tau"],
        "p": dist.biject_to(dist.constraints.simplex).log_abs_det_jacobian(z["p"], values["p"]),
    }
    priors = {
        "mu": dist.Normal(1.0, 2.0),
        "tau": dist.Exponential(2.0),
        "p": dist.Dirichlet(jnp.array([1.0, 2.0, 3.0])),
    }
    for name, prior in priors.items():
        assert_close(scores[name], prior.log_prob(values[name]) + jacobian.get(name, 0.0), what=name)


def test_density_is_the_distribution_of_transformed_draws():
    """exp(density) integrates to the evidence, by quadrature. The twin forgets the Jacobian."""

    def model():
        x = lc.sample("x", dist.Gamma(2.0, 1.0))
        lc.sample("y", dist.Exponential(x), obs=1.5)

    density = lc.log_density(model)
    grid = jnp.linspace(-25.0, 8.0, 4001)
    values = jnp.exp(jax.vmap(lambda u: density({"x": u}))(grid))
    evidence = 2.0 / 2.5**3  # of x exp(-x) * x exp(-1.5 x)
    assert float(jnp.trapezoid(values, grid)) == pytest.approx(evidence, rel=1e-9)
    assert float(jnp.trapezoid(values * jnp.exp(-grid), grid)) != pytest.approx(evidence, rel=1e-2)


class TestPytree:
    """A LogDensity goes through jit, grad and vmap as an argument whose leaves are the data."""

    def density(self, y=Y):
        return lc.log_density(lambda y: lc.sample("y", dist.Normal(lc.sample("m", dist.Normal(0.0, 1.0)), 1.0), obs=y), y)

    def expected(self, m, y):
        return stats.norm.logpdf(m) + stats.norm.logpdf(y, m).sum()

    def test_new_data_trace_nothing(self):
        traces, compiles = [], []
        jax.monitoring.register_event_duration_secs_listener(
            lambda event, *_, **__: compiles.append(event) if "backend_compile" in event else None
        )

        @jax.jit
        def f(density, m):
            traces.append(1)
            return density({"m": m})

        for y in (Y, Y + 1.0, 2.0 * Y):
            assert float(f(self.density(y), 0.3)) == pytest.approx(self.expected(0.3, y), rel=1e-12)
        assert len(traces) == 1
        before = len(compiles)
        assert before > 0
        f(self.density(3.0 * Y), 0.5)
        assert compiles[before:] == [], "new data of the same shape compiled something"
        f(self.density(np.zeros(9)), 0.3)
        assert len(traces) == 2
        assert len(compiles) > before

    def test_data_are_arguments_of_the_program(self):
        y = np.arange(100.0) * 1.2345
        text = jax.jit(lambda d, m: d({"m": m})).lower(self.density(y), 0.0).as_text()
        assert "100xf64" in text
        assert "1.2345" not in text
        assert "1.234500e" not in text.lower()
        baked = jax.jit(lambda m: self.density(y)({"m": m})).lower(0.0).as_text()
        assert "dense<" in baked
        assert len(baked) > len(text)

    def test_transformations(self):
        density = self.density()
        gradient = jax.grad(lambda d: d({"m": 0.3}))(density)
        np.testing.assert_allclose(gradient.data[0], 0.3 - Y, rtol=1e-12)
        stacked = jax.tree.map(lambda a, b: jnp.stack([a, b]), density, self.density(Y + 1.0))
        found = jax.vmap(lambda d: d({"m": 0.3}))(stacked)
        np.testing.assert_allclose(found, [self.expected(0.3, Y), self.expected(0.3, Y + 1.0)], rtol=1e-12)

    def test_prepare_hoists_what_reads_only_data(self, random_position):
        def model(x, y):
            z = (x - jnp.mean(x, 0)) / jnp.std(x, 0)
            beta = lc.sample("beta", dist.Normal(jnp.zeros(3), 1.0))
            lc.sample("y", dist.Poisson(jnp.exp(jnp.log1p(jnp.abs(z)) @ beta)), obs=y)

        x = np.random.default_rng(0).standard_normal((20, 3))
        density = lc.log_density(lambda x, y: model(jnp.asarray(x), y), x, np.arange(20))
        position = random_position(density)
        prepared = density.prepare()
        assert float(density.evaluate(prepared, position)) == pytest.approx(float(density(position)), rel=1e-12)
        late = str(jax.make_jaxpr(density.evaluate)(prepared, position))
        whole = str(jax.make_jaxpr(density)(position))
        for word in ("log1p", "lgamma", "sqrt"):  # standardising the covariate, and log y!
            assert word in whole
            assert word not in late


def test_arrays_without_axes_are_data_and_numbers_are_not():
    def model(scale, y):
        mu = lc.sample("mu", dist.Normal(0, 1))
        lc.sample("y", dist.Normal(mu, scale), obs=y)

    program = lc.trace(model, np.array(2.0), np.zeros(3))
    assert program == lc.trace(model, np.array(3.0), np.ones(3))
    assert program != lc.trace(model, 2.0, np.zeros(3))
    assert lc.trace(model, 2.0, np.zeros(3)) != lc.trace(model, 3.0, np.zeros(3))


def test_starts():
    density = lc.log_density(everything)
    uniform = jax.jit(lambda d, k: d.init(k, lc.init_to_uniform(0.5)))(density, jax.random.key(0))
    assert {n: v.shape for n, v in uniform.items()} == {n: s.shape for n, s in density.positions.items()}
    assert max(float(jnp.abs(v).max()) for v in uniform.values()) <= 0.5
    small = lc.log_density(lambda: lc.sample("tau", dist.Exponential(2.0)))
    median = small.constrain(small.init(jax.random.key(0), lc.init_to_median(501)))
    assert float(median["tau"]) == pytest.approx(np.log(2) / 2, abs=0.1)  # of 501 draws: five standard deviations
    strategy = lc.init_to_value({"tau": 2.5, "p": [0.2, 0.3, 0.5]})
    given = jax.jit(lambda d, k: d.constrain(d.init(k, strategy)))(density, jax.random.key(0))
    assert float(given["tau"]) == pytest.approx(2.5)
    assert given["p"].tolist() == pytest.approx([0.2, 0.3, 0.5])
    assert set(small.init(jax.random.PRNGKey(0))) == {"tau"}


def test_report_names_the_site_at_fault():
    def model():
        lc.sample("y", dist.Uniform(0.0, jnp.exp(lc.sample("top", dist.Normal(0.0, 1.0)))), obs=jnp.array([2.0]))
        lc.sample("fine", dist.Normal(0.0, 1.0))

    density = lc.log_density(model)
    z = {"top": jnp.asarray(0.0), "fine": jnp.asarray(0.5)}
    assert float(density(z)) == -np.inf
    worst, *rest = density.report(z).splitlines()
    assert "'y': log density -inf, observed" in worst
    assert len(rest) == 2
    assert all("gradient finite" in row for row in rest)


def test_single_precision():
    def model(y):
        tau = lc.sample("tau", dist.HalfNormal(1.0))
        lc.sample("y", dist.Normal(lc.sample("mu", dist.Normal(0.0, 1.0)), tau), obs=y)

    with jax.enable_x64(False):
        density = lc.log_density(model, np.array(Y))
        assert {s.dtype for s in density.positions.values()} == {np.dtype("float32")}
        value, gradient = jax.value_and_grad(density)({n: jnp.zeros(s.shape, s.dtype) for n, s in density.positions.items()})
    assert {value.dtype, *(g.dtype for g in gradient.values())} == {np.dtype("float32")}
    z = {n: jnp.zeros(s.shape) for n, s in density.positions.items()}
    assert float(value) == pytest.approx(float(lc.log_density(model, np.array(Y))(z)), rel=1e-5)
