"""A sampling run over devices: the same draws, what it costs, and whether it was said before.

    python dev.py bench tactics [section ...]

Sections; all of them without arguments:

    equal     five transitions from one adapted state, NUTS, HMC and slice, in float64 and float32: chains, data, sites and all three over
              eight devices against one device; steps, the largest difference of a draw, and the plan's collectives against the lowered ones
    warmup    sixty transitions from scratch in float64, chains over eight devices: steps
    memory    a million group effects on one device and on eight: bytes of the compiled `advance` (arguments, temporaries, outputs), one
              observation per group, then four, sorted by group and in any order
    speed     seconds of sampling on two devices against one, medians of five runs taken in turn, after one that compiles

The devices are forced host devices, which share the machine's cores: eight, and two for `speed`, which has a process of its own.
"""

import os
import subprocess
import sys
import warnings

os.environ["XLA_FLAGS"] = " --xla_force_host_platform_device_count=" + ("2" if sys.argv[1:] == ["speed"] else "8")

import jax
import numpy as np
from _common import announce

import luciole as lc
from luciole import dist
from luciole import sharding as ls

CHAINS = 8


def split(name, axis):
    return ls.ManualPartition({name: 0}, axis=axis)


def hierarchical(groups, rows):
    def model(x, group, y=None):
        mu = lc.sample("mu", dist.Normal(0, 1))
        tau = lc.sample("tau", dist.LogNormal(0, 0.3))
        beta = lc.sample("beta", dist.Normal(0, 1).expand([x.shape[1]]).to_event(1))
        with lc.plate("group", groups):
            alpha = lc.sample("alpha", dist.Normal(mu, tau))
        with lc.plate("row", rows):
            lc.sample("y", dist.Normal(alpha[group] + x @ beta, 1.0), obs=y)

    return model


def effects(groups):
    """One observation for each group."""

    def model(y):
        mu, tau = lc.sample("mu", dist.Normal(0, 1)), lc.sample("tau", dist.LogNormal(0, 0.3))
        with lc.plate("group", groups):
            alpha = lc.sample("alpha", dist.Normal(mu, tau))
            lc.sample("y", dist.Normal(alpha, 1.0), obs=y)

    return model


def indexed(groups, rows):
    def model(group, y):
        mu, tau = lc.sample("mu", dist.Normal(0, 1)), lc.sample("tau", dist.LogNormal(0, 0.3))
        with lc.plate("group", groups):
            alpha = lc.sample("alpha", dist.Normal(mu, tau))
        with lc.plate("row", rows):
            lc.sample("y", dist.Normal(alpha[group], 1.0), obs=y)

    return model


def schools(y, sigma):
    mu, tau = lc.sample("mu", dist.Normal(0, 5)), lc.sample("tau", dist.HalfCauchy(5))
    with lc.plate("school", 8):
        z = lc.sample("z", dist.Normal(0, 1))
        lc.sample("y", dist.Normal(mu + tau * z, sigma), obs=y)


def logistic(x, y):
    w = lc.sample("w", dist.Normal(0, 1).expand([x.shape[1]]).to_event(1))
    with lc.plate("row", len(y)):
        lc.sample("y", dist.Bernoulli(logits=x @ w), obs=y)


WAYS = {
    "chains": ({"c": 8}, [split("chains", "c")]),
    "data": ({"d": 8}, [split("plate:row", "d")]),
    "sites": ({"s": 8}, [split("plate:group", "s")]),
    "all": ({"c": 2, "d": 2, "s": 2}, [split("chains", "c"), split("plate:row", "d"), split("sites.alpha", "s")]),
}


def mcmc(kernel, way=None, **options):
    mesh, tactics = way or (None, None)
    settings = {"num_warmup": 0, "num_samples": 5, "num_chains": CHAINS, "progress_bar": False} | options
    return lc.MCMC(kernel, mesh=mesh, tactics=tactics, **settings)


def rows_of(groups, rows, columns=3):
    rng = np.random.default_rng(0)
    return rng.normal(size=(rows, columns)), rng.integers(0, groups, rows).astype(np.int32), rng.normal(size=rows)


def equal():
    """Steps and draws of five transitions from one state, and the plan against the lowered programs."""
    print(f"{'kernel':6} {'type':8} {'split':7} {'steps':>6} {'draws':>9}  per gradient, lowered")
    data = rows_of(64, 256)
    model = hierarchical(64, 256)
    for wide in (True, False):
        with jax.enable_x64(wide):
            for kernel in (lc.NUTS(model), lc.HMC(model, num_steps=7), lc.Slice(model)):
                first = mcmc(kernel, num_warmup=20 if isinstance(kernel, lc.Slice) else 100).run(jax.random.key(0), *data)
                one = mcmc(kernel).run(jax.random.key(1), *data, start=first)
                for name, way in WAYS.items():
                    many = mcmc(kernel, way)
                    found = many.plan(*data).check()  # raises if it is not what was said
                    many.run(jax.random.key(1), *data, start=first)
                    steps = np.array_equal(one.sample_stats["n_steps"], many.sample_stats["n_steps"])
                    draws, others = one.get_samples(), many.get_samples()
                    gap = max(np.abs(draws[n] - others[n]).max() for n in draws)
                    met = {str(per): dict(kinds) for per, kinds in found["advance"].items()}
                    kind, words = type(kernel).__name__, "float64" if wide else "float32"
                    print(f"{kind:6} {words:8} {name:7} {'equal' if steps else 'DIFFER':>6} {gap:9.1e}  {met}", flush=True)


def warmup():
    """Sixty transitions from scratch, chains over eight devices."""
    with jax.enable_x64(True):
        data, kernel = rows_of(64, 256), lc.NUTS(hierarchical(64, 256))
        options = {"num_warmup": 40, "num_samples": 20, "keep_warmup": True}
        one, many = (mcmc(kernel, way, **options).run(jax.random.key(2), *data).to_arviz() for way in (None, WAYS["chains"]))
    for group in ("warmup_sample_stats", "sample_stats"):
        steps = [np.asarray(tree[group]["n_steps"]) for tree in (one, many)]
        print(f"{group:20} {steps[0].shape}: {np.mean(steps[0] == steps[1]):.1%} of the transitions take the same steps")


def memory():
    """A million group effects."""
    groups, rng = 10**6, np.random.default_rng(0)
    order = np.repeat(np.arange(groups, dtype=np.int32), 4)
    cases = {
        "one row per group": (effects(groups), (rng.normal(size=groups).astype(np.float32),), [split("plate:group", "s")]),
        "four, sorted": (indexed(groups, 4 * groups), (order, rng.normal(size=4 * groups).astype(np.float32)), None),
        "four, any order": (indexed(groups, 4 * groups), (rng.permutation(order), rng.normal(size=4 * groups).astype(np.float32)), None),
    }
    print(f"{'':18} {'devices':>7} {'arguments':>10} {'temporaries':>12} {'outputs':>9} {'sum MB':>8}  one / eight")
    for name, (model, data, tactics) in cases.items():
        tactics = tactics or [ls.ManualPartition({"plate:group": 0, "plate:row": 0}, axis="s")]
        sums = []
        for way in (None, ({"s": 8}, tactics)):
            run = mcmc(lc.NUTS(model, step_size=3e-4, max_tree_depth=4), way, num_chains=2, num_samples=2).run(jax.random.key(0), *data)
            found = run._running.compiled.advance(2).memory_analysis()
            sizes = [found.argument_size_in_bytes, found.temp_size_in_bytes, found.output_size_in_bytes]
            sums.append(sum(sizes))
            cells = f"{sizes[0] / 1e6:10.1f} {sizes[1] / 1e6:12.1f} {sizes[2] / 1e6:9.1f} {sums[-1] / 1e6:8.1f}"
            print(f"{name:18} {8 if way else 1:7} {cells}  {sums[0] / sums[-1]:.2f}", flush=True)


def speed():
    """Two devices against one."""
    rng = np.random.default_rng(0)

    def coins(rows, columns):
        return rng.normal(size=(rows, columns)).astype(np.float32), (rng.random(rows) < 0.5).astype(np.int32)

    eight = np.array([28.0, 8, -3, 7, -1, 1, 18, 12], np.float32), np.array([15.0, 10, 16, 11, 9, 11, 10, 18], np.float32)
    chains = {"c": 2}, [split("chains", "c")]
    data = {"d": 2}, [split("plate:row", "d")]
    sites = {"s": 2}, [split("plate:group", "s")]
    hundred = {"num_chains": 128, "num_warmup": 200, "num_samples": 200}
    few = {"num_chains": 4, "num_warmup": 30, "num_samples": 30}
    one = {"num_chains": 1, "num_warmup": 0, "num_samples": 10}
    fixed = {"step_size": 3e-4, "max_tree_depth": 4}
    cases = {
        "128 chains, eight schools, NUTS": (lc.NUTS(schools), eight, chains, hundred),
        "128 chains, eight schools, HMC": (lc.HMC(schools, num_steps=15), eight, chains, hundred),
        "128 chains, logistic 500x10": (lc.NUTS(logistic), coins(500, 10), chains, hundred),
        "128 chains, logistic 5000x20": (lc.NUTS(logistic), coins(5000, 20), chains, hundred | {"num_warmup": 50, "num_samples": 50}),
        "data, logistic 20000x10": (lc.NUTS(logistic), coins(20_000, 10), data, few),
        "data, logistic 200000x10": (lc.NUTS(logistic), coins(200_000, 10), data, few | {"num_warmup": 10, "num_samples": 10}),
        "sites, 100,000 effects": (lc.NUTS(effects(10**5), **fixed), (rng.normal(size=10**5).astype(np.float32),), sites, one),
        "sites, 1,000,000 effects": (lc.NUTS(effects(10**6), **fixed), (rng.normal(size=10**6).astype(np.float32),), sites, one),
    }
    print(f"{'case':34} {'one s':>8} {'two s':>8}  one / two")
    for name, (kernel, arguments, way, options) in cases.items():
        runs = {words: mcmc(kernel, given, **options) for words, given in (("one", None), ("two", way))}

        def seconds(run, arguments=arguments):
            return run.run(jax.random.key(1), *arguments).cost["sampling_seconds"]

        for run in runs.values():
            seconds(run)
        taken = {words: [] for words in runs}
        for _ in range(5):
            for words, run in runs.items():
                taken[words].append(seconds(run))
        first, second = (float(np.median(taken[words])) for words in runs)
        print(f"{name:34} {first:8.3f} {second:8.3f}  {first / second:.2f}", flush=True)


SECTIONS = {"equal": equal, "warmup": warmup, "memory": memory, "speed": speed}


if __name__ == "__main__":
    warnings.simplefilter("ignore", lc.LucioleWarning)
    chosen = sys.argv[1:] or list(SECTIONS)
    if unknown := [name for name in chosen if name not in SECTIONS]:
        sys.exit(f"there is no section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    announce("every run once before it is timed, five timed, in turn")
    for section in chosen:
        if section == "speed" and jax.device_count() != 2:
            subprocess.run([sys.executable, __file__, section], check=True)
            continue
        print(f"\n{section}: {SECTIONS[section].__doc__}")
        SECTIONS[section]()
