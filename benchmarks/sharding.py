"""What is predicted of a partitioned program against what is measured, on eight forced host devices.

    python dev.py bench sharding [section ...]

Sections; all of them without arguments:

    simulator  a training step of a transformer of two layers under twelve lists of tactics: operations and peak memory against the
               compiler's own analysis, estimated seconds against measured ones (medians of five, taken in turn), and their rank correlation

The model lies in shared/acceptance beside the checkout. The devices share the machine's cores: the seconds rank, and nothing more. The
estimate counts with hardware that is measured at the start, and never with the times in the table. Warm-up: each program runs twice first.
"""

import os
import sys

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import numpy as np
from _common import FOLDER, announce, interleaved, median

from luciole import sharding as ls

MESH = {"batch": 4, "model": 2}
SIZE = {"d": 256, "h": 4, "dh": 64, "ff": 1024, "vocab": 2048}
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


SECTIONS = {"simulator": simulator}

if __name__ == "__main__":
    announce("each program runs twice before it is timed")
    for name in sys.argv[1:] or SECTIONS:
        SECTIONS[name]()
