"""The derivative of the bound: against the closed form on Gaussian posteriors, against finite differences of the bound elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import spearmanr

import luciole as lc
from luciole import EvidenceError, dist
from luciole.inference.evidence import gradient as module
from luciole.inference.evidence import sensitivity
from luciole.inference.evidence.controls import controls, mean_with_controls
from luciole.transforms import dynamic_loop
from luciole.transforms.bounded import bounded_jit

ROWS, DIM = 40, 6
KEY = 0


def regression(log_scales, log_noise, x, y):
    w = lc.sample("w", dist.Normal(0, jnp.exp(log_scales)).to_event(1))
    with lc.plate("rows", x.shape[0]):
        lc.sample("y", dist.Normal(x @ w, jnp.exp(log_noise)), obs=y)


def problem(dim, rho):
    """Scales, noise, columns that share a factor, and what was observed."""
    rng = np.random.default_rng(dim)
    x = np.sqrt(1 - rho) * rng.normal(size=(ROWS, dim)) + np.sqrt(rho) * rng.normal(size=(ROWS, 1))
    if rho == 0:
        x = np.sqrt(ROWS) * np.linalg.qr(x)[0]
    y = x @ rng.normal(size=dim) + rng.normal(size=ROWS)
    return np.linspace(-1, 0.5, dim), 0.1, x, y


def closed_form(log_scales, log_noise, x, y):
    """log p(y) and its derivatives in log_scales and log_noise, in float64: with C = x S^2 x' + s^2 I, (v' dC v - tr C^-1 dC) / 2."""
    variances, noise = np.exp(2 * np.asarray(log_scales)), np.exp(2 * log_noise)
    covariance = (x * variances) @ x.T + noise * np.eye(len(y))
    inverse = np.linalg.inv(covariance)
    v = inverse @ y
    value = -0.5 * (y @ v + np.linalg.slogdet(covariance)[1] + len(y) * np.log(2 * np.pi))
    return value, variances * ((x.T @ v) ** 2 - np.sum(x * (inverse @ x), axis=0)), noise * (v @ v - np.trace(inverse))


@pytest.fixture
def gradient():
    """`lc.evidence_gradient` with the key of these tests."""
    return lambda model, *args, **options: lc.evidence_gradient(model, jax.random.key(KEY), *args, **options)


@pytest.mark.slow
@pytest.mark.parametrize("rho", [0.9, 0.0])
def test_on_a_gaussian_posterior_it_is_that_of_the_evidence(gradient, rho):
    """To rounding, and without noise: all of it is a polynomial of second degree in the numbers of the start."""
    args = problem(DIM, rho)
    value, on_scales, on_noise = closed_form(*args)
    found = gradient(regression, *args, argnums=(0, 1), order="exact")
    assert found.certified and found.evidence.passed and found.max_curvature < 0.02 and found.num_steps == 16
    assert abs(found.value - value) < 1e-3
    np.testing.assert_allclose(found.gradient[0], on_scales, atol=2e-3)
    np.testing.assert_allclose(found.gradient[1], on_noise, atol=5e-3)
    assert max(np.max(e) for e in found.gradient_stderr) < 1e-3
    plain = [np.mean(g, axis=0) for g in found.gradients]  # right too, but noisy
    errors = [np.std(g, axis=0, ddof=1) / 8 for g in found.gradients]
    for mean, error, exact in zip(plain, errors, (on_scales, on_noise), strict=True):
        assert np.all(np.abs(mean - exact) < 4 * error) and np.max(error) > 0.05


@pytest.mark.slow
def test_scales_of_the_prior_that_are_tuned_by_it_are_ranked_as_the_true_ones(gradient, backend_compiles):
    """Weights of sizes 0.1 to 10: the scales found are those that the exact evidence is largest at, and in the order of the sizes."""
    rng = np.random.default_rng(5)
    sizes = np.logspace(-1, 1, DIM)[rng.permutation(DIM)]
    x = problem(DIM, 0.5)[2]
    y = x @ (sizes * rng.choice([-1, 1], DIM)) + 0.2 * rng.normal(size=ROWS)

    last = None

    def bound(log_scales):
        nonlocal last
        last = gradient(regression, log_scales, np.log(0.2), x, y, argnums=(0, 1), order="exact", near=last)
        return -last.value, -last.gradient[0].astype(float)

    def exact(log_scales):
        value, slope, _ = closed_form(log_scales, np.log(0.2), x, y)
        return -value, -slope

    bound(np.zeros(DIM))
    del backend_compiles[:]
    options = {"jac": True, "method": "L-BFGS-B", "bounds": [(-4, 4)] * DIM}
    tuned, best = (minimize(f, np.zeros(DIM), **options, options={"ftol": 1e-5}).x for f in (bound, exact))
    assert not backend_compiles
    assert spearmanr(tuned, sizes)[0] >= 0.9 and set(np.argsort(tuned)[-2:]) == set(np.argsort(sizes)[-2:])
    assert exact(tuned)[0] < exact(best)[0] + 0.05
    np.testing.assert_allclose(tuned[sizes > 0.2], best[sizes > 0.2], atol=0.05)


@pytest.mark.exhaustive
@pytest.mark.parametrize("order", ["reference", 2, 4])
@pytest.mark.parametrize("rho", [0.0, 0.9])
def test_orders_with_noise(gradient, rho, order):
    """Order 2 is off by what its polynomial lacks: 1 + 2 c for 1 / (1 - c) in every one of T steps, thousandths of a log-determinant."""
    args = problem(4, rho)
    value, on_scales, on_noise = closed_form(*args)
    found = gradient(regression, *args, argnums=(0, 1), order=order, num_restarts=128)
    lacks = 0.01 if order == 2 else 0.0
    assert abs(found.value - value) < 1e-3 + lacks
    np.testing.assert_array_less(np.abs(found.gradient[0] - on_scales), 4 * found.gradient_stderr[0] + 2e-3 + lacks)
    assert abs(found.gradient[1] - on_noise) < 4 * found.gradient_stderr[1] + 2e-3 + 4 * lacks


def counts(log_scales, x, y):
    w = lc.sample("w", dist.Normal(0, jnp.exp(log_scales)).to_event(1))
    with lc.plate("rows", x.shape[0]):
        lc.sample("y", dist.Poisson(jnp.exp(x @ w)), obs=y)


def heavy_tails(hyper, x, y):
    w = lc.sample("w", dist.Normal(0, jnp.exp(hyper["scales"])).to_event(1))
    s = lc.sample("s", dist.HalfNormal(jnp.exp(hyper["noise"])))
    with lc.plate("rows", x.shape[0]):
        lc.sample("y", dist.StudentT(4.0, x @ w, s), obs=y)


def count_data(num=12):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(num, 2))
    return np.log([0.5, 0.3]), x, rng.poisson(np.exp(x @ [0.3, -0.5]))


def tail_data(num=12):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(num, 2))
    return {"scales": np.log([0.5, 2.0]), "noise": 0.2}, x, x @ [0.3, -0.5] + rng.standard_t(4, size=num)


PLAIN = {"start": "prior", "preconditioner": None, "num_steps": 20, "step_size": 0.005, "order": 2}
SHORT = PLAIN | {"step_size": 0.0002}
FEW = {"num_restarts": 16}


def worst_error(gradient, model, args, argnum=0, size=1e-5, **options):
    """The largest difference, over restarts, of their derivative and a central difference of their bound on the same path, in a random
    direction; relative to the largest derivative."""
    rng = np.random.default_rng(2)
    direction = jax.tree.map(lambda a: rng.normal(size=np.shape(a)), args[argnum])

    def moved(by):
        at = list(args)
        at[argnum] = jax.tree.map(lambda a, d: a + by * d, args[argnum], direction)
        return at

    found = gradient(model, *args, argnums=argnum, **FEW, **options)
    draws = FEW | {"num_probes": options.get("num_probes", 1)}
    up, down = (gradient(model, *moved(by), argnums=argnum, fit=found, **draws) for by in (size, -size))
    assert up.num_steps == down.num_steps == found.num_steps > 1
    numeric = (up.log_evidence - down.log_evidence) / (2 * size)
    parts = jax.tree.map(lambda g, d: np.sum(np.asarray(g) * d, axis=tuple(range(1, np.ndim(g)))), found.gradients, direction)
    analytic = sum(jax.tree.leaves(parts))
    counted = np.isfinite(analytic)
    assert counted.sum() >= 12
    return np.max(np.abs(analytic - numeric)[counted]) / np.max(np.abs(analytic[counted]))


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore:evidence_gradient. the bound, .*, is loose")  # from the prior to heavy tails
@pytest.mark.parametrize(
    "options",
    [
        {"order": "exact"}, {"order": "reference"}, {"order": 2}, {"order": 4}, {"start": "laplace", "order": "exact"},
        SHORT | {"order": "exact"}, SHORT | {"order": 4}, SHORT | {"num_probes": 2, "gradient_threshold": 1.0},
        {"start": "prior", "preconditioner": "diagonal"}, {"start": "prior", "preconditioner": "full"},
    ],
)  # fmt: skip
def test_finite_differences_of_every_path(gradient, options):
    with jax.enable_x64(True):
        assert worst_error(gradient, counts, count_data(40), **options) < 1e-5
        assert worst_error(gradient, heavy_tails, tail_data(40), **options) < 1e-5


@pytest.mark.exhaustive
@pytest.mark.parametrize("argnum", [1, 2])
def test_finite_differences_in_the_data(gradient, argnum):
    with jax.enable_x64(True):
        assert worst_error(gradient, heavy_tails, tail_data(), argnum) < 1e-6


@pytest.fixture
def rebuilt(monkeypatch):
    """Sets an attribute of `sensitivity`, and has its program compiled anew with it."""

    def rebuild(name, value):
        monkeypatch.setattr(sensitivity, name, value)
        monkeypatch.setattr(module, "sensitivities", bounded_jit(0)(sensitivity.sensitivities.__wrapped__))

    return rebuild


def without_determinants(i, carry, step, theta):
    u, total, lost = step(i, carry, theta)
    return u, jax.lax.stop_gradient(total), lost


def without_moves(i, carry, step, theta):
    u, total, lost = step(i, carry, theta)
    return jax.lax.stop_gradient(u), total, lost


@pytest.mark.parametrize(
    ("broken", "options"),
    [
        pytest.param(without_determinants, PLAIN, marks=pytest.mark.slow),
        pytest.param(without_moves, PLAIN, marks=pytest.mark.exhaustive),
        pytest.param(without_determinants, {"order": "exact"}, marks=pytest.mark.exhaustive),
        pytest.param(without_moves, {"order": "exact"}, marks=pytest.mark.exhaustive),
    ],
)
def test_finite_differences_see_a_derivative_that_forgets_a_part(gradient, rebuilt, broken, options):
    def loop(n, step, theta, init, **options):
        return dynamic_loop(n, lambda i, carry, theta: broken(i, carry, step, theta), theta, init, **options)

    with jax.enable_x64(True):
        assert worst_error(gradient, counts, count_data(), **options) < 1e-6
        rebuilt("dynamic_loop", loop)
        assert worst_error(gradient, counts, count_data(), **options) > 0.02


def unused(scale, x, y):
    w = lc.sample("w", dist.Normal(0, 1).expand([x.shape[1]]).to_event(1))
    lc.sample("y", dist.Normal(x @ w, 1.0).to_event(1), obs=y)


def by_numpy(log_scales, x, y):
    w = lc.sample("w", dist.Normal(0, np.exp(log_scales)).to_event(1))
    lc.sample("y", dist.Normal(x @ w, 1.0).to_event(1), obs=y)


def mixed(share, x, y):
    parts = dist.Categorical(probs=jnp.stack([share, 1 - share])), dist.Normal(jnp.zeros(2), jnp.array([0.1, 1.0]))
    w = lc.sample("w", dist.MixtureSameFamily(*parts))
    lc.sample("y", dist.Normal(x[:, 0] * w, 1.0).to_event(1), obs=y)


@pytest.mark.parametrize(
    ("model", "argnums", "options", "words"),
    [
        (counts, 2, {}, "argument 2 of the model has an array of int"),
        (counts, 3, {}, "names an argument that is not there: the model was given 3 by position"),
        (counts, -4, {}, "not there"),
        (counts, (0, 0), {}, "twice"),
        (counts, (), {}, "a whole number or a tuple"),
        (counts, "log_scales", {}, "a whole number or a tuple"),
        (counts, True, {}, "a whole number or a tuple"),
        (by_numpy, 0, {}, "where no derivative sees them. Compute with jax.numpy"),
        (counts, 0, {"checkpoint": "no"}, "one of 'auto', 'tape', 'sqrt', 'tree' expected"),
        (counts, 0, {"fit": 1}, "fit is a int; an earlier result"),
        (counts, 0, {"near": 1}, "near is a int; an earlier result"),
    ],
)
def test_what_makes_no_sense_is_refused(gradient, model, argnums, options, words):
    with pytest.raises(EvidenceError, match=f"evidence_gradient: .*{words}"):
        gradient(model, *count_data(), argnums=argnums, **options)


def test_draws_without_a_derivative_are_refused(gradient):
    args = 0.5, *count_data()[1:]
    with pytest.raises(EvidenceError, match=r"'w' .*is drawn from MixtureSameFamily, whose draws do not depend smoothly"):
        gradient(mixed, *args, **PLAIN)


@pytest.mark.exhaustive
def test_only_draws_that_depend_on_the_argument_are_refused(gradient):
    args = 0.5, *count_data()[1:]
    found = gradient(mixed, *args, argnums=1, **PLAIN, **FEW)
    assert found.gradient.shape == args[1].shape and np.isfinite(found.gradient).all()
    assert np.isfinite(gradient(mixed, *args, **FEW).gradient)


@pytest.mark.exhaustive
def test_an_argument_without_influence_has_the_derivative_zero(gradient):
    found = gradient(unused, 1.0, *count_data()[1:], **FEW)
    assert found.gradient == 0 and found.gradient.dtype == np.float32 and np.all(found.gradients == 0)


@pytest.mark.exhaustive
def test_carries_come_back_in_two_ways(gradient):
    args = count_data()
    tape, sqrt = (gradient(counts, *args, **PLAIN, **FEW, checkpoint=way) for way in ("tape", "sqrt"))
    np.testing.assert_allclose(sqrt.gradients, tape.gradients, rtol=1e-4, atol=1e-4)
    assert np.any(tape.gradients != 0)


@pytest.mark.exhaustive
def test_a_path_that_is_taken_over(gradient):
    """It is that of the earlier result: a bound still, and looser."""
    args = count_data()
    first = gradient(counts, *args)
    again = gradient(counts, *args, fit=first)
    np.testing.assert_array_equal(again.gradient, first.gradient)
    moved = args[0] + 1.0, *args[1:]
    sooner = gradient(counts, *moved, near=first)
    assert sooner.variational.evaluations < gradient(counts, *moved).variational.evaluations
    fresh, kept = gradient(counts, *moved), gradient(counts, *moved, fit=first)
    assert kept.certified and fresh.value - 3 < kept.value < fresh.value + 3 * kept.stderr
    with pytest.raises(EvidenceError, match="fit= brings its path with it, and order would make another"):
        gradient(counts, *args, fit=first, order=2)
    np.testing.assert_allclose(sooner.gradient, fresh.gradient, atol=5e-3)
    with pytest.raises(EvidenceError, match="other latent sites"):
        gradient(heavy_tails, *tail_data(), fit=first)


@pytest.mark.exhaustive
def test_the_bound_that_is_differentiated_is_the_one_that_is_reported(gradient):
    """Both programs go the same way: restart by restart."""
    args, values = count_data(), []
    program = module.sensitivities

    def spied(*given):
        values.append(program(*given))
        return values[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "sensitivities", spied)
        for options in ({}, {"order": 4}, PLAIN):
            found = gradient(counts, *args, **options, **FEW)
            np.testing.assert_allclose(values[-1][0], found.log_evidence, rtol=1e-5)


def test_controls_take_away_a_polynomial_and_no_more():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(64, 3))
    quadratic = 2 + z @ [1, -2, 3] + z[:, 0] * z[:, 1] + 4 * (z[:, 2] ** 2 - 1)
    mean, stderr = mean_with_controls(quadratic, controls(z))
    assert abs(mean - 2) < 1e-12 and stderr < 1e-12
    mean, stderr = mean_with_controls(quadratic, np.zeros((64, 0)))
    np.testing.assert_allclose([mean, stderr], [quadratic.mean(), quadratic.std(ddof=1) / 8])
    assert controls(z[:19]).shape == (19, 6) and controls(z[:13]).shape == (13, 3) and controls(z[:7]).shape == (7, 0)
    assert np.isnan(mean_with_controls(np.zeros((0, 2)), np.zeros((0, 0)))[0]).all()


def test_errors_with_controls_are_what_they_are_said_to_be():
    """Of what no polynomial fits: over 400 samples the z-scores have unit variance."""
    rng = np.random.default_rng(1)
    scores = []
    for _ in range(400):
        z = rng.normal(size=(64, 2))
        mean, stderr = mean_with_controls(np.sin(3 * z[:, 0]) + z[:, 0] + rng.normal(size=64), controls(z))
        scores.append(mean / stderr)
    assert 0.85 < np.std(scores) < 1.2 and abs(np.mean(scores)) < 0.2
