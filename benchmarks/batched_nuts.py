"""NUTS over a batch of chains against NumPyro's and BlackJAX's, and against the leapfrog steps alone.

    python3 dev.py bench batched_nuts [agree | recursive] [part of a row's name] ...

Useful gradients per second: leapfrog steps that chains needed, by the time of a warm run. Every engine runs on one core, in float32,
with the same step size, the same diagonal inverse mass matrix, at most ten doublings and the same starting points; no adaptation.
NumPyro is its kernel on a vectorized state in `lax.scan`, compiled as one program; BlackJAX is `vmap` of its kernel in `lax.scan`; ours
is a whole `MCMC.run`, tracing of the model and the draws' way to the host included. Runs take about a second. The limit is one leapfrog
of all chains, time and again, in `lax.scan`.

`recursive` runs ours on the recursive program of a trajectory, held to 0.75 of each bound. `agree` compares distributions instead of
speed: for each row the share of each tree depth, the mean energy and the mean of |x|^2, with standard errors from the variation between
chains, and |z| of ours against each peer.

Targets: a Gaussian, d = 100, whose covariance has eigenvalues 0.1 to 10, log-spaced, in a random basis (seed 0), step 0.35, inverse
mass = marginal variances; Neal's funnel, d = 10, scale 3, step 0.2, unit mass; logistic regression with columns
0.6 z_j + 0.8 u_j s, z, s ~ N(0, 1), u_j ~ U(0, 1) (seed 1), true weights 0.5 N(0, 1), prior N(0, I), inverse mass = the diagonal of the
Laplace approximation's covariance; 1000 x 25 with step 0.42 (depths differ) and 0.35 (one depth), 10000 x 100 with step 0.15.
"""

import os
import sys
import time
import warnings
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import jax  # noqa: E402 - after the affinity, which XLA's thread pools take their size from
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from _common import announce, interleaved, median  # noqa: E402

from luciole.inference.kernels.nuts import NUTS  # noqa: E402
from luciole.inference.kernels.trajectory import recursive  # noqa: E402

REPEATS, MAX_DEPTH = 5, 10


class Target(NamedTuple):
    """A log density on R^dim with exact or approximate draws to start from, and what it is sampled with."""

    log_density: Any
    data: tuple[Any, ...]
    dim: int
    starts: Any  # (number, generator) -> (number, dim)
    step_size: float
    inverse_mass: np.ndarray
    ragged: bool = False  # whether some chains need so much longer that ours are asked to go on in a smaller batch


def gaussian():
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(100, 100)))
    eigenvalues = np.logspace(-1, 1, 100)
    precision = jnp.asarray(basis / eigenvalues @ basis.T, jnp.float32)
    root = basis * np.sqrt(eigenvalues)
    return Target(
        lambda x, precision: -0.5 * x @ (precision @ x),
        (precision,),
        100,
        lambda number, rng: rng.normal(size=(number, 100)) @ root.T,
        0.35,
        (root**2).sum(1),
    )


def funnel():
    def starts(number, rng):
        v = 3 * rng.normal(size=(number, 1))
        return np.concatenate([v, np.exp(v / 2) * rng.normal(size=(number, 9))], 1)

    def log_density(x):
        return -(x[0] ** 2) / 18 - 0.5 * jnp.sum(x[1:] ** 2) * jnp.exp(-x[0]) - 4.5 * x[0]

    return Target(log_density, (), 10, starts, 0.2, np.ones(10), ragged=True)


def logistic(rows, columns, step_size):
    rng = np.random.default_rng(1)
    x = 0.6 * rng.normal(size=(rows, columns)) + 0.8 * rng.uniform(size=columns) * rng.normal(size=(rows, 1))
    truth = 0.5 * rng.normal(size=columns)
    y = rng.uniform(size=rows) < 1 / (1 + np.exp(-x @ truth))
    mode = np.zeros(columns)
    for _ in range(30):
        p = 1 / (1 + np.exp(-x @ mode))
        covariance = np.linalg.inv(x.T * (p * (1 - p)) @ x + np.eye(columns))
        mode += covariance @ (x.T @ (y - p) - mode)
    root = np.linalg.cholesky(covariance)

    def log_density(w, x, y):
        z = x @ w
        return jnp.sum(y * z - jnp.logaddexp(z, 0.0)) - 0.5 * w @ w

    data = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    starts = lambda number, rng: mode + rng.normal(size=(number, columns)) @ root.T  # noqa: E731
    return Target(log_density, data, columns, starts, step_size, np.diag(covariance))


class Row(NamedTuple):
    """One line of the table: at least `bound` times each peer, and `of_limit` of the bare leapfrogs if not 0."""

    target: Any
    chains: int
    draws: int
    bound: float
    of_limit: float = 0.0
    utilisation: float = 0.0


ROWS = {
    "gaussian 1": Row(gaussian, 1, 10_000, 1.5),
    "gaussian 4": Row(gaussian, 4, 4000, 1.6),
    "gaussian 32": Row(gaussian, 32, 1000, 2.0),
    "gaussian 128": Row(gaussian, 128, 400, 2.5, 0.42, 0.85),
    "gaussian 512": Row(gaussian, 512, 120, 3.0),
    "funnel 128": Row(funnel, 128, 100, 5.0),
    "logistic mixed 128": Row(partial(logistic, 1000, 25, 0.42), 128, 200, 3.0, 0.70, 0.80),
    "logistic even 128": Row(partial(logistic, 1000, 25, 0.35), 128, 200, 0.0, 0.85),
    "logistic large 32": Row(partial(logistic, 10_000, 100, 0.15), 32, 60, 0.97),
}


class RecursiveNUTS(NUTS):
    """NUTS on the recursive program of a trajectory."""

    def transition(self):
        return replace(super().transition(), walk=recursive)


KERNEL = NUTS


def luciole(target, chains, draws, start):
    """seed -> (useful gradients, gradients computed, draws (chain, draw, dim), depths and energies (chain, draw))."""
    import luciole as lc
    from luciole import dist

    def model(*data):
        x = lc.sample("x", dist.ImproperUniform(dist.constraints.real_vector, (), (target.dim,)))
        lc.factor("target", target.log_density(x, *data))

    kernel = KERNEL(model, step_size=target.step_size, inverse_mass_matrix=target.inverse_mass, max_tree_depth=MAX_DEPTH)

    def run(seed):
        mcmc = lc.MCMC(kernel, num_warmup=0, num_samples=draws, num_chains=chains, progress_bar=False, compact=target.ragged)
        mcmc.run(jax.random.key(seed), *target.data, init_params={"x": start})
        cost = mcmc.cost
        # The search for starts is not sampling: one gradient per chain.
        useful = cost["gradient_evaluations"] - chains
        stats = mcmc.sample_stats
        return useful, cost["gradient_slots"] - chains, mcmc.get_samples(group_by_chain=True)["x"], stats["tree_depth"], stats["energy"]

    return run


def doublings(steps):
    return np.floor(np.log2(steps)).astype(int) + 1


def numpyro_vectorized(target, chains, draws, start):
    from numpyro.infer import NUTS

    def potential(x, data):
        return -target.log_density(x, *data)

    @jax.jit
    def sample(key, start, data):
        kernel = NUTS(
            potential_fn=lambda x: potential(x, data), step_size=target.step_size, max_tree_depth=MAX_DEPTH,
            inverse_mass_matrix=jnp.asarray(target.inverse_mass, jnp.float32), adapt_step_size=False, adapt_mass_matrix=False,
        )  # fmt: skip
        keys = jax.random.split(key, chains)
        state = kernel.init(keys if chains > 1 else keys[0], 0, start if chains > 1 else start[0], (), {})

        def turn(state, _):
            state = kernel.sample(state, (), {})
            return state, (state.z, state.num_steps, state.energy)

        return jax.lax.scan(turn, state, length=draws)[1]

    def run(seed):
        z, steps, energy = jax.device_get(sample(jax.random.PRNGKey(seed), jnp.asarray(start, jnp.float32), target.data))
        steps = steps.reshape(draws, chains)
        slots = int(steps.max(1).sum()) * chains
        return int(steps.sum()), slots, z.reshape(draws, chains, -1).swapaxes(0, 1), doublings(steps).T, energy.reshape(draws, chains).T

    return run


def blackjax_vmap(target, chains, draws, start):
    import blackjax

    @jax.jit
    def sample(key, start, data):
        nuts = blackjax.nuts(
            lambda x: target.log_density(x, *data),
            target.step_size,
            jnp.asarray(target.inverse_mass, jnp.float32),
            max_num_doublings=MAX_DEPTH,
        )
        state = jax.vmap(nuts.init)(start)

        def turn(state, key):
            state, info = jax.vmap(nuts.step)(jax.random.split(key, chains), state)
            return state, (state.position, info.num_integration_steps, info.energy)

        return jax.lax.scan(turn, state, jax.random.split(key, draws))[1]

    def run(seed):
        z, steps, energy = jax.device_get(sample(jax.random.PRNGKey(seed), jnp.asarray(start, jnp.float32), target.data))
        return int(steps.sum()), int(steps.max(1).sum()) * chains, z.swapaxes(0, 1), doublings(steps).T, energy.T

    return run


def limit(target, chains, draws, start):
    """As many leapfrogs as ours would need, of all chains at once; nothing else."""
    number = 4000 // chains + 400 if target.dim < 100 or len(target.data) < 2 else 40
    inverse_mass = jnp.asarray(target.inverse_mass, jnp.float32)

    @jax.jit
    def walk(q, p, data):
        gradient = jax.vmap(jax.value_and_grad(lambda x: target.log_density(x, *data)))

        def turn(carry, _):
            q, p, g = carry
            p = p + 0.5 * target.step_size * g
            q = q + target.step_size * inverse_mass * p
            value, g = gradient(q)
            return (q, p + 0.5 * target.step_size * g, g), value

        return jax.lax.scan(turn, (q, p, gradient(q)[1]), length=number)

    def run(seed):
        p = np.random.default_rng(seed).normal(size=np.shape(start)) / np.sqrt(target.inverse_mass)
        jax.block_until_ready(walk(jnp.asarray(start, jnp.float32), jnp.asarray(p, jnp.float32), target.data))
        return number * chains, number * chains, None, None, None

    return run


ENGINES = {"luciole": luciole, "numpyro": numpyro_vectorized, "blackjax": blackjax_vmap, "limit": limit}


def measure(name, row, slack=1.0):
    target = row.target()
    start = np.asarray(target.starts(row.chains, np.random.default_rng(2)), np.float32)
    runs = {engine: make(target, row.chains, row.draws, start) for engine, make in ENGINES.items()}
    rates, used, moments = ({engine: [] for engine in ENGINES} for _ in range(3))

    def one(engine):
        begin = time.perf_counter()
        useful, slots, draws, *_ = runs[engine](len(rates[engine]))
        rates[engine].append(useful / (time.perf_counter() - begin))
        used[engine].append(useful / slots)
        if draws is not None:
            moments[engine].append(float(np.square(draws).sum(-1).mean()))

    for engine in ENGINES:
        one(engine)  # compiles
    for store in (rates, used, moments):
        for engine in ENGINES:
            store[engine].clear()
    interleaved({engine: partial(one, engine) for engine in ENGINES}, REPEATS)
    rate = {engine: median(values) for engine, values in rates.items()}
    ratios = [rate["luciole"] / rate[e] for e in ("numpyro", "blackjax")]
    share = rate["luciole"] / rate["limit"]
    ok = min(ratios) >= slack * row.bound and share >= slack * row.of_limit and median(used["luciole"]) >= row.utilisation
    squares = " ".join(f"{np.mean(moments[e]):9.4g}" for e in ("luciole", "numpyro", "blackjax"))
    bounds = f"{row.bound:.2f}x {row.of_limit or '':>5} {row.utilisation or '':>5}"
    print(
        f"{name:20s} {rate['luciole']:11.3g} | {ratios[0]:8.2f} {ratios[1]:9.2f} | {share:8.2f} | "
        f"{median(used['luciole']):6.2f} {median(used['numpyro']):8.2f} | {squares} | {bounds}  {'holds' if ok else 'DOES NOT HOLD'}",
        flush=True,
    )


def agree(name, row):
    target = row.target()
    start = np.asarray(target.starts(row.chains, np.random.default_rng(2)), np.float32)
    found = {}
    for engine in ("luciole", "numpyro", "blackjax"):
        _, _, draws, depths, energies = ENGINES[engine](target, row.chains, row.draws, start)(1)
        by_depth = {f"depth {d}": (depths == d).mean(1) for d in range(1, MAX_DEPTH + 1)}
        found[engine] = {**by_depth, "energy": energies.mean(1), "|x|^2": np.square(draws).sum(-1).mean(1)}
    print(f"{name}: mean over chains (standard error) of luciole, numpyro, blackjax; |z| of ours against each")
    for statistic in found["luciole"]:
        values = [found[engine][statistic] for engine in found]
        if not any(v.any() for v in values):
            continue
        means, errors = [v.mean() for v in values], [v.std(ddof=1) / np.sqrt(len(v)) for v in values]
        cells = "  ".join(f"{m:10.4f} ({e:.4f})" for m, e in zip(means, errors, strict=True))
        z = [abs(means[0] - m) / max(1e-12, np.hypot(errors[0], e)) for m, e in zip(means[1:], errors[1:], strict=True)]
        print(f"  {statistic:9s} {cells}   {z[0]:6.2f} {z[1]:6.2f}", flush=True)


def header():
    announce(f"one core; one run of each engine before timing, then {REPEATS} in turn; ratios of medians")
    print(f"{'':20s} {'':11s} | {'ratio to':>18s} | {'of the':>8s} | {'utilisation':>15s} | {'mean |x|^2':>29s} | bounds")
    print(
        f"{'target, chains':20s} {'gradients/s':>11s} | {'numpyro':>8s} {'blackjax':>9s} | {'limit':>8s} | {'ours':>6s} {'numpyro':>8s} | "
        f"{'luciole':>9s} {'numpyro':>9s} {'blackjax':>9s} | ratio limit  util"
    )


def main(parts):
    global KERNEL
    mode, parts = (parts[0], parts[1:]) if parts and parts[0] in ("agree", "recursive") else ("speed", parts)
    if mode == "recursive":
        KERNEL = RecursiveNUTS
    check = {"agree": agree, "recursive": partial(measure, slack=0.75), "speed": measure}[mode]
    if mode != "agree":
        header()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, row in ROWS.items():
            if (not parts or any(part in name for part in parts)) and (mode != "agree" or row.chains > 1):
                check(name, row)


if __name__ == "__main__":
    main(sys.argv[1:])
