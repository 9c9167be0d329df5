"""Firefly Monte Carlo against NUTS on real data: exactness, not speed."""

import gzip
from pathlib import Path

import jax
import numpy as np
import pytest

import luciole as lc
from luciole import dist

pytestmark = [pytest.mark.exhaustive, pytest.mark.filterwarnings("ignore::luciole.inference.BreakEvenWarning")]
SHARED = Path(__file__).parents[4] / "shared" / "data"
BATCHES = 40


def logistic(x, y):
    w = lc.sample("w", dist.Normal(0, 1).expand([x.shape[1]]).to_event(1))
    with lc.plate("row", len(x)):
        lc.sample("y", dist.Bernoulli(logits=x @ w), obs=y)


def with_constant(x):
    return np.column_stack([x, np.ones(len(x))]).astype(np.float32)


def sevens_and_nines():
    """MNIST's test images of 7 and 9 on 50 principal components, whitened: (2037, 51)."""
    images, labels = SHARED / "mnist-t10k-images-idx3-ubyte.gz", SHARED / "mnist-t10k-labels-idx1-ubyte.gz"
    if not images.exists():
        pytest.skip("MNIST's test images are not beside the checkout (shared/data)")
    x = np.frombuffer(gzip.open(images).read()[16:], np.uint8).reshape(-1, 784) / 255
    y = np.frombuffer(gzip.open(labels).read()[8:], np.uint8)
    used = (y == 7) | (y == 9)
    x = x[used] - x[used].mean(0)
    scores = x @ np.linalg.svd(x, full_matrices=False)[2][:50].T
    return with_constant(scores / scores.std(0)), (y[used] == 9).astype(np.float32)


def breast_cancer():
    """(569, 31), standardised."""
    x, y = pytest.importorskip("sklearn.datasets").load_breast_cancer(return_X_y=True)
    return with_constant((x - x.mean(0)) / x.std(0)), y.astype(np.float32)


def draws(kernel, key, num_samples, data):
    mcmc = lc.MCMC(kernel, num_warmup=1000, num_samples=num_samples, num_chains=8, progress_bar=False)
    return mcmc.run(jax.random.key(key), *data).get_samples(group_by_chain=True)["w"].astype(np.float64)


def z_of(one, other, power):
    """z-scores of the difference of central moments, by means of batches."""
    middle = other.mean((0, 1))
    a, b = (((v - middle) ** power).reshape(BATCHES, -1, v.shape[-1]).mean(1) for v in (one, other))
    return (a.mean(0) - b.mean(0)) / np.sqrt((a.var(0, ddof=1) + b.var(0, ddof=1)) / BATCHES)


@pytest.mark.parametrize("data", [sevens_and_nines, breast_cancer])
def test_the_posterior_is_that_of_nuts(data):
    data = data()
    with jax.enable_x64(True):
        ours = draws(lc.FlyMC(logistic), 0, 10_000, data)
        theirs = draws(lc.NUTS(logistic), 1, 3000, data)
    for power in (1, 2):
        z = z_of(ours, theirs, power)
        assert np.abs(z).max() < 4.5 and np.sqrt(np.mean(z**2)) < 1.6
    shifted = z_of(ours + 0.2 * ours.std((0, 1)), theirs, 1)
    assert np.sqrt(np.mean(shifted**2)) > 1.6, "a shift by a fifth of a standard deviation would not be seen"
