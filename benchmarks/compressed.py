"""Chains on less of the data against NumPyro: seconds for each effective draw, and for each gradient.

    python3 dev.py bench compressed [gaussian] [logistic] [repeats]

    gaussian    y ~ Normal(X b + a, s), 100,000 rows of 20 columns, float64: 4 chains, 100 + 100 transitions, processor seconds less
                those of a run of 4 + 4, which compiles as much, over the smallest effective sample size. Bound: 50 times NumPyro's
    logistic    y ~ Bernoulli(logits=X b + a), the same rows, none repeated: a value and gradient of 4 chains, compiled. Bound: twice
    repeats     the same with 1,179 rows of which 12 differ

NumPyro's chains are vectorized and get data as arguments. Engines take turns; medians.
"""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from _common import announce, interleaved, median

jax.config.update("jax_enable_x64", True)
ROWS, COLUMNS, CHAINS, DRAWS, FEW, RUNS, REPEATS, CALLS = 100_000, 20, 4, 100, 4, 1, 9, 20


def data(rows=ROWS, columns=COLUMNS, binary=False, coarse=False):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, (rows, columns)).astype(float) if coarse else rng.normal(size=(rows, columns))
    mean = x @ rng.normal(0, 0.3, columns)
    y = rng.random(rows) < 1 / (1 + np.exp(-mean)) if binary else mean + rng.normal(size=rows)
    return x, y.astype(int) if binary else y


def model(library, dist, family):
    def of(x, y):
        a = library.sample("a", dist.Normal(0, 10))
        b = library.sample("b", dist.Normal(0, 1).expand([x.shape[1]]).to_event(1))
        s = library.sample("s", dist.HalfNormal(1)) if family == "gaussian" else None
        with library.plate("rows", len(y)):
            mean = x @ b + a
            library.sample("y", dist.Normal(mean, s) if family == "gaussian" else dist.Bernoulli(logits=mean), obs=y)

    return of


def gaussian():
    import numpyro
    import numpyro.distributions as dist
    from numpyro.diagnostics import effective_sample_size
    from numpyro.infer import MCMC, NUTS

    import luciole as lc

    x, y = data()

    def run(name, draws, seed):
        """(Processor seconds, draws.)"""
        sizes = {"num_warmup": draws, "num_samples": draws, "num_chains": CHAINS, "progress_bar": False}
        if name == "luciole":
            mcmc = lc.MCMC(lc.NUTS(model(lc, dist, "gaussian")), **sizes)
        else:
            mcmc = MCMC(NUTS(model(numpyro, dist, "gaussian")), chain_method="vectorized", **sizes)
        begun = time.process_time()
        mcmc.run(jax.random.key(seed), x, y)
        found = jax.device_get(mcmc.get_samples(group_by_chain=True))
        return time.process_time() - begun, found

    seconds = {"luciole": [], "numpyro": []}
    for i in range(RUNS + 1):
        for name, found in seconds.items():
            (short, _), (whole, draws) = run(name, FEW, i), run(name, DRAWS, i)
            least = min(float(np.min(effective_sample_size(v))) for v in draws.values())
            if i:
                found.append((whole - short) / least)
    ratio = median(seconds["numpyro"]) / median(seconds["luciole"])
    print("gaussian: " + ", ".join(f"{n} {median(s) * 1e3:.3g} ms" for n, s in seconds.items()) + f" an effective draw: {ratio:.0f} times")
    return ratio >= 50


def per_gradient(name, **of):
    import numpyro
    import numpyro.distributions as dist
    from numpyro.infer.util import potential_energy

    import luciole as lc
    from luciole.ppl.compressed import compressed
    from luciole.transforms import value_and_grad

    x, y = data(binary=True, **of)
    density = lc.log_density(model(lc, dist, "logistic"), x, y)
    short = compressed(density)
    prepared = jax.device_put(short.prepare([*density.data, *short.arrays]) if short else density.prepare())
    rng = np.random.default_rng(1)
    u = {n: jnp.asarray(rng.normal(0, 0.3, (CHAINS, *s.shape))) for n, s in density.positions.items()}
    seeded = numpyro.handlers.seed(model(numpyro, dist, "logistic"), 0)

    @jax.jit
    def ours(prepared, u):
        return jax.vmap(lambda u: value_and_grad(lambda u: (short or density).evaluate(prepared, u))(u))(u)

    @jax.jit
    def theirs(arrays, u):
        return jax.vmap(jax.value_and_grad(lambda u: potential_energy(seeded, arrays, {}, u)))(u)

    given = jax.device_put((x, y))

    def many(call):
        def run():
            for _ in range(CALLS):
                jax.block_until_ready(call())

        run()
        return run

    taken = interleaved({"luciole": many(lambda: ours(prepared, u)), "numpyro": many(lambda: theirs(given, u))}, REPEATS, time.process_time)
    shown = ", ".join(f"{n} {median(s) / CALLS * 1e6:.4g} us" for n, s in taken.items())
    ratio = median(taken["numpyro"]) / median(taken["luciole"])
    print(f"{name}: {shown} a gradient of {CHAINS} chains: {ratio:.2f} times")
    return ratio >= 2


BOUNDS = {
    "gaussian": gaussian,
    "logistic": lambda: per_gradient("logistic"),
    "repeats": lambda: per_gradient("repeats", rows=1179, columns=3, coarse=True),
}


def main(words):
    announce("one run, or call, of each first")
    held = {row: BOUNDS[row]() for row in words or BOUNDS}
    print(", ".join(f"{row}: bound {'holds' if kept else 'DOES NOT HOLD'}" for row, kept in held.items()))


if __name__ == "__main__":
    main(sys.argv[1:])
