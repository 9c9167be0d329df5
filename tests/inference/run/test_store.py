"""Runs in a store: equal bits, whatever the sites; what readers see; and what is refused."""

import errno
import json
import os
import re
import shutil
from pathlib import Path

import arviz
import filelock
import jax
import numpy as np
import pytest
import xarray
import zarr

import luciole as lc
from luciole.inference.results import stored
from luciole.inference.run import folder, pieces
from luciole.inference.run.store import Store
from luciole.transforms import StoreError


@pytest.mark.parametrize(
    "options", [{}, pytest.param({"keep_warmup": True, "thinning": 3}, marks=pytest.mark.slow)], ids=["plain", "thinned"]
)
def test_a_store_changes_no_bit(small, chunks_of, tmp_path, options):
    one = small.run(**options)
    chunks_of(4)
    two = small.run(**options, store=tmp_path / "run.zarr")
    small.same(one, two)
    small.same(one, small.resume(tmp_path / "run.zarr"))
    small.same(one.extend(7), two.extend(7))
    small.same(one, small.resume(tmp_path / "run.zarr"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"num_samples": 1}, {"num_samples": 11, "thinning": 7}, {"num_warmup": 1, "keep_warmup": True}],
    ids=["one", "thinned", "warm-up"],
)
def test_a_single_draw(small, tmp_path, options):
    one, two = small.run(**options), small.run(**options, store=tmp_path / "run.zarr")
    small.same(one, two)
    assert lc.open_store(tmp_path / "run.zarr").posterior.sizes["draw"] == one.get_samples(True)["effect"].shape[1]
    small.same(one.extend(9), small.resume(tmp_path / "run.zarr", num_samples=one._running.settings.num_samples))


def test_collected_sites_alone_are_stored(small, tmp_path):
    one, two = small.run(collect=["effect"]), small.run(collect=["effect"], store=tmp_path / "run.zarr")
    small.same(one, two)
    again = small.resume(tmp_path / "run.zarr", num_samples=30)
    assert list(again.get_samples()) == ["effect"] and again.num_samples == 30
    assert list(lc.open_store(tmp_path / "run.zarr").posterior.data_vars) == ["effect"]
    small.same(one.extend(10), again)


def test_what_readers_see(small, begun, whole):
    """ArviZ and plain xarray, at the root and in a group: as many draws as all chains have, and none is loaded yet."""
    found = lc.open_store(begun)
    old = arviz.__version__.startswith("0.")
    assert isinstance(found, arviz.InferenceData if old else xarray.DataTree)
    tree, group = xarray.open_datatree(str(begun), engine="zarr", chunks=None), xarray.open_zarr(begun, group="posterior", chunks=None)
    for posterior in (found.posterior, tree["posterior"], group):
        assert {n: posterior.sizes[n] for n in ("chain", "draw", "team", "day")} == {"chain": 2, "draw": 6, "team": 3, "day": 2}
        assert set(posterior.data_vars) == {"a.level", "effect", "positive", "rounded", "spread"}
        assert not any(variable.variable._in_memory for variable in posterior.data_vars.values())
        assert posterior["a.level"].attrs["site"] == "a/level"
        assert posterior["team"].values.tolist() == ["red", "green", "blue"]
        np.testing.assert_array_equal(posterior["day"].values.astype("M8[D]"), np.array(["2024-01-01", "2024-03-01"], "M8[D]"))
        for site, draws in whole.get_samples(True).items():
            if draws.size:
                seen = posterior[site.replace("/", ".")]
                assert seen.dtype == draws.dtype
                np.testing.assert_array_equal(seen, draws[:, :6])
    np.testing.assert_array_equal(found.sample_stats["lp"], whole.sample_stats["lp"][:, :6])
    assert stored.OWN not in (found.groups() if old else found.children)


@pytest.mark.slow
def test_a_run_in_its_warm_up_has_nothing_to_read(small, tmp_path):
    for chunks, words in ((0, "they are there after its first chunk"), (2, "it is in its warm-up")):
        path = tmp_path / f"{chunks}.zarr"
        part = small.part_of(path, lambda store: small.run(store=store), chunks)
        assert part.results.get_samples()["effect"].shape == (0, 3, 1)
        with pytest.raises(StoreError, match=f"no draws yet.*{words}.*MCMC.resume"):
            lc.open_store(path)
    kept = tmp_path / "kept.zarr"
    small.part_of(kept, lambda store: small.run(store=store, keep_warmup=True), 2)
    assert lc.open_store(kept).warmup_posterior.sizes["draw"] == 8
    small.same(small.resume(kept), small.run(keep_warmup=True))


@pytest.mark.parametrize("given", [3, b"run.zarr", "", "s3://bucket/run.zarr", None, []], ids=repr)
def test_what_is_no_folder(small, given):
    for use in (lambda: small.mcmc(store=given), lambda: small.resume(given), lambda: lc.open_store(given)):
        if given is None and use.__code__.co_names[0] == "mcmc":
            continue
        with pytest.raises(StoreError, match=r"store is .*the path of a folder.*write store='run.zarr'"):
            use()


def test_what_is_there_is_not_overwritten(small, store, tmp_path):
    file, other = tmp_path / "file", tmp_path / "other"
    file.write_text("mine")
    for use in (lambda: small.mcmc(store=file), lambda: small.resume(file), lambda: lc.open_store(file)):
        with pytest.raises(StoreError, match=r"/file' is a file, a folder expected; name a folder"):
            use()
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    zarr.create_group(tmp_path / "foreign.zarr", attributes={"a": 1})
    before = small.contents(tmp_path)
    for path in (other, tmp_path / "foreign.zarr"):
        with pytest.raises(StoreError, match="something else is there, and is not overwritten; name another folder"):
            small.run(store=path)
    with pytest.raises(
        StoreError, match=r"a run with 6 draws per chain is there.*Go on with it, MCMC.resume\('.*copy.zarr', model=\.\.\.\)"
    ):
        small.run(store=store)
    for path, words in (
        (other, "no run of Luciole found, something else"),
        (tmp_path / "not", "there is nothing"),
        (tmp_path / "foreign.zarr", "is not that of a run"),
    ):
        for use in (small.resume, lc.open_store):
            with pytest.raises(StoreError, match=f"{words}.*ame the folder that MCMC\\(store=...\\) was given"):
                use(path)
    assert small.contents(tmp_path) == before
    (tmp_path / "empty").mkdir()
    small.run(store=tmp_path / "empty")


def test_a_newer_format(small, store):
    file = Path(store, "zarr.json")
    root = json.loads(file.read_text())
    root["attributes"]["luciole"] |= {"format": stored.FORMAT + 1}
    file.write_text(json.dumps(root))
    for use in (small.resume, lc.open_store):
        with pytest.raises(StoreError, match=r"format 2, by Luciole .*reads formats up to 1\. Install a newer Luciole"):
            use(store)


def test_a_relative_path_stays_where_it_was(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = small.run(store="run.zarr")
    monkeypatch.chdir("/")
    small.same(run.extend(3), small.resume(tmp_path / "run.zarr"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert lc.open_store("~/run.zarr").posterior.sizes["draw"] == 23


def needed(path):
    """Every file that the committed draws of a store need."""
    commit = json.loads(Path(path, "zarr.json").read_text())["attributes"]["luciole"]["commit"]
    unused = f"luciole/state/c/{1 - commit['slot']}"
    return [file for file in Path(path).rglob("*") if file.is_file() and file.name != ".lock" and unused not in str(file)]


def test_whatever_file_is_lost_it_is_noticed(small, store, whole):
    """Zarr itself reads a file that is missing as zeros or NaN, without a word."""
    files = needed(store)
    assert len(files) >= 40
    for file in files:
        content = file.read_bytes()
        for cut in (None, b""):
            file.unlink() if cut is None else file.write_bytes(cut)
            for use in (lc.open_store, lambda path: Store.open(Path(path))):
                with pytest.raises(StoreError, match=r"damaged|no run of Luciole found"):
                    use(store)
            file.write_bytes(content)
    small.same(small.resume(store), whole)


def test_lost_settings_and_starts(small, tmp_path):
    """Also before there is a draw: zeros would be other settings of the kernel."""
    path = tmp_path / "run.zarr"
    kernel = lc.RWM(small.model, inverse_mass_matrix=np.arange(1.0, 5))
    small.part_of(path, lambda store: small.run(kernel, store=store), 0)
    files = [*path.glob("luciole/array_0/**/*"), path / "luciole" / "zarr.json"]
    for file in [file for file in files if file.is_file()]:
        content = file.read_bytes()
        file.unlink()
        with pytest.raises(StoreError, match="damaged"):
            small.resume(path)
        file.write_bytes(content)
    small.same(small.resume(path), small.run(kernel))


def test_a_run_that_was_to_begin_again(small, store, whole):
    """And whose process ended, or whose disk was full, when the old draws were removed and the new place was not made yet."""
    opened = Store.open(Path(store))
    opened._resize()
    opened.restart({})
    with pytest.raises(StoreError, match="no draws yet"):
        lc.open_store(store)
    shutil.rmtree(Path(store, "posterior"))
    opened.grow(opened.settings)
    assert not xarray.open_datatree(store, engine="zarr", chunks=None).children.keys() & {"posterior", "sample_stats"}
    small.same(small.resume(store), whole)


@pytest.mark.parametrize("group", ["luciole", "posterior", "sample_stats", "posterior/effect", "luciole/state"])
def test_a_half_deleted_store(small, store, group):
    shutil.rmtree(Path(store, group))
    for use in (small.resume, lc.open_store):
        with pytest.raises(StoreError, match=f"damaged.*the file {group}.* is missing.*Copy it again.*or run anew"):
            use(store)


def test_files_of_another_time_or_cut_off(small, store, whole, monkeypatch):
    """As a copy has them that was made while the run went on, or that was interrupted."""
    commit = stored.commit_of(Path(store))["luciole"]["commit"]
    state, lp = (
        Path(store, *names) for names in (("luciole", "state", "c", str(commit["slot"]), "0"), ("sample_stats", "lp", "c", "0", "0"))
    )
    content = state.read_bytes()
    for other in (state.parents[1].joinpath(str(1 - commit["slot"]), "0").read_bytes(), content[:-1]):
        state.write_bytes(other)
        for use in (small.resume, lc.open_store):
            with pytest.raises(StoreError, match=r"damaged.*the file luciole/state.* is of another time than zarr.json, or cut off"):
                use(store)
    state.write_bytes(content)
    shutil.copytree(store, f"{store}.copy")
    small.part_of(store, small.resume, 1)
    for name in ("zarr.json", "luciole"):
        shutil.rmtree(f"{store}.copy/luciole", ignore_errors=True) if name == "luciole" else None
        (shutil.copytree if name == "luciole" else shutil.copy)(f"{store}/{name}", f"{store}.copy/{name}")
    for use in (small.resume, lc.open_store):
        with pytest.raises(StoreError, match=r"damaged.*the last draws .* are of another time.*Copy it again.*while no run writes there"):
            use(f"{store}.copy")
    content = lp.read_bytes()
    lp.write_bytes(content[:20])
    with pytest.raises(StoreError, match=r"damaged.*Zstd"):
        small.resume(store)
    lp.write_bytes(content)
    run = small.resume(store)
    small.same(run, whole)
    lp.write_bytes(content[:20])
    with pytest.raises(StoreError, match=r"damaged.*sample_stats/lp.*Zstd"):
        _ = run.sample_stats


@pytest.mark.slow
def test_lost_files_of_the_longer_chains(small, tmp_path, monkeypatch):
    """After an interrupt inside a chunk readers see what all chains have; to go on, the rest is needed too."""
    monkeypatch.setattr(pieces, "_FILE_DRAWS", 1)
    path = tmp_path / "run.zarr"
    small.run(store=path)
    store = Store.open(path)
    store._resize()
    with store._change(commit={**store._written["commit"], "draws": 15}):  # as if another chain had only 15
        store._written["commit"]["last"] = stored.checksum_of([array[:, 14] for array in store._folder.arrays.values()])
    small.resume(path)
    Path(path, "posterior/a.level/c/0/19").unlink()
    assert lc.open_store(path).posterior.sizes["draw"] == 15
    with pytest.raises(StoreError, match=r"damaged.*posterior/a.level/c/0/19 is missing"):
        small.resume(path)


class Full:
    """A disk on which writes fail, Zarr's and ours.

    Args:
        patch: pytest's.
        well: how many writes of such files go well before; then none does, of any file.
        name: how paths of such files begin, inside of the store; all by default.
        error: errno.
    """

    def __init__(self, patch, well, name="", error=errno.ENOSPC):
        self.left, self.name, self.error = well, f".zarr/{name}" if name else "", error
        put, replace = zarr.storage._local._put, folder._replace
        patch.setattr(zarr.storage._local, "_put", lambda path, *a, **k: self.spend(path) or put(path, *a, **k))
        patch.setattr(folder, "_replace", lambda file, *a: self.spend(file) or replace(file, *a))

    def spend(self, path):
        if self.name in path.as_posix() or self.left < 0:
            self.left -= 1
            if self.left < 0:
                raise OSError(self.error, os.strerror(self.error), "somewhere")


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EACCES])
def test_a_folder_that_cannot_be_made(small, tmp_path, error):
    with pytest.MonkeyPatch.context() as patch:
        Full(patch, 1, error=error)
        with pytest.raises(StoreError, match=f"run.zarr' cannot be made: .*{os.strerror(error)}.*Name a folder that can be written to"):
            small.run(store=tmp_path / "run.zarr")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot be made: .*Not a directory"):
        small.run(store=tmp_path / "file" / "run.zarr")


def test_a_file_system_that_does_not_tell_names_apart(small, tmp_path, monkeypatch):
    """As those of Windows and macOS, for sites `x` and `X`."""
    to_zarr = xarray.Dataset.to_zarr

    def folded(dataset, path, *, group, **options):
        to_zarr(dataset, path, group=group, **options)
        if "effect" in dataset:
            shutil.rmtree(path / group / "effect")

    monkeypatch.setattr(xarray.Dataset, "to_zarr", folded)
    with pytest.raises(StoreError, match=r"posterior has the folders .*takes some of these names for the same. Rename the sites"):
        small.run(store=tmp_path / "run.zarr")


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), NotImplementedError("no flock here")], ids=["mode", "no locks"]
)
def test_a_folder_that_cannot_be_locked(small, store, monkeypatch, error):
    def acquire(*args, **options):
        raise error

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    before = small.contents(store)
    with pytest.raises(StoreError, match=r"cannot be locked.*(Permission denied|no flock here).*copy it to a file system that has locks"):
        small.resume(store)
    assert small.contents(store) == before


@pytest.mark.slow
def test_a_disk_that_is_full_at_any_time(small, chunks_of, whole, store):
    """Whichever write fails, what was committed is there, and the run goes on from it."""
    chunks_of(4)
    for well in range(0, 1000, 13):
        path = shutil.copytree(store, f"{store}.{well}")
        with pytest.MonkeyPatch.context() as patch:
            Full(patch, well)
            try:
                small.resume(path)
                break
            except StoreError as e:
                words = r"cannot be written: .*No space.*The (\d+) draws per chain that were written are intact.*MCMC.resume"
                (draws,) = re.search(words, str(e)).groups()
        assert 6 <= int(draws) == lc.open_store(path).posterior.sizes["draw"]
        small.same(small.resume(path), whole)
    assert 50 < well < 900


def test_a_disk_that_is_full_while_a_process_goes_on(small, chunks_of, tmp_path):
    """The run that could not write keeps what it has, and `extend` goes on with it, wherever it failed."""
    chunks_of(4)
    path = tmp_path / "run.zarr"
    run = small.mcmc(store=path)
    for more, well, name, words in (
        (None, 0, "posterior/effect", "It has no draws as yet"),
        (0, 1, "sample_stats/lp/c", "The 2 draws"),
        (0, 0, "luciole/state/c", "The 2 draws"),
        (0, 1, "posterior/zarr.json", "The 2 draws"),  # once for the place, once for a chunk
        (0, 2, "zarr.json", "The 6 draws"),
        (5, 0, "posterior/draw/c", "The 6 draws"),
        (100, 0, "posterior/effect", "The 6 draws"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            Full(patch, well, name)
            with pytest.raises(StoreError, match=f"cannot be written.*{words}.*MCMC.resume"):
                run.run(jax.random.key(0), small.Y, small.X) if more is None else run.extend(more)
        if name == "zarr.json":
            assert lc.open_store(path).posterior.sizes["draw"] == len(run.get_samples()["effect"]) // 2 == 6
    small.same(run.extend(5), small.run(num_samples=25))
    np.testing.assert_array_equal(lc.open_store(path).posterior["draw"], np.arange(25))
