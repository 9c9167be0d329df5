"""Densities from less of their data: the same numbers, in both precisions, or a refusal that says why."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import luciole as lc
from luciole.ppl.compressed import compressed
from luciole.transforms import value_and_grad
from luciole.transforms.compression import tiles

N = 240
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 3))
COARSE = RNG.integers(0, 3, (N, 2)).astype(float)
GROUP, YEAR = RNG.integers(0, 8, N), RNG.integers(0, 3, N)
Y = RNG.normal(size=N) + X[:, 0]
COUNTS = RNG.integers(0, 6, N)


def coefficients(number):
    return lc.sample("b", dist.Normal(0, 2).expand([number]).to_event(1))


def scale():
    return lc.sample("s", dist.HalfNormal(2))


def rows(n=N):
    return lc.plate("rows", n)


def plain():
    mean, s = coefficients(3) @ X.T, scale()
    with rows():
        lc.sample("y", dist.Normal(mean, s), obs=Y)


def year():
    a, b, s = lc.sample("a", dist.Normal(0, 10)), lc.sample("slope", dist.Normal(0, 1)), scale()
    with rows():
        lc.sample("y", dist.Normal(a + b * (1990.0 + YEAR), s), obs=Y)


def groups():
    with lc.plate("groups", 8):
        a, b = lc.sample("a", dist.Normal(0, 1)), lc.sample("slope", dist.Normal(0, 1))
    s = scale()
    with rows():
        lc.sample("y", dist.Normal(a[GROUP] + b[GROUP] * X[:, 0], s), obs=Y)


def crossed():
    tau, s = lc.sample("tau", dist.HalfNormal(1)), scale()
    with lc.plate("groups", 8):
        z = lc.sample("z", dist.Normal(0, 1))
    with lc.plate("years", 3):
        w = lc.sample("w", dist.Normal(0, 1))
    with rows():
        lc.sample("y", dist.Normal(tau * z[GROUP] + w[YEAR], s), obs=Y)


def grid():
    with lc.plate("animals", 12):
        a, b = lc.sample("a", dist.Normal(0, 1)), lc.sample("slope", dist.Normal(0, 1))
    mean = a[:, None] + b[:, None] * (jnp.arange(20.0) - 10)
    lc.sample("y", dist.Normal(mean, scale()).to_event(1), obs=Y.reshape(12, 20))


def own_scale():
    mean = X @ coefficients(3)
    with rows():
        lc.sample("y", dist.Normal(mean, 1.0 + GROUP), obs=Y)


def logarithms():
    mean, s = X @ coefficients(3), scale()
    with rows():
        lc.sample("y", dist.LogNormal(mean, s), obs=np.exp(Y))


def masked():
    mean, s = X @ coefficients(3), scale()
    with rows(), lc.handlers.mask(mask=GROUP > 2):
        lc.sample("y", dist.Normal(mean, s), obs=np.where(GROUP > 2, Y, np.nan))


def weighted():
    mean, s = X @ coefficients(3), scale()
    with rows(), lc.handlers.scale(scale=1.0 + GROUP):
        lc.sample("y", dist.Normal(mean, s), obs=Y)


def lagged():
    a, b, s = lc.sample("a", dist.Normal(0, 1)), lc.sample("slope", dist.Normal(0, 1)), scale()
    lc.sample("y", dist.Normal(a + b * Y[:-1], s), obs=Y[1:])


def equal_rows():
    mean, s = np.ones((N, 3)) @ coefficients(3), scale()
    with rows():
        lc.sample("y", dist.Normal(mean, s), obs=np.ones(N))


def summed():
    b, s = coefficients(3), scale()
    with rows():
        lc.sample("y", dist.Normal((X * b).sum(-1), s), obs=Y)


def spectrum():
    """What is computed from the data alone may mix rows as it likes."""
    b, s = lc.sample("slope", dist.Normal(0, 1)), scale()
    with rows():
        lc.sample("y", dist.Normal(jnp.abs(jnp.fft.fft(X[:, 0])) * b, s), obs=Y)


def features():
    _, second = jax.random.split(jax.random.key(0))
    w = jax.random.normal(second, (3, 4))
    mean, s = jnp.tanh(X @ w) @ coefficients(4), scale()
    with rows():
        lc.sample("y", dist.Normal(mean, s), obs=Y)


def scaled_mean():
    mean, s = X @ coefficients(3), scale()
    with rows():
        lc.sample("y", dist.Normal(s * mean, s), obs=Y)


def logistic():
    b = coefficients(2)
    with rows():
        lc.sample("y", dist.Bernoulli(logits=COARSE @ b), obs=COUNTS > 2)


def weighted_logistic():
    b = coefficients(2)
    with rows(), lc.handlers.scale(scale=1.0 + YEAR):
        lc.sample("y", dist.Bernoulli(logits=COARSE @ b), obs=COUNTS > 2)


def counts():
    with lc.plate("groups", 8):
        a = lc.sample("a", dist.Normal(0, 1))
    with rows():
        lc.sample("y", dist.Poisson(jnp.exp(a[GROUP])), obs=COUNTS)


def negative_binomial():
    m, k = lc.sample("m", dist.Normal(0, 1)), lc.sample("k", dist.Exponential(1.0))
    with rows():
        lc.sample("y", dist.NegativeBinomial2(jnp.exp(m), k), obs=COUNTS)


def classes():
    b = lc.sample("b", dist.Normal(0, 1).expand([2, 3]).to_event(2))
    with rows():
        lc.sample("y", dist.Categorical(logits=COARSE @ b), obs=COUNTS % 3)


def sheet():
    b = coefficients(3)
    logits = b[0] + b[1] * COARSE[:, 0].reshape(12, 20) + b[2] * COARSE[:, 1].reshape(12, 20)
    lc.sample("y", dist.Bernoulli(logits=logits).to_event(2), obs=(COUNTS > 2).reshape(12, 20))


def mixture():
    m, w = lc.sample("m", dist.Normal(0, 1).expand([2]).to_event(1)), lc.sample("w", dist.Beta(1, 1))
    with rows():
        lc.sample("y", dist.MixtureSameFamily(dist.Categorical(jnp.stack([w, 1 - w])), dist.Normal(m, 1.0)), obs=1.0 * COUNTS)


def states():
    m, w = lc.sample("m", dist.Normal(0, 1).expand([2]).to_event(1)), lc.sample("w", dist.Dirichlet(jnp.ones(2)))
    with rows():
        z = lc.sample("z", dist.Categorical(w))
        lc.sample("y", dist.Normal(m[z], 1.0), obs=1.0 * COUNTS)


def factor():
    b = coefficients(2)
    lc.factor("f", -jnp.sum(jnp.log1p(jnp.exp(COARSE @ b)) - COARSE @ b * (COUNTS > 2)))


def shared_mean():
    b = lc.sample("slope", dist.Normal(0, 1))
    rate = jnp.exp(b * COARSE[:, 0])
    with rows():
        lc.sample("y", dist.Poisson(rate / rate.mean()), obs=COUNTS)


SQUARES = {
    f.__name__: (f, most)
    for f, most in [
        (plain, 3), (year, 2), (groups, 16), (crossed, 24), (grid, 24), (own_scale, 3), (logarithms, 3), (masked, 3), (weighted, 3),
        (lagged, 2), (equal_rows, 3), (scaled_mean, 4), (summed, 3), (spectrum, 1), (features, 4),
    ]
}  # fmt: skip
REPEATS = {
    f.__name__: (f, most)
    for f, most in [
        (logistic, 18), (weighted_logistic, 54), (counts, 48), (negative_binomial, 6), (classes, 27), (sheet, 18), (mixture, 6),
        (states, 6), (factor, 18), (shared_mean, 18),
    ]
}  # fmt: skip


def both(model, positions=3, seed=1):
    """(whole and compressed (values, gradients) at some positions; the compressed density)."""
    whole = lc.log_density(model)
    short = compressed(whole)
    assert short is not None, "nothing was compressed"
    leaves = [*whole.data, *short.arrays]
    rng = np.random.default_rng(seed)
    at = [{n: jnp.asarray(rng.normal(size=s.shape), s.dtype) for n, s in whole.positions.items()} for _ in range(positions)]

    def of_short(u):
        return short.evaluate(short.prepare(leaves), u)

    evaluate = jax.jit(lambda u: [value_and_grad(f)(u) for f in (whole, of_short)])
    return *zip(*map(evaluate, at), strict=True), short


@pytest.mark.parametrize("name", [*SQUARES, *REPEATS])
def test_the_same_density_from_fewer_rows(name):
    """Relative to how much the log density differs between positions, in float64."""
    model, most = (SQUARES | REPEATS)[name]
    with jax.enable_x64(True):
        expected, found, short = both(model)
    spread = np.ptp([float(v) for v, _ in expected]) or 1.0
    for (v, g), (w, h) in zip(expected, found, strict=True):
        assert abs(float(v - w)) < 1e-9 * spread
        for a, b in zip(jax.tree.leaves(g), jax.tree.leaves(h), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * spread)
    last = short.rows[-1]
    assert last.after <= most < last.before, last


def distinct_logistic():
    b = coefficients(3)
    with rows():
        lc.sample("y", dist.Bernoulli(logits=X @ b + 1.0), obs=COUNTS > 2)


@pytest.mark.parametrize("tile", [60, 33])
def test_long_sums_in_tiles(tile, monkeypatch):
    """With rows left over and without; with the gradient, without it, and of many chains."""
    monkeypatch.setattr(tiles, "_TALL", 100)
    monkeypatch.setattr(tiles, "_TILE", tile)
    with jax.enable_x64(True):
        expected, found, short = both(distinct_logistic)
        prepared = short.prepare([*short.density.data, *short.arrays])
        many = jnp.arange(6.0).reshape(2, 3)
        values = [jax.vmap(lambda b, f=f: f({"b": b}))(many) for f in (short.density, lambda u: short.evaluate(prepared, u))]
    for whole, tiled in [*zip(expected, found, strict=True), values]:
        for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(tiled), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)
    assert short.rows[-1].reason.startswith("tile by tile")


def exact(x, y, b, s):
    """A Gaussian regression's log likelihood in long double."""
    x, y, b, s = (np.asarray(v, np.longdouble) for v in (x, y, b, s))
    return float(-(((y - x @ b) / s) ** 2).sum() / 2 - len(y) * np.log(s))


def by_moments(x, y, b, s):
    """The twin: X'X, X'y and y'y, in the type of the data."""
    distance = y @ y - 2 * (b @ (x.T @ y)) + b @ (x.T @ x) @ b
    return -distance / s**2 / 2 - len(y) * np.log(s)


BADLY_CENTRED = {
    "centred": X,
    "a year": np.stack([np.ones(N), 1990.0 + 3 * YEAR + GROUP], 1),
    "nearly equal columns": np.stack([np.ones(N), 1e4 + X[:, 0], 1e4 + X[:, 0] + 0.1 * X[:, 1]], 1),
}


@pytest.mark.parametrize("name", BADLY_CENTRED)
def test_float32_loses_no_more_digits_than_the_model_as_written(name):
    """Differences of the log density between draws of the posterior, against long double; sums of products lose hundreds of times more."""
    x = BADLY_CENTRED[name].astype(np.float32)
    fit = np.linalg.lstsq(x.astype(float), Y, rcond=None)[0]
    y = (x @ fit + Y - Y.mean()).astype(np.float32)
    r = np.linalg.qr(x.astype(float), mode="r")
    best = np.linalg.lstsq(x.astype(float), y.astype(float), rcond=None)[0]
    noise = np.random.default_rng(2).normal(size=(12, x.shape[1]))
    draws = (best + np.linalg.solve(r, noise.T).T).astype(np.float32)

    def model():
        b = lc.sample("b", dist.ImproperUniform(dist.constraints.real_vector, (), (x.shape[1],)))
        s = lc.sample("s", dist.HalfNormal(10.0))
        with rows():
            lc.sample("y", dist.Normal(x @ b, s), obs=y)

    whole = lc.log_density(model)
    short = compressed(whole)
    prepared = short.prepare([*whole.data, *short.arrays])
    reference = np.array([exact(x, y, b, 1.0) for b in draws])
    at = [{"b": jnp.asarray(b), "s": jnp.float32(0)} for b in draws]

    def worst(values):
        off = np.array([float(v) for v in values]) - reference
        return np.abs(off - off.mean()).max()

    errors = [worst(map(whole, at)), worst(short.evaluate(prepared, u) for u in at)]
    twin = worst(by_moments(x, y, b, np.float32(1)) for b in draws)
    assert errors[1] < 1.5 * errors[0] + 3e-5, errors
    assert name == "centred" or twin > 20 * errors[1]


def walk():
    s = scale()
    with lc.plate("time", N):
        z = lc.sample("z", dist.Normal(0, 1))
    lc.sample("y", dist.Poisson(jnp.exp(s * jnp.cumsum(z))), obs=COUNTS)


def steps():
    """A latent series of lag one: rows that share latent values, none that could be fewer."""
    with lc.plate("time", N):
        z = lc.sample("z", dist.Normal(0, 1))
    lc.sample("y", dist.Normal(z[1:] - z[:-1], 1.0), obs=Y[1:])


def half():
    """Sixteen bits are a staircase."""
    mean, s = (jnp.asarray(X, jnp.bfloat16) @ coefficients(3).astype(jnp.bfloat16)).astype(float), scale()
    with rows():
        lc.sample("y", dist.Normal(mean, s), obs=Y)


def garch():
    a, b = lc.sample("a", dist.HalfNormal(1.0)), lc.sample("c", dist.Uniform(0, 1))

    def step(s, y):
        return a + b * s, a + b * s

    _, s = jax.lax.scan(step, 1.0, 1.0 * COUNTS)
    lc.sample("y", dist.Normal(0, s), obs=1.0 * COUNTS)


def gaussian_process():
    length = lc.sample("length", dist.HalfNormal(1.0))
    at = np.arange(40) % 4
    covariance = jnp.exp(-((at[:, None] - at) ** 2) / length) + jnp.eye(40)
    lc.sample("y", dist.MultivariateNormal(jnp.zeros(40), covariance), obs=Y[:40])


def sorted_rows():
    b = coefficients(2)
    with rows():
        lc.sample("y", dist.Poisson(jnp.exp(jnp.sort(COARSE @ b))), obs=COUNTS)


def shifted():
    b = coefficients(2)
    rate = jnp.exp(COARSE @ b)
    with rows():
        lc.sample("y", dist.Poisson(rate + jnp.roll(rate, 1)), obs=COUNTS)


def matrix_of_rows():
    b = coefficients(2)
    mixing = np.tril(np.ones((N, N)))
    with rows():
        lc.sample("y", dist.Poisson(mixing @ jnp.exp(COARSE @ b)), obs=COUNTS)


REFUSED = {
    "walk": (walk, "cumsum may mix rows"), "steps": (steps, "no gain"), "half": (half, "no gain"), "garch": (garch, "scan may mix rows"),
    "gaussian_process": (gaussian_process, "mix rows"), "sorted_rows": (sorted_rows, "sort may mix rows"),
    "shifted": (shifted, "may mix rows"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_mixes_rows_stays(name, caplog):
    model, words = REFUSED[name]
    with caplog.at_level("DEBUG", "luciole"):
        assert compressed(lc.log_density(model)) is None
    assert words in caplog.text


def test_a_product_with_a_matrix_of_rows_is_no_row_by_row_computation():
    """Each row of the matrix is data of a row, and all differ; what it is multiplied with is computed whole."""
    assert compressed(lc.log_density(matrix_of_rows)) is None


def test_a_proof_that_took_the_mixing_for_elementwise_would_be_wrong(monkeypatch):
    """The twin: with cumulative sums in the table the density is another one, which the test of equality sees."""
    from luciole.transforms.compression import row_slices

    def model():
        b = coefficients(2)
        with rows():
            lc.sample("y", dist.Poisson(jnp.exp(0.01 * jnp.cumsum(COARSE @ b))), obs=COUNTS)

    assert compressed(lc.log_density(model)) is None
    monkeypatch.setattr(row_slices, "ELEMENTWISE", row_slices.ELEMENTWISE | {"cumsum"})
    expected, found, _ = both(model, positions=1)
    assert abs(float(expected[0][0] - found[0][0])) > 1


def with_numbers(x, y):
    b, s = lc.sample("b", dist.Normal(0, 2).expand([x.shape[1]]).to_event(1)), scale()
    with lc.plate("rows", len(y)):
        lc.sample("y", dist.Normal(x @ b, s), obs=y)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (np.where(np.arange(N * 3).reshape(N, 3) == 7, np.nan, X), Y, "not finite"),
        (np.where(np.arange(N * 3).reshape(N, 3) == 7, np.inf, X), Y, "not finite"),
        (RNG.normal(size=(N, N + 5)), Y, "no gain"),
        (RNG.normal(size=(N, N - 5)), Y, "no gain"),
    ],
    ids=["nan", "infinite", "p above N", "p near N"],
)
def test_designs_that_are_left_as_they_are(x, y, words, caplog):
    with caplog.at_level("DEBUG", "luciole"):
        assert compressed(lc.log_density(with_numbers, x, y)) is None
    assert words in caplog.text


def test_traced_data_are_left_alone():
    @jax.jit
    def looks(x, y):
        assert compressed(lc.log_density(with_numbers, x, y)) is None
        return x.sum()

    looks(X, Y)


def test_the_log_says_what_became_of_each_site(caplog):
    with caplog.at_level("INFO", "luciole"):
        compressed(lc.log_density(groups))
    assert "site 'y': 240 rows -> 16" in caplog.text


def test_a_fault_ends_no_run(monkeypatch, caplog):
    """And is said."""
    from luciole.ppl import compressed as module

    monkeypatch.setattr(module, "specialise", lambda *_: 1 / 0)
    with caplog.at_level("WARNING", "luciole"):
        assert compressed(lc.log_density(plain)) is None
    assert "ZeroDivisionError: division by zero" in caplog.text
