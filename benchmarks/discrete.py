"""Discrete latents summed out, against NumPyro with funsor, on NumPyro's own examples.

    python3 dev.py bench discrete [row ...] --examples FOLDER [--data FOLDER] [--models PART ...]

Rows, all of them by default:

    equal     value and gradient, float64, at three random points: the largest relative difference
    speed     a value and gradient, compiled: ratio of medians
    compile   from the model to the compiled value and gradient, nothing in JAX's caches: ratio of medians
    report    until the largest table is named: nothing is compiled, nothing computed
    loop      a Python loop of 60 discrete sites, as from the model to the compiled value and gradient
    sampled   NUTS on both sides: how far means are apart, in standard errors of their difference; of hmm_enum given sequences
              that are drawn from few states, as given the chorales chains of neither side mix

FOLDER holds NumPyro's examples; `_enumerated` says which models and which data. NumPyro's side needs funsor. Both sides get their data
as arguments of the compiled function, as `density.py` has it, but for NumPyro's side of the annotation models, which read the number of
classes off their data: there they are constants, which the compiler may fold, and ours are timed both ways. Where elements of a discrete
site are masked NumPyro adds the log of the number of states for each, and Luciole nothing; `equal` takes that off NumPyro's values.

Bounds: equal to 1e-10; per gradient at most 1.2 times NumPyro on plates and 1.0 times on chains, compilation at most 1.1 times (the
medians over models); a report in half a second; the loop in 5 seconds; means within 4 standard errors, of chains that have mixed on both
sides (R-hat below 1.05): those that have not show nothing, and do not hold.
"""

import argparse
import importlib.util
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from _common import announce, interleaved, median
from _enumerated import cases, ours_compilable, ours_folded, theirs_compilable

jax.config.update("jax_enable_x64", True)
POINTS, REPEATS, SECONDS, COMPILES = 3, 15, 0.02, 5
CHAINS, WARMUP = 4, 500
SIDES = {"luciole": ours_compilable, "numpyro": theirs_compilable}
CHAINS_OF_STATES = ("capture_recapture", "hmm_enum")


def points(case, number=POINTS):
    """Positions with coordinates uniform in [-1, 1]."""
    import luciole as lc

    shapes = lc.log_density(case.model, *case.args).positions
    rng = np.random.default_rng(0)
    return [{n: jnp.asarray(rng.uniform(-1, 1, s.shape)) for n, s in shapes.items()} for _ in range(number)]


def relative(found, expected):
    """The largest difference of two trees of arrays, relative in each to its largest number expected, and at least to 1."""
    size = [np.max(np.abs(e), initial=1.0) for e in jax.tree.leaves(expected)]
    return max(float(np.max(np.abs(f - e) / s)) for f, e, s in zip(jax.tree.leaves(found), jax.tree.leaves(expected), size, strict=True))


def equal(found):
    """Whether the largest difference is small."""
    print(f"{'equal':24s} {'log density':>16s} {'masked, nats':>14s} {'value':>10s} {'gradient':>10s}")
    largest = 0.0
    for name, case in found.items():
        (ours, density), (theirs, data) = (make(case) for make in SIDES.values())
        off = [0.0, 0.0]
        for u in points(case):
            (value, gradient), (expected, their_gradient) = ours(density, u), theirs(data, u)
            off[0] = max(off[0], relative(value, expected - case.masked))
            off[1] = max(off[1], relative(gradient, {n: their_gradient[n] for n in gradient}))
        largest = max(largest, *off)
        print(f"{name:24s} {float(value):16.6f} {case.masked:14.4f} {off[0]:10.1e} {off[1]:10.1e}", flush=True)
    print(f"largest difference {largest:.1e}\n")
    return largest <= 1e-10


def seconds_per_call(case):
    """By side, the median time of a value and gradient in seconds."""
    calls, u = {}, points(case, 1)[0]
    for side, make in {**SIDES, "folded": ours_folded}.items():
        function, data = make(case)
        compiled = function.lower(data, u).compile()
        calls[side] = lambda compiled=compiled, data=data: jax.block_until_ready(compiled(data, u))
        calls[side]()
    once = min(min(times) for times in interleaved(calls, 3).values())
    number = max(1, int(SECONDS / once))

    def many(call):
        return lambda: [call() for _ in range(number)]

    times = interleaved({side: many(call) for side, call in calls.items()}, REPEATS)
    return {side: median(t) / number for side, t in times.items()}


def speed(found):
    """The bound is on like against like: where NumPyro's data are constants, so are ours."""
    print(f"{'speed':24s} {'luciole':>12s} {'constants':>12s} {'numpyro':>12s}   {'ratio':>8s} {'constants':>9s}")
    ratios = {}
    for name, case in found.items():
        times = seconds_per_call(case)
        ratio, folded = (times[side] / times["numpyro"] for side in ("luciole", "folded"))
        ratios[name] = ratio if case.arguments else folded
        shown = " ".join(f"{times[side] * 1e6:10.1f}us" for side in ("luciole", "folded", "numpyro"))
        print(f"{name:24s} {shown} {' ' if case.arguments else '*'} {ratio:8.2f} {folded:9.2f}", flush=True)
    print("* NumPyro's data are constants: ours, too, in what follows")
    kept = True
    for what, bound in (("plates", 1.2), ("chains", 1.0)):
        chosen = [r for n, r in ratios.items() if n.startswith(CHAINS_OF_STATES) == (what == "chains")]
        if chosen:
            print(f"{what}: median {median(chosen):.2f}, largest {max(chosen):.2f}")
            kept &= median(chosen) <= bound
    print()
    return kept


def compiled_anew(make, case, u):
    jax.clear_caches()
    function, data = make(case)
    function.lower(data, u).compile()


def compile_times(found):
    print(f"{'compile':24s} {'luciole':>9s} {'numpyro':>9s} {'ratio':>8s}")
    ratios = []
    for name, case in found.items():
        u = points(case, 1)[0]
        runs = {side: lambda make=make, case=case, u=u: compiled_anew(make, case, u) for side, make in SIDES.items()}
        for run in runs.values():
            run()
        times = {side: median(t) for side, t in interleaved(runs, COMPILES).items()}
        ratios.append(times["luciole"] / times["numpyro"])
        print(f"{name:24s} {times['luciole']:8.2f}s {times['numpyro']:8.2f}s {ratios[-1]:8.2f}", flush=True)
    print(f"median {median(ratios):.2f}, largest {max(ratios):.2f}\n")
    return median(ratios) <= 1.1


def report(found):
    """Seconds from the model to the words; what else the trace of a model costs is in them."""
    import luciole as lc

    print(f"{'report':24s} {'first':>8s} {'again':>8s}  largest table")
    lc.log_density(unrolled, np.zeros(2), steps=2)  # what is imported at first use
    slowest = 0.0
    for name, case in found.items():
        times = []
        for _ in range(3):
            if not times:
                jax.clear_caches()
            begin = time.perf_counter()
            enumeration = lc.log_density(case.model, *case.args).program.enumeration
            words = str(enumeration.largest)
            times.append(time.perf_counter() - begin)
        slowest = max(slowest, times[0])
        print(f"{name:24s} {times[0]:7.2f}s {median(times[1:]):7.2f}s  {words}", flush=True)
    print(f"slowest {slowest:.2f} s\n")
    return slowest <= 0.5


def unrolled(y, steps=60, states=3):
    """A hidden Markov model, written as a Python loop. NumPyro's enumeration runs out of dimensions at 25 sites."""
    import luciole as lc
    from luciole import dist

    weights = lc.sample("weights", dist.Dirichlet(jnp.ones(states)).expand([states]).to_event(1))
    loc = lc.sample("loc", dist.Normal(0.0, 2.0).expand([states]).to_event(1))
    z = 0
    for t in range(steps):
        z = lc.sample(f"z{t}", dist.Categorical(weights[z]))
        lc.sample(f"y{t}", dist.Normal(loc[z], 1.0), obs=y[t])


def loop(found):
    import luciole as lc
    from luciole import transforms as lt

    y = np.random.default_rng(0).normal(size=60)
    times = []
    for _ in range(3):
        jax.clear_caches()
        begin = time.perf_counter()
        density = lc.log_density(unrolled, y)
        u = {n: jnp.zeros(s.shape) for n, s in density.positions.items()}
        traced = time.perf_counter()
        compiled = jax.jit(lambda density, u: lt.value_and_grad(density)(u)).lower(density, u).compile()
        times.append((traced - begin, time.perf_counter() - begin))
    assert np.isfinite(compiled(density, u)[0])
    first, whole = (median(t) for t in zip(*times, strict=True))
    print(f"loop of 60 sites: {whole:.2f} s until it is compiled, of these {first:.2f} s in `log_density`\n")
    return whole <= 5.0


def summaries(case, draws, shapes):
    """(chain, draw, number) for each continuous latent site: its values; of values whose states may change places, the sum of squares.

    In a loop NumPyro's chains have a site _PREV_x for the first turn of x, or, where x is reparametrised, none that is the same: then
    the later turns remain.
    """
    found = {}
    for name, shape in shapes.items():
        x = np.asarray(draws[name], float)
        if f"_PREV_{name}" in draws:
            x = np.concatenate([np.asarray(draws[f"_PREV_{name}"], float)[:, :, None], x], 2)
        if x.ndim > 2 and len(shape.shape) == x.ndim - 2 and x.shape[2:] == (shape.shape[0] - 1, *shape.shape[1:]):
            x = np.concatenate([np.full_like(x[:, :, :1], np.nan), x], 2)
        flat = x.reshape(*x.shape[:2], -1)
        found[name] = flat if case.labelled else (flat**2).sum(-1, keepdims=True)
    return found


def mode(case, steps=2000):
    """Constrained values at a mode, by plain ascent: where all chains of both sides begin if states could change places."""
    import optax

    import luciole as lc

    density = lc.log_density(case.model, *case.args)
    u = density.init(jax.random.key(3))
    optimiser = optax.adam(0.02)

    @jax.jit
    def climb(density, u):
        def step(carry, _):
            u, state = carry
            change, state = optimiser.update(jax.grad(lambda u: -density(u))(u), state)
            return (optax.apply_updates(u, change), state), None

        return jax.lax.scan(step, (u, optimiser.init(u)), length=steps)[0][0]

    values = density.constrain(climb(density, u))
    return {n: values[n] for n in density.positions}


def apart(x, y):
    """Differences of means of two runs, in standard errors; of numbers that both have."""
    from numpyro.diagnostics import effective_sample_size

    both = ~np.isnan(x[0, 0]) & ~np.isnan(y[0, 0])
    x, y = x[:, :, both], y[:, :, both]
    error = sum(v.var((0, 1)) / effective_sample_size(v) for v in (x, y)) ** 0.5
    return list((x.mean((0, 1)) - y.mean((0, 1))) / error)


def run_ours(case, start):
    import luciole as lc

    init = lc.init_to_uniform() if start is None else lc.init_to_value(start)
    kernel = lc.NUTS(case.model, max_tree_depth=case.depth, init_strategy=init)
    mcmc = lc.MCMC(kernel, num_warmup=max(WARMUP, case.draws // 10), num_samples=case.draws, num_chains=CHAINS, progress_bar=False)
    mcmc.run(jax.random.key(1), *case.args)
    return mcmc.get_samples(group_by_chain=True)


def run_theirs(case, start):
    from numpyro.infer import MCMC, NUTS, init_to_uniform, init_to_value

    init = init_to_uniform if start is None else init_to_value(values=start)
    kernel = NUTS(case.model, max_tree_depth=case.depth, init_strategy=init)
    mcmc = MCMC(
        kernel,
        num_warmup=max(WARMUP, case.draws // 10),
        num_samples=case.draws,
        num_chains=CHAINS,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.PRNGKey(2), *case.args)
    return jax.device_get(mcmc.get_samples(group_by_chain=True))  # NumPyro returns before its chains have ended


def sampled(found):
    """Where states could change places, all chains begin at one mode: what is compared are means around it, as long as none leaves.

    In float32, as the examples run: in float64 NumPyro's loops refuse the integers that they begin with.
    """
    jax.config.update("jax_enable_x64", False)
    try:
        return means_apart(found)
    finally:
        jax.config.update("jax_enable_x64", True)


def means_apart(found):
    from numpyro.diagnostics import split_gelman_rubin

    import luciole as lc

    print(f"{'sampled':24s} {'numbers':>8s} {'largest':>9s} {'rms':>7s} {'worst R-hat':>16s} {'seconds':>16s}")
    kept = True
    for name, case in found.items():
        sides, seconds, shapes = [], [], lc.log_density(case.model, *case.args).positions
        start = jax.tree.map(jnp.asarray, case.start) or (None if case.labelled else mode(case))
        for run in (run_ours, run_theirs):
            begin = time.perf_counter()
            draws = run(case, start)
            seconds.append(time.perf_counter() - begin)
            sides.append(summaries(case, draws, shapes))
        scores = [score for site in shapes for score in apart(sides[0][site], sides[1][site])]
        worst = [max(float(np.nanmax(split_gelman_rubin(x))) for x in side.values()) for side in sides]
        largest, rms = np.abs(scores).max(), np.mean(np.square(scores)) ** 0.5
        mixed = max(worst) < 1.05
        kept &= mixed and bool(largest < 4)
        hats, clock = f"{worst[0]:.3f} {worst[1]:.3f}", f"{seconds[0]:.0f} {seconds[1]:.0f}"
        note = "" if mixed else "  chains have not mixed"
        print(f"{name:24s} {len(scores):8d} {largest:9.2f} {rms:7.2f} {hats:>16s} {clock:>16s}{note}", flush=True)
    print()
    return kept


ROWS = {"equal": equal, "speed": speed, "compile": compile_times, "report": report, "loop": loop, "sampled": sampled}


def main(words):
    parser = argparse.ArgumentParser(prog="dev.py bench discrete")
    parser.add_argument("rows", nargs="*", choices=[*ROWS, []], default=[])
    parser.add_argument("--examples")
    parser.add_argument("--data")
    parser.add_argument("--models", nargs="+", default=[])
    options = parser.parse_args(words)
    rows = options.rows or list(ROWS)
    if set(rows) != {"loop"} and not importlib.util.find_spec("funsor"):
        sys.exit("NumPyro sums discrete latents out with the package funsor, which is not here: `pip install funsor`.")
    announce(
        f"one call before timing; medians of {REPEATS} blocks of at least {SECONDS * 1e3:.0f} ms, in turn, order alternating. "
        f"Compilation: one of each first, then median of {COMPILES}, in turn, JAX's caches cleared before each"
    )
    found = {} if set(rows) == {"loop"} else cases(options.examples, options.data)
    few = cases(options.examples, options.data, drawn=True) if "sampled" in rows else {}

    def chosen(row):
        which = few if row == "sampled" else found
        return {n: case for n, case in which.items() if not options.models or any(part in n for part in options.models)}

    verdicts = {row: ROWS[row](chosen(row)) for row in rows}
    print(", ".join(f"{row}: bound {'holds' if kept else 'DOES NOT HOLD'}" for row, kept in verdicts.items()))


if __name__ == "__main__":
    main(sys.argv[1:])
