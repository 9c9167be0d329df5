"""Runs and stores over several processes, and stores of runs that go on on other devices. `bench processes` has all ways, and kills."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import luciole as lc
from luciole.inference.results import stored
from luciole.inference.run import running, where
from luciole.inference.run.pieces import _aligned, file_shape, pieces

from . import over_processes

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("files", "aligned"),
    [
        ((2, 5, 3), True),
        ((2, 1, 3), True),
        ((1, 5, 3), True),
        ((2, 5, 1), True),
        ((4, 5, 3), False),
        ((2, 5, 6), False),
        ((2, 5, 2), False),
    ],
)
def test_whether_files_are_cut_as_shards_are(files, aligned):
    mesh = Mesh(np.array(jax.devices()).reshape(2, 2, 2), ("c", "d", "s"))
    draws = jax.device_put(np.arange(120.0).reshape(4, 5, 6), NamedSharding(mesh, PartitionSpec("c", None, "s")))
    assert _aligned(draws, files) == aligned
    ((index, values),) = pieces(draws, files)  # this process has all of it
    assert index == (slice(None), slice(None)) and values.shape == (4, 5, 6)


def test_how_large_the_files_are():
    there = jax.ShapeDtypeStruct((4, 512, 6), np.float64)
    assert file_shape((4, 0, 6), np.dtype(float), there) == (4, 2048, 6)
    assert file_shape((4, 0, 60_000), np.dtype(float), there) == (4, 1, 60_000)


def test_every_file_with_draws_is_looked_for(tmp_path):
    """Where chains lie in several files and have draws of different numbers, a file is there for those that come so far."""
    array = {"node_type": "array", "shape": [4, 8], "dimension_names": ["chain", "draw"]}
    array["chunk_grid"] = {"configuration": {"chunk_shape": [2, 2]}}
    needed = [tmp_path / "x" / "zarr.json", *(tmp_path / "x" / "c" / str(i) / str(j) for i, j in ((0, 0), (1, 0), (1, 1), (1, 2)))]
    for file in needed:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("here")
    rows = {"x": np.array([1, 2, 5, 4])}
    stored.check_files(tmp_path, {"x": array}, rows)
    for file in needed:
        file.unlink()
        with pytest.raises(lc.StoreError, match=f"the file {file.relative_to(tmp_path)} is missing"):
            stored.check_files(tmp_path, {"x": array}, rows)
        file.write_text("here")


@pytest.mark.parametrize(("there", "shared"), [((1, 1), False), ((0, 2, 1), True), ((0, 1), None), ((0, 0), None)])
def test_a_mesh_has_devices_of_this_process_or_of_all(monkeypatch, there, shared):
    """This is the second of three."""
    mesh = SimpleNamespace(devices=np.array([SimpleNamespace(process_index=i) for i in there]))
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(where.Where, "devices", lambda _: mesh)
    monkeypatch.setattr(where, "spans_processes", lambda mesh: len(mesh.devices) > 2)  # these are no devices
    if shared is not None:
        assert where.Where({"c": 2}).shared is shared
        return
    words = rf"of {len(set(there))} of 3 processes, \[0.*, and this is process 1; those of all are needed.*Make it of jax.devices\(\), or"
    with pytest.raises(lc.SamplerError, match=words):
        _ = where.Where({"c": 2}).shared
    assert where.NOWHERE.shared is False


@pytest.fixture
def second(monkeypatch):
    """As if this were the second of several processes, before anything is said."""
    monkeypatch.setattr(where.Where, "shared", property(lambda _: True))
    monkeypatch.setattr(jax, "process_index", lambda: 1)


def test_an_interrupt_before_the_first_call_ends_the_process(second, monkeypatch):
    """The others would wait for it."""

    def interrupted(spec):
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "compiled_sampler", interrupted)
    with pytest.raises(KeyboardInterrupt):
        over_processes.sampled()


def test_the_first_process_has_the_bar(second):
    shown = [lc.MCMC(lc.HMC(over_processes.model), progress_bar=bar)._shown for bar in (True, False, print)]
    assert shown == [False, False, print]


def close(one, other):
    """The same steps, and the same draws up to rounding."""
    one, other = over_processes.everything(one), other if isinstance(other, dict) else over_processes.everything(other)
    for name, value in one.items():
        if value.dtype.kind == "f":
            np.testing.assert_allclose(other[name], value, rtol=1e-10, atol=1e-10, err_msg=name)
        else:
            np.testing.assert_array_equal(other[name], value, err_msg=name)


@pytest.mark.slow
def test_a_stored_run_goes_on_on_other_devices(small, x64, tmp_path):
    def resumed(path, **there):
        return lc.MCMC.resume(path, over_processes.model, over_processes.DATA, progress_bar=False, **there)

    there = over_processes.where()
    begun, one_begun = tmp_path / "mesh.zarr", tmp_path / "one.zarr"
    small.part_of(begun, lambda store: over_processes.sampled(store, **there), 2, 2)
    small.part_of(one_begun, over_processes.sampled, 2, 2)
    copy = shutil.copytree(begun, tmp_path / "copy.zarr")
    whole, one = over_processes.sampled(**there), over_processes.sampled()
    small.same(resumed(begun, **there), whole)
    with pytest.warns(
        lc.StoreWarning, match=r"began with mesh={'s': 2, 'c': 2, 'd': 2}, tactics=\[ManualP.*goes on on one device.*last bits"
    ):
        close(resumed(copy), whole)
    with pytest.warns(lc.StoreWarning, match="began on one device, and goes on with mesh="):
        close(resumed(one_begun, **there), one)
    close(whole, one)


@pytest.mark.slow
def test_two_processes_are_one(x64, tmp_path):
    """Of eight devices: with a store that both write, through an interrupt of one."""
    script = [str(ROOT / "tests/inference/run/over_processes.py"), str(tmp_path / "run.zarr"), str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "luciole.launch", "--processes", "2", "--devices", "4", *script]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as launcher:
        one = over_processes.sampled(**over_processes.where())
        assert (said := launcher.communicate(timeout=100)[0], launcher.returncode)[1] == 0, said
    first, second = (dict(np.load(tmp_path / f"out-{number}.npz")) for number in (0, 1))
    for name, value in first.items():
        np.testing.assert_array_equal(second[name], value, err_msg=name)
    close(one, first)
    posterior = lc.open_store(tmp_path / "run.zarr").posterior
    for name in ("mu", "alpha"):
        np.testing.assert_array_equal(posterior[name], first[f"draws {name}"])
    assert sorted(file.name for file in (tmp_path / "run.zarr/posterior/alpha/c/0/0").iterdir()) == ["0", "1"]  # one of each process
