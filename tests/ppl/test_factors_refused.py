"""Models whose likelihood is no sum over rows of a linear predictor: each is refused with the site, the user's line and what to write."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from numpyro import distributions as dist
from numpyro import handlers
from numpyro.contrib.control_flow import scan as contrib_scan

from luciole import ppl as lc
from luciole.ppl.factors import find_factor
from luciole.transforms import ModelError

N, D = 12, 2
RNG = np.random.default_rng(3)
X = RNG.normal(size=(N, D))
REAL = RNG.normal(size=N)
BINARY = RNG.integers(0, 2, N)
GROUP = RNG.integers(0, 3, N)


def normals(name, *shape):
    return lc.sample(name, dist.Normal(0, 1).expand(shape).to_event(len(shape)))


def linear():
    return X @ normals("b", D)


def observed(distribution, y=REAL):
    with lc.plate("rows", N):
        lc.sample("y", distribution, obs=y)  # SITE


def no_observed_site():
    normals("b", D)


def nothing_latent_in_it():
    normals("b", D)
    observed(dist.Normal(REAL, 1.0))


def only_a_factor():
    lc.factor("likelihood", -jnp.sum((REAL - linear()) ** 2))


def inside_a_scan():
    def step(previous, y):
        lc.sample("y", dist.Normal(previous, 1.0), obs=y)  # SITE
        return y, None

    jax.lax.scan(step, normals("b"), REAL)


def numpyro_series():
    phi = numpyro.sample("phi", dist.Normal(0, 1))

    def step(previous, y):
        numpyro.sample("y", dist.Normal(phi * previous, 1.0), obs=y)  # SITE
        return y, None

    contrib_scan(step, 0.0, REAL)


def inside_vmap():
    b = normals("b", D)
    jax.vmap(lambda x, y: lc.sample("y", dist.Normal(x @ b, 1.0), obs=y))(X, REAL)  # SITE


def inside_a_branch():
    b = normals("b", D)

    def sample():
        return lc.sample("y", dist.Normal(X @ b, 1.0), obs=REAL)  # SITE

    jax.lax.cond(b[0] > 0, sample, lambda: jnp.asarray(REAL, jnp.float32))


def joint_event():
    lc.sample("y", dist.MultivariateNormal(linear(), jnp.eye(N)), obs=REAL)  # SITE


def scaled_by_a_latent():
    predictor, power = linear(), lc.sample("power", dist.HalfNormal(1.0))
    with handlers.scale(scale=power):
        observed(dist.Normal(predictor, 1.0))


def scaled_by_nan():
    predictor, weights = linear(), np.ones(N)
    weights[[3, 5]] = np.nan
    with numpyro.validation_enabled(False), handlers.scale(scale=jnp.asarray(weights)):
        observed(dist.Normal(predictor, 1.0))


def ordered_classes():
    observed(dist.OrderedLogistic(linear(), jnp.array([-1.0, 1.0])), np.zeros(N, int))


def masked_by_a_latent():
    predictor = linear()
    with handlers.mask(mask=predictor > 0):
        observed(dist.Normal(predictor, 1.0))


def slightly_bent():
    predictor = linear()
    bent = predictor + 1e-9 * predictor**2  # HERE
    observed(dist.Normal(bent, X[:, 0] + 4))


def product_of_two():
    observed(dist.Normal(linear() * (X @ normals("c", D)), 1.0))  # HERE


def sorted_rows():
    observed(dist.Normal(jnp.sort(linear()), 1.0))  # HERE


def rows_mixed():
    observed(dist.Normal(jnp.cumsum(jnp.exp(linear())), 1.0))  # HERE


def data_in_an_exponent():
    observed(dist.Poisson(jnp.exp(linear()) + jnp.exp(X @ normals("c", D))), BINARY)


def two_predictors():
    observed(dist.Normal(linear(), jnp.exp(X @ normals("c", D))))


def scales_by_group():
    observed(dist.Normal(linear(), lc.sample("s", dist.HalfNormal(1.0).expand([3]).to_event(1))[GROUP]))  # HERE


def probabilities_of_classes():
    observed(dist.Categorical(probs=jax.nn.softmax(X @ normals("B", D, 3), -1)), BINARY)


def crooked_logits():
    observed(dist.Categorical(logits=jax.nn.log_softmax(X @ normals("B", D, 3), -1)), BINARY)  # HERE


def constant_logits():
    normals("b", D)
    lc.factor("f", normals("c"))
    observed(dist.Categorical(logits=X), BINARY)


def nan_in_the_design():
    x = X.copy()
    x[[2, 5], 1] = np.nan, np.inf
    observed(dist.Normal(x @ normals("b", D), 1.0))


def nan_in_the_offset():
    offset = np.zeros(N)
    offset[4] = np.nan
    observed(dist.Normal(linear() + offset, 1.0))


def nan_in_the_scale():
    scale = np.ones(N)
    scale[11] = np.nan
    with numpyro.validation_enabled(False):
        observed(dist.Normal(linear(), scale))


CASES = [
    (no_observed_site, r"no observed site.*'b' \(sample\).*lc\.plate"),
    (nothing_latent_in_it, r"no observed site that depends on a latent one.*'y' \(observed\)"),
    (only_a_factor, r"no observed site.*'likelihood' \(factor\)"),
    (inside_a_scan, r"site 'y' \(SITE\) stands inside a loop.*rows before it"),
    (numpyro_series, r"site 'y' \(SITE\) stands inside a loop"),
    (inside_vmap, r"site 'y' \(SITE\) stands inside `jax.vmap`.*plate"),
    (inside_a_branch, r"site 'y' \(SITE\) stands inside a `cond`"),
    (joint_event, r"site 'y' \(SITE\): MultivariateNormal has events of shape \(12,\)"),
    (scaled_by_a_latent, r"site 'y' \(SITE\) is scaled by a latent variable.*survey weights"),
    (scaled_by_nan, r"site 'y' \(SITE\) is scaled by nan in row 3 \(2 of 12 rows\)"),
    (ordered_classes, r"site 'y' \(SITE\): OrderedLogistic gives ordered classes.*cut points.*lc.NUTS"),
    (masked_by_a_latent, r"site 'y' \(SITE\) is masked by a value that depends on a latent"),
    (sorted_rows, r"site 'y' \(SITE\).*`loc` is not affine.*`sort` \(HERE.*\) is not affine"),
    (rows_mixed, r"site 'y' \(SITE\).*`loc` is not affine.*`exp` \(HERE"),
    (product_of_two, r"site 'y' \(SITE\).*`loc` is not affine.*`mul` \(HERE.*multiplies two values that both depend"),
    (data_in_an_exponent, r"site 'y' \(SITE\).*no function of one linear predictor"),
    (two_predictors, r"site 'y' \(SITE\).*no function of one linear predictor.*`scale` is latent and differs from row to row"),
    (scales_by_group, r"site 'y' \(SITE\).*`scale` is latent and differs from row to row"),
    (probabilities_of_classes, r"site 'y' \(SITE\).*logits"),
    (crooked_logits, r"site 'y' \(SITE\): the linear predictor is not affine.*\(HERE"),
    (constant_logits, r"no observed site that depends on a latent one"),
    (nan_in_the_design, r"site 'y' \(SITE\): the design matrix is NaN or infinite in rows 2, 5 \(2 of 12\)"),
    (nan_in_the_offset, r"site 'y' \(SITE\): the offset is NaN or infinite in row 4 \(1 of 12\)"),
    (nan_in_the_scale, r"site 'y' \(SITE\): 'scale' is NaN or infinite in row 11 \(1 of 12\)"),
]


def marked(model, word):
    """file:line of the line of `model`, or of the helper that it calls, that is marked."""
    for function in (model, observed):
        lines, first = inspect.getsourcelines(function)
        for i, line in enumerate(lines):
            if f"# {word}" in line:
                return f"{__file__}:{first + i}"
    return word


@pytest.mark.parametrize(("model", "words"), CASES, ids=lambda x: getattr(x, "__name__", ""))
def test_refused(model, words):
    pattern = words.replace("SITE", re.escape(marked(model, "SITE"))).replace("HERE", re.escape(marked(model, "HERE")))
    with pytest.raises(ModelError, match=pattern):
        find_factor(lc.log_density(model))


def test_a_slightly_bent_predictor_is_no_predictor():
    """It is elementwise, so it is a likelihood of the straight one; that it is not taken for a Normal one is what matters."""
    factor = find_factor(lc.log_density(slightly_bent))
    assert factor.family.link == "traced"
    np.testing.assert_allclose(factor.rows.design, X, rtol=1e-6)


def test_a_name_that_there_is_not():
    with pytest.raises(ModelError, match=r"in a plate of the name 'cows', nor one of that name itself"):
        find_factor(lc.log_density(lambda: observed(dist.Normal(linear(), 1.0))), "cows")


def test_nan_rows_that_are_masked_are_no_fault():
    x = X.copy()
    x[3] = np.nan

    def model():
        predictor = x @ normals("b", D)
        with handlers.mask(mask=~np.isnan(x[:, 0])):
            observed(dist.Normal(predictor, 1.0))

    assert find_factor(lc.log_density(model)).rows.design.shape == (N - 1, D)


def test_too_many_groups_are_not_made_dense(monkeypatch):
    import luciole.ppl.factors.extract as extract

    def groups():
        observed(dist.Normal(normals("alpha", 6)[GROUP], 1.0))

    monkeypatch.setattr(extract, "DENSE_LIMIT", 6 * N)
    assert find_factor(lc.log_density(groups)).rows.design.shape == (N, 6)
    monkeypatch.setattr(extract, "DENSE_LIMIT", 6 * N - 1)
    with pytest.raises(ModelError, match=r"site 'y' .*6 coefficients that rows choose by an index.*12 x 6 elements.*fewer groups"):
        find_factor(lc.log_density(groups))
