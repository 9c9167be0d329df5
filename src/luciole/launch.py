"""`python -m luciole.launch`: one script as several JAX processes, on this machine or one per host, which are watched and end together.

    python -m luciole.launch --processes 2 --devices 4 script.py --its-own arguments
    python -m luciole.launch --coordinator first-host:9911 --processes 16 --process-id 3 script.py    # by hand, on each of 16 hosts
    srun python -m luciole.launch --cluster script.py                                                 # SLURM, Open MPI, cloud TPUs

The script is one that runs in one process too: `jax.distributed` is initialized before it starts, and shut down at its end. See
docs/several-processes.md.
"""

import argparse
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, TextIO

WORKER = ("-m", "luciole.launched")  # what Python runs in each process, before the script's name
GRACE_SECONDS = 5.0  # after SIGTERM, and again after SIGKILL
SETTLE_SECONDS = 0.5  # after a death, for those that it brought about
LAST_LINES = 15
# What the collectives between CPUs say, a line per device and group, in pieces from several threads; lines of nothing else are left out.
CHATTER = re.compile(
    r"(?=.*(Gloo|connected|peer ranks))(\[Gloo\] Rank|is connected to|peer ranks\.|Expected number of connected peer ranks is :|\d|\s)*"
)
FRAME = re.compile(r"\s*@ +0x[0-9a-f]+ ")  # of a stack of C++, shown but not among the last lines: it would fill them
ADDRESS = re.compile(r"(?P<host>.+):(?P<port>\d+)")
RANKS = ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMIX_RANK")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; what makes no sense ends the program before anything is started, with a word on what does."""
    parser = argparse.ArgumentParser(
        prog="python -m luciole.launch",
        description="Run one script as several JAX processes, and end all of them when one dies.",
        allow_abbrev=False,
    )
    parser.add_argument("--processes", type=int, metavar="N", help="how many, on all hosts together; started here, without --coordinator")
    parser.add_argument(
        "--devices", type=int, metavar="D", help="devices of each process: host devices on a CPU, so many GPUs of this host's"
    )
    parser.add_argument(
        "--coordinator", metavar="HOST:PORT", help="address of process 0's host as the others see it, and a free port there"
    )
    parser.add_argument("--process-id", type=int, metavar="K", help="with --coordinator: start process K, from 0, and no other")
    parser.add_argument("--cluster", action="store_true", help="start one process, whose place SLURM, Open MPI or a cloud TPU knows")
    parser.add_argument("--log", type=Path, metavar="DIR", help="folder for what each process writes: process-0.log, process-1.log, ...")
    parser.add_argument("--timeout", type=float, metavar="S", help="end all when no process has written a line for S seconds (never)")
    parser.add_argument("script", help="the Python file to run")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="and what it is given")
    options = parser.parse_args(arguments)
    for complaint in complaints(options):
        parser.error(complaint)
    return options


def complaints(options: argparse.Namespace) -> Iterator[str]:
    """What is wrong with a command line, and what to write instead."""
    here, n, k = options.coordinator, options.processes, options.process_id
    if not Path(options.script).is_file():
        yield f"there is no file {options.script!r}: give a Python script, after the options of the launcher"
    if options.cluster and (here, n, k) != (None, None, None):
        yield "--cluster finds --coordinator, --processes and --process-id itself: leave them out"
    if not options.cluster and n is None:
        yield "how many processes? Write --processes N, or --cluster where SLURM, Open MPI or a cloud TPU knows"
    if n is not None and n < 1:
        yield f"--processes {n}: at least 1"
    if (here is None) != (k is None):
        yield "--coordinator and --process-id go together: both on a cluster, none for all processes on this machine"
    if here is not None and not ((found := ADDRESS.fullmatch(here)) and 0 < int(found["port"]) < 65536):
        yield f"--coordinator {here}: expected HOST:PORT, such as node17:9911, with a port from 1 to 65535"
    if k is not None and n is not None and not 0 <= k < n:
        yield f"--process-id {k}: with --processes {n} they are numbered from 0 to {n - 1}"
    if options.devices is not None and options.devices < 1:
        yield f"--devices {options.devices}: at least 1"
    if options.timeout is not None and not options.timeout > 0:
        yield f"--timeout {options.timeout:g}: seconds, more than 0; leave it out to wait for ever"
    if options.log is not None and options.log.exists() and not options.log.is_dir():
        yield f"--log {options.log}: this is a file, and a folder is wanted"


def environments(options: argparse.Namespace) -> dict[str, dict[str, str]]:
    """The environment of each process that is to be started here, by the name under which its lines are shown."""
    common = {"LUCIOLE_LAUNCHER": str(os.getpid())}
    if options.devices is not None:
        others = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if "xla_force_host_platform_device_count" not in flag]
        common["XLA_FLAGS"] = " ".join([*others, f"--xla_force_host_platform_device_count={options.devices}"])
    if options.cluster:
        return {next((os.environ[name] for name in RANKS if name in os.environ), socket.gethostname()): common}
    coordinator, numbers = options.coordinator, [options.process_id]
    if coordinator is None:
        coordinator, numbers = f"127.0.0.1:{free_port()}", list(range(options.processes))
        common["JAX_COORDINATOR_BIND_ADDRESS"] = coordinator  # read by JAX; its default listens to the network
    common |= {"LUCIOLE_COORDINATOR": coordinator, "LUCIOLE_PROCESSES": str(options.processes)}
    found = {}
    for place, number in enumerate(numbers):
        found[str(number)] = common | {"LUCIOLE_PROCESS_ID": str(number)}
        if options.devices is not None:  # read by JAX: which GPUs of this host; nothing to a CPU
            first = place * options.devices
            found[str(number)]["JAX_LOCAL_DEVICE_IDS"] = ",".join(map(str, range(first, first + options.devices)))
    return found


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Member:
    """One process: started, its lines passed on under its name, its end put into `ends`."""

    def __init__(self, name: str, environment: dict[str, str], options: argparse.Namespace, ends: "queue.Queue[Member]") -> None:
        self.name, self.started, self.heard = name, time.monotonic(), time.monotonic()
        self.lines: deque[str] = deque(maxlen=LAST_LINES)
        self.log: TextIO | None = None if options.log is None else open(options.log / f"process-{name}.log", "w", encoding="utf-8")
        self.process = subprocess.Popen(
            [sys.executable, *WORKER, options.script, *options.arguments],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,  # so that a progress bar's \r ends a line
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # a Ctrl-C is the launcher's, which ends all; and what the process starts ends with it
        )
        assert self.process.stdout is not None and self.process.stderr is not None
        streams = ((self.process.stdout, sys.stdout), (self.process.stderr, sys.stderr))
        self.readers = [threading.Thread(target=self.pass_on, args=pair, daemon=True) for pair in streams]
        for reader in self.readers:
            reader.start()
        threading.Thread(target=self.wait, args=(ends,), daemon=True).start()

    def pass_on(self, source: IO[str], sink: TextIO) -> None:
        with source:  # closed here, whenever the last process that holds its other end is gone
            for line in source:
                self.heard = time.monotonic()
                if self.log is not None:
                    self.log.write(line)
                    self.log.flush()
                if not CHATTER.fullmatch(line):
                    if not FRAME.match(line):
                        self.lines.append(line)
                    with suppress(BrokenPipeError):  # nobody reads: no reason for the process to stand still
                        sink.write(f"[{self.name}] {line.rstrip()}\n")
                        sink.flush()

    def wait(self, ends: "queue.Queue[Member]") -> None:
        self.process.wait()
        ends.put(self)
        for reader in self.readers:
            reader.join()
        if self.log is not None:
            self.log.close()

    def drain(self) -> None:
        """Waits a while for the last lines of an ended process."""
        for reader in self.readers:
            reader.join(2.0)  # what the process has started may hold its streams open

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):  # gone already; macOS says the latter of one not yet buried
            os.killpg(self.process.pid, number)

    @property
    def code(self) -> int:
        """The exit status, 128 and the signal's number as a shell has it for what was killed."""
        code = self.process.returncode
        return code if code >= 0 else 128 - code

    @property
    def how(self) -> str:
        """How it ended."""
        code = self.process.returncode
        return f"ended with exit status {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"

    def obituary(self, of: str) -> str:
        """Which process ended, where, how, and what it said last."""
        self.drain()
        hint = {
            -signal.SIGKILL: " If nobody did it, the host may have been out of memory.",
            -signal.SIGABRT: " JAX aborts a process that has lost another one, or whose devices wait for one another in vain.",
        }.get(self.process.returncode, "")
        where = f"process {self.name}{of} on {socket.gethostname()}, pid {self.process.pid},"
        said = "".join(f"    {line.rstrip()}\n" for line in self.lines) or "    (nothing)\n"
        return f"luciole.launch: {where} {self.how} after {time.monotonic() - self.started:.0f} s.{hint} Its last lines:\n{said}"


def watch(members: Sequence[Member], ends: "queue.Queue[Member]", options: argparse.Namespace) -> int:
    """Wait for all processes, or for the first that fails: the exit status of the launcher."""
    for _ in members:
        ended = next_end(members, ends, options.timeout)
        if ended is None:
            print(f"luciole.launch: no process has written a line for {options.timeout:g} s (--timeout); all are ended.", file=sys.stderr)
            return 124  # as timeout(1)
        if ended.code != 0:
            time.sleep(SETTLE_SECONDS)
            failed = [ended, *(m for m in drained(ends) if m.code != 0)]
            failed.sort(key=lambda m: m.process.returncode == -signal.SIGABRT)  # the cause before what it brought about; stable
            of = "" if options.processes is None else f" of {options.processes}"
            print("\n" + failed[0].obituary(of), file=sys.stderr, flush=True)
            for member in failed[1:]:
                print(f"luciole.launch: just after it, process {member.name} {member.how}.", file=sys.stderr, flush=True)
            if alive := [m.name for m in members if m.process.poll() is None]:
                print(f"luciole.launch: the others would wait for it, and are ended: {', '.join(alive)}.", file=sys.stderr, flush=True)
            return failed[0].code
    return 0


def next_end(members: Sequence[Member], ends: "queue.Queue[Member]", timeout: float | None) -> Member | None:
    """The next process to end; None when none has, nor written a line, for `timeout` seconds."""
    while True:
        silent = time.monotonic() - max(m.heard for m in members)
        if timeout is not None and silent >= timeout:
            return None
        try:
            return ends.get(timeout=None if timeout is None else timeout - silent)
        except queue.Empty:
            continue


def drained(ends: "queue.Queue[Member]") -> Iterator[Member]:
    while not ends.empty():
        yield ends.get()


def end(members: Sequence[Member]) -> None:
    """SIGTERM to what still runs, SIGKILL to what still runs after the grace."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for member in members:
            if member.process.poll() is None:
                member.signal(number)
        deadline = time.monotonic() + GRACE_SECONDS
        while any(m.process.poll() is None for m in members) and time.monotonic() < deadline:
            time.sleep(0.02)
    for member in members:
        member.drain()


@contextmanager
def ended_at_last(members: list[Member]) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Whatever happens, no process outlives this one: not a Ctrl-C, not the SIGTERM of a batch system.

    What it yields makes a context in which a signal waits until its end: a process that is being started is not yet among the members.
    """
    waiting: list[int] = []
    held = False

    def stop(number: int, _: FrameType | None) -> None:
        if not held:
            raise SystemExit(128 + number)
        waiting.append(number)

    @contextmanager
    def hold() -> Iterator[None]:
        nonlocal held
        held = True
        try:
            yield
        finally:
            held = False
        if waiting:
            raise SystemExit(128 + waiting[0])

    heeded = [n for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]  # nohup
    before = {number: signal.signal(number, stop) for number in heeded}
    try:
        yield hold
    finally:
        for number in before:
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C leaves no process behind; it takes seconds
        end(members)
        for number, handler in before.items():
            signal.signal(number, handler)


def main(arguments: Sequence[str] | None = None) -> int:
    """Start the processes and watch them: 0 when all have ended well, or the exit status of the first that did not."""
    options = parse(arguments)
    if options.log is not None:
        options.log.mkdir(parents=True, exist_ok=True)
    members: list[Member] = []
    ends: queue.Queue[Member] = queue.Queue()
    with ended_at_last(members) as hold:
        for name, environment in environments(options).items():
            with hold():
                members.append(Member(name, environment, options, ends))
        return watch(members, ends, options)


if __name__ == "__main__":
    raise SystemExit(main())
