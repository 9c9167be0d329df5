"""A small run in a store, stopped in the middle, and what runs are compared by."""

import datetime
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import luciole as lc
from luciole import dist
from luciole.inference.run import host, running

Y = (np.arange(6, dtype=np.float32).reshape(3, 2) - 2) / 3
X = np.zeros((2, 0), np.float32)
DAYS = [datetime.date(2024, 1, 1), datetime.date(2024, 3, 1)]


def model(y, x):
    """All kinds of sites: names with "/", no elements, whole numbers and truth values, labels that are words and dates."""
    level = lc.sample("a/level", dist.Normal(0, 1))
    lc.sample("empty", dist.Normal(0, 1).expand([x.shape[1]]).to_event(1))
    with lc.plate("team", 3, dim=-2, coords=["red", "green", "blue"]):
        effect = lc.sample("effect", dist.Normal(level, 1))
        lc.deterministic("positive", effect > 0)
        with lc.plate("day", 2, dim=-1, coords=np.array(DAYS, "M8[D]")):
            lc.deterministic("spread", effect * jnp.arange(2.0))
            lc.sample("y", dist.Normal(effect, 1), obs=y)
    lc.deterministic("rounded", jnp.round(10 * level).astype(int))


def mcmc(kernel=None, **options):
    kernel = lc.RWM(model) if kernel is None else kernel
    return lc.MCMC(kernel, **{"num_warmup": 10, "num_samples": 20, "num_chains": 2, "progress_bar": False, **options})


def run(kernel=None, **options):
    return mcmc(kernel, **options).run(jax.random.key(0), Y, X)


def resume(store, *given, **options):
    """With the model and its data, unless a kernel or a model is given."""
    if not given and "kernel" not in options:
        given = (model,)
    return lc.MCMC.resume(store, *given, **{"args": (Y, X), "progress_bar": False, **options})


def same(one, other):
    """Whether two runs are the same to the bit: draws, statistics, counts and the state of the chains."""
    for read in (lambda m: m.get_samples(True), lambda m: m.sample_stats, lambda m: m.warmup_samples or {}, lambda m: m.warmup_stats or {}):
        mine, theirs = read(one), read(other)
        assert list(mine) == list(theirs)
        for name in mine:
            assert mine[name].dtype == theirs[name].dtype
            np.testing.assert_array_equal(mine[name], theirs[name], err_msg=name)
    mine, theirs = (m._running.snapshot._replace(counts=m._running.snapshot.counts._replace(seconds=0, slots=0)) for m in (one, other))
    mine, theirs = (dict(jax.tree_util.tree_leaves_with_path(snapshot)) for snapshot in (mine, theirs))
    assert list(mine) == list(theirs)
    for path in mine:
        np.testing.assert_array_equal(mine[path], theirs[path], err_msg=jax.tree_util.keystr(path))


def contents(folder):
    """Every file of a folder, but for the lock."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in Path(folder).rglob("*") if file.is_file() and file.name != ".lock"}


def stop_after(patch, chunks, of):
    """Runs are cut into chunks of so many transitions, and interrupted after so many chunks, once."""
    left = [chunks]

    def drive(compiled, spec, *others):
        return host.drive(compiled, spec._replace(capacity=min(of, spec.capacity)), *others)

    def after(*given):
        left[0] -= 1
        if left[0] == -1:
            raise KeyboardInterrupt
        return with_chunk(*given)

    with_chunk = host._with_chunk
    patch.setattr(running, "drive", drive)
    patch.setattr(host, "_with_chunk", after)


def part_of(path, start, chunks=4, of=4):
    """Begins a run with a store and interrupts it after so many chunks; the run that is left.

    Args:
        path: of the store.
        start: store -> the run.
        chunks, of: how many, of how many transitions each.
    """
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, chunks, of)
        with pytest.warns(lc.InterruptWarning):
            return start(str(path))


@pytest.fixture(scope="session")
def small():
    """The model, its data, and the functions that run and compare."""
    return SimpleNamespace(
        model=model, mcmc=mcmc, run=run, resume=resume, same=same, contents=contents, stop_after=stop_after, part_of=part_of, Y=Y, X=X
    )


@pytest.fixture(scope="session")
def whole():
    """The run without a store."""
    return run()


@pytest.fixture(scope="session")
def begun(whole, tmp_path_factory):
    """A store whose run was interrupted after 16 of 30 transitions, 10 of them warm-up; not to be changed."""
    path = tmp_path_factory.mktemp("begun") / "run.zarr"
    part_of(path, lambda store: run(store=store))
    return path


@pytest.fixture
def store(begun, tmp_path):
    """A copy of it, 6 draws per chain."""
    return str(shutil.copytree(begun, tmp_path / "copy.zarr"))
