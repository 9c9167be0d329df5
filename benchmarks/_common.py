"""What the benchmarks share: the acceptance posteriors, what is printed about the machine, and interleaved timing."""

import gzip
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

SHARED = Path(__file__).resolve().parents[2] / "shared"
FOLDER = SHARED / "acceptance"
os.environ.setdefault("LUCIOLE_CACHE_DIR", "")  # nothing compiled by an earlier process may help


def posteriors():
    """By name: (NumPyro model, its keyword arguments), of the acceptance folder; leaves with a message where there is none."""
    if not FOLDER.is_dir():
        sys.exit(f"This benchmark takes its models and data from {FOLDER.name}/ in shared/ beside the checkout, and it is not there.")
    sys.path.insert(0, str(FOLDER))
    from models_numpyro import REGISTRY

    found = {}
    for name, spec in REGISTRY.items():
        data = json.loads((FOLDER / "posteriors" / name / "data.json").read_text())
        found[name] = spec.model, spec.prep(data)
    return found


def known():
    """The module of models with exact evidence, of the acceptance folder; leaves with a message where there is none."""
    if not (FOLDER / "evidence.py").is_file():
        sys.exit("This benchmark takes its models from acceptance/evidence.py in shared/ beside the checkout, and it is not there.")
    if str(FOLDER) not in sys.path:
        sys.path.insert(0, str(FOLDER))
    return importlib.import_module("evidence")  # that of the folder, not the benchmark of this name


def mnist():
    """MNIST's 10,000 test images, pixels between 0 and 1, (image, 784), and labels, (image,); None where they are not in shared/."""
    import numpy as np

    files = [SHARED / "data" / f"mnist-t10k-{name}-ubyte.gz" for name in ("images-idx3", "labels-idx1")]
    if not all(file.is_file() for file in files):
        return None
    pixels, labels = (np.frombuffer(gzip.decompress(f.read_bytes()), np.uint8, offset=skip) for f, skip in zip(files, (16, 8), strict=True))
    return pixels.reshape(-1, 784).astype(np.float32) / 255, labels.astype(np.int32)


def announce(rule):
    """Machine, versions and the warm-up rule."""
    cpu = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    versions = ", ".join(f"{p} {importlib.import_module(p).__version__}" for p in ("luciole", "numpyro", "jax", "jaxlib", "numpy"))
    load = " ".join(f"{x:.1f}" for x in os.getloadavg())
    print(f"machine   {cpu}, {len(os.sched_getaffinity(0))} of {os.cpu_count()} cores, load {load}, {platform.platform()}")
    print(f"versions  Python {platform.python_version()}, {versions}")
    print(f"warm-up   {rule}\n", flush=True)


def _lines(path):
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def interleaved(functions, repeats, clock=time.perf_counter):
    """By name, `repeats` times of each function in seconds, taken in turn; the order turns around every round.

    Args:
        clock: of wall time; `time.process_time` counts what the process had of all cores, whatever runs beside it.
    """
    times = {name: [] for name in functions}
    for turn in range(repeats):
        for name in list(functions)[:: 1 if turn % 2 == 0 else -1]:
            begin = clock()
            functions[name]()
            times[name].append(clock() - begin)
    return times


def fresh_processes(commands, repeats):
    """By name, the standard outputs of `repeats` fresh Python processes for each command, taken in turn."""
    outputs = {name: [] for name in commands}
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    for turn in range(repeats):
        for name in list(commands)[:: 1 if turn % 2 == 0 else -1]:
            done = subprocess.run([sys.executable, *commands[name]], capture_output=True, text=True, env=environment, check=True)
            outputs[name].append(done.stdout)
    return outputs


def median(values):
    return statistics.median(values)
