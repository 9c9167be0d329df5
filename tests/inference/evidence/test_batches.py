"""Minibatches: the path repeated by hand in NumPy, the bound below the evidence, and plates that cannot be cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import luciole as lc
from luciole import dist

NUM, DIM, SIZE = 60, 3, 12
RUN = {"num_steps": 23, "num_restarts": 4, "batch_size": SIZE, "order": "exact"}


def by_hand(problem, key, restart, epochs, step_size):
    """Bound after every epoch of one restart, and the loss of every step: exact log-determinants, NumPy's matrices."""
    x, y, _ = problem
    keys = jax.random.split(jax.random.fold_in(key, restart), 3)
    site = jax.random.split(keys[0], 2)[0]
    w = np.asarray(dist.Normal(0, 1).expand([DIM]).to_event(1).sample(site))
    log_prior = lambda w: -0.5 * w @ w - 0.5 * DIM * np.log(2 * np.pi)  # noqa: E731
    log_rows = lambda w, x, y: -0.5 * np.sum((y - x @ w) ** 2) - 0.5 * len(y) * np.log(2 * np.pi)  # noqa: E731
    entropy, bounds, losses, scale = -log_prior(w), [], [], NUM / SIZE
    for t in range(RUN["num_steps"] + 1):
        if t % (NUM // SIZE) == 0 or t == RUN["num_steps"]:
            bounds.append(log_rows(w, x, y) + log_prior(w) + entropy)
        rows = epochs(t // (NUM // SIZE), keys[2])[SIZE * (t % (NUM // SIZE)) :][:SIZE]
        losses.append(-scale * log_rows(w, x[rows], y[rows]))
        entropy += np.linalg.slogdet(np.eye(DIM) - step_size * scale * x[rows].T @ x[rows])[1]
        w = w + step_size * scale * x[rows].T @ (y[rows] - x[rows] @ w)
    return bounds, losses


@pytest.mark.slow
@pytest.mark.parametrize("minibatches", ["shared", "fresh"])
def test_the_path_by_hand(x64, conjugate, quiet, minibatches):
    problem, key, step_size = conjugate.random(NUM, DIM), jax.random.key(2), 0.001
    estimate = quiet(conjugate.model, key, *problem, step_size=step_size, minibatches=minibatches, **RUN)

    def epochs(epoch, probe_key):
        own = probe_key if minibatches == "fresh" else key
        return np.asarray(jax.random.permutation(jax.random.fold_in(jax.random.fold_in(own, 2**32 - 1), epoch), NUM))

    expected = [by_hand(problem, key, i, epochs, step_size) for i in range(4)]
    np.testing.assert_array_equal(estimate.steps, [0, 5, 10, 15, 20, 23])
    np.testing.assert_allclose(estimate.log_evidence, [bounds for bounds, _ in expected], rtol=1e-10)
    np.testing.assert_allclose(estimate.training_loss, [losses for _, losses in expected], rtol=1e-10)
    assert np.all(estimate.log_evidence[:, -1] > estimate.log_evidence[:, 0])


@pytest.mark.parametrize(
    "minibatches", [pytest.param("shared", marks=pytest.mark.exhaustive), pytest.param("fresh", marks=pytest.mark.slow)]
)
def test_below_the_evidence(x64, conjugate, quiet, minibatches):
    problem = conjugate.random(100, 20)
    step_size = 0.1 / problem.curvature
    options = {"num_steps": 150, "num_restarts": 256, "batch_size": 20, "minibatches": minibatches}
    estimate = quiet(conjugate.model, jax.random.key(0), *problem, step_size=step_size, **options)
    assert np.all(estimate.mean - 4 * estimate.stderr < problem.log_evidence)
    assert 0 < estimate.best_step < 150
    assert estimate.mean[estimate.best] > problem.log_evidence - 2.5 * 20


@pytest.mark.slow
def test_one_batch_of_all_rows_is_no_batch(x64, conjugate, quiet):
    problem, options = conjugate.random(NUM, DIM), {"step_size": 0.001, "num_steps": 8, "num_restarts": 4, "order": "exact"}
    whole = quiet(conjugate.model, jax.random.key(0), *problem, **options)
    batch = quiet(conjugate.model, jax.random.key(0), *problem, batch_size=NUM, plate="rows", **options)
    np.testing.assert_allclose(batch.log_evidence, whole.log_evidence, rtol=1e-10)


def refused(quiet, model, *args, match, batch_size=10, **options):
    with pytest.raises(lc.EvidenceError, match=match):
        quiet(model, jax.random.key(0), *args, step_size=1e-3, num_steps=2, num_restarts=2, batch_size=batch_size, **options)


def test_a_size_that_does_not_divide_is_refused(conjugate, quiet):
    problem = conjugate.random(NUM, DIM)
    refused(
        quiet, conjugate.model, *problem, batch_size=13, match=r"'rows' has 60 rows, which batch_size=13 does not divide.*batch_size=12"
    )
    refused(quiet, conjugate.model, *problem, batch_size=61, match="batch_size is 61")
    refused(quiet, conjugate.model, *problem, plate="columns", match=r"stand in \['rows'\], and plate='columns'")


@pytest.mark.parametrize("library", [np, jnp], ids=["numpy", "jax"])
def test_data_standardised_in_the_model_are_refused(conjugate, quiet, library):
    def model(x, y, noise):
        conjugate.model(x, (y - library.mean(y)) / library.std(y), noise)

    refused(quiet, model, *conjugate.random(NUM, DIM), match="'rows' does not split into batches.*(standardises|sum over batches)")


def test_latent_sites_of_the_rows_are_refused(conjugate, quiet):
    def model(x, y, noise):
        with lc.plate("rows", len(y)):
            z = lc.sample("z", dist.Normal())
            lc.sample("y", dist.Normal(z, noise), obs=y)

    refused(quiet, model, *conjugate.random(NUM, DIM), match="does not split.*latent site changes its shape")


def test_observations_outside_the_plate_are_refused(conjugate, quiet):
    def model(x, y, noise):
        conjugate.model(x, y, noise)
        lc.factor("more", -0.1 * (jnp.mean(x) - 1.0) ** 2)

    refused(quiet, model, *conjugate.random(NUM, DIM), match="sum over batches")


def test_a_plate_whose_size_is_no_datum_is_refused(quiet):
    def model(num, y):
        w = lc.sample("w", dist.Normal())
        with lc.plate("rows", num):
            lc.sample("y", dist.Normal(w, 1.0).expand([len(y)]), obs=y)

    refused(quiet, model, 30, np.ones(30), match="(cannot be traced|does not follow from the data)")


def test_no_plate_is_refused(quiet):
    def model(y):
        w = lc.sample("w", dist.Normal())
        lc.sample("y", dist.Normal(w, 1.0).expand([len(y)]).to_event(1), obs=y)

    refused(quiet, model, np.ones(30), match="no observed site stands in a plate")
