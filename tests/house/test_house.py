"""The house's rules, checked on its own files; each rule is shown to catch a planted violation."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("transforms", "ppl", "sharding", "inference")
BELOW = {
    "transforms": set(),
    "ppl": {"transforms"},
    "sharding": {"transforms"},
    "inference": {"transforms", "ppl", "sharding"},
}
SEMI_PRIVATE = re.compile(r"\bjax\.(_src|extend|interpreters)\b|from jax import (extend|interpreters)\b")


def python_files(folder):
    return sorted(p for p in folder.rglob("*.py") if "__pycache__" not in p.parts)


def imported_names(source, package):
    """Every dotted name a file of `package` imports, at any depth of its code; `from a import b` counts as `a.b`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            yield from (".".join([*start, *filter(None, [node.module]), alias.name]) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.args[0].value


def climbs(name, room):
    """Whether a file of `room` may not import `name`: a room above, a room beside, the front door, a bare name."""
    first, *rest = name.split(".")
    if name == "luciole.__version__":  # a literal, there before any import of the front door's
        return False
    if first == "luciole":
        return not rest or rest[0] not in BELOW[room] | {room}
    return first in ROOMS


def climbing_imports(root):
    return [
        f"{path.relative_to(root)} imports {name}"
        for room in ROOMS
        for path in python_files(root / room)
        for name in imported_names(path.read_text(), ("luciole", *path.relative_to(root).parts[:-1]))
        if climbs(name, room)
    ]


def semi_private_uses(root):
    files = [p for folder in (*ROOMS, "benchmarks", "src/luciole") for p in python_files(root / folder)]
    files = [p for p in files if p != root / "transforms/jax_compat.py"]
    return [str(p.relative_to(root)) for p in files if SEMI_PRIVATE.search(code_of(p))]


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
    """Rooms whose link is no link (git writes a text file where links are switched off) or leads elsewhere."""
    links = {room: root / "src/luciole" / room for room in ROOMS}
    return [r for r, link in links.items() if not link.is_symlink() or link.resolve() != (root / r).resolve()]


# The rooms of inference/, as they are drawn in CONTRIBUTING.md: what each may import, from the bottom up, so that there is no circle.
BELOW_IN_INFERENCE = {
    "kernels": set(),
    "results": {"kernels"},
    "placing": {"kernels"},
    "run": {"kernels", "results", "placing"},
    "flymc": {"kernels", "run"},
    "evidence": {"kernels", "placing", "results", "run"},
    "hypergradient": set(),
    "training": set(),
}


def arrows_in_inference(root):
    """Room and room that it imports, of the files of inference/'s rooms."""
    found = set()
    for room in BELOW_IN_INFERENCE:
        for path in python_files(root / "inference" / room):
            for name in imported_names(path.read_text(), ("luciole", *path.relative_to(root).parts[:-1])):
                parts = name.split(".")
                if parts[:2] == ["luciole", "inference"] and parts[2] != room:
                    found.add((room, parts[2]))
    return found


def undrawn_arrows(root):
    return [
        f"inference/{room} imports {other}" for room, other in sorted(arrows_in_inference(root)) if other not in BELOW_IN_INFERENCE[room]
    ]


def undrawn_rooms(root):
    return [d.name for d in (root / "inference").iterdir() if d.is_dir() and d.name not in {*BELOW_IN_INFERENCE, "__pycache__"}]


def large_functions(root):
    """Functions of inference/ of more than 80 lines without their docstring, or of more than 8 parameters; users' calls may have more."""
    for path in python_files(root / "inference"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
                names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs) if a.arg not in ("self", "cls")]
                lines = node.end_lineno - first.lineno + 1
                if lines > 80 or (len(names) > 8 and node.name not in ("__init__", *USERS_CALLS)):
                    yield f"{path.relative_to(root)}: {node.name} has {lines} lines and {len(names)} parameters"


USERS_CALLS = ("evidence_gradient", "hypergradient", "resume", "sgd_evidence", "train")  # verbs that take what a constructor takes


def too_large_functions(root):
    return list(large_functions(root))


RULES = [climbing_imports, semi_private_uses, folders_without_init, broken_links, undrawn_arrows, undrawn_rooms, too_large_functions]


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
        (climbing_imports, "ppl/a.py", "from .. import sample"),
        (climbing_imports, "inference/a.py", "import luciole"),
        (climbing_imports, "inference/a.py", "from ppl import sample"),
        (climbing_imports, "ppl/a.py", "import importlib\nimportlib.import_module('luciole.inference')"),
        (semi_private_uses, "ppl/a.py", "from jax._src import core"),
        (semi_private_uses, "transforms/a.py", "import jax\nx = jax.extend.core.Primitive"),
        (semi_private_uses, "inference/a.py", "from jax.interpreters import ad"),
        (semi_private_uses, "ppl/jax_compat.py", "def f():\n    from jax import extend"),
        (folders_without_init, "ppl/deep/a.py", ""),
        (undrawn_arrows, "inference/kernels/a.py", "from ..run.mcmc import MCMC"),
        (undrawn_arrows, "inference/results/a.py", "from ..flymc import FlyMC"),
        (undrawn_rooms, "inference/attic/a.py", ""),
        (too_large_functions, "inference/run/a.py", "def f(a, b, c, d, e, f, g, h, i): ..."),
        (too_large_functions, "inference/run/a.py", "def f():\n" + "    x = 1\n" * 81),
    ],
)
def test_a_planted_violation_is_caught(small_house, rule, file, text):
    assert rule(small_house) == []
    path = small_house / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    assert len(rule(small_house)) == 1


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("inference/a.py", "from ..ppl import sample\nfrom ..sharding import rules\nfrom . import b"),
        ("ppl/deep/a.py", "from ..program import trace\nfrom ...transforms import walk\nimport numpyro"),
        ("transforms/jax_compat.py", "from jax._src import core"),
        ("ppl/a.py", "'jax._src is only spoken of'\nimport jax\njax.numpy.zeros(3)  # jax.extend"),
    ],
)
def test_what_is_allowed_is_left_alone(small_house, file, text):
    path = small_house / file
    path.parent.mkdir(exist_ok=True)
    (path.parent / "__init__.py").touch()
    path.write_text(text)
    assert [rule(small_house) for rule in RULES] == [[]] * len(RULES)


@pytest.mark.parametrize("damage", ["elsewhere", "text file", "copy"])
def test_a_broken_link_is_caught(small_house, damage):
    link = small_house / "src/luciole/ppl"
    link.unlink()
    if damage == "elsewhere":
        link.symlink_to("../../inference")
    elif damage == "text file":
        link.write_text("../../ppl")
    else:
        shutil.copytree(small_house / "ppl", link)
    assert broken_links(small_house) == ["ppl"]


def bare_imports_outside(root):
    files = [p for folder in ("tests", "benchmarks", "src/luciole") for p in python_files(root / folder)]
    names = [(p, name) for p in files for name in imported_names(p.read_text(), ("tests",) * 9)]
    return [f"{p.relative_to(root)} imports {name}" for p, name in names if name.split(".")[0] in ROOMS]


def test_tests_and_benchmarks_import_luciole_only(small_house):
    assert bare_imports_outside(ROOT) == []
    (small_house / "tests").mkdir()
    (small_house / "tests/a.py").write_text("def f():\n    from ppl.program import trace")
    assert bare_imports_outside(small_house) == ["tests/a.py imports ppl.program.trace"]


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


# Read by xarray to write netCDF, or the other half of a package that is imported.
NOT_IMPORTED = {"h5netcdf", "h5py", "jaxlib"}


def dependencies_without_use(root):
    """Packages that are installed with luciole and that none of its files import."""
    declared = tomllib.loads((root / "pyproject.toml").read_text())["project"]["dependencies"]
    files = [p for folder in (*ROOMS, "src/luciole") for p in python_files(root / folder)]
    used = {name.split(".")[0] for p in files for name in imported_names(p.read_text(), ("luciole",) * 9)}
    return sorted({re.split(r"[<>=\s]", line)[0] for line in declared} - NOT_IMPORTED - used)


def test_every_dependency_is_used(small_house):
    assert dependencies_without_use(ROOT) == []
    (small_house / "pyproject.toml").write_text('[project]\ndependencies = ["numpy>=2", "h5py", "jaxtyping>=0.3"]')
    (small_house / "ppl/a.py").write_text("import numpy as np")
    assert dependencies_without_use(small_house) == ["jaxtyping"]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no git checkout")
def test_records_of_runs_are_not_committed():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert [p for p in listed if p.endswith((".jsonl", ".nc", ".log", ".zarr"))] == []
    made = ["results.jsonl", "benchmarks/results.jsonl"]
    ignored = subprocess.run(["git", "check-ignore", "--no-index", *made], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert ignored == made
