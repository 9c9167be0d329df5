"""Runs over two processes of four devices: are they those of one process of eight, with a store and without; and what if one is killed?

    python3 dev.py bench processes [part of a way's name] ...
    python3 dev.py bench processes kill

Every way is run from scratch in float64, by one process and by two that `python -m luciole.launch` starts, with a store. Step counts must
be equal, draws and last positions to 1e-10, what `lc.open_store` reads to the bit what the processes have. One of the two is interrupted
(Ctrl-C) on the way: both stop after the same transition, and go on.

`kill`: one of two processes gets SIGKILL in the middle of a run. The launcher must name it and end the other; the run is resumed by two
processes, whose draws are those of a run that nobody killed to the bit, and by one of eight devices; and a store that one process has begun
is gone on with by two, whose draws do not fit its files.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import jax
import numpy as np
import numpyro.distributions as dist
from _common import announce

import luciole as lc
from luciole import sharding as ls
from luciole.inference.run import host, running
from luciole.inference.run.store import Store

GROUPS, CHAINS = 8, 8
TOLERANCE = 1e-10
WAYS = {  # of the axes the first lies over the processes
    "chains": ({"c": 8}, {"chains": "c"}),
    "data": ({"d": 8}, {"plate:row": "d"}),
    "sites": ({"s": 8}, {"plate:group": "s"}),
    "all, chains apart": ({"c": 2, "d": 2, "s": 2}, {"chains": "c", "plate:row": "d", "sites.alpha": "s"}),
    "all, data apart": ({"d": 2, "s": 2, "c": 2}, {"chains": "c", "plate:row": "d", "sites.alpha": "s"}),
    "all, sites apart": ({"s": 2, "c": 2, "d": 2}, {"chains": "c", "plate:row": "d", "sites.alpha": "s"}),
}
KILLED = "all, sites apart"


def model(group, y=None):
    mu = lc.sample("mu", dist.Normal(0, 1))
    tau = lc.sample("tau", dist.LogNormal(0, 0.3))
    with lc.plate("group", GROUPS):
        alpha = lc.sample("alpha", dist.Normal(mu, tau))
    with lc.plate("row", len(group)):
        lc.sample("y", dist.Normal(alpha[group], 1.0), obs=y)


DATA = (np.arange(16) % GROUPS).astype(np.int32), np.linspace(-1.0, 2.0, 16)


# --- one of the processes


def worker(how, way, store, out):
    """Runs or resumes, and writes what there is to `out` and the number of the process.

    Args:
        how: "run"; "interrupt", a run that is interrupted; "resume".
        store: the folder, or "".
    """
    jax.config.update("jax_enable_x64", True)
    warnings.simplefilter("ignore")
    _in_short_chunks()
    mesh, tactics = WAYS[way]
    where = {"mesh": mesh, "tactics": [ls.ManualPartition({name: 0}, axis=axis) for name, axis in tactics.items()]}
    told = {"progress_bar": _interrupts if how == "interrupt" else False}
    if how == "resume":
        mcmc = lc.MCMC.resume(store, model, DATA, **where, **told)
    else:
        settings = {"num_warmup": 4, "num_samples": 8, "num_chains": CHAINS, "keep_warmup": True, "store": store or None}
        mcmc = lc.MCMC(lc.NUTS(model), **settings, **where, **told).run(jax.random.key(0), *DATA)
    kept = mcmc.get_samples(True)["mu"].shape[1]
    if how == "interrupt":
        assert kept < 8, kept
        mcmc.extend(0)
        settings = settings | {"store": None, "progress_bar": False}
        again = lc.MCMC(lc.NUTS(model), **settings, **where).run(jax.random.key(0), *DATA)
        assert not different(*map(everything, (mcmc, again))), "with a store it is another run"
    np.savez(f"{out}-{jax.process_index()}.npz", kept=kept, seconds=mcmc.cost["sampling_seconds"], **everything(mcmc))


def everything(mcmc):
    """Draws, statistics and the last state, by name."""
    found = {f"draws {name}": value for name, value in mcmc.get_samples(True).items()}
    found |= {f"statistic {name}": value for name, value in (mcmc.sample_stats | {"warm": mcmc.warmup_stats["n_steps"]}).items()}
    found |= {f"state {jax.tree_util.keystr(path)}": x for path, x in jax.tree_util.tree_leaves_with_path(mcmc.state)}
    return {name: np.asarray(value) for name, value in found.items()}


def _in_short_chunks():
    """Chunks of three transitions, and a line after each that is kept."""
    running.drive = lambda compiled, spec, *others: host.drive(compiled, spec._replace(capacity=min(3, spec.capacity)), *others)
    append = Store.append

    def narrated(self, chunk, filled, after):
        append(self, chunk, filled, after)
        print(f"kept {after.done}, pid {os.getpid()}", flush=True)

    Store.append = narrated


def _interrupts(report):
    """Ctrl-C in one process, once."""
    if report.phase == "sampling" and jax.process_index() == jax.process_count() - 1 and not _interrupted:
        _interrupted.append(report)
        signal.raise_signal(signal.SIGINT)


_interrupted = []


# --- the parent


def command(processes, *arguments):
    """What starts one process of eight devices, or two of four; with its environment."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "JAX_PLATFORMS": "cpu", "LUCIOLE_CACHE_DIR": ""}
    script = [__file__, "worker", *map(str, arguments)]
    if processes == 1:
        environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
        return [sys.executable, *script], environment
    return [sys.executable, "-m", "luciole.launch", "--processes", "2", "--devices", "4", *script], environment


def ran(processes, *arguments):
    line, environment = command(processes, *arguments)
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(line)} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def left(out):
    """By process what it has left."""
    return [dict(np.load(file)) for file in sorted(out.parent.glob(f"{out.name}-*.npz"))]


def unlike(one, other):
    """Whether all counts are equal, and the largest difference of draws and states."""
    counts = [name for name in one if (name.startswith("statistic") and one[name].dtype.kind in "biu") or name == "statistic warm"]
    equal = all(np.array_equal(one[name], other[name]) for name in counts)
    real = [name for name in one if name.startswith(("draws", "state")) and one[name].dtype.kind == "f"]
    return equal, max(float(np.abs(one[name] - other[name]).max()) for name in real)


def different(one, other):
    """Names of what is not the same to the bit."""
    return [name for name in one if name != "seconds" and one[name].tobytes() != other[name].tobytes()]


def stored(folder):
    posterior = lc.open_store(folder).posterior
    return {f"draws {name}": posterior[name].to_numpy() for name in posterior.data_vars}


def compare(parts):
    head = ("steps", "difference", "store", "both", "stopped at", "s, one", "s, two")
    print(f"{'way':20s}", *(f"{words:>10s}" for words in head))
    for way in WAYS:
        if parts and not any(part in way for part in parts):
            continue
        with tempfile.TemporaryDirectory() as place:
            place = Path(place)
            ran(1, "run", way, "", place / "one")
            ran(2, "interrupt", way, place / "run.zarr", place / "two")
            (one,), (first, second) = left(place / "one"), left(place / "two")
            equal, distance = unlike(one, first)
            read = stored(place / "run.zarr")
            same = all(value.tobytes() == first[name].tobytes() for name, value in read.items())
        words = ["equal" if good else "DIFFERENT" for good in (equal, same, not different(first, second))]
        words[1:1] = [f"{distance:.1e}"]
        words += [str(first["kept"]), *(f"{float(of['seconds']):.2f}" for of in (one, first))]
        holds = "" if "DIFFERENT" not in words and distance <= TOLERANCE else "   DOES NOT HOLD"
        print(f"{way:20s}", *(f"{word:>10s}" for word in words), holds, flush=True)


def kill():
    """See above."""
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        ran(2, "run", KILLED, place / "whole.zarr", place / "whole")
        whole, _ = left(place / "whole")
        line, environment = command(2, "run", KILLED, place / "run.zarr", place / "out")
        launcher = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        said, begun = [], 0.0
        for words in launcher.stdout:
            said.append(words)
            if (kept := re.match(r"\[1\] kept 6, pid (\d+)", words)) and not begun:
                time.sleep(0.3)  # into the next chunk
                os.kill(int(kept[1]), signal.SIGKILL)
                begun = time.perf_counter()
        status, seconds = launcher.wait(), time.perf_counter() - begun
        named = next((words.strip() for words in said if "was killed by SIGKILL" in words), "NOBODY NAMED")
        print(f"killed    the launcher ended with {status} after {seconds:.1f} s: {named}", flush=True)
        print(f"          {lc.open_store(place / 'run.zarr').posterior.sizes['draw']} draws per chain were kept")
        shutil.copytree(place / "run.zarr", place / "copy.zarr")
        ran(2, "resume", KILLED, place / "run.zarr", place / "resumed")
        for number, resumed in enumerate(left(place / "resumed")):
            print(f"resumed   by two, process {number}: {'DIFFERENT ' * bool(different(whole, resumed)) or 'equal to the bit'}", flush=True)
        ran(1, "resume", KILLED, place / "copy.zarr", place / "alone")
        (alone,) = left(place / "alone")
        print("resumed   by one: steps {}, difference {:.1e}".format(*unlike(whole, alone)), flush=True)
        one_begins(place, whole)


def one_begins(place, whole):
    """A store of one process, gone on with by two."""
    line, environment = command(1, "run", KILLED, place / "one.zarr", place / "out")
    process = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, text=True)
    for words in process.stdout:
        if words.startswith("kept 6"):
            process.kill()
    process.wait()
    ran(2, "resume", KILLED, place / "one.zarr", place / "after")
    first, second = left(place / "after")
    print("one, two  steps {}, difference {:.1e}".format(*unlike(whole, first)), "DIFFERENT" if different(first, second) else "on both")


def main(arguments):
    if arguments[:1] == ["worker"]:
        worker(*arguments[1:])
        return
    warnings.simplefilter("ignore")
    announce("none: processes are compared, not times; a tiny model, where meeting is all that costs")
    kill() if arguments == ["kill"] else compare(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
