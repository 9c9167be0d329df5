"""Training against closed forms, and what can be asked of a fit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import luciole as lc
from luciole import dist

N, D = 200, 3
X = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
TRUE = np.array([1.0, -2.0, 0.5], np.float32)
Y = (X @ TRUE + 0.3 * np.random.default_rng(1).normal(size=N)).astype(np.float32)
NOISE = 0.3


def line(x, y=None):
    w = lc.sample("w", dist.Normal(0, 1).expand([D]).to_event(1))
    b = lc.sample("b", dist.Normal(0, 1))
    with lc.plate("row", len(x)):
        lc.sample("y", dist.Normal(x @ w + b, NOISE), obs=y)


def with_scale(x, y=None):
    sigma = lc.sample("sigma", dist.HalfNormal(1.0))
    with lc.plate("row", len(x)):
        lc.sample("y", dist.Normal(x @ jnp.asarray(TRUE), sigma), obs=y)


def posterior(x, y):
    design = np.column_stack([x, np.ones(len(x))]).astype(float)
    covariance = np.linalg.inv(np.eye(D + 1) + design.T @ design / NOISE**2)
    return covariance @ design.T @ y / NOISE**2, covariance


@pytest.fixture(scope="module")
def fit():
    return lc.train(line, jax.random.key(0), X, Y, num_steps=600, batch_size=50, restarts=3, step_size=0.05, progress_bar=False)


def test_every_restart_finds_the_mode(fit):
    mode, _ = posterior(X, Y)
    assert fit.samples["w"].shape == (3, D) and fit.losses.shape == (3, 600)
    np.testing.assert_allclose(fit.samples["w"], np.tile(mode[:D], (3, 1)), atol=0.02)
    np.testing.assert_allclose(fit.samples["b"], mode[D], atol=0.02)
    assert np.std(fit.losses[:, 0]) > 0.1  # they began apart


def test_all_rows_at_once_are_the_mode_exactly():
    mode, _ = posterior(X, Y)
    fit = lc.train(line, jax.random.key(0), X, Y, num_steps=800, step_size=0.1, progress_bar=False)
    np.testing.assert_allclose(np.append(fit.samples["w"][0], fit.samples["b"][0]), mode, atol=1e-4)


def test_a_batch_without_its_factor_would_find_another_mode():
    """The broken twin: a prior that weighs as much as in all rows, against one batch alone, is another mode by far more than noise."""
    mode, _ = posterior(X, Y)
    other, _ = posterior(X[:4], Y[:4])
    fit = lc.train(line, jax.random.key(0), X, Y, num_steps=1500, batch_size=4, step_size=0.02, progress_bar=False)
    found = np.append(fit.samples["w"][0], fit.samples["b"][0])
    assert np.abs(found - mode).max() < 0.05 < np.abs(other - mode).max()


def test_the_mode_is_that_of_the_model_and_has_no_jacobian():
    fit = lc.train(with_scale, jax.random.key(0), X[:10], Y[:10], num_steps=1500, step_size=0.02, progress_bar=False)
    grid = np.linspace(0.05, 1.5, 200001)
    squares = ((Y[:10] - X[:10] @ TRUE) ** 2).sum()
    log_density = -10 * np.log(grid) - squares / (2 * grid**2) - grid**2 / 2
    with_jacobian = grid[np.argmax(log_density + np.log(grid))]
    assert abs(fit.samples["sigma"][0] - grid[np.argmax(log_density)]) < 2e-3 < abs(with_jacobian - grid[np.argmax(log_density)])


def test_restarts_do_not_depend_on_their_number(fit):
    one = lc.train(line, jax.random.key(0), X, Y, num_steps=600, batch_size=50, step_size=0.05, progress_bar=False)
    assert np.array_equal(one.samples["w"][0], fit.samples["w"][0])


def test_predictions_are_those_of_the_members(fit):
    p = fit.predict(X[:20])
    expected = X[:20] @ fit.samples["w"].T + fit.samples["b"]
    np.testing.assert_allclose(p.members, expected.T, atol=1e-5)
    np.testing.assert_allclose(p.sd**2, expected.std(axis=1) ** 2 + NOISE**2, rtol=1e-4)
    low, high = p.interval(0.9)
    np.testing.assert_allclose((high - low) / p.sd, 2 * 1.6448536, rtol=1e-5)
    drawn = lc.posterior_predictive(line, jax.random.key(0), fit.samples, X[:20])
    assert drawn["y"].shape == (3, 20)
    assert len(fit[1].losses) == 1 and len((fit + fit[:2]).samples["w"]) == 5


def test_intervals_cover_and_calibration_finds_the_noise(fit):
    draw = np.random.default_rng(5)
    x = draw.normal(size=(4000, D)).astype(np.float32)
    y = x @ TRUE + 0.6 * draw.normal(size=4000)  # twice as noisy as the model believes
    blind, p = fit.predict(x), fit.calibrate(y[:2000], x[:2000]).predict(x)
    assert blind.coverage(y) < 0.7
    assert abs(p.coverage(y) - 0.9) < 0.02 and abs(p.noise.variance / 0.36 - 1) < 0.1
    assert p.log_score(y) > blind.log_score(y) + 0.1 and p.mse(y) == blind.mse(y)


def test_the_last_layer_is_the_closed_form(fit):
    mean, covariance = posterior(X, Y)
    layer = fit.last_layer(X, Y, free=["w", "b"])
    np.testing.assert_allclose(layer.mean, mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer.covariance, covariance, rtol=1e-4, atol=1e-8)
    design = np.column_stack([X, np.ones(N)])
    marginal = NOISE**2 * np.eye(N) + design @ design.T
    exact = -0.5 * (N * np.log(2 * np.pi) + np.linalg.slogdet(marginal)[1] + Y @ np.linalg.solve(marginal, Y))
    assert abs(layer.log_evidence - exact) < 1e-2
    p = layer.predict(X[:7])
    np.testing.assert_allclose(p.disagreement**2, np.einsum("ni,ij,nj->n", design[:7], covariance, design[:7]), rtol=1e-4)
    assert layer.calibrate(Y, X).noise.num_rows == N


@pytest.mark.slow
def test_nuts_on_the_last_layer_agrees_with_the_closed_form(fit):
    layer = fit.last_layer(X, Y, free="w")
    mcmc = lc.MCMC(lc.NUTS(fit.given(0, free="w")), num_warmup=300, num_samples=500, num_chains=4, progress_bar=False)
    draws = mcmc.run(jax.random.key(0), X, Y).get_samples()["w"]
    sd = np.sqrt(np.diag(layer.covariance))
    assert np.abs((draws.mean(axis=0) - layer.mean) / sd).max() < 0.15
    assert np.abs(draws.std(axis=0) / sd - 1).max() < 0.1


def standardised(x, y):
    w = lc.sample("w", dist.Normal(0, 1))
    with lc.plate("row", len(x)):
        lc.sample("y", dist.Normal((x[:, 0] - x[:, 0].mean()) * w, 1.0), obs=y)


def local(x, y):
    with lc.plate("row", len(x)):
        z = lc.sample("z", dist.Normal(0, 1))
        lc.sample("y", dist.Normal(z, 1.0), obs=y)


def fixed_size(x, y):
    w = lc.sample("w", dist.Normal(0, 1))
    with lc.plate("row", N):
        lc.sample("y", dist.Normal(x[:, 0] * w if len(x) == N else 0.0, 1.0), obs=Y)


@pytest.mark.parametrize(
    ("model", "kwargs", "message"),
    [
        (line, {"num_steps": 0}, "num_steps is 0"),
        (line, {"restarts": 0}, "restarts is 0"),
        (line, {"step_size": -1.0}, "step_size is -1.0"),
        (line, {"batch_size": 201}, "batch_size is 201"),
        (line, {"batch_size": 50, "plate": "rows"}, "plate='rows'"),
        (line, {"optimiser": 3}, "an optax gradient transformation expected"),
        (line, {"step_size": 1e30, "num_steps": 20}, r"restart 0: the loss is (nan|inf) at step"),
        (standardised, {"batch_size": 50}, "beside some rows"),
        (local, {"batch_size": 50}, "latent site 'z' .* stands in the plate 'row'"),
        (fixed_size, {"batch_size": 50}, "its size does not follow from the data"),
    ],
)
def test_training_says_what_is_wrong(model, kwargs, message):
    with pytest.raises(lc.TrainingError, match=message):
        lc.train(model, jax.random.key(0), X, Y, **{"num_steps": 2, "progress_bar": False, **kwargs})


def test_models_without_data_are_refused():
    with pytest.warns(lc.NothingObservedWarning), pytest.raises(lc.TrainingError, match="observes nothing"):
        lc.train(line, jax.random.key(0), X, num_steps=2, progress_bar=False)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda fit: fit.predict(X, site="z"), "site='z'"),
        (lambda fit: fit.given(0, free="v"), "free='v' is no latent site"),
        (lambda fit: fit.calibrate(Y[:5], X[:5]), "too few"),
        (lambda fit: fit.calibrate(Y[:50], X[:40]), r"y has shape \(50,\)"),
        (lambda fit: fit.predict(X).interval(1.5), "prob is 1.5"),
        (lambda fit: fit.attribution(X), "found 0 `lc.Graphs`"),
        (lambda fit: fit.last_layer(X, free="w"), "has no observation"),
    ],
)
def test_a_fit_says_what_is_wrong(fit, ask, message):
    with pytest.raises(lc.TrainingError, match=message):
        ask(fit)


def heavy(x, y=None):
    w = lc.sample("w", dist.StudentT(3.0, 0.0, 1.0))
    v = lc.sample("v", dist.Normal(0.0, 1.0))
    with lc.plate("row", len(x)):
        lc.sample("y", dist.Normal(x[:, 0] * w + v**2, 1.0), obs=y)


def test_last_layers_that_have_no_closed_form_are_refused():
    fit = lc.train(heavy, jax.random.key(0), X, Y, num_steps=3, progress_bar=False)
    with pytest.raises(lc.TrainingError, match="'w' has a prior StudentT"):
        fit.last_layer(X, Y, free="w")
    with pytest.raises(lc.TrainingError, match="not affine in"):
        fit.last_layer(X, Y, free="v")


def test_labels_have_no_mean_and_are_drawn():
    def model(x, label=None):
        logits = lc.dense("out", x, 3)
        with lc.plate("row", len(x)):
            lc.sample("label", dist.Categorical(logits=logits), obs=label)

    label = np.argmax(X, axis=1)
    fit = lc.train(model, jax.random.key(0), X, label, num_steps=200, batch_size=50, step_size=0.1, progress_bar=False)
    with pytest.raises(lc.TrainingError, match="has no mean"):
        fit.predict(X)
    assert np.mean(lc.posterior_predictive(model, jax.random.key(0), fit.samples, X)["label"][0] == label) > 0.8


def test_any_optax_optimiser_will_do():
    mode, _ = posterior(X, Y)
    fit = lc.train(line, jax.random.key(0), X, Y, num_steps=400, optimiser=optax.sgd(0.02), progress_bar=False)
    np.testing.assert_allclose(fit.samples["w"][0], mode[:D], atol=1e-3)


GRAPHS = [(np.eye(3)[[0, 1, 2, 0][:n]], [[i, i + 1] for i in range(n - 1)]) for n in (1, 2, 3, 4)] * 12


def reading(graphs, y=None):
    hidden = jax.nn.relu(lc.dense("hidden", lc.neural_fingerprint(graphs, 2, 5, 6), 8))
    mean = lc.dense("out", hidden)
    with lc.plate("graph", len(graphs)):
        lc.sample("y", dist.Normal(mean, 0.3), obs=y)


@pytest.fixture(scope="module")
def reader():
    graphs = lc.Graphs.of(GRAPHS, max_degree=3)
    y = np.array([len(nodes) - 2.5 for nodes, _ in GRAPHS], np.float32)
    return (
        graphs,
        y,
        lc.train(reading, jax.random.key(0), graphs, y, num_steps=300, batch_size=12, restarts=2, step_size=0.02, progress_bar=False),
    )


@pytest.mark.slow
def test_a_network_learns_to_count(reader):
    graphs, y, fit = reader
    assert fit.predict(graphs).mse(y) < 0.05 and fit.cost.regrown == 0


@pytest.mark.slow
def test_attributions_sum_to_the_prediction_minus_the_baseline(reader):
    graphs, _, fit = reader
    a = fit.attribution(graphs)
    assert a.contributions.shape == (len(graphs.nodes), 3)
    np.testing.assert_allclose(a.prediction, fit.predict(graphs).mean, atol=1e-5)
    empty = np.mean([np.maximum(h, 0) @ w + b for h, w, b in zip(*(fit.samples[n] for n in ("hidden.b", "out.w", "out.b")), strict=True)])
    np.testing.assert_allclose(a.baseline, empty, atol=1e-5)
    assert np.abs(a.residual).max() < 1e-3 * np.ptp(a.prediction)
    np.testing.assert_allclose([a[i].sum() for i in range(4)], (a.prediction - a.baseline - a.residual)[:4], atol=1e-9)
    assert np.ptp(a.prediction) > 2  # so that there is something to attribute
    strongest = a.strongest(3, 2)
    assert len(strongest) == 2 and strongest[0][2] == a[3].flat[np.argmax(np.abs(a[3]))]
