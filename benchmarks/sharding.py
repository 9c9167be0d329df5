"""What is predicted of a partitioned program against what is measured, on eight forced host devices.

    python dev.py bench sharding [section ...]

Sections; all of them without arguments:

    simulator    a training step of a transformer of two layers under twelve lists of tactics: operations and peak memory against the
                 compiler's own analysis, estimated seconds against measured ones (medians of five, taken in turn), and their rank
                 correlation
    annotations  how many sharding constraints `jit` needs inside of a model to reach the collectives that tactics give it: batch
                 parallelism with all state sharded (BP+Z3) on a transformer, edge sharding on a network of message passing. Operands of
                 collectives in the compiled program. In no run on a CPU did XLA make a reduce_scatter of its own: read `jit`'s all_reduce
                 as reduce_scatter and all_reduce together, and repeat it on the machine that you care about
    speed        seconds of `partition`, phase by phase, for a program of 2,000 equations and for the step of a transformer of 32 layers
                 (BP+MP+Z3); with --full also XLA's seconds to compile that step, which may take minutes

The model lies in shared/acceptance beside the checkout. The devices share the machine's cores: the seconds rank, and nothing more. The
estimate counts with hardware that is measured at the start, and never with the times in the table. Warm-up: each program runs twice first.
"""

import os
import sys
import time

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import numpy as np
from _annotations import Marks, graph_arguments, graph_choices, graph_step, transformer_choices, transformer_step
from _common import FOLDER, announce, interleaved, median
from jax.sharding import Mesh

from luciole import sharding as ls
from luciole.sharding.check import compiled_collectives
from luciole.sharding.graph import graph_of
from luciole.sharding.schedule import apply_tactic

MESH = {"batch": 4, "model": 2}
SIZE = {"d": 256, "h": 4, "dh": 64, "ff": 1024, "vocab": 2048}
PHASES = ("trace", "graph", "spread", "lower", "simulate")
LAYERS, BATCH, LENGTH, REPEATS = 2, 16, 64, 5
STRATEGIES = (
    "none", "BP", "MP", "BP+MP", "BP+MP+Z2", "BP+MP+Z3", "BP+Z3", "MP+EMB", "BP+MP+EMB", "BP+MP+Z3+EMB", "BP+BP2", "BP+BP2+Z3",
)  # fmt: skip


def transformer():
    """The module of training steps, of the acceptance folder; leaves with a message where there is none."""
    if not (FOLDER / "transformer.py").is_file():
        sys.exit("This benchmark takes its model from acceptance/transformer.py in shared/ beside the checkout, and it is not there.")
    sys.path.insert(0, str(FOLDER))
    import transformer

    return transformer


def arguments(model):
    """Parameters, state of the optimiser and a batch, random."""
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda s: jnp.asarray(0.02 * random.standard_normal(s.shape), s.dtype), model.shapes("layer_norm", LAYERS, **SIZE)
    )
    data = {name: jnp.asarray(random.integers(0, SIZE["vocab"], (BATCH, LENGTH)), jnp.int32) for name in ("tok", "tgt")}
    zeros = jax.tree.map(jnp.zeros_like, params)
    return params, {"m": zeros, "v": zeros}, data


def ranks_correlate(a, b):
    """Spearman's rank correlation."""
    ranks = [np.argsort(np.argsort(x)) for x in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


def simulator():
    model = transformer()
    hardware = ls.calibrate()
    print(
        f"measured: {hardware.flops / 1e9:.3g} Gflop/s, memory {hardware.memory_bandwidth / 1e9:.3g} GB/s, "
        f"links {hardware.link_bandwidth / 1e9:.3g} GB/s, {hardware.latency * 1e3:.3g} ms for a collective\n"
    )
    tactics = {**model.tactics(ls), "BP2": ls.ManualPartition({"batch": 0}, axis="model")}
    args, parts, analyses, calls = arguments(model), {}, {}, {}
    for name in STRATEGIES:
        chosen = [tactics[word] for word in name.split("+") if word != "none"]
        part = parts[name] = ls.partition(model.step, args, MESH, chosen, carry={"p": "p", "opt": "opt"}, hardware=hardware)
        compiled = part.lower().compile()
        memory = compiled.memory_analysis()
        total = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
        analyses[name] = compiled.cost_analysis()["flops"], total
        placed = jax.device_put(args, part.in_shardings)
        calls[name] = lambda part=part, placed=placed: jax.block_until_ready(part(*placed))
        calls[name]()
    interleaved(calls, 1)
    seconds = {name: median(times) for name, times in interleaved(calls, REPEATS).items()}
    print(f"{'tactics':14} collectives  operations/compiler  peak MiB  peak/compiler  estimated ms  measured ms")
    for name, part in parts.items():
        report, (flops, peak) = part.reports[-1], analyses[name]
        print(
            f"{name:14} {sum(report.collectives.values()):11d}  {report.flops / flops:19.3f}  {report.peak_bytes / 2**20:8.1f}  "
            f"{report.peak_bytes / peak:13.2f}  {report.seconds * 1e3:12.1f}  {seconds[name] * 1e3:11.1f}"
        )
    estimated = [part.reports[-1].seconds for part in parts.values()]
    print(f"\nrank correlation of estimated and measured seconds: {ranks_correlate(estimated, list(seconds.values())):.2f}")


def annotations():
    model, mesh = transformer(), Mesh(np.array(jax.devices()).reshape(4, 2), ("batch", "model"))
    shapes = model.shapes("layer_norm", 2, d=64, h=4, dh=16, ff=256, vocab=128)
    tokens = jax.ShapeDtypeStruct((16, 32), jnp.int32)
    args = shapes, {"m": shapes, "v": shapes}, {"tok": tokens, "tgt": tokens}
    tactics = model.tactics(ls)
    part = ls.partition(model.step, args, mesh, [tactics["BP"], tactics["Z3"]], carry={"p": "p", "opt": "opt"})
    stored = {"emb": part.in_specs[0]["emb"], **part.in_specs[0]["layers"][0]}
    annotated("BP+Z3, transformer of 2 layers", part, args, transformer_choices(stored.get), lambda mark: transformer_step(model, mark), 2)
    args = graph_arguments()
    edges = ls.ManualPartition({"graph.edges": 0, "graph.senders": 0, "graph.receivers": 0}, axis="data")
    part = ls.partition(graph_step(lambda place, x, name="": x), args, Mesh(np.array(jax.devices()), ("data",)), [edges], carry={"p": "p"})
    annotated("edge sharding, 2 steps of message passing", part, args, graph_choices(), graph_step, 2)


def annotated(title, part, args, choices, step_of, layers):
    """One table: constraints inside of the model, and the collectives of the compiled program."""
    checked = part.check(compiled=True)
    kinds = [*checked.compiled, *(k for k in ("collective_permute",) if k not in checked.compiled)]
    print(f"{title}\n{'':34}{'constraints':>12}{'a layer':>9}  {'  '.join(kinds)}")

    def row(name, constraints, found):
        counts = "  ".join(f"{found.get(kind, 0):{len(kind)}d}" for kind in kinds)
        print(f"{name:34}{constraints:12d}{constraints / layers:9.1f}  {counts}", flush=True)

    row("tactics", 0, checked.compiled)
    for name, chosen in choices.items():
        mark = Marks(part.mesh, chosen)
        jitted = jax.jit(step_of(mark), in_shardings=part.in_shardings, out_shardings=part.out_shardings)
        found = compiled_collectives(jitted.lower(*args).compile().as_text())
        row(f"jit, {name}", mark.count, found)
    print()


def speed():
    heads = "".join(f"{phase:>10}" for phase in ("equations", *PHASES))
    print(f"{'seconds of':28}{heads}{'partition, tracing apart':>26}")
    weights = [jax.ShapeDtypeStruct((64, 64), jnp.float32)] * 10
    rows = ls.ManualPartition({"x": 0}, axis="batch")
    phases("2,000 equations", repeated, (weights, jax.ShapeDtypeStruct((128, 64), jnp.float32)), [rows], {})
    model = transformer()
    shapes = model.shapes("layer_norm", 32, d=64, h=4, dh=16, ff=256, vocab=512)
    tokens = jax.ShapeDtypeStruct((16, 32), jnp.int32)
    tactics = model.tactics(ls)
    args = shapes, {"m": shapes, "v": shapes}, {"tok": tokens, "tgt": tokens}
    carry = {"p": "p", "opt": "opt"}
    part, seconds = phases("transformer of 32 layers", model.step, args, [tactics[name] for name in ("BP", "MP", "Z3")], carry)
    if "--full" in sys.argv:
        lowered = part.lower()
        begin = time.perf_counter()
        lowered.compile()
        compiling = time.perf_counter() - begin
        print(f"\nXLA compiles the last in {compiling:.1f} s; partition, tracing apart, takes {seconds / compiling:.1%} of it")


def repeated(weights, x):
    """Five equations, 400 times."""
    for i in range(400):
        x = 0.5 * jnp.tanh(x @ weights[i % 10]) + 0.5 * x
    return x


def spread(planner, layouts, tactics):
    for tactic in tactics:
        apply_tactic(planner.graph, layouts, planner.names, tactic)


def phases(name, fn, args, tactics, carry):
    """Prints one row; medians of three. Returns the partitioned program, and the seconds of `partition` without those of tracing."""
    spent = {phase: [] for phase in (*PHASES, "whole")}

    def timed(phase, function, *arguments):
        begin = time.perf_counter()
        result = function(*arguments)
        spent[phase].append(time.perf_counter() - begin)
        return result

    for _ in range(3):
        part = timed("whole", lambda: ls.partition(fn, args, MESH, tactics, carry=carry))
        closed = timed("trace", jax.make_jaxpr(lambda *args: fn(*args)), *args)
        planner = part._planner
        timed("graph", graph_of, closed)
        layouts = planner.start()
        timed("spread", spread, planner, layouts, tactics)
        lowered = timed("lower", planner.lower, layouts)
        timed("simulate", planner.cost, lowered)
    took = {phase: median(times) for phase, times in spent.items()}
    apart = took["whole"] - took["trace"]
    cells = "".join(f"{took[phase]:10.2f}" for phase in PHASES)
    print(f"{name:28}{len(part._planner.graph.nodes):10d}{cells}{apart:26.2f}", flush=True)
    return part, apart


SECTIONS = {"simulator": simulator, "annotations": annotations, "speed": speed}

if __name__ == "__main__":
    announce("each program runs twice before it is timed")
    for name in [word for word in sys.argv[1:] if word != "--full"] or SECTIONS:
        SECTIONS[name]()
