"""Firefly Monte Carlo beside samplers that look at all rows, one core, in one run.

    taskset -c 0 python dev.py bench flymc [row ...] [--quick]

Rows: logistic-12k, logistic-200k, student-1m, softmax-18k, scale-20k, poisson-100k; all of them without arguments. `--quick` takes a
tenth of the draws. ESS is ArviZ's bulk ESS, capped at the number of draws, and the smallest over all coordinates of theta and of its
square ("strict"); that of theta alone stands beside it. Queries are evaluations of one row's likelihood or of its gradient. Peers
run in coordinates whitened at the mode (NUTS adapts its step size there, with the better of two targets; HMCECS with a Taylor proxy;
independence MH proposes from the Laplace approximation), in float32, but for sums of log likelihoods. Times leave out compilation;
FlyMC's set-up is a column of its own and holds its compilation. Warm-up: each sampler's own, timed for none.

`protocol` (or of its rows one: `protocol-rwm`, `protocol-mala`, `protocol-slice`) is the comparison of Maclaurin & Adams (2014): one
kernel on all rows, and the same kernel given which rows are bright, with untuned bounds, with bounds that hold everywhere and touch at
the mode, as theirs do when tuned, and with ours. The row of images needs the folder shared/data beside the checkout.
"""

import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as ndist
from _common import announce, mnist
from jax import lax
from numpyro.infer import HMCECS
from numpyro.infer import MCMC as NumPyroMCMC
from numpyro.infer import NUTS as NumPyroNUTS

import luciole as lc
from luciole.inference.flymc.laplace import find_mode
from luciole.inference.flymc.rest import Rest
from luciole.ppl.factors import find_factor


class Problem(NamedTuple):
    """model: Luciole's. log_prior, log_rows: the same on the unconstrained vector, for the peers; log_rows is by rows, (obs,)."""

    model: Callable[..., Any]
    log_prior: Callable[[Any], Any]
    log_rows: Callable[[Any, Any, Any], Any]
    x: np.ndarray
    y: np.ndarray
    names: tuple[str, ...]
    draws: int
    peers: dict[str, int]


def _regression(noise: Callable[..., Any], x: np.ndarray, y: np.ndarray, draws: int, peers: dict[str, int]) -> Problem:
    num, d = x.shape

    def model(x, y):
        w = lc.sample("w", ndist.Normal(0, 1).expand([d]).to_event(1))
        with lc.plate("rows", num):
            lc.sample("y", noise(x @ w), obs=y)

    def log_prior(u):
        return ndist.Normal(0, 1).log_prob(u).sum()

    def log_rows(u, x, y):
        return noise(x @ u).log_prob(y)

    return Problem(model, log_prior, log_rows, x, y, ("w",), draws, peers)


def logistic(num: int, draws: int, peers: dict[str, int]) -> Problem:
    """Feature scales from 3 down to 0.3, weights so that about 97.7 % of the rows are on their side."""
    rng = np.random.default_rng(1)
    d = 51
    x = (rng.normal(size=(num, d)) * np.geomspace(3, 0.3, d)).astype(np.float32)
    w = rng.normal(size=d)
    eta = 20.0 * x @ (w / np.linalg.norm(w * np.geomspace(3, 0.3, d)))
    y = (rng.uniform(size=num) < 1 / (1 + np.exp(-eta))).astype(np.float32)
    print(f"logistic: {np.mean((eta > 0) == (y > 0)):.3f} of the rows lie on their side")
    return _regression(lambda eta: ndist.Bernoulli(logits=eta), x, y, draws, peers)


def sevens_and_nines(draws: int) -> Problem | None:
    """The paper's data as closely as MNIST's test images give them: 7 against 9, each image also moved by a pixel five ways, 12,222 rows;
    the first 50 principal components, not scaled, and a constant. None without the images."""
    found = mnist()
    if found is None:
        return None
    pixels, labels = found
    chosen = np.isin(labels, (7, 9))
    pictures = pixels[chosen].reshape(-1, 28, 28)
    ways = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (1, 1))
    x = np.concatenate([np.roll(pictures, way, axis=(1, 2)) for way in ways]).reshape(-1, 784)
    x = x - x.mean(0)
    x = np.column_stack([x @ np.linalg.svd(x, full_matrices=False)[2][:50].T, np.ones(len(x))]).astype(np.float32)
    y = np.tile(labels[chosen] == 9, len(ways)).astype(np.float32)
    return _regression(lambda eta: ndist.Bernoulli(logits=eta), x, y, draws, {})


def student(num: int, d: int, draws: int, peers: dict[str, int]) -> Problem:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(num, d)).astype(np.float32)
    y = (x @ rng.normal(size=d) + rng.standard_t(4, size=num)).astype(np.float32)
    return _regression(lambda eta: ndist.StudentT(4.0, eta, 1.0), x, y, draws, peers)


def poisson(num: int, d: int, draws: int, peers: dict[str, int]) -> Problem:
    rng = np.random.default_rng(1)
    x = (0.1 * rng.normal(size=(num, d))).astype(np.float32)
    y = rng.poisson(np.exp(x @ rng.normal(size=d))).astype(np.float32)
    return _regression(lambda eta: ndist.Poisson(jnp.exp(eta)), x, y, draws, peers)


def softmax(num: int, d: int, draws: int, peers: dict[str, int]) -> Problem:
    """Three classes, about 70 % predicted rightly."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(num, d)).astype(np.float32)
    logits = np.concatenate([np.zeros((num, 1)), x @ (1.6 * rng.normal(size=(d, 2)) / np.sqrt(d))], 1)
    y = np.argmax(logits + rng.gumbel(size=logits.shape), 1).astype(np.int32)

    def with_reference(eta):
        return ndist.Categorical(logits=jnp.concatenate([jnp.zeros_like(eta[:, :1]), eta], 1))

    def model(x, y):
        w = lc.sample("w", ndist.Normal(0, 1).expand([d, 2]).to_event(2))
        with lc.plate("rows", num):
            lc.sample("y", with_reference(x @ w), obs=y)

    def log_prior(u):
        return ndist.Normal(0, 1).log_prob(u).sum()

    def log_rows(u, x, y):
        return with_reference(x @ u.reshape(d, 2)).log_prob(y)

    return Problem(model, log_prior, log_rows, x, y, ("w",), draws, peers)


def scale(num: int, d: int, draws: int, peers: dict[str, int]) -> Problem:
    """Student-t noise of unknown scale, coefficients of unknown scale."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(num, d)).astype(np.float32)
    y = (x @ rng.normal(size=d) + rng.standard_t(4, size=num)).astype(np.float32)

    def model(x, y):
        tau = lc.sample("tau", ndist.HalfCauchy(1.0))
        sigma = lc.sample("sigma", ndist.HalfCauchy(1.0))
        w = lc.sample("w", ndist.Normal(0, tau).expand([d]).to_event(1))
        with lc.plate("rows", num):
            lc.sample("y", ndist.StudentT(4.0, x @ w, sigma), obs=y)

    def log_prior(u):
        half = ndist.HalfCauchy(1.0).log_prob(jnp.exp(u[:2])) + u[:2]
        return half.sum() + ndist.Normal(0, jnp.exp(u[0])).log_prob(u[2:]).sum()

    def log_rows(u, x, y):
        return ndist.StudentT(4.0, x @ u[2:], jnp.exp(u[1])).log_prob(y)

    return Problem(model, log_prior, log_rows, x, y, ("tau", "sigma", "w"), draws, peers)


ROWS: dict[str, Callable[[], Problem]] = {
    "logistic-12k": lambda: logistic(12_214, 30_000, {"nuts": 3000, "hmcecs": 1000, "mh": 20_000}),
    "logistic-200k": lambda: logistic(200_000, 30_000, {"nuts": 400, "hmcecs": 300, "mh": 5000}),
    "student-1m": lambda: student(1_000_000, 57, 30_000, {"nuts": 150, "mh": 2000}),
    "softmax-18k": lambda: softmax(18_000, 256, 10_000, {"nuts": 400, "rotation": 1000}),
    "scale-20k": lambda: scale(20_000, 10, 30_000, {"nuts": 3000, "mh": 20_000}),
    "poisson-100k": lambda: poisson(100_000, 20, 30_000, {"nuts": 1000, "mh": 5000}),
}


class Outcome(NamedTuple):
    """draws: (draw, dim), of unconstrained coordinates. seconds: of these draws alone."""

    draws: np.ndarray
    seconds: float
    queries: float
    note: str = ""
    setup: float = 0.0
    setup_queries: float = 0.0


class Whitened(NamedTuple):
    centre: np.ndarray
    scale: np.ndarray


def whitened(problem: Problem) -> Whitened:
    """The Laplace approximation that the peers get for nothing."""
    density = lc.log_density(lc.model(problem.model), problem.x, problem.y)
    factor = find_factor(density)
    rest, constants = Rest.of(factor, density.dim)
    with jax.enable_x64(True):
        found = find_mode(factor, rest, constants, density.dim)
    return Whitened(found.mode, np.linalg.inv(np.linalg.cholesky(found.hessian)).T)


def fly(problem: Problem, draws: int, **options: Any) -> Outcome:
    kernel = lc.FlyMC(problem.model, kernel_options=options)
    mcmc = lc.MCMC(kernel, num_warmup=1000, num_samples=draws, num_chains=1, progress_bar=False)
    mcmc.run(jax.random.key(0), problem.x, problem.y)
    samples = mcmc.get_samples()
    columns = [np.log(samples[n]) if samples[n].ndim == 1 else samples[n].reshape(draws, -1) for n in problem.names]
    cost, stats = mcmc.cost, mcmc.sample_stats
    note = f"{stats['n_bright'].mean():.2f} bright, acceptance {stats['acceptance_rate'].mean():.2f}, {stats['n_steps'].mean():.1f} steps"
    seconds = cost["sampling_seconds"] * draws / (draws + 1000)
    queries = stats["n_queries"].sum(dtype=np.float64)
    return Outcome(np.column_stack(columns), seconds, queries, note, cost["setup_seconds"], cost["likelihood_queries_setup"])


def nuts(problem: Problem, at: Whitened, draws: int) -> Outcome:
    """The better of two targets, by draws' worth of ESS per second."""
    dim = len(at.centre)
    centre, scale = jnp.asarray(at.centre, jnp.float32), jnp.asarray(at.scale, jnp.float32)

    def model(x, y):
        z = numpyro.sample("z", ndist.ImproperUniform(ndist.constraints.real_vector, (), (dim,)))
        u = centre + scale @ z
        numpyro.factor("p", problem.log_prior(u) + problem.log_rows(u, x, y).sum())

    best = None
    x, y = jnp.asarray(problem.x), jnp.asarray(problem.y)
    for target in (0.65, 0.8):
        kernel = NumPyroNUTS(
            model,
            target_accept_prob=target,
            adapt_mass_matrix=False,
            init_strategy=numpyro.infer.init_to_value(values={"z": jnp.zeros(dim)}),
        )
        mcmc = NumPyroMCMC(kernel, num_warmup=100, num_samples=draws, progress_bar=False, jit_model_args=True)
        mcmc.warmup(jax.random.key(1), x, y, extra_fields=("num_steps",))
        mcmc.run(jax.random.key(2), x, y, extra_fields=("num_steps",))  # compiles; its draws are thrown away where they are few
        begin = time.perf_counter()
        mcmc.run(jax.random.key(3), x, y, extra_fields=("num_steps",))
        jax.block_until_ready(mcmc.get_samples())
        seconds = time.perf_counter() - begin
        steps = np.asarray(mcmc.get_extra_fields()["num_steps"])
        u = at.centre + np.asarray(mcmc.get_samples()["z"]) @ at.scale.T
        found = Outcome(u, seconds, float(steps.sum()) * len(problem.x), f"target {target}, {steps.mean():.1f} steps")
        if best is None or min(ess(found.draws)) / found.seconds > min(ess(best.draws)) / best.seconds:
            best = found
    assert best is not None
    return best


def hmcecs(problem: Problem, at: Whitened, draws: int) -> Outcome:
    dim, size = len(at.centre), 400
    centre, scale = jnp.asarray(at.centre, jnp.float32), jnp.asarray(at.scale, jnp.float32)

    class Rowwise(ndist.Distribution):
        """A likelihood by rows as a distribution, so that HMCECS can take it apart."""

        support = ndist.constraints.real

        def __init__(self, u, x):
            self.u, self.x = u, x
            super().__init__(batch_shape=(x.shape[0],))

        def log_prob(self, value):
            return problem.log_rows(self.u, self.x, value)

        def sample(self, key, sample_shape=()):
            return jnp.zeros(sample_shape + self.batch_shape)

    def model(x, y):
        z = numpyro.sample("z", ndist.ImproperUniform(ndist.constraints.real_vector, (), (dim,)))
        u = centre + scale @ z
        numpyro.factor("prior", problem.log_prior(u))
        with numpyro.plate("rows", len(problem.x), subsample_size=size):
            part, value = numpyro.subsample(x, event_dim=1), numpyro.subsample(y, event_dim=0)
            numpyro.sample("y", Rowwise(u, part), obs=value)

    inner = NumPyroNUTS(model, adapt_mass_matrix=False, init_strategy=numpyro.infer.init_to_value(values={"z": jnp.zeros(dim)}))
    kernel = HMCECS(inner, num_blocks=20, proxy=HMCECS.taylor_proxy({"z": jnp.zeros(dim)}))
    mcmc = NumPyroMCMC(kernel, num_warmup=100, num_samples=draws, progress_bar=False)
    x, y = jnp.asarray(problem.x), jnp.asarray(problem.y)
    mcmc.run(jax.random.key(1), x, y, extra_fields=("hmc_state.num_steps",))
    begin = time.perf_counter()
    mcmc.post_warmup_state = mcmc.last_state
    mcmc.run(jax.random.key(2), x, y, extra_fields=("hmc_state.num_steps",))
    jax.block_until_ready(mcmc.get_samples())
    seconds = time.perf_counter() - begin
    steps = np.asarray(mcmc.get_extra_fields()["hmc_state.num_steps"])
    u = at.centre + np.asarray(mcmc.get_samples()["z"]) @ at.scale.T
    return Outcome(
        u, seconds, float(steps.sum() + len(steps)) * size, f"{size} rows of {len(problem.x)}, {steps.mean():.1f} steps, not tuned further"
    )


def independence(problem: Problem, at: Whitened, draws: int) -> Outcome:
    """Metropolis-Hastings with proposals from the Laplace approximation: one pass over all rows per draw."""
    dim = len(at.centre)
    with jax.enable_x64(True):
        centre, scale = jnp.asarray(at.centre), jnp.asarray(at.scale)

        def log_p(z, x, y):
            u = (centre + scale @ z).astype(x.dtype)
            return problem.log_prior(u).astype(jnp.float64) + problem.log_rows(u, x, y).astype(jnp.float64).sum() + 0.5 * z @ z

        @jax.jit
        def run(key, x, y):
            def body(carry, key):
                z, value = carry
                propose, accept = jax.random.split(key)
                new = jax.random.normal(propose, (dim,), jnp.float64)
                there = log_p(new, x, y)
                taken = jnp.log(jax.random.uniform(accept, dtype=jnp.float64)) < there - value
                carry = jnp.where(taken, new, z), jnp.where(taken, there, value)
                return carry, (carry[0], taken)

            start = jnp.zeros(dim)
            return lax.scan(body, (start, log_p(start, x, y)), jax.random.split(key, draws))[1]

        arguments = jax.random.key(4), jnp.asarray(problem.x), jnp.asarray(problem.y)
        compiled = run.lower(*arguments).compile()
        begin = time.perf_counter()
        z, taken = jax.block_until_ready(compiled(*arguments))
        seconds = time.perf_counter() - begin
    return Outcome(at.centre + np.asarray(z) @ at.scale.T, seconds, draws * len(problem.x), f"acceptance {np.mean(taken):.2f}")


def rotation(problem: Problem, at: Whitened, draws: int, steps: int = 2, angle: float = 0.8) -> Outcome:
    """Rotation HMC with gradients over all rows, whitened by the Hessian: as good as FlyMC's kernel can be made without fireflies."""
    dim = len(at.centre)
    centre, scale = jnp.asarray(at.centre, jnp.float32), jnp.asarray(at.scale, jnp.float32)

    def remainder(z, x, y):
        u = centre + scale @ z
        return problem.log_prior(u) + problem.log_rows(u, x, y).sum() + 0.5 * z @ z

    gradient = jax.value_and_grad(remainder)

    @jax.jit
    def run(key, x, y):
        def body(carry, key):
            z, value, force = carry
            keys = jax.random.split(key, 3)
            p = jax.random.normal(keys[0], (dim,))
            step = angle * (0.8 + 0.4 * jax.random.uniform(keys[1]))
            new, q, there, push = z, p, value, force
            for _ in range(steps):
                q = q + 0.5 * step * push
                new, q = jnp.cos(step) * new + jnp.sin(step) * q, jnp.cos(step) * q - jnp.sin(step) * new
                there, push = gradient(new, x, y)
                q = q + 0.5 * step * push
            gain = there - 0.5 * (new @ new + q @ q) - value + 0.5 * (z @ z + p @ p)
            taken = jnp.log(jax.random.uniform(keys[2])) < gain
            carry = jax.tree.map(lambda a, b: jnp.where(taken, a, b), (new, there, push), (z, value, force))
            return carry, (carry[0], taken)

        start = jnp.zeros(dim)
        return lax.scan(body, (start, *gradient(start, x, y)), jax.random.split(key, draws))[1]

    arguments = jax.random.key(5), jnp.asarray(problem.x), jnp.asarray(problem.y)
    compiled = run.lower(*arguments).compile()
    begin = time.perf_counter()
    z, taken = jax.block_until_ready(compiled(*arguments))
    seconds = time.perf_counter() - begin
    u = at.centre + np.asarray(z) @ at.scale.T
    return Outcome(u, seconds, draws * steps * len(problem.x), f"acceptance {np.mean(taken):.2f}, {steps} steps of {angle}")


PEERS = {"nuts": nuts, "hmcecs": hmcecs, "mh": independence, "rotation": rotation}


def _ess(values: np.ndarray) -> np.ndarray:
    found = [float(az.ess(column[None], method="bulk")) for column in values.T]
    return np.minimum(np.nan_to_num(found, nan=1.0), len(values))


def ess(draws: np.ndarray) -> tuple[float, float]:
    """Smallest over coordinates: of theta, and of its square (centred, so that it is about the spread)."""
    centred = draws - draws.mean(0)
    return _ess(draws).min(), min(_ess(draws**2).min(), _ess(centred**2).min())


def agreement(one: np.ndarray, other: np.ndarray) -> str:
    """rms and largest |z| of the difference of first and second moments."""
    parts = []
    for power in (1, 2):
        middle = other.mean(0)
        a, b = ((d - middle) ** power for d in (one, other))
        error = np.sqrt(a.var(0) / _ess(a) + b.var(0) / _ess(b))
        z = (a.mean(0) - b.mean(0)) / error
        parts.append(f"{('mean', 'square')[power - 1]} rms {np.sqrt(np.mean(z**2)):.2f} max {np.abs(z).max():.2f}")
    return "; ".join(parts) + f" of {one.shape[1]}"


def show(name: str, found: Outcome, fly_rates: tuple[float, float, float, float] | None) -> tuple[float, float, float, float]:
    means, squares = ess(found.draws)
    strict = min(means, squares)
    rates = found.queries / strict, found.queries / means, strict / found.seconds, means / found.seconds
    line = f"  {name:9} {len(found.draws):6} draws  ESS {means:7.0f} /{squares:7.0f}  queries per ESS {rates[0]:11.4g} ({rates[1]:9.4g})"
    line += f"  ESS/s {rates[2]:9.4g} ({rates[3]:9.4g})  {found.note}"
    if fly_rates is not None:
        line += f"\n            FlyMC: {rates[0] / fly_rates[0]:.4g}x ({rates[1] / fly_rates[1]:.4g}x) fewer queries, "
        line += f"{fly_rates[2] / rates[2]:.4g}x ({fly_rates[3] / rates[3]:.4g}x) ESS/s"
    print(line, flush=True)
    return rates


def bench(name: str, quick: bool) -> None:
    print(f"\n{name}")
    problem = ROWS[name]()
    part = 10 if quick else 1
    flown = fly(problem, problem.draws // part)
    rates = show("FlyMC", flown, None)
    print(f"            set-up {flown.setup:.1f} s, {flown.setup_queries / len(problem.x):.1f} passes; sampling {flown.seconds:.2f} s")
    at = whitened(problem)
    for peer, draws in problem.peers.items():
        found = PEERS[peer](problem, at, max(draws // part, 50))
        peer_rates = show(peer, found, rates)
        whole, without = flown.setup + 1000 / rates[2], 1000 / peer_rates[2]
        print(f"            an ESS of 1000: FlyMC with its set-up {whole:.1f} s, {peer} {without:.1f} s, {without / whole:.3g}x")
        print(f"            agreement: {agreement(flown.draws, found.draws)}")


PROTOCOL: dict[str, tuple[Callable[[], Problem | None], str, Callable[..., Any], dict[str, Any]]] = {
    "logistic 12,214 x 51, random walk": (lambda: logistic(12_214, 100_000, {}), "rwm", lc.RWM, {}),
    "softmax 18,000 x 64, MALA": (lambda: softmax(18_000, 64, 3000, {}), "mala", lc.HMC, {"num_steps": 1, "target_accept_prob": 0.574}),
    "Student-t 20,000 x 20, slice": (lambda: student(20_000, 20, 2000, {}), "slice", lc.Slice, {}),
    "MNIST 7 against 9, 12,222 x 51, random walk": (lambda: sevens_and_nines(100_000), "rwm", lc.RWM, {}),
}


def _paper(model: Callable[..., Any], kernel: str, bounds: str) -> lc.FlyMC:
    """Untuned bounds are as the paper has them, not lowered."""
    return lc.FlyMC(model, kernel=kernel, bounds=bounds, kernel_options={"softening": 0.0} if bounds == "untuned" else {})


def protocol(part: int, only: str) -> None:
    """Queries per iteration, ESS per 1000 iterations, and how many times fewer queries an effective draw takes: by the smallest ESS of
    theta and, in brackets, by the mean over its coordinates."""
    for name, (make, kernel, regular, options) in PROTOCOL.items():
        if only not in ("", kernel):
            continue
        problem = make()
        if problem is None:
            print(f"\n{name}: skipped, the images are not in shared/data beside the checkout")
            continue
        at = whitened(problem)
        covariance = at.scale @ at.scale.T
        metric = {"dense_mass": True, "inverse_mass_matrix": covariance}
        if kernel == "slice":
            metric = {"width": 3.2 * np.sqrt(np.diag(covariance))}
        print(f"\n{name}")
        shape = problem.x.shape[1:] + (2,) * (at.centre.size != problem.x.shape[1])
        start = lc.init_to_value({"w": at.centre.reshape(shape).astype(np.float32)})
        runs = {"all rows": regular(problem.model, init_strategy=start, **metric, **options)}
        runs |= {f"FlyMC, {bounds}": _paper(problem.model, kernel, bounds) for bounds in ("untuned", "global", "auto")}
        first = None
        for label, each in runs.items():
            mcmc = lc.MCMC(each, num_warmup=500, num_samples=problem.draws // part, num_chains=1, progress_bar=False)
            mcmc.run(jax.random.key(0), problem.x, problem.y)
            draws = mcmc.get_samples()["w"].reshape(problem.draws // part, -1)
            stats = mcmc.sample_stats
            queries = stats["n_queries"].mean() if "n_queries" in stats else stats["n_steps"].mean() * len(problem.x)
            each_ess = _ess(draws) / len(draws)
            found = np.array([each_ess.min(), each_ess.mean()])
            rates = found / queries
            first = rates if first is None else first
            fewer = "{:8.1f}x ({:.1f}x)".format(*(rates / first))
            bright = f", {stats['n_bright'].mean():.1f} bright" if "n_bright" in stats else ""
            print(f"  {label:14} {queries:12.1f} queries  ESS {1000 * found[0]:6.1f} ({1000 * found[1]:.1f})  {fewer}{bright}", flush=True)


if __name__ == "__main__":
    announce("each sampler's own, not timed; programs are compiled before they are timed")
    arguments = [a for a in sys.argv[1:] if not a.startswith("--")]
    for row in arguments or ROWS:
        if row.startswith("protocol"):
            protocol(10 if "--quick" in sys.argv else 1, row.removeprefix("protocol").removeprefix("-"))
        else:
            bench(row, "--quick" in sys.argv)
