"""The front door: every public name exists, is documented, and stands in the stub for type checkers."""

import ast
import importlib
import pkgutil
import tomllib
from pathlib import Path

import pytest

import luciole as lc

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("transforms", "ppl", "sharding", "inference")


@pytest.mark.parametrize("name", lc.__all__)
def test_every_public_name_exists_and_is_documented(name):
    value = getattr(lc, name)
    assert name in ("__version__", "dist") or (value.__doc__ or "").strip()


@pytest.mark.parametrize("room", ROOMS)
def test_every_name_of_a_room_exists(room):
    module = importlib.import_module(f"luciole.{room}")
    assert module.__doc__
    assert [name for name in module.__all__ if not hasattr(module, name)] == []
    assert sorted(module.__all__) == sorted(set(module.__all__))


def test_the_stub_agrees_with_the_table():
    tree = ast.parse((ROOT / "src/luciole/__init__.pyi").read_text())
    stub_all = next(ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign))
    imported = {a.asname or a.name: n.module for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert sorted(stub_all) == sorted(lc.__all__)
    for name, room in lc._ROOM_OF.items():
        assert imported[name] == room.lstrip(".")


def test_every_error_and_warning_is_exported():
    """So that users can catch and filter them by name."""

    def below(kind):
        return {kind, *(deeper for made in kind.__subclasses__() for deeper in below(made))}

    for room in ROOMS:
        for module in pkgutil.walk_packages(importlib.import_module(f"luciole.{room}").__path__, f"luciole.{room}."):
            importlib.import_module(module.name)
    found = {kind for base in (lc.LucioleError, lc.LucioleWarning) for kind in below(base)}
    ours = {kind.__name__: kind for kind in found if kind.__module__.startswith("luciole.")}
    assert len(ours) > 15
    assert [name for name, kind in ours.items() if getattr(lc, name, None) is not kind] == []


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nuts'"):
        _ = lc.nuts


def test_the_version_is_the_one_of_the_project():
    assert lc.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
