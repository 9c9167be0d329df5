"""Gradients through training runs: the four ways back, side by side, and what an exact reversal costs and keeps.

    python dev.py bench hypergradient [row ...]

Rows; all of them without arguments:

    table       the four strategies at 100, 1,000 and 10,000 steps: memory (the compiler's, and as predicted), seconds, evaluations, error
                against float64; the crossover of what is kept between reversible and tree. `table 100 1000` runs these steps alone
    forward     time of a gradient against the training run alone, and against the tape, in one process, interleaved
    restarts    8 restarts under vmap against one
    exact       10,000 steps undone in float32 and float64: all bits compared, and the bits that the store took
    precision   100 steps in float64: every kind of hyperparameter against JAX's tape

The network is 784-50-50-50-10 with tanh, 44,860 parameters, batches of 200 of MNIST's 10,000 test images from shared/data (random images
if they are not there); step sizes and decays for each step and layer, a penalty for each weight.
Warm-up: every program is compiled and run once before it is timed; medians.
"""

import sys
import time
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from _common import announce, interleaved, median, mnist

import luciole as lc
from luciole import transforms as lt
from luciole.inference.hypergradient.call import planned
from luciole.inference.hypergradient.given import check_training, trace_functions
from luciole.inference.hypergradient.memory import predicted_bytes
from luciole.inference.hypergradient.program import Data, Problem, compiled
from luciole.inference.hypergradient.training import Training
from luciole.transforms.reversible import reversible_loop, sgd_momentum
from luciole.transforms.reversible.reversal import Reversal
from luciole.transforms.reversible.traced import trace_update

SIZES, BATCH = (784, 50, 50, 50, 10), 200
STRATEGIES = ("tape", "sqrt", "tree", "reversible")
DECAY = 0.9


def data():
    found = mnist()
    if found is None:
        rng = np.random.default_rng(0)
        found = rng.uniform(size=(10_000, 784)).astype(np.float32), rng.integers(0, 10, 10_000).astype(np.int32)
    return found


IMAGES, LABELS = data()


def logits(params, x):
    for number, layer in enumerate(params):
        x = x @ layer["w"] + layer["b"]
        x = jnp.tanh(x) if number < len(params) - 1 else x
    return x


def nll(params, images, labels):
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits(params, images)), labels[:, None], 1))


def train_loss(params, hypers, step):
    rows = (step * BATCH + jnp.arange(BATCH, dtype=jnp.int32)) % 8000
    images = jnp.asarray(IMAGES, float)[rows]
    penalty = sum(jnp.sum(l2 * layer["w"] ** 2) for l2, layer in zip(hypers["l2"], params, strict=True))
    return nll(params, images, jnp.asarray(LABELS)[rows]) + penalty


def valid_loss(params):
    return nll(params, jnp.asarray(IMAGES[8000:9000], float), jnp.asarray(LABELS[8000:9000]))


def start(num_steps, seed=0, decays=(DECAY, DECAY)):
    """params, hypers."""
    rng = np.random.default_rng(seed)
    params = [{"w": jnp.asarray(rng.normal(size=(a, b)) / np.sqrt(a), float), "b": jnp.zeros(b)} for a, b in pairwise(SIZES)]
    by_layer = lambda low, high: [  # noqa: E731
        {"w": jnp.asarray(rng.uniform(low, high, num_steps), float), "b": jnp.asarray(rng.uniform(low, high, num_steps), float)}
        for _ in params
    ]
    hypers = {"step_size": by_layer(0.1, 0.3), "decay": by_layer(*decays), "l2": [jnp.full(p["w"].shape, 1e-4, float) for p in params]}
    return params, hypers


def problem_of(strategy, params, hypers, num_steps):
    """The problem as `hypergradient` plans it, what it keeps, and its data."""
    loss, valid, _ = trace_functions(train_loss, valid_loss, params, None, hypers)
    data = Data(loss.consts, valid.consts, ())
    problem = Problem(Training(loss.function, "sgd_momentum"), valid.function, None, num_steps, strategy, (), num_steps, 4)
    return *planned(problem, params, hypers, data, 1e11), data


def largest(found, expected):
    """The largest error of any leaf, relative to its largest number."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return max(float(np.max(np.abs(np.asarray(a, np.float64) - np.asarray(b))) / np.max(np.abs(np.asarray(b)))) for a, b in pairs)


def end_by_scan(params, hypers):
    """The validation loss after the same training, written out for JAX."""
    decays = jax.tree.map(lambda f: f + jax.lax.stop_gradient(jnp.round(f * 2**16) / 2**16 - f), hypers["decay"])

    def step(s, i):
        g = jax.grad(train_loss)(s[0], hypers, i)
        v = jax.tree.map(lambda f, v, g: f[i] * v - (1 - f[i]) * g, decays, s[1], g)
        return (jax.tree.map(lambda x, a, v: x + a[i] * v, s[0], hypers["step_size"], v), v), None

    first = params, jax.tree.map(jnp.zeros_like, params)
    return valid_loss(jax.lax.scan(step, first, jnp.arange(hypers["step_size"][0]["b"].size, dtype=jnp.int32))[0][0])


def runner(program, *arguments):
    return lambda: jax.block_until_ready(program(*arguments))


def table(*steps):
    """Each strategy at each number of steps, one process, in turn."""
    print("  steps    strategy       MB predicted  kept MB    evals  seconds  ms/step  /tape     error")
    for num_steps in [int(s) for s in steps] or (100, 1000, 10_000):
        with jax.enable_x64(True):
            wide = lc.hypergradient(train_loss, valid_loss, *start(num_steps), num_steps=num_steps, strategy="tree", probe=False)
            reference = jax.tree.map(np.asarray, wide.gradient)
        params, hypers = check_training(Training(train_loss, "sgd_momentum"), *start(num_steps), num_steps)
        found = {s: problem_of(s, params, hypers, num_steps) for s in STRATEGIES}
        programs = {s: compiled(problem, params, hypers, data) for s, (problem, _, data) in found.items()}
        runs = {s: runner(p.run, params, hypers, found[s][2]) for s, p in programs.items()}
        outcomes = {s: run() for s, run in runs.items()}
        times = {s: median(t) for s, t in interleaved(runs, 3 if num_steps > 2000 else 7).items()}
        jaxs = jax.jit(jax.grad(end_by_scan, 1)).lower(params, hypers).compile()
        print(f"{num_steps:>7,} {'jax.grad':>11} {jaxs.memory_analysis().temp_size_in_bytes / 1e6:>8.2f}  (of jax.lax.scan; memory alone)")
        for s, (problem, chosen, data) in found.items():
            assert bool(outcomes[s].report.exact), s
            predicted = predicted_bytes(problem.on(data), params, hypers, chosen.kept_bytes)
            megabytes, kept, seconds = programs[s].bytes / 1e6, chosen.kept_bytes / 1e6, times[s]
            print(
                f"{num_steps:>7,} {s:>11} {megabytes:>8.2f} {predicted / programs[s].bytes:>8.3f}x {kept:>8.2f} {chosen.evaluations:>8,} "
                f"{seconds:>8.2f} {1e3 * seconds / num_steps:>8.2f} {seconds / times['tape']:>5.2f}x "
                f"{largest(outcomes[s].gradient, reference):>9.1e}",
                flush=True,
            )
    crossover()


def crossover():
    """The number of steps beyond which a tree of float32 states keeps less than the reversal of SGD with momentum."""
    for decay in (0.5, 0.9, 0.98):
        for num_steps in np.unique(np.geomspace(10, 1e6, 400).astype(int)):
            params, hypers = start(2)
            hypers = {**hypers, "step_size": jnp.float32(0.1), "decay": jnp.float32(decay)}
            kept = {s: problem_of(s, params, hypers, int(num_steps))[1].kept_bytes for s in ("tree", "reversible")}
            if kept["reversible"] > kept["tree"]:
                print(f"decay {decay}: beyond {num_steps:,} steps a tree keeps less ({kept['tree'] / 1e6:.1f} MB)")
                break
        else:
            print(f"decay {decay}: up to a million steps the reversal keeps less ({kept['reversible'] / 1e6:.1f} MB)")


def forward():
    """Ratios of medians to training alone."""
    for num_steps in (100, 1000):
        params, hypers = check_training(Training(train_loss, "sgd_momentum"), *start(num_steps), num_steps)
        runs = {}
        for s in ("tape", "reversible"):
            problem, _, data = problem_of(s, params, hypers, num_steps)
            runs[s] = runner(compiled(problem, params, hypers, data).run, params, hypers, data)
        problem, _, data = problem_of("tape", params, hypers, num_steps)
        train = jax.jit(lambda p, h, d, problem=problem: problem.on(d).only_train(p, h))
        runs["training alone"] = runner(train, params, hypers, data)
        for run in runs.values():
            run()
        times = {s: median(t) for s, t in interleaved(runs, 7).items()}
        alone = times["training alone"]
        print(
            f"{num_steps:,} steps: training alone {1e3 * alone / num_steps:.2f} ms a step; gradient by tape {times['tape'] / alone:.2f}x, "
            f"reversible {times['reversible'] / alone:.2f}x (reversible / tape {times['reversible'] / times['tape']:.2f}x)",
            flush=True,
        )


def restarts():
    """8 restarts from different parameters, in one program."""
    num_steps = 100
    _, hypers = start(num_steps)

    def gradient(params, hypers):
        def end(hypers):
            update = sgd_momentum(lambda p, i: train_loss(p, hypers, i), hypers["step_size"], hypers["decay"], decay_at_least=0.5)
            state = {"position": params, "velocity": jax.tree.map(jnp.zeros_like, params)}
            return valid_loss(reversible_loop(update, state, num_steps, "reversible")["position"])

        return lt.value_and_grad(end)(hypers)

    many = jax.tree.map(lambda *xs: jnp.stack(xs), *[start(num_steps, seed)[0] for seed in range(8)])
    one, eight = jax.jit(gradient), jax.jit(jax.vmap(gradient, (0, None)))
    runs = {
        "one": lambda: jax.block_until_ready(one(jax.tree.map(lambda x: x[0], many), hypers)),
        "eight": lambda: jax.block_until_ready(eight(many, hypers)),
    }
    made = {name: run() for name, run in runs.items()}
    finite = all(np.isfinite(x).all() for x in jax.tree.leaves(made["eight"]))  # NaN unless undone exactly
    error = largest(jax.tree.map(lambda x: x[0], made["eight"][1]), made["one"][1])
    times = {s: median(t) for s, t in interleaved(runs, 7).items()}
    print(f"8 restarts: {times['eight'] / times['one']:.2f}x the time of one ({1e3 * times['one'] / num_steps:.2f} ms a step); "
          f"exact: {finite}; the first equals the one alone to {error:.1e}")  # fmt: skip


def exact():
    """Every bit after 10,000 steps."""
    for wide in (False, True):
        with jax.enable_x64(wide):
            params, hypers = start(10_000)
            state = {"position": params, "velocity": jax.tree.map(jnp.zeros_like, params)}
            hypers = {**hypers, "decay": DECAY}
            training = Training(train_loss, "sgd_momentum")
            program, consts, theta = trace_update(training.update, hypers, state, 10_000)
            theta = jax.tree.leaves(hypers)
            reversal = Reversal(program, 10_000)

            def run(carry, theta, reversal=reversal, consts=consts):
                outs, kept = reversal.record(consts, theta, carry)
                return outs, reversal.reverse(consts, theta, carry, kept, outs)[2]

            begun = time.perf_counter()
            _, report = jax.block_until_ready(jax.jit(run)(jax.tree.leaves(state), theta))
            numbers = sum(program.types[leaf].size for leaf in program.slot_leaf)
            words = sum((w + 1) * program.types[leaf].size for w, leaf in zip(program.words, program.slot_leaf, strict=True))
            bits, bar = 16 * words / numbers / 10_000 + 64 / 10_000, 1.1 * np.log2(1 / DECAY) + 64 / 10_000
            print(
                f"{'float64' if wide else 'float32'}, {numbers:,} parameters, 10,000 steps: exact {bool(report.exact)}, in range "
                f"{bool(report.in_range)}; store {bits:.4f} bits a parameter and step, remainder included (log2(1/decay) = "
                f"{np.log2(1 / DECAY):.4f}, bar {bar:.4f}); {time.perf_counter() - begun:.0f} s with compiling",
                flush=True,
            )


def precision():
    """Against JAX's tape in float64, by kind."""
    num_steps = 100
    with jax.enable_x64(True):
        params, hypers = start(num_steps, decays=(0.5, 0.95))

        expected, by_hypers = jax.jit(jax.grad(end_by_scan, (0, 1)))(params, hypers)
        for s in ("reversible", "tape", "sqrt", "tree"):
            found = lc.hypergradient(train_loss, valid_loss, params, hypers, num_steps=num_steps, strategy=s, probe=False)
            errors = {name: largest(found.gradient[name], by_hypers[name]) for name in hypers}
            errors["params"] = largest(found.initial_gradient, expected)
            print(f"{s:>11}: " + ", ".join(f"{name} {e:.1e}" for name, e in errors.items()), flush=True)


ROWS = {f.__name__: f for f in (table, forward, restarts, exact, precision)}


def main(*arguments):
    announce("every program is compiled and run once before it is timed")
    names = [a for a in arguments if a in ROWS] or list(ROWS)
    rest = [a for a in arguments if a not in ROWS]
    for name in names:
        print(f"--- {name}")
        (partial(ROWS[name], *rest) if name == "table" else ROWS[name])()


if __name__ == "__main__":
    main(*sys.argv[1:])
