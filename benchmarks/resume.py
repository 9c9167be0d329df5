"""Runs that are killed at random moments, and resumed: are the draws those of an unbroken run, to the bit?

    python3 dev.py bench resume [number of kills] [part of a case's name] ...
    python3 dev.py bench resume reader | full

A child process runs a case with a store, in chunks of a few transitions so that writing is a good share of its time, and is killed
(SIGKILL) at a random moment of a phase that is drawn: compiling, warm-up, sampling, or while the folder is written. Then the store must
open at once, or say that there are no draws yet, and have every chunk that the child knew to be kept. A fresh process resumes it, and is
killed too in every third case; the last one ends the run. Its draws, statistics, warm-up and last state are compared bit by bit with those
of a run that nobody stopped, which has no store.

`reader` opens a store again and again while it is written. `full` lets the disk be full (RLIMIT_FSIZE) in the middle of a run.
"""

import logging
import os
import random
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import jax
import numpy as np
import numpyro.distributions as dist
from _common import announce

import luciole as lc
from luciole.inference.flymc import kernel as flymc
from luciole.inference.run import host, running
from luciole.inference.run.store import Store

KILLS = 30
PHASES = ("compiling", "warm-up", "sampling", "writing")
CHUNK = 12  # transitions of a chunk in the children


def scales(y):
    """The middle and the scale of observations, and something of every kind that is computed from them."""
    mu = lc.sample("group/mu", dist.Normal(0.0, 1.0))
    tau = lc.sample("tau", dist.HalfNormal(1.0))
    with lc.plate("unit", len(y)):
        z = lc.sample("z", dist.Normal(0.0, 1.0))
        lc.sample("y", dist.Normal(mu + tau * z, 0.5), obs=y)
    lc.deterministic("positive", mu > 0)
    lc.deterministic("above", (z > 0).sum())


def logistic(x, y):
    w = lc.sample("w", dist.Normal(0.0, 3.0).expand([x.shape[1]]).to_event(1))
    with lc.plate("row", len(y)):
        lc.sample("y", dist.Bernoulli(logits=x @ w), obs=y)


def gaussian(y):
    z = lc.sample("z", dist.Normal(0.0, 1.0).expand([len(y)]).to_event(1))
    lc.sample("y", dist.Normal(z, 0.5).to_event(1), obs=y)


def observations():
    return (np.random.default_rng(1).normal(0.5, 1.0, 6).astype(np.float32),)


def rows():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(2_000, 3)).astype(np.float32)
    return x, (rng.random(2_000) < 1 / (1 + np.exp(-x @ [1.0, -1.0, 0.5]))).astype(np.int32)


class Case(NamedTuple):
    """A run.

    Attributes:
        kernel, model, data: what runs.
        settings: of `MCMC`.
        often: whether it is one of those that are killed as often as was asked for; the others five times.
        cramped: whether FlyMC's buffer is too small at first, so that the run begins again.
        chunk: transitions of a chunk.
    """

    kernel: object
    model: object = scales
    data: object = observations
    settings: Mapping = MappingProxyType({})
    often: bool = False
    cramped: bool = False
    chunk: int = CHUNK


FEW = {"num_warmup": 150, "num_samples": 300}
CASES = {
    "NUTS": Case(lc.NUTS, often=True),
    "HMC": Case(partial(lc.HMC, trajectory_length=2.0), often=True),
    "Slice": Case(lc.Slice, often=True),
    "FlyMC": Case(lc.FlyMC, logistic, rows, often=True),
    "NUTS, pooled": Case(lc.NUTS, settings={"pool_adaptation": True}),
    "NUTS, compact": Case(lc.NUTS, settings={"compact": True, "num_chains": 8, **FEW}),
    "NUTS, every third": Case(lc.NUTS, settings={"thinning": 3}),
    "NUTS, longer chunks": Case(lc.NUTS, chunk=100),
    "NUTS, dense, two sites": Case(partial(lc.NUTS, dense_mass=True), settings={"collect": ["tau", "above"]}),
    "EllipticalSlice": Case(lc.EllipticalSlice, gaussian),
    "RWM": Case(lc.RWM),
    "FlyMC, overflow": Case(partial(lc.FlyMC, kernel_options={"softening": 14.0}), logistic, rows, cramped=True),
    "FlyMC, slice": Case(partial(lc.FlyMC, kernel="slice"), logistic, rows, settings=FEW),
}


# --- the child


def tell(*words):
    print(*words, flush=True)


def child(name, how, folder, out):
    """Runs or resumes a case and says where it is; writes all there is of it to `out`.

    Args:
        how: "plain", without a store; "run", with one; "resume".
    """
    case = CASES[name]
    warnings.simplefilter("ignore")
    logging.getLogger("luciole").setLevel(logging.ERROR)
    if case.cramped:
        flymc.set_up = partial(_cramped, flymc.set_up)
    _narrated(case)
    settings = {"num_warmup": 300, "num_samples": 600, "num_chains": 3, "keep_warmup": True, "progress_bar": False} | dict(case.settings)
    tell("phase compiling")
    if how == "resume":
        mcmc = lc.MCMC.resume(folder, case.model, case.data(), progress_bar=False)
    else:
        mcmc = lc.MCMC(case.kernel(case.model), **settings, store=None if how == "plain" else folder)
        mcmc.run(jax.random.key(3), *case.data())
    tell("phase ended")
    np.savez(out, **everything(mcmc))


def _cramped(set_up, *args, **options):
    found = set_up(*args, **options)
    return replace(found, conditional=replace(found.conditional, capacity=32))


def _narrated(case):
    """Short chunks, and a line before and after all that writes."""

    def drive(compiled, spec, *others):
        return host.drive(compiled, spec._replace(capacity=min(case.chunk, spec.capacity)), *others)

    running.drive = drive

    def narrate(method, before, after):
        def told(self, *args):
            tell(before)
            result = method(self, *args)
            tell(after(self, *args))
            return result

        return told

    def kept(self, chunk, filled, after):
        warm = after.done < self.settings.num_warmup
        return f"kept {int(after.filled.min())}\nphase {'warm-up' if warm else 'sampling'}"

    Store.append = narrate(Store.append, "phase writing", kept)
    Store.allocate = narrate(Store.allocate, "phase allocating", lambda self, *_: "phase warm-up")
    Store.restart = narrate(Store.restart, "again", lambda self, *_: "phase compiling")
    Store.grow = narrate(Store.grow, "phase growing", lambda self, *_: "phase warm-up")
    create = Store.create.__func__

    def created(cls, *args):
        tell("phase creating")
        store = create(cls, *args)
        tell("phase compiling")
        return store

    Store.create = classmethod(created)


def everything(mcmc):
    """Draws, statistics, those of the warm-up, and the last state, by name."""
    found = {f"draws {name}": value for name, value in mcmc.get_samples(group_by_chain=True).items()}
    found |= {f"warm-up {name}": value for name, value in mcmc.warmup_samples.items()}
    found |= {f"statistic {name}": value for name, value in mcmc.sample_stats.items()}
    found |= {f"warm-up statistic {name}": value for name, value in mcmc.warmup_stats.items()}
    state = jax.tree_util.tree_leaves_with_path(mcmc.state)
    found |= {f"state {jax.tree_util.keystr(path)}": value for path, value in state}
    return {name.replace("/", "|"): np.asarray(value) for name, value in found.items()}


# --- the parent


class Seen(NamedTuple):
    """What a child had said when it ended.

    Attributes:
        phase: the last one.
        kept: draws per chain that it knew to be kept, warm-up included; None if nothing had been written.
        starts: by phase, when it first came, in seconds since the child started.
        killed: whether it was.
        times: by phase, how long each stretch of it took.
    """

    phase: str
    kept: int | None
    killed: bool
    times: dict


def started(name, how, folder, out, cache):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "LUCIOLE_CACHE_DIR": str(cache)}
    command = [sys.executable, __file__, "child", name, how, str(folder), str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def watched(process, when=None):
    """Reads what a child says, and kills it.

    Args:
        when: (phase, which time it comes, seconds after that); None to let it end.
    """
    phase, kept, killed, begun = "starting", None, False, time.perf_counter()
    times, came = {}, Counter()
    for line in process.stdout:
        word, *rest = line.split()
        now = time.perf_counter()
        if word == "kept":
            kept = int(rest[0])
        elif word == "again":
            kept, phase = None, "beginning again"
        elif word == "phase":
            times.setdefault(phase, []).append(now - begun)
            phase, begun = rest[0], now
            came[phase] += 1
            if when is not None and not killed and (phase, came[phase]) == when[:2]:
                time.sleep(when[2])
                process.kill()
                killed = True  # what it had said by then is read still
    errors = process.stderr.read()
    code = process.wait()
    if code != (-9 if killed else 0) and not (killed and code == 0):
        sys.exit(f"the child ended with {code}:\n{errors}")
    return Seen(phase, kept, killed and code == -9, times)


def moment(rng, phase, times):
    """A random moment of a phase, for `watched`, from how long its stretches took in an unbroken run."""
    stretches = times.get(phase) or times["compiling"]
    number = rng.randrange(len(stretches))
    return phase if phase in times else "compiling", number + 1, rng.uniform(0.0, stretches[number])


def opened(folder):
    """How many draws per chain a reader sees, warm-up included; None if there are none yet. No other error may come."""
    try:
        seen = lc.open_store(folder)
    except lc.StoreError as e:
        if "no draws yet" in str(e) or "there is nothing" in str(e):
            return None
        raise
    lengths = {}
    for group in ("warmup_posterior", "posterior", "warmup_sample_stats", "sample_stats"):
        if group not in (seen.children if hasattr(seen, "children") else seen.groups()):
            continue
        found = seen[group].to_dataset() if hasattr(seen, "children") else seen[group]
        found = found.load()
        sizes = {int(v.sizes["draw"]) for v in found.data_vars.values()}
        broken = [name for name, v in found.data_vars.items() if not np.isfinite(v.to_numpy()).all()]
        if len(sizes) != 1 or broken:
            raise AssertionError(f"{group}: lengths {sizes}, not finite: {broken}")
        lengths[group] = sizes.pop()
    if any(lengths.get(f"{w}posterior") != lengths.get(f"{w}sample_stats") for w in ("", "warmup_")):
        raise AssertionError(f"draws and statistics of different lengths: {lengths}")
    return sum(lengths.get(group, 0) for group in ("warmup_posterior", "posterior"))


def killed_once(name, how, folder, out, cache, rng, phase, times):
    """Starts a child and kills it; looks at what it has left. Returns in which phase it was, "" if it was too quick."""
    seen = watched(started(name, how, folder, out, "" if phase == "compiling" else cache), moment(rng, phase, times))
    if not seen.killed:
        return ""
    there = opened(folder)
    if seen.kept is not None and (there is None or there < seen.kept):
        raise AssertionError(f"{name}: the child had kept {seen.kept} draws, the store has {there}")
    return f"{seen.phase}{', .partial' if any(folder.rglob('*.partial')) or any(folder.rglob('*.draft')) else ''}"


def kill(name, reference, cache, place, number, rng, times):
    """One kill, or two, and the run to its end. Returns the phases in which it was killed, and what is different, [] if nothing."""
    folder, out = place / f"run{number}.zarr", place / "out.npz"
    phase = PHASES[number % len(PHASES)]
    phases = [killed_once(name, "run", folder, out, cache, rng, phase, times["run"])]
    if number % 3 == 0 and folder.exists():
        phases.append(killed_once(name, "resume", folder, out, cache, rng, rng.choice(PHASES), times["run"]))
    if phases[-1] or not out.exists():
        watched(started(name, "resume" if folder.exists() else "run", folder, out, cache))
    with np.load(out) as last:
        different = [key for key in reference if key not in last or not _same(last[key], reference[key])]
        different += [key for key in last if key not in reference]
    out.unlink()
    return [p for p in phases if p], different


def _same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def check(name, kills):
    rng = random.Random(f"{name} {kills}")
    with tempfile.TemporaryDirectory() as place, tempfile.TemporaryDirectory() as cache:
        place, cache = Path(place), Path(cache)
        cache.chmod(0o700)
        watched(started(name, "plain", "", place / "plain.npz", cache))
        reference = dict(np.load(place / "plain.npz"))
        cold = watched(started(name, "run", place / "whole.zarr", place / "whole.npz", ""))
        whole = dict(np.load(place / "whole.npz"))
        wrong = [key for key in reference if not _same(whole[key], reference[key])]
        fallen, bad = Counter(), []
        for number in range(kills):
            phases, different = kill(name, reference, cache, place, number, rng, {"run": cold.times})
            fallen.update(phases)
            bad += [number] if different else []
            if different:
                print(f"   {name}, kill {number} in {phases}: different: {different[:6]}", flush=True)
    writes = len(cold.times["writing"])
    share = sum(cold.times["writing"]) / sum(sum(cold.times.get(p, ())) for p in ("writing", "warm-up", "sampling"))
    where = ", ".join(f"{number} {phase}" for phase, number in sorted(fallen.items()))
    holds = "holds" if not bad and not wrong else f"DOES NOT HOLD {wrong or ''}"
    print(f"{name:24s} {kills:5d} {sum(fallen.values()):6d} {writes:7d} {share:6.0%}   {holds:14s} {where}", flush=True)


def reader(seconds=10):
    """Opens a store all the time while children write it."""
    with tempfile.TemporaryDirectory() as place:
        folder, looks, lengths, number = Path(place) / "run.zarr", 0, set(), 0
        begun = time.perf_counter()
        while time.perf_counter() - begun < seconds:
            folder, number = Path(place) / f"run{number}.zarr", number + 1
            process = started("NUTS", "run", folder, Path(place) / "out.npz", "")
            while process.poll() is None:
                lengths.add(opened(folder))
                looks += 1
            watched(process)
    print(f"reader: opened {looks} times while it was written, {len(lengths)} different lengths, never an error nor a number that is none")


def full():
    """Lets a run meet a full disk: no file may be larger than 8 kB; and lets it go on where there is room."""
    with tempfile.TemporaryDirectory() as place:
        folder, out = Path(place) / "run.zarr", Path(place) / "out.npz"
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        limited = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)"
        limited += f"; resource.setrlimit(resource.RLIMIT_FSIZE, ({2**15}, -1))"
        begin = f"{limited}; import sys, runpy; sys.argv = {[__file__, 'child', 'NUTS', 'run', str(folder), str(out)]!r}"
        command = [sys.executable, "-c", f"{begin}; runpy.run_path({__file__!r}, run_name='__main__')"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        print(f"full: the run ended with {done.returncode}: {done.stderr.strip().splitlines()[-1]}")
        print(f"full: {opened(folder)} draws per chain are there")
        watched(started("NUTS", "plain", "", Path(place) / "plain.npz", ""))
        watched(started("NUTS", "resume", folder, out, ""))
        plain, last = dict(np.load(Path(place) / "plain.npz")), dict(np.load(out))
        print(f"full: resumed; {'equal to the bit' if all(_same(last[k], plain[k]) for k in plain) else 'DIFFERENT'}")


def main(arguments):
    if arguments[:1] == ["child"]:
        child(*arguments[1:])
        return
    warnings.simplefilter("ignore")
    announce("none: processes are compared, not times; chunks of a few transitions")
    others = {"reader": reader, "full": full}
    if arguments[:1] and arguments[0] in others:
        others[arguments[0]]()
        return
    kills, parts = (int(arguments[0]), arguments[1:]) if arguments and arguments[0].isdigit() else (KILLS, arguments)
    print(f"{'case':24s} {'kills':>5s} {'of them':>6s} {'chunks':>7s} {'write':>6s}   {'to the bit':14s} killed in")
    for name, case in CASES.items():
        if not parts or any(part in name for part in parts):
            check(name, kills if case.often else min(kills, 5))


if __name__ == "__main__":
    main(sys.argv[1:])
