"""Indices that are data lie inside what they pick from, and observations in loops are checked, before anything runs."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan as contrib_scan

import luciole as lc
from luciole import dist
from luciole.transforms import ModelError

G = np.array([0, 2, 1, 2])
Y = np.array([0.3, -1.0, 0.5, 2.0])


def effects():
    return lc.sample("theta", dist.Normal(0, 1).expand([3]).to_event(1))


def observe(mean, y=Y):
    lc.sample("y", dist.Normal(mean, 1).to_event(jnp.ndim(mean)), obs=y)


def by_index(g):
    observe(effects()[g])  # HERE


def in_a_plate(g):
    with numpyro.plate("s", 3):
        theta = numpyro.sample("theta", dist.Normal(0, 1))
    with numpyro.plate("n", len(g)):
        numpyro.sample("y", dist.Normal(theta[g], 1), obs=Y)  # HERE


def by_take(g):
    observe(jnp.take(effects(), g))  # HERE


def of_a_matrix(g):
    observe((effects()[:, None] * jnp.ones(5))[g, g])  # HERE


def along_an_axis(g):
    observe(jnp.take_along_axis(jnp.broadcast_to(effects(), (4, 3)), g[:, None], 1)[:, 0])  # HERE


def by_dynamic_slice(g):
    observe(jnp.stack([jax.lax.dynamic_slice_in_dim(effects_once, i, 1)[0] for effects_once in [effects()] for i in g]))  # HERE


def in_a_scan(g):
    theta = effects()
    observe(jax.lax.scan(lambda c, i: (c, theta[i]), 0.0, g)[1])  # HERE


def in_a_nested_scan(g):
    theta = effects()

    def inner(i):
        return jax.lax.scan(lambda c, j: (c, theta[(i + j) % 100]), 0.0, jnp.zeros(2, int))[1].sum()  # HERE

    observe(jax.lax.scan(lambda c, i: (c, inner(i)), 0.0, g)[1])


def in_a_contrib_scan(g):
    theta = effects()

    def step(c, x):
        numpyro.sample("y", dist.Normal(theta[x[0]], 1), obs=x[1])  # HERE
        return c, None

    contrib_scan(step, 0.0, (g, Y))


def under_vmap(g):
    theta = effects()
    observe(jax.vmap(lambda i: theta[i] + 1)(g))  # HERE


def under_vmap_in_a_scan(g):
    theta = effects()
    observe(jax.lax.scan(lambda c, i: (c, jax.vmap(lambda j: theta[j])(i)), 0.0, g[:, None])[1][:, 0])  # HERE


def in_jit(g):
    pick = jax.jit(lambda t, i: t[i])  # HERE
    observe(pick(effects(), g))


def under_checkpoint(g):
    observe(jax.checkpoint(lambda t: t[g])(effects()))  # HERE


def summed_by_segment(g):
    theta = effects()
    observe(jax.ops.segment_sum(jnp.ones(4) * theta[0], g, 3), np.zeros(3))  # HERE


def added_in_place(g):
    observe(jnp.zeros(3).at[g].add(effects()[0]), np.zeros(3))  # HERE


def computed_from_data(g):
    observe(effects()[jnp.asarray(g) * 2 // 2])  # HERE


def counted_by_a_loop(g):
    theta = effects()
    total = jax.lax.fori_loop(int(g.min()), int(g.max()) + 1, lambda i, c: c + theta[i], 0.0)  # HERE
    observe(total, 0.0)


def sorted_first(g):
    observe(effects()[jnp.sort(jnp.asarray(g))])  # HERE


def in_the_branch_that_is_taken(g):
    theta = effects()
    observe(jax.lax.cond(jnp.asarray(True), lambda: theta[g], lambda: theta[g + 100]))  # HERE


MODELS = [value for value in list(globals().values()) if inspect.isfunction(value) and list(inspect.signature(value).parameters) == ["g"]]


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.__name__)
def test_out_of_range(model):
    lc.trace(model, G)
    with pytest.raises(ModelError) as caught:
        lc.trace(model, G + 1)
    lines, start = inspect.getsourcelines(model)
    here = start + next(i for i, line in enumerate(lines) if "# HERE" in line)
    message = str(caught.value)
    assert "index 3 is out of range for axis" in message and "of size 3" in message and f"test_survey.py:{here}" in message, message


def test_of_the_end_and_before_it():
    lc.trace(by_index, G - 3)
    with pytest.raises(
        ModelError, match=r"site 'theta': the index -4 is out of range for axis 0 of size 3, the first of 1 among 4 at \[0\]"
    ):
        lc.trace(by_index, G - 4)
    with pytest.raises(ModelError, match=r"index 7 is out of range.*first of 2 among 4 at \[1\].*expected 0 to 2, or -3 to -1"):
        lc.trace(by_index, np.array([0, 7, 1, 5]))


def test_what_is_said_to_be_deliberate_is_left_alone():
    def model(how):
        theta = effects()
        picked = {
            "clip": lambda: theta.at[G + 1].get(mode="clip"),
            "take": lambda: jnp.take(theta, G + 1, mode="clip"),
            "fill": lambda: theta.at[G + 1].get(mode="fill", fill_value=0.0),
            "other branch": lambda: jax.lax.cond(jnp.asarray(False), lambda: theta[G + 1], lambda: theta[G]),
        }
        observe(picked[how]())

    for how in ("clip", "take", "fill", "other branch"):
        assert np.isfinite(float(lc.log_density(model, how)({"theta": jnp.zeros(3)})))


def test_what_functions_of_jax_leave_out_themselves_is_left_alone():
    def model(pick):
        observe(jnp.sum(pick(effects(), jnp.asarray(G))), 0.5)

    for pick in (
        lambda t, g: t[jnp.tril_indices(3)[1]],
        lambda t, g: t[jnp.nonzero(g, size=2)[0]],
        lambda t, g: t[jnp.unique(g, size=2)],
        lambda t, g: t[:2] * jnp.bincount(g, length=2),
        lambda t, g: dist.transforms.LowerCholeskyTransform()(t),
        lambda t, g: t[jnp.repeat(g[1:], jnp.array([1, 2, 0]), total_repeat_length=2)],
        lambda t, g: jax.scipy.ndimage.map_coordinates(t, [jnp.array([-1.5, 5.0])], order=1),
    ):
        lc.trace(model, pick)
    with pytest.raises(ModelError, match="index 3 is out of range"):
        lc.trace(model, lambda t, g: jnp.zeros(3).at[g + 1].add(t[g]))


def test_random_keys_among_the_constants():
    def model(pick):
        observe(jnp.sum(effects()[pick()]), 0.5)

    keys = jax.random.split(jax.random.key(0), 3)
    for pick in (
        lambda: jax.random.permutation(keys[0], 3),
        lambda: jax.vmap(lambda key: jax.random.randint(key, (), 0, 3))(keys),
        lambda: jax.lax.scan(lambda c, key: (c, jax.random.randint(key, (), 0, 3)), 0, keys)[1],
    ):
        (use,) = [use for use in lc.trace(model, pick).indices if use.into == "site 'theta'"]
        assert not use.known


def test_which_index_goes_where_is_kept():
    (use,) = lc.trace(in_a_plate, G).indices
    assert (use.into, use.axis, use.size, use.known, use.smallest, use.largest, use.num) == ("site 'theta'", 0, 3, True, 0, 2, 4)

    def latent():
        theta, which = effects(), lc.sample("w", dist.Normal(0, 1))
        observe(theta[jnp.int32(which)], 0.0)

    (use,) = lc.trace(latent).indices
    assert (use.into, use.known, use.largest) == ("site 'theta'", False, None)


def series(y, mask=None):
    s = lc.sample("s", dist.HalfNormal(1))

    def step(x, now):
        x = lc.sample("x", dist.Normal(x, s))
        with handlers.mask(mask=True if mask is None else now[1]):
            lc.sample("y", dist.Normal(x, 1), obs=now[0])
        return x, None

    jax.lax.scan(step, 0.0, (y, np.ones(len(y), bool) if mask is None else mask))


def contrib_series(y):
    def step(x, now):
        x = numpyro.sample("x", dist.Normal(x, 1))
        numpyro.sample("y", dist.Normal(x, 1), obs=now)
        return x, None

    contrib_scan(step, 0.0, y)


def mapped(y):
    b = lc.sample("b", dist.Normal(0, 1))
    jax.vmap(lambda v: lc.sample("y", dist.Normal(b, 1), obs=v))(y)


def counts(y):
    rate = lc.sample("s", dist.HalfNormal(1))
    jax.lax.scan(lambda c, v: (c, lc.sample("y", dist.Poisson(rate), obs=v)), 0.0, y)


@pytest.mark.parametrize("model", [series, contrib_series, mapped, counts])
def test_nan_in_loops(model):
    data = np.abs(np.round(Y))
    lc.trace(model, data)
    data[2] = np.nan
    with pytest.raises(ModelError, match=r"site 'y': the observed value is NaN at index 2 \(1 of 4 in all\).*test_survey\.py:\d+"):
        lc.trace(model, data)


def test_outside_the_support_in_loops():
    with pytest.raises(ModelError, match=r"site 'y': the observed value -1.0 at index 3 .*Poisson.*test_survey\.py:\d+"):
        lc.trace(counts, np.array([1.0, 0.0, 2.0, -1.0]))


def test_masked_in_loops():
    data = Y.copy()
    data[2] = np.nan
    lc.trace(series, data, ~np.isnan(data))
    with pytest.raises(ModelError, match="NaN at index 2"):
        lc.trace(series, data, np.array([True, False, True, True]))


def test_events_in_loops():
    def model(y):
        m = lc.sample("m", dist.Normal(0, 1))
        jax.lax.scan(lambda c, v: (c, lc.sample("y", dist.Normal(m, 1).expand([2, 3]).to_event(1), obs=v)), 0.0, y)

    data = np.zeros((5, 2, 3))
    lc.trace(model, data)
    data[4, 1, 2] = np.nan
    with pytest.raises(ModelError, match=r"NaN at index \(4, 1, 2\)"):
        lc.trace(model, data)


@pytest.mark.parametrize(
    ("law", "good", "bad"),
    [
        (dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)), [0.5, 1.0], [0.5, np.inf]),
        (dist.Dirichlet(jnp.ones(3)), [0.2, 0.3, 0.5], [0.2, 0.3, 0.9]),
        (dist.Multinomial(3, jnp.ones(2) / 2), [1, 2], [1, 1]),
        (dist.Bernoulli(0.5).expand([2]).to_event(1), [0, 1], [0, 2]),
        (dist.Beta(1.0, 1.0).expand([2, 2]).to_event(2), np.full((2, 2), 0.5), np.full((2, 2), 1.5)),
    ],
    ids=lambda x: type(x).__name__,
)
def test_supports_of_events_in_loops(law, good, bad):
    def model(y):
        jax.lax.scan(lambda c, v: (c, lc.sample("y", law, obs=v)), 0.0, y)

    lc.trace(model, np.array([good] * 3))
    with pytest.raises(ModelError, match=r"'y': the observed value .* at index (\(?1\b).*outside the support"):
        lc.trace(model, np.array([good, bad, good]))


def test_data_that_are_traced_are_not_known():
    """A density made inside of `jax.jit` has no data to look at; its indices are clipped at run time, as the value says."""

    @jax.jit
    def total(g, y):
        return lc.log_density(in_a_contrib_scan_of, g, y)({"theta": jnp.arange(3.0)})

    def in_a_contrib_scan_of(g, y):
        theta = effects()
        contrib_scan(lambda c, x: (c, numpyro.sample("y", dist.Normal(theta[x[0]], 1), obs=x[1])), 0.0, (g, y))

    known = lc.log_density(in_a_contrib_scan_of, G, Y)({"theta": jnp.arange(3.0)})
    assert float(total(G, Y)) == pytest.approx(float(known), abs=1e-5)
