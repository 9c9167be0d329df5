"""Plain descent from the prior, the form of 2016: what its bound costs per step, how loose it is and why, and what it chooses. One core.

    taskset -c 0 python dev.py bench descent [row ...]

Rows; all of them without arguments:

    cost        a step with one probe against a plain SGD step, 100,000 parameters: time (median ratio, interleaved) and memory
    million     a model of a million parameters
    batching    64 restarts in one program against 64 runs of one, at three sizes
    conjugate   linear regressions: exact evidence, the bound by all estimators, tempered SMC; the slack of estimator and posterior apart
    threshold   a network on images: the bound against the width of the gradient's threshold
    width       a network on images: the bound against the number of hidden units

Images: the 10,000 test images of MNIST from shared/data beside the checkout, or scikit-learn's 1,797 digits if they are not there.
Warm-up: every program is compiled by one call that is not timed; steps are timed in seconds of the processor. Tempered SMC is BlackJAX's.
"""

import sys
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from _common import announce, interleaved, median
from _evidence import PLAIN, Steps, TemperedSMC, images, network, quietly

import luciole as lc
from luciole import dist
from luciole import transforms as lt
from luciole.inference.evidence.batches import cut
from luciole.inference.evidence.fits import Fits
from luciole.inference.evidence.objective import Objective
from luciole.inference.kernels.layout import Layout


def linear(x, y, noise):
    w = lc.sample("w", dist.Normal(0, 1).expand([x.shape[1]]).to_event(1))
    with lc.plate("rows", x.shape[0]):
        lc.sample("y", dist.Normal(x @ w, noise), obs=y)


def _steps(model, args, batch_size, order=2, restarts=1):
    """The compiled path in minibatches, and the batches."""
    density = lc.log_density(model, *args)
    objective = Objective(density.program, Layout.of(density.positions))
    batches = cut(model, args, {}, density, objective, batch_size, None)
    return Steps(Fits(objective, tuple(density.data), "diagonal"), None, order, "prior", 10, restarts, batches), batches


def _plain(batches, train, dim):
    """The same path by plain SGD: value and gradient of the same batches, and the update."""

    def loss(u, rows):
        return -batches.count * batches.objective.log_likelihood(batches.objective.prepare(batches.gather(train, rows)), u)

    @jax.jit
    def run(u, order, n):
        def body(i, carry):
            u, total = carry
            rows = jax.lax.dynamic_slice_in_dim(order, (i % batches.count) * batches.size, batches.size)
            value, gradient = lt.value_and_grad(loss)(u, rows)
            return u - 1e-7 * gradient, total + value

        return jax.lax.fori_loop(0, n, body, (u, jnp.zeros(())))

    order = jnp.arange(batches.num_rows)
    u = jnp.zeros(dim)
    memory = run.lower(u, order, 1).compile().memory_analysis()
    return lambda n: jax.block_until_ready(run(u, order, n)), memory


def cost():
    x, y, name = images()
    x, y = x[:2000] if len(x) >= 2000 else x[:1600], y[:2000] if len(y) >= 2000 else y[:1600]
    model = partial(network, widths=(x.shape[1], 126 if x.shape[1] == 784 else 1333, 10))
    number = 200
    for order in (2, 4):
        steps, batches = _steps(model, (x, y), 200, order)
        dim = steps.state.position.shape[1]
        plain, plain_memory = _plain(batches, steps.data.train, dim)
        calls = {"ours": partial(steps, number), "plain": partial(plain, number)}
        for call in calls.values():
            call()
        times = interleaved(calls, 5, time.process_time)
        ratio = median([a / b for a, b in zip(times["ours"], times["plain"], strict=True)])
        peak, plain_peak = (m.temp_size_in_bytes + m.output_size_in_bytes for m in (steps.compiled.memory_analysis(), plain_memory))
        print(
            f"order {order}, {dim:,} parameters, batch 200, {name}: plain SGD {1e3 * median(times['plain']) / number:.2f} ms/step, "
            f"with the bound {1e3 * median(times['ours']) / number:.2f}: {ratio:.2f}x; "
            f"memory {plain_peak / 2**20:.2f} MiB, {peak / 2**20:.2f} MiB: {peak / plain_peak:.2f}x",
            flush=True,
        )


def million():
    x, y, name = images()
    num = 10_000 if len(x) == 10_000 else 1_600
    widths = (x.shape[1], 1260 if x.shape[1] == 784 else 13_340, 10)
    begun = time.perf_counter()
    options = PLAIN | {"batch_size": 200, "step_size": 0.002 / num, "num_steps": 100, "num_restarts": 2}
    estimate, _ = quietly(partial(network, widths=widths), 0, x[:num], y[:num], **options)
    size = sum(v[0].size for v in estimate.samples.values())
    print(f"{size:,} parameters, {name}: 2 restarts, 100 steps in {time.perf_counter() - begun:.0f} s, compilation included")
    print(f"{estimate}\n", flush=True)


def batching():
    x, y, _ = images()
    number = 20
    for hidden in (4, 16, 64):
        model, args = partial(network, widths=(x.shape[1], hidden, 10)), (x[:1000], y[:1000])
        (together, _), (alone, _) = _steps(model, args, 100, restarts=64), _steps(model, args, 100, restarts=1)

        def run_alone(alone=alone):
            for _ in range(64):
                alone(number)

        calls = {"together": partial(together, number), "alone": run_alone}
        for call in calls.values():
            call()
        times = interleaved(calls, 5, time.process_time)
        gain = median([a / b for a, b in zip(times["alone"], times["together"], strict=True)])
        print(
            f"{together.state.position.shape[1]:7,} parameters: 64 runs {median(times['alone']) / number * 1e3:8.1f} ms/step, "
            f"64 restarts together {median(times['together']) / number * 1e3:8.1f}: {gain:.2f}x",
            flush=True,
        )


def _random_regression(num, dim, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num, dim))
    return x, x @ rng.normal(size=dim) + rng.normal(size=num), 1.0


def _exact(x, y, noise):
    covariance = x @ x.T + noise**2 * np.eye(len(y))
    return -0.5 * (y @ np.linalg.solve(covariance, y) + np.linalg.slogdet(covariance)[1] + len(y) * np.log(2 * np.pi))


def conjugate():
    """The gap to the exact evidence at the peak, nats: first what the posterior of descent lacks, then what each estimator adds."""
    print("          a*lambda     exact       SMC  gap: exact log-det (posterior)  +order 4  +order 2 (estimator)  steps at the peak")
    with jax.enable_x64(True):
        for num, dim in [(40, 5), (100, 20), (400, 50)]:
            args = _random_regression(num, dim)
            exact, smc = _exact(*args), TemperedSMC(linear, args, 1000)(0)[0]
            curvature = np.linalg.eigvalsh(args[0].T @ args[0])[-1]
            for fraction in (0.1, 0.3, 0.6):
                options = PLAIN | {"step_size": fraction / curvature, "num_steps": round(12 / fraction), "num_restarts": 512}
                found = {order: quietly(linear, 0, *args, **options | {"order": order})[0] for order in ("exact", 4, 2)}
                gap = {order: exact - e.bound for order, e in found.items()}
                peaks = "/".join(str(e.best_step) for e in found.values())
                print(
                    f"({num:3},{dim:2})  {fraction:8} {exact:10.2f} {smc:9.2f} {gap['exact']:20.2f} "
                    f"{gap[4] - gap['exact']:20.2f} {gap[2] - gap['exact']:9.2f}  {peaks:>24}  error {found[2].bound_stderr:.2f}",
                    flush=True,
                )


def _on_images(label, widths, step_size, num_steps, restarts, **options):
    x, y, _ = images()
    num = 8000 if len(x) == 10_000 else 1400
    model, test = partial(network, widths=(x.shape[1], *widths, 10)), (x[num:], y[num:])
    begun = time.perf_counter()
    options = PLAIN | {"step_size": step_size / num, "num_steps": num_steps, "num_restarts": restarts} | options
    e, _ = quietly(model, 0, x[:num], y[:num], test=test, **options)
    held_out, best = e.test_log_likelihood.mean(0), e.best
    print(
        f"{label:>8}: bound/N {e.mean[best] / num:8.4f} (error {e.stderr[best] / num:.4f}) at step {e.best_step:4} of {num_steps}, "
        f"{e.mean[-1] / num:8.4f} at the last; test {held_out[best]:7.4f} there, {held_out.max():7.4f} at best; "
        f"curvature at most {e.max_curvature.max():.2f}{'' if e.valid else ', beyond the range from ' + str(e.first_invalid_step)}"
        f"  {time.perf_counter() - begun:.0f} s",
        flush=True,
    )
    return e


def threshold():
    """Descent is the slower the wider the threshold: each has steps enough for the bound to peak."""
    print(images()[2])
    found = {}
    for width, num_steps in ((None, 1500), (10.0, 1500), (30.0, 1500), (100.0, 3000), (200.0, 8000), (300.0, 15_000), (1000.0, 80_000)):
        found[str(width)] = _on_images(str(width), (30,), 0.03, num_steps, 4, batch_size=200, gradient_threshold=width)
    print(lc.compare_evidence(found))


def width():
    print(images()[2])
    found = {}
    for hidden in (2, 4, 8, 16, 32, 64, 128):
        found[str(hidden)] = _on_images(str(hidden), (hidden,), 0.03, 1500, 4, batch_size=200)
    print(lc.compare_evidence(found))


ROWS = {f.__name__: f for f in (cost, million, batching, conjugate, threshold, width)}

if __name__ == "__main__":
    announce("every program is compiled by a call that is not timed")
    for row in sys.argv[1:] or ROWS:
        print(f"-- {row}", flush=True)
        ROWS[row]()
