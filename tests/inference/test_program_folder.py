"""The folder of compiled programs: whose it may be, how large, and what becomes of a damaged entry."""

import os
from pathlib import Path

import numpy as np
import pytest

import luciole as lc
from luciole.inference.run import compilation, program_folder

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="owners and modes of POSIX")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LUCIOLE_CACHE_DIR", str(tmp_path / "deep" / "programs"))
    return tmp_path / "deep" / "programs"


def mode(path):
    return path.stat().st_mode & 0o777


def test_it_is_made_for_its_user_alone(folder):
    before = os.umask(0)
    try:
        assert program_folder._folder() == folder
    finally:
        os.umask(before)
    assert mode(folder) == 0o700


@pytest.mark.parametrize("permissions", [0o777, 0o770, 0o702, 0o1777])
def test_a_folder_that_others_may_write_to_is_not_used(folder, permissions):
    folder.mkdir(parents=True)
    folder.chmod(permissions)
    with pytest.warns(lc.ProgramFolderWarning, match=r"others may write to it \(mode .*chmod 700 .*LUCIOLE_CACHE_DIR"):
        assert program_folder._folder() is None
    with pytest.warns(lc.ProgramFolderWarning), program_folder.between_processes():
        pass
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("permissions", [0o755, 0o700, 0o750])
def test_a_folder_that_others_may_read_is_used(folder, permissions):
    folder.mkdir(parents=True)
    folder.chmod(permissions)
    assert program_folder._folder() == folder


def test_a_folder_of_another_user_is_not_used(folder, monkeypatch):
    folder.mkdir(parents=True, mode=0o700)
    owner = folder.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.warns(lc.ProgramFolderWarning, match=rf"belongs to another user \(uid {owner}\)"):
        assert program_folder._folder() is None


def test_a_link_is_judged_by_where_it_leads(folder, tmp_path):
    real = tmp_path / "shared"
    real.mkdir()
    real.chmod(0o777)
    folder.parent.mkdir()
    folder.symlink_to(real)
    with pytest.warns(lc.ProgramFolderWarning):
        assert program_folder._folder() is None


def test_what_cannot_be_made_is_no_folder(folder):
    folder.parent.write_text("a file")
    assert program_folder._folder() is None


def test_switched_off(monkeypatch):
    monkeypatch.setenv("LUCIOLE_CACHE_DIR", "")
    assert program_folder._folder() is None


def fill(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for age, name in enumerate(names):
        (folder / name).write_bytes(bytes(100))
        os.utime(folder / name, (1e9 - age, 1e9 - age))


def test_the_entries_used_longest_ago_go_first(folder):
    fill(folder, ["new-cache", "middle-cache", "old-cache", "mine.txt"])
    os.utime(folder / "old-cache", (2e9, 1e9))  # read again since
    program_folder._evict(folder, 250)
    assert sorted(p.name for p in folder.iterdir()) == ["mine.txt", "new-cache", "old-cache"]
    program_folder._evict(folder, 250)
    assert len(list(folder.iterdir())) == 3


def test_the_bound_is_kept_where_something_was_added_and_only_there(folder, monkeypatch):
    monkeypatch.setenv("LUCIOLE_CACHE_BYTES", "1.5e2")
    fill(folder, ["a-cache", "b-cache"])
    with program_folder.between_processes():
        pass
    assert len(list(folder.iterdir())) == 2
    with program_folder.between_processes():
        (folder / "c-cache").write_bytes(bytes(100))
    assert [p.name for p in folder.iterdir()] == ["c-cache"]


def test_a_bound_that_is_no_number(monkeypatch):
    monkeypatch.setenv("LUCIOLE_CACHE_BYTES", "lots")
    with pytest.warns(lc.ProgramFolderWarning, match="LUCIOLE_CACHE_BYTES is 'lots'"):
        assert program_folder._max_bytes() == 10**9


@pytest.mark.slow
def test_a_damaged_entry_is_compiled_again_and_draws_are_the_same(folder, targets):
    def draws():
        compilation._cache.clear()
        mcmc = lc.MCMC(lc.RWM(targets.gaussian(np.zeros(1), np.eye(1))), num_warmup=2, num_samples=5, num_chains=1, progress_bar=False)
        return mcmc.run(np.zeros(2, np.uint32)).get_samples()["x"]

    usual = draws()
    entries = list(Path(folder).glob("*-cache"))
    assert len(entries) >= 4
    assert mode(folder) == 0o700
    np.testing.assert_array_equal(draws(), usual)
    for i, entry in enumerate(entries):
        content = entry.read_bytes()
        entry.write_bytes((content[: len(content) // 2], b"", content[::-1])[i % 3])
    with pytest.warns(UserWarning, match="persistent compilation cache"):
        again = draws()
    np.testing.assert_array_equal(again, usual)
