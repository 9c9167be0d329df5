"""`python -m luciole.launch`: bad command lines, what processes are told, what happens when one dies; first without JAX, then with."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import pytest

from luciole import launch, launched

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def script(tmp_path):
    """Writes a script, and gives its name."""

    def write(text, name="script.py"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--processes 2", "the following arguments are required: script"),
        ("--processes 2 absent.py", "there is no file 'absent.py'"),
        ("--processes 2 .", "there is no file '.'"),
        ("{}", "--processes N, or --cluster"),
        ("--processes 0 {}", "--processes 0: at least 1"),
        ("--processes two {}", "invalid int value: 'two'"),
        ("--processes 2 --devices 0 {}", "--devices 0: at least 1"),
        ("--processes 2 --coordinator a:1 --process-id 2 {}", "--process-id 2: with --processes 2 they are numbered from 0 to 1"),
        ("--processes 2 --coordinator a:1 --process-id -1 {}", "--process-id -1: with --processes 2"),
        ("--processes 2 --coordinator a:1 {}", "--coordinator and --process-id go together"),
        ("--processes 2 --process-id 0 {}", "--coordinator and --process-id go together"),
        ("--coordinator a:1 --process-id 0 {}", "how many processes?"),
        ("--processes 2 --coordinator a --process-id 0 {}", "--coordinator a: expected HOST:PORT"),
        ("--processes 2 --coordinator a:70000 --process-id 0 {}", "a port from 1 to 65535"),
        ("--cluster --processes 2 {}", "--cluster finds --coordinator, --processes and --process-id itself"),
        ("--processes 2 --timeout 0 {}", "--timeout 0: seconds, more than 0"),
        ("--processes 2 --log {} {}", "this is a file, and a folder is wanted"),
        ("--process 2 {}", "unrecognized arguments: --process"),
    ],
)
def test_a_bad_command_line_starts_nothing(arguments, words, script, monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("something was started"))
    with pytest.raises(SystemExit) as end:
        launch.main(arguments.replace("{}", script("")).split())
    assert end.value.code == 2
    assert words in capsys.readouterr().err


def told(line, script, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1 --xla_force_host_platform_device_count=8")
    return launch.environments(launch.parse([*line.split(), script(""), "--processes", "9"]))  # the last two are the script's


def test_each_process_is_told_its_place(script, monkeypatch):
    here = told("--processes 2 --devices 3", script, monkeypatch)
    assert [e["LUCIOLE_PROCESS_ID"] for e in here.values()] == list(here) == ["0", "1"]
    assert [e["JAX_LOCAL_DEVICE_IDS"] for e in here.values()] == ["0,1,2", "3,4,5"]
    assert {e["LUCIOLE_PROCESSES"] for e in here.values()} == {"2"}
    assert {e["XLA_FLAGS"] for e in here.values()} == {"--xla_a=1 --xla_force_host_platform_device_count=3"}
    (address,) = {e["LUCIOLE_COORDINATOR"] for e in here.values()}
    assert launch.ADDRESS.fullmatch(address)
    assert here["0"]["JAX_COORDINATOR_BIND_ADDRESS"] == address  # nothing listens to the network


def test_one_process_of_a_cluster_is_told_its_place(script, monkeypatch):
    by_hand = told("--processes 16 --coordinator node17:9911 --process-id 3 --devices 2", script, monkeypatch)
    assert list(by_hand) == ["3"]
    assert {k: v for k, v in by_hand["3"].items() if k.startswith(("LUCIOLE_C", "LUCIOLE_P", "JAX"))} == {
        "LUCIOLE_COORDINATOR": "node17:9911",
        "LUCIOLE_PROCESSES": "16",
        "LUCIOLE_PROCESS_ID": "3",
        "JAX_LOCAL_DEVICE_IDS": "0,1",  # of its own host
    }
    for name in launch.RANKS:
        monkeypatch.delenv(name, raising=False)
    assert list(told("--cluster", script, monkeypatch)) == [socket.gethostname()]
    monkeypatch.setenv("SLURM_PROCID", "5")
    ((name, environment),) = told("--cluster", script, monkeypatch).items()
    assert name == "5"
    assert "LUCIOLE_COORDINATOR" not in environment


@pytest.fixture
def plain(monkeypatch):
    """Processes that run the script alone: they start in a moment."""
    monkeypatch.setattr(launch, "WORKER", ("-S", "-u"))
    monkeypatch.setattr(launch, "GRACE_SECONDS", 0.1)
    monkeypatch.setattr(launch, "SETTLE_SECONDS", 0.05)


# Process 0 tells its number and does not listen to SIGTERM.
STUBBORN = """
import os, signal, sys, time
from pathlib import Path
here, me = Path(__file__).parent, os.environ["LUCIOLE_PROCESS_ID"]
if me == "0":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (here / "part").write_text(str(os.getpid()))
    os.replace(here / "part", here / "pid")
    time.sleep(60)
while not (here / "pid").exists():
    time.sleep(0.01)
print("the last word", file=sys.stderr)
"""


def is_gone(folder):
    """Soon: a process that is killed goes when the machine comes to it."""
    pid, end = int((folder / "pid").read_text()), time.monotonic() + 20
    while time.monotonic() < end:
        try:
            os.waitpid(pid, os.WNOHANG)  # if nobody has asked for its status yet it is still in the list of processes
        except ChildProcessError:
            pass
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail(f"process {pid} is still there")


@pytest.mark.parametrize(
    ("death", "status", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, "was killed by SIGKILL"),
        ("os._exit(7)", 7, "ended with exit status 7"),
        ("raise KeyError('x')", 1, "ended with exit status 1"),
    ],
)
def test_the_process_that_dies_is_named_and_the_others_are_ended(death, status, words, plain, script, tmp_path, capfd):
    assert launch.main(["--processes", "2", script(STUBBORN + death)]) == status
    told = capfd.readouterr().err
    assert f"process 1 of 2 on {socket.gethostname()}, pid " in told
    assert words in told
    assert "\n    the last word\n" in told
    assert "are ended: 0." in told
    is_gone(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_launcher_ends_all(number, plain, script, tmp_path):
    def send():
        while not (tmp_path / "pid").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    threading.Thread(target=send, daemon=True).start()
    with pytest.raises(SystemExit) as end:
        launch.main(["--processes", "2", script(STUBBORN + "time.sleep(60)")])
    assert end.value.code == 128 + number
    assert signal.getsignal(number) == before
    is_gone(tmp_path)


def test_a_signal_while_a_process_is_started_ends_that_one_too(plain, script, tmp_path, monkeypatch):
    class Slow(launch.Member):
        def __init__(self, *args):
            super().__init__(*args)
            os.kill(os.getpid(), signal.SIGTERM)  # it runs, and is not among the members yet
            started.append(self.process)

    started: list = []
    monkeypatch.setattr(launch, "Member", Slow)
    with pytest.raises(SystemExit):
        launch.main(["--processes", "2", script(STUBBORN + "time.sleep(60)")])
    assert [process.poll() is None for process in started] == [False]


def test_silence_ends_all_when_asked(plain, script, tmp_path, capfd):
    assert launch.main(["--processes", "2", "--timeout", "0.2", script(STUBBORN + "time.sleep(60)")]) == 124
    assert "no process has written a line for 0.2 s" in capfd.readouterr().err
    is_gone(tmp_path)


def test_lines_are_passed_on_under_the_number_of_their_process(plain, script, tmp_path, capfd):
    text = """if True:
        import os, sys
        me = os.environ["LUCIOLE_PROCESS_ID"]
        print("10%", end="\\r")
        print("[Gloo] Rank 4 is connected to [Gloo] Rank 57 peer ranks. Expected number of connected peer ranks is : 7")
        print("Gloo is well", *sys.argv[1:])
        print("7", file=sys.stderr)
        if me == "1":
            print("no end", end="")
    """
    assert launch.main(["--processes", "2", "--log", str(tmp_path / "a/log"), script(text), "--devices", "é"]) == 0
    out, err = capfd.readouterr()
    both = ["10%", "Gloo is well --devices é"]
    assert sorted(out.splitlines()) == sorted([f"[{i}] {line}" for i in "01" for line in both] + ["[1] no end"])
    assert sorted(err.splitlines()) == ["[0] 7", "[1] 7"]
    assert (tmp_path / "a/log/process-1.log").read_text().count("\n") == 4  # Gloo's too


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("import sys; sys.exit()", None, ""),
        ("import sys; sys.exit(3)", 3, ""),
        ("raise SystemExit('a reason')", 1, "a reason\n"),
        ("1 / 0", 1, "ZeroDivisionError"),
        ("1 /", 1, "SyntaxError"),
        ("import sys, beside\nassert (__name__, sys.argv[1:]) == ('__main__', ['a', '-b'])", None, ""),
    ],
)
def test_a_script_runs_as_python_runs_it(text, code, words, script, monkeypatch, capsys):
    left = []
    monkeypatch.setattr(launched, "_leave", left.append)
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    script("", "beside.py")
    launched.run(script(text), ["a", "-b"])
    sys.modules.pop("beside", None)
    told = capsys.readouterr().err
    assert left == ([] if code is None else [code])
    assert words in told
    assert "runpy" not in told or "SyntaxError" in told


@pytest.fixture
def told_to_jax(monkeypatch):
    """What `jax.distributed.initialize` is given; nothing is initialized."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **kwargs: calls.append((args, kwargs)))
    monkeypatch.setattr(jax.config, "update", lambda *setting: calls.append(setting))
    return calls


def test_a_process_hands_its_place_to_jax(told_to_jax, monkeypatch):
    for name, value in {"COORDINATOR": "node17:9911", "PROCESSES": "16", "PROCESS_ID": "3"}.items():
        monkeypatch.setenv(f"LUCIOLE_{name}", value)
    launched.join()
    setting, (place, keywords) = told_to_jax
    assert setting == ("jax_enable_preemption_service", False)
    assert place == ("node17:9911", 16, 3)
    assert keywords["cluster_detection_method"] == "deactivate"
    assert keywords["heartbeat_timeout_seconds"] <= 90  # so that a lost host ends the others within two minutes


def test_where_there_is_no_cluster_the_launcher_says_what_to_write(told_to_jax, monkeypatch, capsys):
    monkeypatch.delenv("LUCIOLE_COORDINATOR", raising=False)
    launched.join()
    assert told_to_jax[1][0] == ()  # JAX asks the cluster

    def missing(**_):
        raise ValueError("coordinator_address should be defined.")

    left = []
    monkeypatch.setattr(jax.distributed, "initialize", missing)
    monkeypatch.setattr(launched, "_leave", left.append)
    launched.join()
    assert left == [2]
    told = capsys.readouterr().err
    assert "JAX finds no cluster here (coordinator_address should be defined.)" in told
    assert "write --coordinator HOST:PORT --processes N --process-id K" in told


def test_a_process_without_its_launcher_ends(monkeypatch):
    asked, left = iter([7, 7, 1]), []
    monkeypatch.setattr(os, "getppid", lambda: next(asked))
    monkeypatch.setattr(os, "_exit", left.append)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    launched.end_with(7)
    assert left == [1]
    assert list(asked) == []


def launched_on_cpus(*arguments):
    command = [sys.executable, "-m", "luciole.launch", "--processes", "2", "--devices", "4", *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)


SUM = """
import os, signal
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from luciole.transforms.processes import agreed, barrier, put, whole
me = jax.process_index()
mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("a", "b"))
def total(x):
    return jax.shard_map(lambda x: jax.lax.psum(x.sum(), ("a", "b")), mesh=mesh, in_specs=P(("a", "b")), out_specs=P())(x)
eight = put(np.arange(8.0, dtype=np.float32), NamedSharding(mesh, P(("a", "b"))))
assert not eight.is_fully_addressable
"""

MEETING = """
assert float(total(eight)) == 28.0
host = np.arange(64).reshape(8, 8) % 5
for devices in (mesh.devices, mesh.devices.reshape(4, 2).T):  # "a" over the processes, and "b"
    over = Mesh(devices, ("a", "b"))
    for spec in (P(), P("a"), P("b"), P(None, "a"), P("b", "a"), P(None, ("a", "b"))):
        for dtype in (np.float32, np.int32, np.bool_):
            found = whole(put(host.astype(dtype), NamedSharding(over, spec)))
            assert type(found) is np.ndarray and found.dtype == dtype, (spec, dtype, found)
            np.testing.assert_array_equal(found, host.astype(dtype))
keys = jax.random.split(jax.random.key(0), 8)
placed = jax.random.key_data(put(keys, eight.sharding))
np.testing.assert_array_equal(whole(placed), jax.random.key_data(keys))
assert agreed(0.1 + me) == 0.1 + 1  # not rounded to float32
assert np.isnan(agreed(np.nan if me else 3.0))
assert agreed(-np.inf if me else -1e300) == -1e300
barrier("all")
print("all is right on", me, "of", jax.process_count())
"""


@pytest.mark.slow
def test_two_processes_of_four_devices_meet(script):
    result = launched_on_cpus(script(SUM + MEETING))
    assert result.returncode == 0, result.stderr
    assert sorted(result.stdout.splitlines()) == ["[0] all is right on 0 of 2", "[1] all is right on 1 of 2"]


@pytest.mark.slow
def test_a_process_killed_while_another_waits_for_it_is_named(script):
    text = "total(eight)\nprint('now', flush=True)\nif me == 1:\n    os.kill(os.getpid(), signal.SIGKILL)\nfloat(total(eight))"
    result = launched_on_cpus(script(SUM + text))
    assert result.returncode == 137
    assert "process 1 of 2 on" in result.stderr
    assert "was killed by SIGKILL" in result.stderr
    assert "\n    now\n" in result.stderr
