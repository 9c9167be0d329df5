"""Whose line a message names: never a library's, and in a notebook the cell's."""

import sys
import sysconfig
from types import SimpleNamespace

import numpy
import pytest

import luciole as lc
from luciole.transforms.source_lines import place, user_code

STANDARD = sysconfig.get_paths()["stdlib"]
MODEL = ("/home/someone/model.py", 3, "model")


def frame(file):
    return (file, 1, "f")


@pytest.mark.parametrize(
    "file",
    [
        numpy.__file__,
        lc.__file__.replace("__init__", "ppl/program"),
        f"{STANDARD}/contextlib.py",
        "/home/someone/project/.venv/lib/python3.12/site-packages/pandas/core/series.py",
        "/usr/lib/python3/dist-packages/xarray/core.py",
        "<frozen importlib._bootstrap>",
    ],
)
def test_lines_of_libraries_are_left_out(file):
    assert user_code([frame(file), MODEL, frame(file)]) == [MODEL]


def test_a_model_in_an_installed_package_is_still_found():
    installed = frame("/venv/lib/python3.12/site-packages/somebody/models.py")
    assert user_code([frame(f"{STANDARD}/functools.py"), installed]) == [installed]
    assert user_code([installed, MODEL]) == [MODEL]


def test_cells_of_a_notebook(monkeypatch):
    names = {"/tmp/ipykernel_7/123.py": ("Cell", "In[6]")}
    shell = SimpleNamespace(compile=SimpleNamespace(format_code_name=names.get))
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert place("/tmp/ipykernel_7/123.py", 3) == "cell 6, line 3"
    assert place(*MODEL[:2]) == "/home/someone/model.py:3"
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    assert place("/tmp/ipykernel_7/123.py", 3) == "/tmp/ipykernel_7/123.py:3"


def test_ipython_names_its_cells_so():
    compiler = pytest.importorskip("IPython.core.compilerop").CachingCompiler()
    file = compiler.cache("x = 1\n", 6)
    assert compiler.format_code_name(file) == ("Cell", "In[6]")
