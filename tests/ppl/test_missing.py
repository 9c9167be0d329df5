"""`obs_mask`: latents where values are missing and nowhere else, in every place where a site may stand."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from jax.scipy import stats
from numpyro import distributions as dist
from numpyro import handlers
from numpyro.contrib.control_flow import scan as contrib_scan

from luciole import ppl as lc
from luciole.transforms import ModelError

pytestmark = pytest.mark.usefixtures("x64")

N = stats.norm.logpdf
Y = np.random.default_rng(1).standard_normal(6)
GIVEN = np.array([True, False, True, True, False, True])
HOLES = np.where(GIVEN, Y, np.nan)
TABLE = np.random.default_rng(2).standard_normal((3, 2))
TABLE_GIVEN = np.array([[True, False], [True, True], [False, False]])
TABLE_HOLES = np.where(TABLE_GIVEN, TABLE, np.nan)


def filled(y, given, u):
    """The data with the missing values in their places, in the order of the array."""
    return jnp.asarray(np.where(given, y, 0.0)).at[np.nonzero(~given)].set(u)


def plain(sample=lc.sample, mask=GIVEN):
    m = sample("m", dist.Normal(0.0, 1.0))
    with numpyro.plate("n", 6):
        sample("y", dist.Normal(m, 2.0), obs=HOLES, obs_mask=mask)


def plain_density(z):
    return N(z["m"]) + N(filled(HOLES, GIVEN, z["y_unobserved"]), z["m"], 2.0).sum()


def positive():
    """A bijection, with a support that depends on the element and on a latent site."""
    m = lc.sample("m", dist.Normal(0.0, 1.0))
    low = jnp.arange(6.0) * m - 20.0
    lc.sample("y", dist.Uniform(low, low + 30.0), obs=HOLES, obs_mask=GIVEN)


def positive_density(z):
    share = jax.nn.sigmoid(z["y_unobserved"])
    return N(z["m"]) - 6 * np.log(30.0) + jnp.log(30.0 * share * (1 - share)).sum()


def rows():
    """Whole events are missing."""
    m = lc.sample("m", dist.Normal(0.0, 1.0))
    d = dist.MultivariateNormal(m * jnp.ones(2), jnp.eye(2))
    with lc.plate("n", 3):
        lc.sample("y", d, obs=np.where(TABLE_GIVEN[:, :1], TABLE, np.nan), obs_mask=TABLE_GIVEN[:, 0])


def rows_density(z):
    return N(z["m"]) + N(filled(TABLE, TABLE_GIVEN[:, 0][:, None] & np.ones((3, 2), bool), z["y_unobserved"].ravel()), z["m"]).sum()


def nested_plates(holes=TABLE_HOLES):
    m = lc.sample("m", dist.Normal(jnp.zeros(2), 1.0))
    with lc.plate("a", 3, dim=-2), lc.plate("b", 2, dim=-1):
        lc.sample("y", dist.Normal(m, 1.0), obs=holes, obs_mask=~jnp.isnan(holes))


def table_density(z):
    return N(z["m"]).sum() + N(filled(TABLE, TABLE_GIVEN, z["y_unobserved"]), z["m"]).sum()


def sample_shape():
    m = lc.sample("m", dist.Normal(jnp.zeros(2), 1.0))
    lc.sample("y", dist.Normal(m, 1.0), obs=TABLE_HOLES, obs_mask=TABLE_GIVEN, sample_shape=(3,))


def mask_of_one_axis():
    m = lc.sample("m", dist.Normal(jnp.zeros(2), 1.0))
    lc.sample("y", dist.Normal(m, 1.0).expand([3, 2]), obs=TABLE, obs_mask=TABLE_GIVEN[:, 1:])


def one_axis_density(z):
    given = np.broadcast_to(TABLE_GIVEN[:, 1:], (3, 2))
    return N(z["m"]).sum() + N(filled(TABLE, given, z["y_unobserved"]), z["m"]).sum()


def series(y=HOLES):
    m = lc.sample("m", dist.Normal(0.0, 1.0))

    def step(before, y_t):
        y_t = lc.sample("y", dist.Normal(m * before, 1.0), obs=y_t, obs_mask=~jnp.isnan(y_t))
        return y_t, None

    jax.lax.scan(step, 1.0, y)


def series_density(z):
    y = filled(HOLES, GIVEN, z["y_unobserved"])
    return N(z["m"]) + N(y, z["m"] * jnp.concatenate([jnp.ones(1), y[:-1]])).sum()


def contrib_series():
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))

    def step(before, x):
        y_t, given = x
        y_t = numpyro.sample("y", dist.Normal(m * before, 1.0), obs=y_t, obs_mask=given)
        return y_t, None

    contrib_scan(step, 1.0, (HOLES, GIVEN))


def table_in_a_loop():
    m = lc.sample("m", dist.Normal(jnp.zeros(2), 1.0))

    def step(_, y_t):
        with lc.plate("b", 2):
            lc.sample("y", dist.Normal(m, 1.0), obs=y_t, obs_mask=~jnp.isnan(y_t))
        return None, None

    jax.lax.scan(step, None, TABLE_HOLES)


def mapped():
    m = lc.sample("m", dist.Normal(jnp.zeros(2), 1.0))
    jax.vmap(lambda y: lc.sample("y", dist.Normal(m, 1.0), obs=y, obs_mask=~jnp.isnan(y)))(jnp.asarray(TABLE_HOLES))


def scoped_and_scaled():
    with handlers.scope(prefix="s"), handlers.scale(scale=3.0):
        m = lc.sample("m", dist.Normal(0.0, 1.0))
        lc.sample("y", dist.Normal(m, 2.0).expand([6]), obs=HOLES, obs_mask=GIVEN)


CASES = {
    plain: plain_density,
    positive: positive_density,
    rows: rows_density,
    nested_plates: table_density,
    sample_shape: table_density,
    mask_of_one_axis: one_axis_density,
    series: series_density,
    contrib_series: series_density,
    table_in_a_loop: table_density,
    mapped: table_density,
    scoped_and_scaled: lambda z: 3 * plain_density({"m": z["s/m"], "y_unobserved": z["s/y_unobserved"]}),
    lambda: plain(numpyro.sample): plain_density,
    lambda: plain(mask=jnp.asarray(GIVEN)): plain_density,
}


QUICK = (plain, series)


@pytest.mark.parametrize("model", [m if m in QUICK else pytest.param(m, marks=pytest.mark.slow) for m in CASES], ids=lambda m: m.__name__)
def test_density_by_hand(model, random_position, assert_close):
    density = lc.log_density(model)
    z = random_position(density)
    both = lambda d, z: (jax.value_and_grad(d)(z), jax.value_and_grad(CASES[model])(z))  # noqa: E731
    (value, gradient), expected = jax.jit(both, compiler_options={"xla_backend_optimization_level": 0})(density, z)
    assert_close(value, expected[0])
    for name in z:
        assert_close(gradient[name], expected[1][name], what=name)


@pytest.mark.parametrize(("model", "shape"), [(plain, (2,)), (rows, (1, 2)), (series, (2,)), (table_in_a_loop, (3,)), (mapped, (3,))])
def test_only_what_is_missing_is_latent(model, shape):
    program = lc.trace(model)
    assert program.sites["y_unobserved"].shape == shape
    assert len(program.sites["y_unobserved"].dims) == len(shape)
    assert program.sites["y"].shape == program.sites["y_observed"].shape
    assert lc.log_density(model).positions["y_unobserved"].shape == shape


@pytest.mark.slow
def test_nothing_missing_and_everything_missing(random_position, assert_close):
    full = lc.log_density(series, Y)
    assert set(full.positions) == {"m"}
    assert "y_unobserved" not in lc.render_model(series, Y)
    z = random_position(full)
    before = jnp.concatenate([jnp.ones(1), jnp.asarray(Y[:-1])])
    assert_close(full(z), N(z["m"]) + N(Y, z["m"] * before).sum())
    assert lc.log_density(series, np.full(4, np.nan)).positions["y_unobserved"].shape == (4,)


@pytest.mark.slow
def test_values_and_positions(random_position):
    density = lc.log_density(positive)
    z = random_position(density)
    values = density.constrain(z)
    np.testing.assert_allclose(values["y"][GIVEN], Y[GIVEN], rtol=1e-6)
    np.testing.assert_array_equal(values["y"][~GIVEN], values["y_unobserved"])
    back = density.unconstrain({n: values[n] for n in z})
    for name in z:
        np.testing.assert_allclose(back[name], z[name], rtol=1e-9)
    start = density.init(jax.random.key(0), lc.init_to_value({"y_unobserved": np.array([1.0, 2.0])}))
    np.testing.assert_allclose(density.constrain(start)["y"][~GIVEN], [1.0, 2.0], rtol=1e-9)


@pytest.mark.slow
def test_the_program_knows_how_many_and_the_data_where():
    """The same number at other places is the same program; another number is not."""
    other = np.where([True, True, False, True, True, False], Y, np.nan)
    density, moved = lc.log_density(series), lc.log_density(series, other)
    assert density.program == moved.program
    assert density.program != lc.log_density(series, Y).program
    z = {"m": jnp.asarray(0.3), "y_unobserved": jnp.array([1.0, -1.0])}
    np.testing.assert_allclose(jax.jit(density.skeleton.total)(moved.data, z), moved(z), rtol=1e-12)


@pytest.mark.slow
def test_a_mask_that_is_not_known_leaves_no_coordinate_improper(random_position, assert_close):
    """It depends on a latent site, or the data are traced: coordinates of given elements have a standard normal density."""

    def model():
        m = lc.sample("m", dist.Normal(0.0, 1.0))
        lc.sample("y", dist.Gamma(2.0, jnp.exp(m)).expand([6]), obs=np.abs(Y), obs_mask=jnp.asarray(Y) > m)

    density = lc.log_density(model)
    z = random_position(density)
    given = Y > float(z["m"])
    y = jnp.where(given, np.abs(Y), jnp.exp(z["y_unobserved"]))
    gamma = dist.Gamma(2.0, jnp.exp(z["m"])).log_prob(y).sum()
    expected = N(z["m"]) + gamma + jnp.where(given, N(z["y_unobserved"]), z["y_unobserved"]).sum()
    assert_close(density(z), expected)

    z = {"m": jnp.asarray(0.3), "y_unobserved": jnp.linspace(-1.0, 1.0, 6)}
    traced = jax.jit(lambda y, z: lc.log_density(series, y)(z))(jnp.asarray(HOLES), z)
    shorter = {**z, "y_unobserved": z["y_unobserved"][~GIVEN]}
    assert_close(traced, series_density(shorter) + N(z["y_unobserved"][GIVEN]).sum())


@pytest.mark.slow
def test_log_likelihood_of_what_is_missing_is_nan():
    values = {"m": np.zeros(3), "y_unobserved": np.zeros((3, 2))}
    for model in (plain, series):
        found = lc.log_likelihood(model, values)["y_observed"]
        np.testing.assert_array_equal(np.isnan(found), np.broadcast_to(~GIVEN, (3, 6)))

    def events():
        m = lc.sample("m", dist.Normal(0.0, 1.0))
        with handlers.mask(mask=np.array([True, False, True])):
            lc.sample("y", dist.Normal(m, 1.0).expand([3, 2]).mask(TABLE_GIVEN).to_event(1), obs=np.zeros((3, 2)))

    found = lc.log_likelihood(events, {"m": np.zeros(1)})["y"]
    np.testing.assert_allclose(found, [[N(0.0), np.nan, np.nan]])


@pytest.mark.slow
def test_predictives():
    prior = lc.prior_predictive(series, jax.random.key(0), 500)
    assert prior["y_unobserved"].shape == (500, 2)
    np.testing.assert_array_equal(prior["y"][:, ~GIVEN], prior["y_unobserved"])
    assert np.isfinite(prior["y"]).all()
    replicate = lc.posterior_predictive(plain, jax.random.key(0), {"m": np.zeros(4), "y_unobserved": np.full((4, 2), 9.0)})
    assert set(replicate) == {"y_observed", "y"}
    assert (replicate["y"][:, ~GIVEN] == 9.0).all()
    assert len(np.unique(replicate["y"][:, GIVEN])) == 16


def test_discrete_values_are_not_imputed_by_gradients():
    counts = np.array([3, -1, 2])

    def model():
        rate = lc.sample("rate", dist.Gamma(2.0, 1.0))
        lc.sample("y", dist.Poisson(rate).expand([3]), obs=counts, obs_mask=counts >= 0)

    with pytest.raises(ModelError, match=r"site 'y_unobserved' .* the missing values are discrete .* Leave these rows out"):
        lc.log_density(model)
    assert lc.trace(model).sites["y_unobserved"].shape == (1,)


@pytest.mark.parametrize(
    ("obs", "mask", "words"),
    [
        (HOLES, None, r"NaN at index 1 .*obs_mask=~jnp.isnan\(y\)"),
        (HOLES, np.ones(6, bool), "NaN at index 1"),
        (Y, np.ones(6), "obs_mask has dtype float64; expected booleans"),
        (Y, np.ones(5, bool), r"obs_mask has shape \(5,\) and obs \(6,\)"),
        (Y, "yes", "obs_mask is a builtins.str"),
    ],
)
def test_messages(obs, mask, words):
    with pytest.raises(ModelError, match=words):
        lc.trace(lambda: lc.sample("y", dist.Normal(jnp.zeros(6), 1.0), obs=obs, obs_mask=mask))


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3])
def test_an_event_is_missing_as_a_whole(n):
    d = dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)).expand([n])
    with pytest.raises(ModelError, match=r"site 'y': obs_mask has shape .* an event is there or missing as a whole"):
        lc.trace(lambda: lc.sample("y", d, obs=np.zeros((n, 2)), obs_mask=np.ones((n, 2), bool)))


def test_without_an_observation_a_mask_plays_no_part():
    program = lc.trace(lambda: lc.sample("y", dist.Normal(jnp.zeros(6), 1.0), obs_mask=GIVEN))
    assert list(program.sites) == ["y"]
    assert program.latents["y"].shape == (6,)
