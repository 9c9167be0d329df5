"""Value and gradient of a log density against NumPyro's, and the time until they are lowered.

    python3 dev.py bench density [part of a posterior's name] ...

The density gets its data as arguments of the compiled function. NumPyro's potential is timed both ways: data as arguments, as ours,
and as constants that the compiler may fold. Bounds: the median ratio to the former is at most 1.05 and none is above 1.25; trace and
lower together take at most 1.2 times NumPyro's.
"""

import sys
import time

import jax
import numpy as np
from _common import announce, interleaved, median, posteriors
from numpyro.infer.util import potential_energy

jax.config.update("jax_enable_x64", True)
REPEATS, SECONDS = 5, 0.02
LOWERINGS = 6


def ours(model, kwargs):
    import luciole as lc
    from luciole import transforms as lt

    density = lc.log_density(model, **kwargs)
    return jax.jit(lambda density, position: lt.value_and_grad(density)(position)), density


def theirs_on_arguments(model, kwargs):
    arrays = {name: value for name, value in kwargs.items() if isinstance(value, (jax.Array, np.ndarray))}
    others = {name: value for name, value in kwargs.items() if name not in arrays}

    def log_density(arrays, position):
        return -potential_energy(model, (), {**others, **arrays}, position)

    return jax.jit(jax.value_and_grad(log_density, argnums=1)), arrays


def theirs_on_constants(model, kwargs):
    return jax.jit(jax.value_and_grad(lambda _, position: -potential_energy(model, (), kwargs, position), argnums=1)), ()


ENGINES = {"luciole": ours, "arguments": theirs_on_arguments, "constants": theirs_on_constants}


def run_times(model, kwargs, position):
    """By engine, the best time of a call in seconds."""
    calls = {}
    for name, make in ENGINES.items():
        function, data = make(model, kwargs)
        compiled = function.lower(data, position).compile()
        calls[name] = lambda compiled=compiled, data=data: jax.block_until_ready(compiled(data, position))
        calls[name]()
    once = min(min(times) for times in interleaved(calls, 3).values())
    number = max(1, int(SECONDS / once))

    def many(call):
        return lambda: [call() for _ in range(number)]

    times = interleaved({name: many(call) for name, call in calls.items()}, REPEATS)
    return {name: min(values) / number for name, values in times.items()}


def lowering_times(model, kwargs, position):
    """By engine, the median time from the model to the lowered value and gradient."""

    def lower(make):
        def run():
            function, data = make(model, kwargs)
            function.lower(data, position)

        return run

    functions = {name: lower(ENGINES[name]) for name in ("luciole", "arguments")}
    for function in functions.values():
        function()
    return {name: median(values) for name, values in interleaved(functions, LOWERINGS).items()}


def main(patterns):
    found = {name: entry for name, entry in posteriors().items() if not patterns or any(p in name for p in patterns)}
    announce(
        f"one call before timing; best of {REPEATS} blocks of at least {SECONDS * 1e3:.0f} ms, engines in turn, order alternating. "
        f"Lowering: one of each first, median of {LOWERINGS}, in turn"
    )
    print(f"{'':50s} {'value and gradient':>30s} | {'ratio to NumPyro on':>23s} | {'trace + lower':>20s}")
    print(
        f"{'posterior':50s} {'luciole':>10s}{'arguments':>10s}{'constants':>10s} | "
        f"{'arguments':>11s} {'constants':>11s} | {'luciole':>8s} {'ratio':>11s}"
    )
    ratios, folded, lowered = [], [], []
    begin = time.perf_counter()
    import luciole as lc

    for name, (model, kwargs) in found.items():
        rng = np.random.default_rng(0)
        position = {n: rng.uniform(-1, 1, s.shape) for n, s in lc.log_density(model, **kwargs).positions.items()}
        t = run_times(model, kwargs, position)
        low = lowering_times(model, kwargs, position)
        ratios.append(t["luciole"] / t["arguments"])
        folded.append(t["luciole"] / t["constants"])
        lowered.append(low["luciole"] / low["arguments"])
        micro = "".join(f"{t[engine] * 1e6:8.1f}us" for engine in ENGINES)
        print(f"{name:50s} {micro} | {ratios[-1]:11.3f} {folded[-1]:11.3f} | {low['luciole'] * 1e3:6.0f}ms {lowered[-1]:11.3f}", flush=True)
    print(f"{'median':80s} | {median(ratios):11.3f} {median(folded):11.3f} | {median(lowered):20.3f}")
    print(f"{'largest':80s} | {max(ratios):11.3f} {max(folded):11.3f} | {max(lowered):20.3f}")
    kept = median(ratios) <= 1.05 and max(ratios) <= 1.25 and median(lowered) <= 1.2
    print(f"\nbounds {'hold' if kept else 'DO NOT HOLD'}; {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
