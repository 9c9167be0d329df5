"""NUTS at four chains against NumPyro's: sampling, compilation and import.

    python3 dev.py bench nuts [sampling] [compile] [cold] [ess] [import]

Sampling is a run of 1000 + 1000 transitions less what JAX reports as tracing, lowering and compiling (NumPyro compiles in every run; a
second run of ours does not). The two libraries walk different trajectories, so the ratio per gradient stands beside the ratio of times.
Whole runs, compilation included, are compared as well: the second of a process, where ours has nothing left to compile. Compilation is
what JAX reports for the first run of a fresh process, with no persistent cache. A cold start is a whole process, from the interpreter's
start to 4 x 1000 draws in hand, imports and compilation included, without a persistent cache or, for ours, with a warm one; tracing is
ours of the model. Effective draws per second are the smallest bulk effective sample size of a latent value over the seconds of a first
run in a fresh process, compilation included. Bounds: sampling at most 1.25 times and compilation at
most once NumPyro's; `import luciole` at most once `import numpyro`. NumPyro is run vectorized, as
ours is, and sequential; the bounds are on the former.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import warnings

from _common import announce, fresh_processes, interleaved, median, posteriors

POSTERIORS = (
    "eight_schools-eight_schools_noncentered",
    "radon_mn-radon_hierarchical_intercept_noncentered",
    "wells_data-wells_dist100_model",
)
ENGINES = ("luciole", "vectorized", "sequential")
REPEATS, PROCESSES, IMPORTS = 5, 3, 7


def runner(engine, model, kwargs, chains=4, keep=None):
    """seed -> gradients of one run of 1000 warm-up transitions and 1000 draws (of the draws alone); `keep` is filled with draws."""
    import jax

    if engine == "luciole":
        import luciole as lc

        def run(seed):
            mcmc = lc.MCMC(lc.NUTS(model), num_chains=chains, progress_bar=False)
            mcmc.run(jax.random.PRNGKey(seed), **kwargs)
            samples = mcmc.get_samples(group_by_chain=True)
            if keep is not None:
                keep.update(samples)
            return int(mcmc.sample_stats["n_steps"].sum())

        return run
    from numpyro.infer import MCMC, NUTS

    mcmc = MCMC(NUTS(model), num_warmup=1000, num_samples=1000, num_chains=chains, chain_method=engine, progress_bar=False)

    def run(seed):
        mcmc.run(jax.random.PRNGKey(seed), extra_fields=("num_steps",), **kwargs)
        samples = jax.block_until_ready(mcmc.get_samples(group_by_chain=True))
        if keep is not None:
            keep.update(samples)
        return int(mcmc.get_extra_fields()["num_steps"].sum())

    return run


def quietly(run):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return run()


def clocked(run, seed):
    """(seconds of sampling, seconds in all, seconds of compilation, gradients) of one run."""
    from harness import CompileClock

    with CompileClock() as clock:
        gradients = quietly(lambda: run(seed))
    times = clock.timing()
    return times["total_s"] - times["compile_s"], times["total_s"], times["compile_s"], gradients


def sampling():
    print(f"sampling, seconds a run; median of {REPEATS}, in turn")
    print(
        f"{'':50s} {'luciole':>10s} {'vectorized':>10s} {'sequential':>10s} | {'ratio':>16s} | {'per gradient':>16s} | {'whole run':>16s}"
    )
    found, kept = posteriors(), []
    for name in POSTERIORS:
        runs = {engine: runner(engine, *found[name]) for engine in ENGINES}
        rows = {engine: [] for engine in ENGINES}

        def one(engine, runs=runs, rows=rows):
            rows[engine].append(clocked(runs[engine], len(rows[engine]) + 1))

        interleaved({e: lambda e=e, one=one: one(e) for e in ENGINES}, 1 + REPEATS)
        seconds, whole, _, gradients = ({e: median([row[i] for row in rows[e][1:]]) for e in ENGINES} for i in range(4))
        ratios = [seconds["luciole"] / seconds[e] for e in ENGINES[1:]]
        each = [r * gradients[e] / gradients["luciole"] for r, e in zip(ratios, ENGINES[1:], strict=True)]
        all_in = [whole["luciole"] / whole[e] for e in ENGINES[1:]]
        kept.append(ratios[0])
        row = " ".join(f"{seconds[e]:10.3f}" for e in ENGINES)
        pairs = " | ".join(f"{a:7.3f} {b:8.3f}" for a, b in (ratios, each, all_in))
        print(f"{name:50s} {row} | {pairs}", flush=True)
    print(f"{'median':83s} | {median(kept):7.3f}          | largest {max(kept):.3f}, bound 1.25\n")


def compilation():
    print(f"compilation, seconds; median of {PROCESSES} processes, in turn")
    print(f"{'':50s} {'luciole':>10s} {'vectorized':>10s} {'sequential':>10s} | {'ratio':>16s}")
    kept = []
    for name in POSTERIORS:
        commands = {engine: [__file__, "--child", engine, name] for engine in ENGINES}
        outputs = fresh_processes(commands, PROCESSES)
        seconds = {engine: median([json.loads(text.splitlines()[-1]) for text in outputs[engine]]) for engine in ENGINES}
        ratios = [seconds["luciole"] / seconds[e] for e in ENGINES[1:]]
        kept.append(ratios[0])
        print(
            f"{name:50s} {' '.join(f'{seconds[e]:10.2f}' for e in ENGINES)} | {ratios[0]:7.3f} {ratios[1]:8.3f}",
            flush=True,
        )
    print(f"{'median':83s} | {median(kept):7.3f}          | largest {max(kept):.3f}, bound 1.00\n")


def child(engine, name):
    model, kwargs = posteriors()[name]
    run = runner(engine, model, kwargs)
    print(clocked(run, 1)[2])


COLD_BOUNDS = (0.35, 0.40, 0.50)  # warm: 0.2 on the first


def cold():
    print(f"cold start, seconds of a whole process; median of {PROCESSES}, in turn")
    print(f"{'':50s} {'vectorized':>10s} {'luciole':>10s} {'warm':>10s} {'tracing':>10s} | {'cold':>7s} {'warm':>7s}  bound")
    with tempfile.TemporaryDirectory() as folder:
        for name, bound in zip(POSTERIORS, COLD_BOUNDS, strict=True):
            seconds, tracing = {"vectorized": [], "luciole": [], "warm": []}, []

            def one(engine, name=name, seconds=seconds, tracing=tracing):
                env = {**os.environ, "LUCIOLE_CACHE_DIR": folder if engine == "warm" else ""}
                command = [sys.executable, __file__, "--cold", "luciole" if engine == "warm" else engine, name]
                begun = time.perf_counter()
                out = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
                seconds[engine].append(time.perf_counter() - begun)
                if engine == "luciole":
                    tracing.append(float(out.splitlines()[-1]))

            one("warm")  # fills the cache
            seconds["warm"].clear()
            interleaved({e: lambda e=e, one=one: one(e) for e in seconds}, PROCESSES)
            found = {engine: median(values) for engine, values in seconds.items()}
            ratios = [found[e] / found["vectorized"] for e in ("luciole", "warm")]
            row = " ".join(f"{found[e]:10.2f}" for e in seconds)
            print(f"{name:50s} {row} {median(tracing):10.3f} | {ratios[0]:7.3f} {ratios[1]:7.3f}  {bound:.2f}", flush=True)
    print()


def cold_child(engine, name):
    """One run; prints how long the model of the DSL takes to trace."""
    model, kwargs = posteriors()[name]
    quietly(lambda: runner(engine, model, kwargs)(1))
    seconds = 0.0
    if engine == "luciole":
        import luciole as lc

        begun = time.perf_counter()
        lc.log_density(model, **kwargs)
        seconds = time.perf_counter() - begun
    print(seconds)


ESS_BOUNDS = {4: 1.0, 64: 2.0}


def effective():
    print(f"effective draws per second, compilation included; median of {PROCESSES} processes, in turn")
    print(f"{'':50s} {'chains':>6s} {'luciole':>18s} {'vectorized':>18s} | {'ratio':>7s}  bound")
    for name in (*POSTERIORS, "arK-arK"):
        for chains, bound in ESS_BOUNDS.items():
            commands = {engine: [__file__, "--ess", engine, name, str(chains)] for engine in ENGINES[:2]}
            outputs = fresh_processes(commands, PROCESSES)
            rows = {engine: [json.loads(text.splitlines()[-1]) for text in outputs[engine]] for engine in commands}
            rates = {engine: median([ess / seconds for ess, seconds in rows[engine]]) for engine in rows}
            cells = " ".join(f"{rates[e]:8.1f} ({median([t for _, t in rows[e]]):5.1f} s)" for e in rows)
            print(f"{name:50s} {chains:6d} {cells} | {rates['luciole'] / rates['vectorized']:7.2f}  {bound:.1f}", flush=True)
    print()


def ess_child(engine, name, chains):
    import arviz

    model, kwargs = posteriors()[name]
    draws = {}
    run = runner(engine, model, kwargs, int(chains), draws)
    begun = time.perf_counter()
    quietly(lambda: run(1))
    seconds = time.perf_counter() - begun
    import numpy as np

    draws = {site: np.asarray(value, np.float64) for site, value in draws.items()}
    found = quietly(lambda: arviz.ess(draws))
    print(json.dumps([float(min(np.nanmin(found[site].values) for site in found)), seconds]))


def imports():
    statements = {
        "luciole": "import luciole",
        "names used": "import luciole as lc; lc.NUTS, lc.MCMC, lc.sample",
        "numpyro": "import numpyro",
    }
    clock = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"
    outputs = fresh_processes({name: ["-c", clock.format(code)] for name, code in statements.items()}, IMPORTS)
    seconds = {name: median([float(text) for text in outputs[name]]) for name in statements}
    print(f"import, seconds; median of {IMPORTS} fresh processes, in turn")
    for name, code in statements.items():
        print(f"{code:60s} {seconds[name]:8.3f}   ratio {seconds[name] / seconds['numpyro']:.3f}")


def main(parts):
    import jax

    jax.config.update("jax_enable_x64", True)
    if parts[:1] == ["--child"]:
        return child(*parts[1:])
    if parts[:1] == ["--ess"]:
        return ess_child(*parts[1:])
    if parts[:1] == ["--cold"]:
        return cold_child(*parts[1:])
    announce("sampling: one whole run before timing; compilation and import: fresh processes, each once before timing")
    fresh_processes({"luciole": ["-c", "import luciole.inference"], "numpyro": ["-c", "import numpyro"]}, 1)
    for name, part in {"sampling": sampling, "compile": compilation, "cold": cold, "ess": effective, "import": imports}.items():
        if not parts or name in parts:
            part()


if __name__ == "__main__":
    main(sys.argv[1:])
