#!/usr/bin/env python3
"""One command for each thing a developer does. Needs Python 3.11 to 3.13 and nothing else.

    python3 dev.py demo [options]       sample a real posterior, summarise, save and plot it (options: demo --help)
    python3 dev.py test [pytest args]   the quick tests; `test --all` adds the slow ones and the notebooks;
                                        `test -m exhaustive` runs hours of comparisons that neither has
    python3 dev.py lint                 ruff check, ruff format --check, pyright; mypy on a user's script
    python3 dev.py notebooks            execute the notebooks
    python3 dev.py bench [name] [args]  run benchmarks/<name>.py; without a name, list them

The first call makes an environment in `.venv-<python version>` and installs Luciole there, in place (some minutes and
about one gigabyte); later calls start at once. The environment is brought up to date when pyproject.toml changes. Two
variables are heard: LUCIOLE_VENV puts the environment elsewhere, and pip's own PIP_CONSTRAINT chooses versions.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
OLDEST, NEWEST = (3, 11), (3, 13)
QUICK = "not slow and not exhaustive and not notebook and not gpu"
ALL = "not exhaustive"
PARALLEL = ("-n", "auto", "--maxprocesses", "4", "--dist", "worksteal")
LINKS = ("ppl", "inference", "transforms", "sharding")


def stop(message):
    """Leave with a message for a human and exit status 2."""
    sys.stderr.write("dev.py: " + message + "\n")
    sys.exit(2)


def run(*command, cwd=None):
    """Run one command; leave with its exit status if it fails."""
    status = subprocess.run([str(part) for part in command], cwd=cwd).returncode
    if status:
        sys.exit(status)


def check_machine():
    """Refuse a Python outside the supported range, and a checkout whose links came out as text files."""
    version = sys.version_info[:2]
    if not OLDEST <= version <= NEWEST:
        names = ["python3.%d" % minor for minor in range(NEWEST[1], OLDEST[1] - 1, -1)]
        found = [name for name in names if shutil.which(name)]
        advice = "write `%s dev.py ...`" % found[0] if found else "install one of " + ", ".join(names)
        stop("Luciole needs Python 3.11 to 3.13, and this is %d.%d; %s." % (*version, advice))
    for link in LINKS:
        if not (ROOT / "src" / "luciole" / link / "__init__.py").is_file():
            stop(
                "src/luciole/%s should be a symbolic link to the folder %s and is not. On Windows, switch developer "
                "mode on, then `git config core.symlinks true` and `git checkout -- src`." % (link, link)
            )


def installer(venv, python):
    """The command that installs into the environment: its own pip, else this Python's pip, else uv."""
    pip = ["-m", "pip", "--disable-pip-version-check"]
    if importlib.util.find_spec("ensurepip"):
        run(sys.executable, "-m", "venv", venv)
        return [python, *pip, "install", "--quiet"]
    if importlib.util.find_spec("venv"):  # Debian and Ubuntu ship venv without ensurepip: borrow a pip from outside
        borrowed = [sys.executable, *pip, "--python", python, "install", "--quiet"]
        if not importlib.util.find_spec("pip"):
            borrowed = ["uv", "pip", "install", "--quiet", "--python", python]
        if shutil.which(str(borrowed[0])):
            run(sys.executable, "-m", "venv", "--without-pip", venv)
            return borrowed
    stop(
        "this Python comes without venv or ensurepip, so that no environment can be made. On Debian and Ubuntu: "
        "`sudo apt install python%d.%d-venv`; elsewhere install Python from python.org." % sys.version_info[:2]
    )


def environment(extra):
    """Path of the environment's Python, made or brought up to date first if needed, with one of the extras."""
    name = ".venv-%d.%d" % sys.version_info[:2]
    venv = Path(os.environ.get("LUCIOLE_VENV") or ROOT / name).resolve()
    python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    wanted = hashlib.sha256(str(ROOT).encode() + (ROOT / "pyproject.toml").read_bytes())
    for constraint in os.environ.get("PIP_CONSTRAINT", "").split():
        if Path(constraint).is_file():
            wanted.update(Path(constraint).read_bytes())
    stamp = venv / (".luciole-" + extra)
    if python.exists() and stamp.exists() and stamp.read_text() == wanted.hexdigest():
        return python
    shown = os.path.relpath(venv, ROOT) if ROOT in venv.parents else venv
    print("dev.py: installing Luciole [%s] into %s (minutes, the first time) ..." % (extra, shown), flush=True)
    run(*installer(venv, python), "-e", "%s[%s]" % (ROOT, extra))
    stamp.write_text(wanted.hexdigest())
    return python


def main(arguments):
    """Do what the first argument says, in an environment that has what it needs."""
    command, rest = (arguments[0], arguments[1:]) if arguments else ("help", [])
    if command in ("help", "-h", "--help"):
        print(__doc__.strip())
        return
    if command not in ("demo", "test", "lint", "notebooks", "bench"):
        stop("no command %r; `python3 dev.py help` lists them." % command)
    check_machine()
    if command == "bench" and not rest:
        scripts = sorted(path.stem for path in (ROOT / "benchmarks").glob("[a-z]*.py"))
        print("benchmarks: " + (", ".join(scripts) or "none yet"))
        return
    python = environment({"lint": "lint", "bench": "bench"}.get(command, "test"))
    if command == "demo":
        run(python, "-m", "luciole", *rest)
    elif command == "test":
        select = ["-m", ALL if "--all" in rest else QUICK]
        run(python, "-m", "pytest", *PARALLEL, *select, *(word for word in rest if word != "--all"), cwd=ROOT)
    elif command == "notebooks":
        run(python, "-m", "pytest", *PARALLEL, "-m", "notebook", *rest, cwd=ROOT)
    elif command == "lint":
        run(python, "-m", "ruff", "check", ".", cwd=ROOT)
        run(python, "-m", "ruff", "format", "--check", ".", cwd=ROOT)
        run(python, "-m", "pyright", "--pythonpath", python, cwd=ROOT)
        run(python, "-m", "mypy", "--python-executable", python, cwd=ROOT)
    elif command == "bench":
        run(python, ROOT / "benchmarks" / (rest[0] + ".py"), *rest[1:], cwd=ROOT)


if __name__ == "__main__":
    main(sys.argv[1:])
