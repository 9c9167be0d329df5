"""The house's rules, checked on its own files; each rule is shown to catch a planted violation."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("transforms", "ppl", "sharding", "inference")
BELOW = {"transforms": set(), "ppl": {"transforms"}, "sharding": {"transforms"}, "inference": {"transforms", "ppl", "sharding"}}
SEMI_PRIVATE = re.compile(r"\bjax\.(_src|extend|interpreters)\b|from jax import (extend|interpreters)\b")


def python_files(folder):
    return sorted(p for p in folder.rglob("*.py") if "__pycache__" not in p.parts)


def imported_rooms(source, room):
    """Rooms that a file of `room` imports, by relative or absolute import."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level >= 2:
            first = (node.module or "").split(".")[0]
            found |= {first} if first else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] == "luciole":
            parts = (node.module or "").split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {p[1] for a in node.names if (p := a.name.split("."))[0] == "luciole" and len(p) > 1}
            found |= {a.name.split(".")[0] for a in node.names} & set(ROOMS)
    return (found & set(ROOMS)) - {room}


def climbing_imports(root):
    return [
        f"{path.relative_to(root)} imports {other}"
        for room in ROOMS
        for path in python_files(root / room)
        for other in imported_rooms(path.read_text(), room) - BELOW[room]
    ]


def semi_private_uses(root):
    files = [p for room in ROOMS for p in python_files(root / room)]
    return [str(p.relative_to(root)) for p in files if p.name != "jax_compat.py" and SEMI_PRIVATE.search(code_of(p))]


def code_of(path):
    """The source without its docstrings and comments: `ast` drops comments, and we drop strings that stand alone."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            body[0].value.value = ""
    return ast.unparse(tree)


def folders_without_init(root):
    return [
        str(folder.relative_to(root))
        for room in ROOMS
        for folder in [root / room, *(d for d in (root / room).rglob("*") if d.is_dir() and d.name != "__pycache__")]
        if list(folder.glob("*.py")) and not (folder / "__init__.py").exists()
    ]


def broken_links(root):
    return [r for r in ROOMS if (root / "src/luciole" / r).resolve() != (root / r).resolve() or not (root / r).is_dir()]


RULES = [climbing_imports, semi_private_uses, folders_without_init, broken_links]


@pytest.mark.parametrize("rule", RULES)
def test_the_house_keeps_its_rules(rule):
    assert rule(ROOT) == []


@pytest.fixture
def small_house(tmp_path):
    (tmp_path / "src/luciole").mkdir(parents=True)
    for room in ROOMS:
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text("")
        (tmp_path / "src/luciole" / room).symlink_to(f"../../{room}")
    return tmp_path


@pytest.mark.parametrize(
    ("rule", "file", "text"),
    [
        (climbing_imports, "transforms/a.py", "from ..ppl import trace"),
        (climbing_imports, "ppl/a.py", "from .. import inference"),
        (climbing_imports, "ppl/a.py", "def f():\n    from luciole.sharding import partition"),
        (climbing_imports, "sharding/a.py", "import luciole.ppl.program"),
        (climbing_imports, "ppl/deep/a.py", "from ...inference import MCMC"),
        (semi_private_uses, "ppl/a.py", "from jax._src import core"),
        (semi_private_uses, "transforms/a.py", "import jax\nx = jax.extend.core.Primitive"),
        (semi_private_uses, "inference/a.py", "from jax.interpreters import ad"),
        (folders_without_init, "ppl/deep/a.py", ""),
    ],
)
def test_a_planted_violation_is_caught(small_house, rule, file, text):
    assert rule(small_house) == []
    path = small_house / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    assert len(rule(small_house)) == 1


def test_a_link_that_leads_elsewhere_is_caught(small_house):
    link = small_house / "src/luciole/ppl"
    link.unlink()
    link.symlink_to("../../inference")
    assert broken_links(small_house) == ["ppl"]


def imports_of_rooms_by_bare_name(path):
    names = [a.name for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Import) for a in n.names]
    names += [n.module or "" for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom) and not n.level]
    return [n for n in names if n.split(".")[0] in ROOMS]


def test_tests_and_benchmarks_import_luciole_only():
    files = [p for folder in ("tests", "benchmarks") for p in python_files(ROOT / folder)]
    assert [str(p) for p in files if imports_of_rooms_by_bare_name(p)] == []


def python(code, cwd, **env):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env={**os.environ, **env}, timeout=120)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_refuses_its_bare_name(room):
    result = python(f"import {room}", ROOT)
    assert result.returncode != 0
    assert f"from luciole import {room}" in result.stderr


def test_importing_luciole_loads_neither_jax_nor_numpyro():
    code = "import sys, luciole; print([m for m in ('jax', 'numpyro', 'arviz', 'numpy') if m in sys.modules])"
    assert python(code, ROOT, PYTHONPATH=str(ROOT / "src")).stdout.strip() == "[]"


def test_importing_the_rooms_does_not_load_arviz():
    code = "import sys, luciole; luciole.MCMC; print([m for m in ('arviz', 'matplotlib') if m in sys.modules])"
    assert python(code, ROOT, PYTHONPATH=str(ROOT / "src")).stdout.strip() == "[]"
