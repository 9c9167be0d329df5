"""What a bound on the evidence costs, how good it is, and where it misleads. One core.

    taskset -c 0 python dev.py bench evidence [row ...]

Rows; all of them without arguments:

    cost        a step with one probe against a plain SGD step, 100,000 parameters: time (median ratio, interleaved) and memory
    million     a model of a million parameters
    batching    64 restarts in one program against 64 runs of one, at three sizes
    conjugate   linear regressions: exact evidence, the bound by all estimators, tempered SMC; the slack of estimator and posterior apart
    gamma       a constrained conjugate model: exact evidence, Laplace, tempered SMC, the bound
    degree      degree of a polynomial by evidence, closed form and Monte Carlo, against the exact evidence's choice, 50 data sets
    diabetes    a network: what the step that the bound picks costs on test data
    threshold   a network on images: the bound against the width of the gradient's threshold
    width       a network on images: the bound against the number of hidden units

Images: the 10,000 test images of MNIST from shared/data beside the checkout, or scikit-learn's 1,797 digits if they are not there.
Warm-up: every program is compiled by one call that is not timed. Tempered SMC is BlackJAX's (skipped without it).
"""

import itertools
import sys
import time
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from _common import announce, interleaved, median, mnist
from numpy.polynomial import legendre
from scipy.special import gammaln

import luciole as lc
from luciole import dist
from luciole import transforms as lt
from luciole.inference.evidence import EvidenceRangeWarning
from luciole.inference.evidence.batches import cut
from luciole.inference.evidence.descent import CAPACITY, Data, advance, begin
from luciole.inference.evidence.descent import Path as Descent
from luciole.inference.evidence.objective import Objective
from luciole.inference.layout import Layout


def network(x, y, widths, scale=1.0):
    """A tanh network; weights N(0, scale^2 / inputs), a categorical likelihood."""
    h = x
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        w = lc.sample(f"w{i}", dist.Normal(0, scale / np.sqrt(inputs)).expand([inputs, outputs]).to_event(2))
        b = lc.sample(f"b{i}", dist.Normal(0, scale).expand([outputs]).to_event(1))
        h = (jnp.tanh(h) if i else h) @ w + b
    with lc.plate("rows", x.shape[0]):
        lc.sample("y", dist.Categorical(logits=h), obs=y)


def regression_network(x, y, hidden, noise, scale):
    """A tanh network with one hidden layer and Gaussian noise; `scale` is that of the first layer's weights."""
    inputs = x.shape[1]
    w0 = lc.sample("w0", dist.Normal(0, scale / np.sqrt(inputs)).expand([inputs, hidden]).to_event(2))
    b0 = lc.sample("b0", dist.Normal(0, scale).expand([hidden]).to_event(1))
    w1 = lc.sample("w1", dist.Normal(0, 1 / np.sqrt(hidden)).expand([hidden]).to_event(1))
    with lc.plate("rows", x.shape[0]):
        lc.sample("y", dist.Normal(jnp.tanh(x @ w0 + b0) @ w1, noise), obs=y)


def linear(x, y, noise):
    w = lc.sample("w", dist.Normal(0, 1).expand([x.shape[1]]).to_event(1))
    with lc.plate("rows", x.shape[0]):
        lc.sample("y", dist.Normal(x @ w, noise), obs=y)


def images():
    """(images (n, pixels), labels (n,)), pixels between 0 and 1, and their name."""
    found = mnist()
    if found is not None:
        return *found, "MNIST's 10,000 test images"
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.data.astype(np.float32) / 16, digits.target.astype(np.int32), "scikit-learn's digits"


def quietly(model, seed, *args, **options):
    """An estimate without a bar; a step that is too long is printed where the estimate is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EvidenceRangeWarning)
        return lc.sgd_evidence(model, jax.random.key(seed), *args, progress_bar=False, **options)


def _descent(model, args, batch_size, order=2, restarts=1):
    """The compiled programs of a run: () -> a fresh state, (state, number of steps) -> state; and the memory of the second."""
    density = lc.log_density(model, *args)
    objective = Objective(density.program, Layout.of(density.positions))
    batches = None if batch_size is None else cut(model, args, {}, density, objective, batch_size, None)
    path = Descent(objective, batches, None, order, 1, False, False, batches.count if batches else 1, 10)
    data = Data(tuple(jax.device_put(density.data)), (), np.float32(0), np.int32(10**9))
    sizes = np.full(CAPACITY, 1e-7, np.float32)

    def fresh():
        return begin(objective, restarts, path.rows_shape(restarts), data.train, jax.random.key(0))

    compiled = advance.lower(path, fresh(), data, sizes, np.int32(1)).compile()
    return objective, batches, data, fresh, lambda state, n: compiled(state, data, sizes, np.int32(n))[0], compiled.memory_analysis()


def _plain(batches, data, dim):
    """The same path by plain SGD: value and gradient of the same batches, and the update."""

    def loss(u, rows):
        return -batches.count * batches.objective.log_likelihood(batches.objective.prepare(batches.gather(data.train, rows)), u)

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
    widths = (x.shape[1], 126 if x.shape[1] == 784 else 1333, 10)
    model = partial(network, widths=widths)
    steps = 200  # the guard's first check, 21 products, is among them
    for order in (2, 4):
        objective, batches, data, fresh, step, memory = _descent(model, (x, y), 200, order)
        dim = objective.layout.dim
        plain, plain_memory = _plain(batches, data, dim)

        states = [fresh() for _ in range(8)]

        def ours(step=step, states=states):
            jax.block_until_ready(step(states.pop(), steps))

        ours(), plain(steps)
        times = interleaved({"ours": ours, "plain": lambda plain=plain: plain(steps)}, 5)
        ratio = median([a / b for a, b in zip(times["ours"], times["plain"], strict=True)])
        peak, plain_peak = (m.temp_size_in_bytes + m.output_size_in_bytes for m in (memory, plain_memory))
        print(
            f"order {order}, {dim:,} parameters, batch 200, {name}: plain SGD {1e3 * median(times['plain']) / steps:.2f} ms/step, "
            f"with the bound {1e3 * median(times['ours']) / steps:.2f}: {ratio:.2f}x; "
            f"memory {plain_peak / 2**20:.2f} MiB, {peak / 2**20:.2f} MiB: {peak / plain_peak:.2f}x",
            flush=True,
        )


def million():
    x, y, name = images()
    num = 10_000 if len(x) == 10_000 else 1_600
    widths = (x.shape[1], 1260 if x.shape[1] == 784 else 13_340, 10)
    begun = time.perf_counter()
    options = {"batch_size": 200, "step_size": 0.002 / num, "num_steps": 100, "num_restarts": 2}
    estimate = quietly(partial(network, widths=widths), 0, x[:num], y[:num], **options)
    size = sum(v[0].size for v in estimate.samples.values())
    print(f"{size:,} parameters, {name}: 2 restarts, 100 steps in {time.perf_counter() - begun:.0f} s, compilation included")
    print(f"{estimate}\n", flush=True)


def batching():
    x, y, _ = images()
    steps = 20
    for hidden in (4, 16, 64):
        model, args = partial(network, widths=(x.shape[1], hidden, 10)), (x[:1000], y[:1000])
        objective, _, _, fresh, together, _ = _descent(model, args, 100, restarts=64)
        _, _, _, fresh_one, alone, _ = _descent(model, args, 100, restarts=1)
        many, ones = [fresh() for _ in range(8)], [fresh_one() for _ in range(64 * 8)]

        def run_together(many=many, together=together):
            jax.block_until_ready(together(many.pop(), steps))

        def run_alone(ones=ones, alone=alone):
            for _ in range(64):
                jax.block_until_ready(alone(ones.pop(), steps))

        run_together(), run_alone()
        times = interleaved({"together": run_together, "alone": run_alone}, 5)
        gain = median([a / b for a, b in zip(times["alone"], times["together"], strict=True)])
        print(
            f"{objective.layout.dim:7,} parameters: 64 runs {median(times['alone']) / steps * 1e3:8.1f} ms/step, "
            f"64 restarts together {median(times['together']) / steps * 1e3:8.1f}: {gain:.2f}x",
            flush=True,
        )


def _random_regression(num, dim, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num, dim))
    return x, x @ rng.normal(size=dim) + rng.normal(size=num), 1.0


def _exact(x, y, noise):
    covariance = x @ x.T + noise**2 * np.eye(len(y))
    return -0.5 * (y @ np.linalg.solve(covariance, y) + np.linalg.slogdet(covariance)[1] + len(y) * np.log(2 * np.pi))


def tempered_smc(model, *args, particles=1000):
    """Log evidence by BlackJAX's adaptive tempered SMC with HMC moves; None without BlackJAX."""
    try:
        import blackjax
        from blackjax.smc import resampling
    except ImportError:
        return None
    density = lc.log_density(model, *args)
    objective = Objective(density.program, Layout.of(density.positions))
    prepared = objective.prepare(density.data)
    start = jax.vmap(partial(objective.draw, density.data))(jax.random.split(jax.random.key(0), particles))
    settings = {
        "step_size": jnp.array([0.1]),
        "inverse_mass_matrix": jnp.ones((1, objective.layout.dim)),
        "num_integration_steps": jnp.array([10]),
    }
    kernel = blackjax.adaptive_tempered_smc(
        partial(objective.log_prior, density.data),
        partial(objective.log_likelihood, prepared),
        blackjax.hmc.build_kernel(),
        blackjax.hmc.init,
        settings,
        resampling.systematic,
        0.9,
        num_mcmc_steps=5,
    )
    step, state, key, total = jax.jit(kernel.step), kernel.init(start), jax.random.key(1), 0.0
    while float(getattr(state, "tempering_param", getattr(state, "lmbda", 1.0))) < 1:
        key, now = jax.random.split(key)
        state, info = step(now, state)
        total += float(info.log_likelihood_increment)
    return total


def laplace(model, *args):
    """Log evidence by Laplace's approximation in unconstrained coordinates, at the mode found by Newton's method."""
    density = lc.log_density(model, *args)
    layout = Layout.of(density.positions)
    joint = jax.jit(lambda u: density(layout.unravel(u)))
    u = jnp.zeros(layout.dim)
    for _ in range(50):
        hessian = jax.hessian(joint)(u)
        u = u - jnp.linalg.solve(hessian, jax.grad(joint)(u))
    return float(joint(u) + 0.5 * layout.dim * np.log(2 * np.pi) - 0.5 * jnp.linalg.slogdet(-jax.hessian(joint)(u))[1])


def conjugate():
    """The gap to the exact evidence at the peak, nats: first what the posterior of descent lacks, then what each estimator adds."""
    print("          a*lambda     exact       SMC  gap: exact log-det (posterior)  +order 4  +order 2 (estimator)  steps at the peak")
    with jax.enable_x64(True):
        for num, dim in [(40, 5), (100, 20), (400, 50)]:
            args = _random_regression(num, dim)
            exact, smc = _exact(*args), tempered_smc(linear, *args)
            curvature = np.linalg.eigvalsh(args[0].T @ args[0])[-1]
            for fraction in (0.1, 0.3, 0.6):
                options = {"step_size": fraction / curvature, "num_steps": round(12 / fraction), "num_restarts": 512}
                found = {order: quietly(linear, 0, *args, order=order, **options) for order in ("exact", 4, 2)}
                gap = {order: exact - e.mean.max() for order, e in found.items()}
                peaks = "/".join(str(e.best_step) for e in found.values())
                print(
                    f"({num:3},{dim:2})  {fraction:8} {exact:10.2f} {np.nan if smc is None else smc:9.2f} {gap['exact']:20.2f} "
                    f"{gap[4] - gap['exact']:20.2f} {gap[2] - gap['exact']:9.2f}  {peaks:>24}  error {found[2].stderr[found[2].best]:.2f}",
                    flush=True,
                )


def rates(counts, shape, rate):
    r = lc.sample("rate", dist.Gamma(shape, rate))
    with lc.plate("rows", len(counts)):
        lc.sample("n", dist.Poisson(r), obs=counts)


def gamma():
    counts, shape, rate = np.array([3, 0, 2, 4, 1, 2, 6, 3]), 2.0, 1.5
    total, n = counts.sum(), counts.size
    exact = shape * np.log(rate) - gammaln(shape) + gammaln(shape + total) - (shape + total) * np.log(rate + n) - gammaln(counts + 1).sum()
    with jax.enable_x64(True):
        args = counts, shape, rate
        print(f"exact {exact:.3f}, Laplace {laplace(rates, *args):.3f}, tempered SMC {tempered_smc(rates, *args)}")
        for order in (2, 4, "exact"):
            print(f"order {order}: {quietly(rates, 0, *args, step_size=0.003, num_steps=300, num_restarts=512, order=order)}")


def _polynomials(number):
    """30 points near a polynomial of degree 1, 3 or 5 with Legendre coefficients 1 or -1; regressions of degree 0 to 8."""
    rng = np.random.default_rng(100 + number)
    degree, noise = (1, 3, 5)[number % 3], 0.2
    basis = legendre.legvander(np.sort(rng.uniform(-1, 1, 30)), 8)
    y = basis[:, : degree + 1] @ np.sign(rng.normal(size=degree + 1)) + noise * rng.normal(size=30)
    return degree, [(basis[:, : k + 1], y, noise) for k in range(9)]


def degree():
    agreed = right = 0
    for number in range(50):
        true, problems = _polynomials(number)
        best = str(np.argmax([_exact(*p) for p in problems]))
        x, _, noise = problems[-1]
        options = {"step_size": 0.1 * noise**2 / np.linalg.eigvalsh(x.T @ x)[-1], "num_steps": 250, "num_restarts": 256}
        table = lc.compare_evidence({str(k): quietly(linear, number, *p, **options) for k, p in enumerate(problems)})
        agreed, right = agreed + (table.best == best), right + (table.best == str(true))
        if number == 0:
            print(table)
    print(f"the bound's degree is that of the exact evidence in {agreed} of 50 data sets, the true one in {right}", flush=True)


def diabetes():
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    x, y = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
    for scale, seed in itertools.product((0.3, 1.0), range(5)):
        order = np.random.default_rng(seed).permutation(len(y))
        train, test = order[:300], order[300:]
        options = {"step_size": 2e-5, "num_steps": 600, "num_restarts": 64}
        model = partial(regression_network, hidden=100, noise=0.75, scale=scale)
        e = quietly(model, seed, x[train], y[train], test=(x[test], y[test]), **options)
        held_out = e.test_log_likelihood.mean(0)
        lost = held_out.max() - held_out[e.best]
        print(
            f"weights' scale {scale}, split {seed}: bound/N {e.mean[0] / 300:.3f} at 0, {e.mean.max() / 300:.3f} at {e.best_step}, "
            f"{e.mean[-1] / 300:.3f} at {e.steps[-1]}; test {held_out[e.best]:.4f} there, best {held_out.max():.4f} at "
            f"{np.argmax(held_out)}: {lost:.4f} nats lost; curvature at most {e.max_curvature.max():.2f}",
            flush=True,
        )


def _on_images(label, widths, step_size, num_steps, restarts, **options):
    x, y, _ = images()
    num = 8000 if len(x) == 10_000 else 1400
    model, test = partial(network, widths=(x.shape[1], *widths, 10)), (x[num:], y[num:])
    begun = time.perf_counter()
    e = quietly(model, 0, x[:num], y[:num], step_size=step_size / num, num_steps=num_steps, num_restarts=restarts, test=test, **options)
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


ROWS = {f.__name__: f for f in (cost, million, batching, conjugate, gamma, degree, diabetes, threshold, width)}

if __name__ == "__main__":
    announce("every program is compiled by a call that is not timed")
    for row in sys.argv[1:] or ROWS:
        print(f"-- {row}", flush=True)
        ROWS[row]()
