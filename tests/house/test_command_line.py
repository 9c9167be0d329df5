"""What `python -m luciole` and `dev.py` do around a run, with draws made by hand."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import arviz as az
import numpy as np
import pytest

from luciole import __main__ as command_line

ROOT = Path(__file__).resolve().parents[2]
CHAINS, DRAWS, SCHOOLS = 4, 250, list("ABCDEFGH")


@pytest.fixture
def data():
    generator = np.random.default_rng(1)
    posterior = {
        "mu": generator.normal(size=(CHAINS, DRAWS)),
        "tau": np.abs(generator.normal(size=(CHAINS, DRAWS))),
        "theta": generator.normal(size=(CHAINS, DRAWS, len(SCHOOLS))),
    }
    groups = {"posterior": posterior, "sample_stats": {"diverging": generator.random((CHAINS, DRAWS)) < 0.01}}
    names = {"coords": {"school": SCHOOLS}, "dims": {"theta": ["school"]}}
    if az.__version__.startswith("0."):
        return az.from_dict(**groups, **names)
    return az.from_dict(groups, **names)


def test_the_trace_plot_is_an_image(data, tmp_path):
    command_line.save_trace_plot(data, tmp_path / "trace.png", ["mu", "tau", "theta"])
    content = (tmp_path / "trace.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) > 10_000


def test_the_draws_survive_the_file(data, tmp_path):
    data.to_netcdf(str(tmp_path / "draws.nc"))
    again = az.from_netcdf(str(tmp_path / "draws.nc"))
    np.testing.assert_array_equal(again["posterior"]["theta"].values, data["posterior"]["theta"].values)
    assert list(again["posterior"]["theta"]["school"].values) == SCHOOLS


def test_the_verdict_is_honest(data):
    summary = az.summary(data)
    good, sentence = command_line.verdict(summary, num_divergent=0, num_chains=CHAINS)
    assert good
    assert "Nothing speaks against" in sentence
    for worse, divergent, word in [
        ({"r_hat": 1.2}, 0, "disagree"),
        ({"ess_bulk": 12.0}, 0, "effective draws"),
        ({}, 3, "divergent"),
        ({"r_hat": float("nan")}, 0, "disagree"),
    ]:
        spoilt = summary.assign(**worse)
        good, sentence = command_line.verdict(spoilt, num_divergent=divergent, num_chains=CHAINS)
        assert not good
        assert word in sentence


def test_one_chain_is_never_trusted(data):
    good, sentence = command_line.verdict(az.summary(data).assign(r_hat=float("nan")), num_divergent=0, num_chains=1)
    assert not good
    assert "one chain" in sentence


def test_the_main_job_from_end_to_end(tmp_path, capsys):
    arguments = ["--output", str(tmp_path / "out"), "--draws", "300", "--warmup", "300", "--no-progress"]
    assert command_line.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "theta[A]" in printed
    assert "largest R-hat" in printed
    again = az.from_netcdf(str(tmp_path / "out/eight_schools.nc"))
    assert again["posterior"]["theta"].shape == (4, 300, 8)
    assert (tmp_path / "out/eight_schools.png").stat().st_size > 10_000


@pytest.mark.slow
def test_what_a_newcomer_sees_first_is_a_result_that_is_fine(tmp_path, capsys):
    assert command_line.main(["--output", str(tmp_path), "--no-progress"]) == 0
    printed = capsys.readouterr().out
    assert "Nothing speaks against these draws" in printed
    assert "divergent transitions 0" in printed


def test_the_readme_shows_the_same_setting():
    assert "target_accept_prob=0.95" in (ROOT / "README.md").read_text()


def load_dev():
    specification = importlib.util.spec_from_file_location("dev", ROOT / "dev.py")
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize("version", [(3, 10, 14), (3, 14, 0)])
def test_dev_refuses_an_unsupported_python_and_says_what_to_do(monkeypatch, capsys, version):
    dev = load_dev()
    monkeypatch.setattr(dev.sys, "version_info", version)
    with pytest.raises(SystemExit) as stopped:
        dev.check_machine()
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert f"this is {version[0]}.{version[1]}" in message
    assert "python3.1" in message


def test_dev_says_when_links_came_out_as_text(monkeypatch, capsys, tmp_path):
    dev = load_dev()
    monkeypatch.setattr(dev, "ROOT", tmp_path)
    with pytest.raises(SystemExit):
        dev.check_machine()
    assert "core.symlinks" in capsys.readouterr().err


def test_dev_says_when_venv_is_missing(monkeypatch, capsys, tmp_path):
    dev = load_dev()
    monkeypatch.setattr(dev.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        dev.installer(tmp_path / "venv", tmp_path / "venv/bin/python")
    assert "venv" in capsys.readouterr().err


def test_dev_needs_no_more_than_the_standard_library():
    outcome = subprocess.run([sys.executable, "-I", "-S", str(ROOT / "dev.py"), "help"], capture_output=True, text=True)
    assert outcome.returncode == 0
    assert "dev.py demo" in outcome.stdout
    unknown = subprocess.run([sys.executable, "-I", "-S", str(ROOT / "dev.py"), "tset"], capture_output=True, text=True)
    assert unknown.returncode == 2
    assert "'tset'" in unknown.stderr
