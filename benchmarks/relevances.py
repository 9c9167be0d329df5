"""Whether scales of a prior that are tuned by the gradient of the evidence bound are ranked as they truly are, and the cost. One core.

    taskset -c 0 python dev.py bench relevances [row ...]

Rows; all of them without arguments:

    known     regressions of 12 inputs whose weights have known sizes over two decades, at three correlations of the columns
    groups    eight groups of five inputs, a scale for each, weights drawn from them: what a draw of five can know of its scale
    counts    12 inputs, sizes over one and a half decades, and Poisson observations, whose evidence has no closed form
    cost      one call of `lc.evidence_gradient` against one of `lc.sgd_evidence` and with a fit given, by order and parameters

Scales are tuned by SciPy's L-BFGS on their logarithms, all 1 at the start, one key throughout. Beside them stands what maximises the exact
log evidence. Figures are Spearman's rank correlation with the truth, whether the three largest are the true ones, and nats of exact
evidence that the scales found are short of its maximum. Warm-up: a call before those that are timed.
"""

import sys
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from _common import announce, interleaved, median
from scipy.optimize import minimize
from scipy.stats import spearmanr

import luciole as lc
from luciole import dist

NOISE, BOUNDS = 0.5, (-5.0, 3.0)


def regression(log_scales, groups, x, y):
    w = lc.sample("w", dist.Normal(0, jnp.exp(log_scales)[groups]).to_event(1))
    with lc.plate("rows", x.shape[0]):
        lc.sample("y", dist.Normal(x @ w, NOISE), obs=y)


def poisson(log_scales, groups, x, y):
    w = lc.sample("w", dist.Normal(0, jnp.exp(log_scales)[groups]).to_event(1))
    with lc.plate("rows", x.shape[0]):
        lc.sample("y", dist.Poisson(jnp.exp(x @ w)), obs=y)


def exact(log_scales, groups, x, y):
    """The negative log evidence of the regression, and its derivative, by the closed form."""
    variances = np.exp(2 * log_scales)[groups]
    inverse = np.linalg.inv((x * variances) @ x.T + NOISE**2 * np.eye(len(y)))
    v = inverse @ y
    value = -0.5 * (y @ v - np.linalg.slogdet(inverse)[1] + len(y) * np.log(2 * np.pi))
    each = variances * ((x.T @ v) ** 2 - np.sum(x * (inverse @ x), axis=0))
    return -value, -np.bincount(groups, each)


def design(rng, num, dim, rho):
    return np.sqrt(1 - rho) * rng.normal(size=(num, dim)) + np.sqrt(rho) * rng.normal(size=(num, 1))


def tuned(model, number, *args, **options):
    """Log scales that L-BFGS finds, how often it looked, seconds of a look, and whether all bounds were certified."""
    last, certified, seconds = None, True, []

    def negative(log_scales):
        nonlocal last, certified
        last = lc.evidence_gradient(model, jax.random.key(0), log_scales, *args, near=last, **options)
        certified &= last.certified
        seconds.append(last.seconds)
        return -last.value, -np.asarray(last.gradient, float)

    found = minimize(negative, np.zeros(number), jac=True, method="L-BFGS-B", bounds=[BOUNDS] * number, options={"ftol": 1e-6})
    return found.x, found.nfev, median(seconds), certified


def _report(label, true, args, model=regression, **options):
    scales, looks, seconds, certified = tuned(model, len(true), *args, **options)
    top = set(np.argsort(scales)[-3:]) == set(np.argsort(true)[-3:])
    words = f"rank correlation {spearmanr(scales, true)[0]:.3f}, three largest {'right' if top else 'wrong'}"
    if model is regression:
        best = minimize(exact, np.zeros(len(true)), args=args, jac=True, method="L-BFGS-B", bounds=[BOUNDS] * len(true))
        short = exact(scales, *args)[0] - best.fun
        words += f" (exact evidence {spearmanr(best.x, true)[0]:.3f}), short of it {short:.4f} nats"
    print(f"{label}: {words}; {looks} looks of {seconds:.3f} s, {'all' if certified else 'not all'} certified", flush=True)


def known():
    for rho in (0.0, 0.5, 0.9):
        for seed in range(3):
            rng = np.random.default_rng(seed)
            sizes = np.logspace(-1.5, 0.5, 12)[rng.permutation(12)]
            x = design(rng, 300, 12, rho)
            y = x @ (sizes * rng.choice([-1, 1], 12)) + NOISE * rng.normal(size=300)
            _report(f"rho {rho}, seed {seed}", sizes, (np.arange(12), x, y))


def groups():
    for seed in range(5):
        rng = np.random.default_rng(seed)
        scales, group = np.logspace(-1.5, 0.5, 8)[rng.permutation(8)], np.repeat(np.arange(8), 5)
        x = design(rng, 400, 40, 0.3)
        y = x @ (scales[group] * rng.normal(size=40)) + NOISE * rng.normal(size=400)
        _report(f"seed {seed}", scales, (group, x, y))


def counts():
    for seed in range(3):
        rng = np.random.default_rng(seed)
        sizes = np.logspace(-1.5, 0, 12)[rng.permutation(12)]
        x = 0.7 * design(rng, 400, 12, 0.3)
        y = rng.poisson(np.exp(x @ (sizes * rng.choice([-1, 1], 12))))
        _report(f"seed {seed}", sizes, (np.arange(12), x, y), poisson)


def cost():
    for dim, order in ((12, "exact"), (12, "reference"), (12, 2), (60, "reference"), (60, 2)):
        rng = np.random.default_rng(0)
        x = design(rng, 500, dim, 0.5)
        args = np.zeros(dim), np.arange(dim), x, x @ rng.normal(size=dim) + NOISE * rng.normal(size=500)
        options = {"order": order, "num_steps": 16}
        held = lc.evidence_gradient(regression, jax.random.key(0), *args, **options)
        calls = {
            "with a fit": partial(lc.evidence_gradient, regression, jax.random.key(0), *args, **options),
            "near a fit": partial(lc.evidence_gradient, regression, jax.random.key(0), *args, near=held, **options),
            "fit held": partial(lc.evidence_gradient, regression, jax.random.key(0), *args, fit=held),
            "sgd_evidence": partial(lc.sgd_evidence, regression, jax.random.key(0), *args, progress_bar=False, **options),
        }
        for call in calls.values():
            call()
        times = interleaved(calls, 7, time.process_time)
        print(f"{dim} parameters, order {order}: " + ", ".join(f"{name} {median(t):.3f} s" for name, t in times.items()), flush=True)


ROWS = {f.__name__: f for f in (known, groups, counts, cost)}

if __name__ == "__main__":
    announce("a call before those that are timed")
    for row in sys.argv[1:] or ROWS:
        print(f"-- {row}", flush=True)
        ROWS[row]()
