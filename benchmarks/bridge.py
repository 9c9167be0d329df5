"""Whether the error that bridge sampling states is the error that it has. One core.

    taskset -c 0 python dev.py bench bridge [row ...]

Rows; all of them without arguments:

    calibration  (estimate - exact) / standard error over 50 runs of NUTS, on models whose evidence is known: mean and sd, 0 and 1 if right
    sizes        the same for other numbers of chains and draws, on two models
    cost         seconds for the estimate against the run that it is made of

The models lie in shared/acceptance beside the checkout. With 50 runs the sd is known to a tenth. Centred eight schools are there as what
NUTS does not sample: the estimate must say so. Warm-up: programs are compiled by the first of the runs, which is not timed.
"""

import statistics
import sys
import time
import warnings

import jax
import numpy as np
from _common import announce, known, median

import luciole as lc

RUNS = 50
SUSPECT = (lc.DivergenceWarning, lc.FewEffectiveDrawsWarning, lc.UnmixedChainsWarning)


def models():
    """By name: the model, its arguments, its exact log evidence."""
    return {name: make(seed=0) for name, make in known().MODELS.items()}


def runs(problem, chains, draws, number=RUNS):
    """By run: the estimate, whether it warned, seconds for the run and for the estimate."""
    model, args, _ = problem
    mcmc = lc.MCMC(lc.NUTS(model), num_warmup=500, num_samples=draws, num_chains=chains, progress_bar=False)
    for seed in range(number):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            begun = time.perf_counter()
            mcmc.run(jax.random.key(seed), *args)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ran = time.perf_counter()
            found = lc.bridge_evidence(mcmc, jax.random.key(1000 + seed))
        yield found, any(issubclass(w.category, SUSPECT) for w in caught), ran - begun, time.perf_counter() - ran


def report(name, problem, chains, draws):
    found = list(runs(problem, chains, draws))
    exact = problem[2]
    scores = [(f.log_evidence - exact) / f.stderr for f, *_ in found]
    errors = [f.log_evidence - exact for f, *_ in found]
    print(
        f"{name:34} {chains:3} x {draws:4}  exact {exact:9.3f}  "
        f"z: mean {statistics.mean(scores):5.2f}, sd {statistics.stdev(scores):4.2f}  "
        f"stated error {median([f.stderr for f, *_ in found]):.4f}, rms error {np.sqrt(np.mean(np.square(errors))):.4f}  "
        f"effective {median([f.effective_draws for f, *_ in found]):5.0f} of {found[0][0].num_draws}  "
        f"warned {sum(warned for _, warned, *_ in found):2} of {len(found)}",
        flush=True,
    )


def calibration():
    for name, problem in models().items():
        report(name, problem, 4, 1000)


def sizes():
    problems = models()
    for name in ("unknown scale half_normal n 10", "eight schools, non-centred"):
        for chains, draws in ((1, 2000), (4, 250), (32, 100), (100, 20)):
            report(name, problems[name], chains, draws)


def cost():
    for name, problem in models().items():
        _, *timed = runs(problem, 4, 1000, 6)
        ran, estimated = (median([t[i] for t in timed]) for i in (2, 3))
        print(f"{name:34} run {ran:6.3f} s, estimate {estimated:6.3f} s: {estimated / ran:.3f}", flush=True)


ROWS = {f.__name__: f for f in (calibration, sizes, cost)}

if __name__ == "__main__":
    announce("every program is compiled by a first run that is not timed")
    for row in sys.argv[1:] or ROWS:
        print(f"-- {row}", flush=True)
        ROWS[row]()
