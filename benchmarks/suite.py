"""All open posteriors, and what 400 effective draws of each cost: Luciole, each lever of it switched, and its peers.

    python3 dev.py bench suite [--posteriors PART ...] [--engines NAME ...] [--seeds 1 2 3] [--table FILE]

Every cell is a fresh process on one core: 4 chains, 1000 + 1000 transitions, library defaults but for what the acceptance folder's
`settings.json` says of a posterior (to all engines alike). Engines take turns, and the order turns around from seed to seed.

    seconds     of the process's processor time from data in hand to draws in hand, in the second run of a process, warm-up included,
                less what tracing, lowering and compilation there are, times 400 / min(ESS, 4000); ESS is the smallest bulk one of any
                parameter. Median of the seeds
    gradients   the same of gradient evaluations, of the draws and of the warm-up
    cold        seconds of the whole process until the draws of the first run are in hand, by the clock: imports, compilation and all,
                nothing cached
    warm        the same of Luciole with its own cache filled by an earlier process, of the first seed
    verdict     the acceptance harness's, of the draws alone, seed by seed: P(ass), F(ail), N(ot converged), E(rror)

NumPyro's chains are vectorized; its warm-up gradients are counted in a run of their own, of the first seed. BlackJAX and nutpie, which are
left out where they are not installed, run once a process. nutpie gets the density by a Python call for every gradient, so that its seconds
say nothing, and its gradients do.

Bounds: over all posteriors that are expected to converge, as geometric means, at least 5 times as fast as NumPyro's default and twice as
fast as the better of its diagonal and its dense metric; on none slower than 0.9 times; every verdict P where `settings.json` does not
expect N.
"""

import argparse
import importlib
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

from _common import FOLDER, announce, median, posteriors

SEEDS, EFFECTIVE, MOST = (1, 2, 3), 400, 4000
LEVERS = {"luciole": {}, "luciole dense": {"dense_mass": True}, "luciole uncompressed": {"compress": False}}  # keywords of the kernel
PEERS = {"numpyro": "numpyro", "numpyro dense": "numpyro", "blackjax": "blackjax", "nutpie": "nutpie"}
NO_SECONDS = ("nutpie",)
LIMIT = 900  # seconds of one process


def luciole(request, kernel):
    import jax
    import models_numpyro

    import luciole as lc

    harness, spec = sys.modules["harness"], models_numpyro.REGISTRY[request.name]
    words = {"target_accept_prob": request.nuts["target_accept"]} if "target_accept" in request.nuts else {}
    data = spec.prep(request.data)

    def once():
        mcmc = lc.MCMC(
            lc.NUTS(spec.model, **words, **kernel),
            num_warmup=request.warmup, num_samples=request.draws, num_chains=request.chains, progress_bar=False,
        )  # fmt: skip
        mcmc.run(jax.random.PRNGKey(request.seed), **data)
        return mcmc, taken(request, mcmc.get_samples(group_by_chain=True))

    once()
    request.opts["in_hand"]()
    with harness.CompileClock() as clock:
        mcmc, draws = once()
    sampling = int(mcmc.sample_stats["n_steps"].sum())
    gradients = {"sampling": sampling, "warmup": int(mcmc.cost["gradient_evaluations"]) - sampling}
    return harness.Result(draws, clock.timing(), gradients, int(mcmc.sample_stats["diverging"].sum()))


def numpyro(request, dense):
    import jax
    import models_numpyro
    import numpy as np
    from numpyro.infer import MCMC, NUTS

    harness, spec = sys.modules["harness"], models_numpyro.REGISTRY[request.name]
    data, key = spec.prep(request.data), jax.random.PRNGKey(request.seed)

    def chains(draws):
        kernel = NUTS(spec.model, target_accept_prob=request.nuts.get("target_accept", 0.8), dense_mass=dense)
        sizes = {"num_warmup": request.warmup, "num_samples": draws, "num_chains": request.chains}
        return MCMC(kernel, **sizes, chain_method="vectorized", progress_bar=False)

    def once():
        mcmc = chains(request.draws)
        mcmc.run(key, extra_fields=("num_steps", "diverging"), **data)
        return taken(request, mcmc.get_samples(group_by_chain=True)), mcmc.get_extra_fields()

    once()
    request.opts["in_hand"]()
    with harness.CompileClock() as clock:
        draws, extra = once()
    warmup = None
    if request.opts["first"]:
        again = chains(1)
        again.warmup(key, collect_warmup=True, extra_fields=("num_steps",), **data)
        warmup = int(np.asarray(again.get_extra_fields()["num_steps"]).sum())
    gradients = {"sampling": int(np.asarray(extra["num_steps"]).sum()), "warmup": warmup}
    return harness.Result(draws, clock.timing(), gradients, int(np.asarray(extra["diverging"]).sum()))


def blackjax(request):
    return sys.modules["harness"].blackjax_vmap(request)


def nutpie(request):
    """Its sampler on NumPyro's density, by a Python call for every gradient."""
    import jax
    import models_numpyro
    import numpy as np
    import nutpie as library
    from jax.flatten_util import ravel_pytree
    from numpyro.infer.util import initialize_model
    from nutpie.compiled_pyfunc import from_pyfunc

    harness, spec = sys.modules["harness"], models_numpyro.REGISTRY[request.name]
    with harness.CompileClock() as clock:
        info = initialize_model(jax.random.PRNGKey(request.seed), spec.model, model_kwargs=spec.prep(request.data))
        flat, unravel = ravel_pytree(info.param_info.z)
        both = jax.jit(jax.value_and_grad(lambda q: -info.potential_fn(unravel(q))))

        def density():
            def one(q):
                value, slope = both(q)
                return float(value), np.asarray(slope)

            return one

        def point(*seeds):
            return lambda q: {"q": np.asarray(q)}

        dim = len(flat)
        compiled = from_pyfunc(dim, density, point, [np.dtype(float)], [(dim,)], ["q"])
        trace = library.sample(
            compiled, draws=request.draws, tune=request.warmup, chains=request.chains, cores=1, seed=request.seed,
            target_accept=request.nuts.get("target_accept", 0.8), progress_bar=False, save_warmup=True,
        )  # fmt: skip
        constrain = jax.jit(jax.vmap(jax.vmap(lambda q: info.postprocess_fn(unravel(q)))))
        draws = taken(request, constrain(np.asarray(trace.posterior["q"])))
    steps = [int(np.asarray(group["n_steps"]).sum()) for group in (trace.sample_stats, trace.warmup_sample_stats)]
    gradients = dict(zip(("sampling", "warmup"), steps, strict=True))
    return harness.Result(draws, clock.timing(), gradients, int(np.asarray(trace.sample_stats["diverging"]).sum()))


def taken(request, samples):
    import numpy as np

    return {name: np.asarray(samples[name], np.float64) for name in request.names}


def engine(name):
    if name in LEVERS:
        return lambda request: luciole(request, LEVERS[name])
    return {"blackjax": blackjax, "nutpie": nutpie}.get(name) or (lambda request: numpyro(request, name.endswith("dense")))


def child(name, posterior, seed, begun, first):
    """One cell: prints its record as a line of JSON."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    posteriors()  # puts the acceptance folder on the path
    import harness
    import jax

    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # else one program runs while the next is compiled, and goes off with it
    clock = {}

    def in_hand():
        clock.setdefault("whole", time.time() - float(begun))

    def timed(request):
        request.opts.update(first=first == "first", in_hand=in_hand)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = engine(name)(request)
        in_hand()
        return result

    harness.ENGINES[name] = timed
    sizes = SimpleNamespace(chains=4, warmup=1000, draws=1000, seed=int(seed), f32=False, warmup_grads=False, save_draws=None)
    record = harness.run_one(name, posterior, sizes)
    print(json.dumps({**record, **clock}))


def measured(name, posterior, seed, first, cache=""):
    """The record of one fresh process."""
    environment = {**os.environ, "LUCIOLE_CACHE_DIR": cache}
    command = [sys.executable, __file__, "--child", name, posterior, str(seed), str(time.time()), "first" if first else "later"]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT)
        return json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else {"verdict": "ERROR", "error": done.stderr[-300:]}
    except subprocess.TimeoutExpired:
        return {"verdict": "ERROR", "error": f"not done after {LIMIT} s"}


def cell(records):
    """What the seeds of one engine on one posterior come to."""
    good = [r for r in records if r["verdict"] != "ERROR"]
    found = {"verdict": "".join(r["verdict"][0] for r in records), "expect": records[0].get("expect", "PASS")}
    if not good:
        return found

    def per_draws(number):
        values = [EFFECTIVE * number(r) / min(r["min_ess_bulk"], MOST) for r in good if number(r) is not None]
        return median(values) if values else None

    warmup = median([r["grads_warmup"] for r in good if r["grads_warmup"] is not None] or [0])
    return found | {
        "seconds": per_draws(lambda r: r["cpu_sample_s"]),
        "gradients": per_draws(lambda r: r["grads_sampling"] + warmup),
        "cold": median([r["whole"] for r in good]),
        "ess": median([r["min_ess_bulk"] for r in good]),
    }


def run(names, engines, seeds):
    """By posterior and engine, the cell; prints them as they come."""
    table = {}
    with tempfile.TemporaryDirectory() as cache:
        for posterior in names:
            records = {name: [] for name in engines}
            for turn, seed in enumerate(seeds):
                for name in engines[:: -1 if turn % 2 else 1]:
                    records[name].append(measured(name, posterior, seed, turn == 0))
                    if records[name][-1]["verdict"] == "ERROR":
                        print(f"{posterior}, {name}, seed {seed}: {records[name][-1].get('error')}", flush=True)
            cells = {name: cell(found) for name, found in records.items()}
            if "luciole" in engines:
                warm = [measured("luciole", posterior, seeds[0], True, cache).get("whole") for _ in range(2)][1]
                cells["luciole"]["warm"] = warm
            table[posterior] = cells
            show(posterior, cells)
    return table


def show(posterior, cells):
    for name, found in cells.items():
        if "seconds" not in found:
            print(f"{posterior:52s} {name:16s} {found['verdict']}", flush=True)
            continue
        seconds = "      -" if name in NO_SECONDS else f"{found['seconds']:7.3f}"
        warm = f" warm {found['warm']:5.1f}" if found.get("warm") else ""
        row = (
            f"{seconds} s {found['gradients']:9.0f} gradients, ESS {found['ess']:6.0f}, cold {found['cold']:5.1f}{warm}  {found['verdict']}"
        )
        print(f"{posterior:52s} {name:16s} {row}", flush=True)


def ratios(table, name, against):
    """By posterior that is expected to converge, how many times as fast `name` is as the fastest of `against`."""
    found = {}
    for posterior, cells in table.items():
        if any(c["expect"] != "PASS" for c in cells.values()):
            continue
        rivals = [cells[a]["seconds"] for a in against if "seconds" in cells.get(a, {})]
        if rivals and "seconds" in cells.get(name, {}):
            found[posterior] = min(rivals) / cells[name]["seconds"]
    return found


def geometric(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def verdict(table, ours):
    """Prints the geometric means; whether the bounds hold."""
    best = ratios(table, ours, ["numpyro", "numpyro dense"])
    default = ratios(table, ours, ["numpyro"])
    judged = all(set(cells[ours]["verdict"]) <= {"P"} for cells in table.values() if cells[ours]["expect"] == "PASS")
    if not default:
        return judged
    worst = min(default, key=default.__getitem__)
    print(f"\n{ours}: {geometric(default.values()):.2f} times as fast as NumPyro's default (bound 5), ", end="")
    print(f"{geometric(best.values()):.2f} times as fast as its better metric (bound 2); least {default[worst]:.2f} ({worst}; bound 0.9)")
    print(f"{ours}: verdicts {'as expected' if judged else 'NOT as expected'}")
    return judged and geometric(default.values()) >= 5 and geometric(best.values()) >= 2 and default[worst] >= 0.9


PAGE = """# What 400 effective draws cost

{posteriors} open posteriors, 4 chains of 1000 + 1000 transitions, library defaults, float64, one core; {seeds}. Processor seconds
(compilation apart, warm-up included) and thousands of gradients to 400 effective draws of the parameter that has the fewest; then the
verdict against the reference draws, seed by seed: P(ass), F(ail), N(ot converged: eight schools centered is expected to), E(rror). The
last column is the time of a whole first run by the clock. Written by `python3 dev.py bench suite --table docs/benchmarks.md`, which says
the rest; {versions}.

{means}

"""


def page(table, engines, seeds):
    """The table as Markdown, with a word before it."""
    versions = ", ".join(f"{p} {importlib.import_module(p).__version__}" for p in ("luciole", "numpyro", "jax"))
    means = [
        f"- {name}: {geometric(default.values()):.2f} times as fast as NumPyro's default, {geometric(best.values()):.2f} times as fast as "
        "the better of its two metrics (geometric means)"
        for name in engines
        if name in LEVERS and (default := ratios(table, name, ["numpyro"])) and (best := ratios(table, name, ["numpyro", "numpyro dense"]))
    ]
    named = {"posteriors": len(table), "seeds": "seeds " + ", ".join(map(str, seeds)), "versions": versions, "means": "\n".join(means)}
    return PAGE.format(**named) + rows(table, engines)


def rows(table, engines):
    lines = ["| posterior | " + " | ".join(engines) + " | cold, NumPyro / ours / ours warm |", "|" + "---|" * (len(engines) + 2)]
    for posterior, cells in table.items():
        row = []
        for name in engines:
            found = cells[name]
            seconds = "" if name in NO_SECONDS else f"{found['seconds']:.3g} s, " if "seconds" in found else ""
            row.append(f"{seconds}{found['gradients'] / 1000:.3g}k, {found['verdict']}" if "seconds" in found else found["verdict"])
        cold = [cells.get("numpyro", {}).get("cold"), cells.get("luciole", {}).get("cold"), cells.get("luciole", {}).get("warm")]
        starts = " / ".join(f"{c:.1f}" if c else "-" for c in cold)
        lines.append(f"| {posterior} | " + " | ".join(row) + f" | {starts} |")
    return "\n".join(lines) + "\n"


def main(words):
    if words[:1] == ["--child"]:
        return child(*words[1:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    engines = [n for n in (*LEVERS, *PEERS) if n in LEVERS or importlib.util.find_spec(PEERS[n])]
    parser.add_argument("--posteriors", nargs="+", default=[""], help="parts of their names")
    parser.add_argument("--engines", nargs="+", choices=engines, default=engines)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--table", type=Path, help="where the table is written, as Markdown")
    options = parser.parse_args(words)
    names = [name for name in posteriors() if (FOLDER / "posteriors" / name).is_dir() and any(part in name for part in options.posteriors)]
    announce("a fresh process for every cell, on one core")
    table = run(names, options.engines, options.seeds)
    if options.table:
        options.table.write_text(page(table, options.engines, options.seeds))
        print(f"\nwritten to {options.table}")
    held = [verdict(table, name) for name in options.engines if name in LEVERS]
    print(f"bounds {'hold' if held and held[0] else 'DO NOT HOLD'}")


if __name__ == "__main__":
    main(sys.argv[1:])
