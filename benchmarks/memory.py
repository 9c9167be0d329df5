"""What runs hold in memory: a long run with a store against a short one, and many fits in one process.

    python3 dev.py bench memory [draws]

Every figure is the resident memory of a fresh process, the largest that it had while it sampled, above what it had when the chains began.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import jax
import numpy as np
import numpyro.distributions as dist
from _common import announce

import luciole as lc

DIM = 100
DRAWS = 1_000_000
FITS = 50


def model(scale):
    lc.sample("x", dist.Normal(0.0, scale).to_event(1))


def other(i):
    """A model that no other fit has: it compiles anew."""

    def fresh(y):
        mu = lc.sample("mu", dist.Normal(0.0, 1.0 + i))
        lc.sample("y", dist.Normal(mu, 1.0), obs=y)

    return fresh


def resident() -> float:
    """MB that the process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def long(draws, store):
    """Draws in four chains of cheap transitions."""
    kernel = lc.HMC(model, num_steps=4, step_size=0.5, inverse_mass_matrix=np.ones(DIM))
    scale = np.ones(DIM, np.float32)
    options = {"num_warmup": 100, "num_chains": 4, "progress_bar": False}
    lc.MCMC(kernel, num_samples=1000, **options).run(jax.random.key(0), scale)
    before = resident()
    mcmc = lc.MCMC(kernel, num_samples=draws // 4, store=store, **options).run(jax.random.key(0), scale)
    after, most = resident(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    assert mcmc.state.position.shape == (4, DIM)
    return {"held": after - before, "most": most - before, "seconds": mcmc.cost["sampling_seconds"]}


def fits(fresh):
    """Fits of one model on new data, or of models that are all different; MB after the fifth and after the last."""
    found = []
    for i in range(FITS):
        data = np.random.default_rng(i).normal(size=1000).astype(np.float32)
        kernel = lc.NUTS(other(i) if fresh else other(0))
        lc.MCMC(kernel, num_warmup=100, num_samples=100, num_chains=2, progress_bar=False).run(jax.random.key(i), data)
        found.append(resident())
    return {"fifth": found[4], "last": found[-1]}


def child(name, *arguments):
    warnings.simplefilter("ignore")
    given = [json.loads(a) for a in arguments]
    print(json.dumps({"long": long, "fits": fits}[name](*given)))


def asked(name, *arguments):
    command = [sys.executable, __file__, "child", name, *map(json.dumps, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main(arguments):
    if arguments[:1] == ["child"]:
        child(*arguments[1:])
        return
    announce("a run of 1,000 draws before, so that everything is compiled")
    draws = int(float(arguments[0])) if arguments else DRAWS
    print(f"{'draws of 100 numbers':32s} {'held':>9s} {'most':>9s} {'s':>7s}")
    with tempfile.TemporaryDirectory() as place:
        for number in (draws // 100, draws):
            for store in (f"{place}/{number}.zarr", None):
                seen = asked("long", number, store)
                name = f"{number:,}, {'with a store' if store else 'in memory'}"
                print(f"{name:32s} {seen['held']:6.0f} MB {seen['most']:6.0f} MB {seen['seconds']:7.1f}", flush=True)
    for fresh in (False, True):
        seen = asked("fits", fresh)
        name = f"{FITS} fits, {'all different' if fresh else 'new data'}"
        print(f"{name:32s} {seen['last'] - seen['fifth']:6.1f} MB after the fifth", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
