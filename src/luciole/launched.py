"""One process of several: what `python -m luciole.launch` starts, with its place among the others in its environment."""

import os
import runpy
import sys
import threading
import time
from types import TracebackType
from typing import Any, NoReturn

# A process that is gone, host and all, is noticed after this many seconds, by every other one; those abort. (JAX's own default: 100.)
HEARTBEAT_SECONDS = 60
# How long the first process may go on after the last has finished, with a table or a plot. A death is noticed all the same.
SHUTDOWN_SECONDS = 24 * 3600


def join() -> None:
    """Makes this process one of those that its environment speaks of; to be called before anything touches a device.

    Reads LUCIOLE_COORDINATOR (host:port), LUCIOLE_PROCESSES and LUCIOLE_PROCESS_ID; without them, JAX asks the cluster.
    """
    import jax  # here, so that the environment above is read first

    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM for an announcement and go on
    seconds: dict[str, Any] = {"heartbeat_timeout_seconds": HEARTBEAT_SECONDS, "shutdown_timeout_seconds": SHUTDOWN_SECONDS}
    if (coordinator := os.environ.get("LUCIOLE_COORDINATOR")) is not None:
        number, count = int(os.environ["LUCIOLE_PROCESS_ID"]), int(os.environ["LUCIOLE_PROCESSES"])
        jax.distributed.initialize(coordinator, count, number, cluster_detection_method="deactivate", **seconds)
        return
    try:
        jax.distributed.initialize(**seconds)
    except ValueError as error:  # what JAX says of arguments that are missing
        print(
            f"luciole.launch: --cluster, but JAX finds no cluster here ({error}). It knows SLURM (start this with srun), Open MPI (mpirun) "
            "and cloud TPUs; elsewhere write --coordinator HOST:PORT --processes N --process-id K, or --processes N for this machine",
            file=sys.stderr,
        )
        _leave(2)


def end_with(launcher: int) -> None:
    """Ends this process when its launcher is gone, which could not end it: killed, or out of memory."""
    while os.getppid() == launcher:
        time.sleep(1.0)
    os._exit(1)  # no last words: nobody reads them


def run(script: str, arguments: list[str]) -> None:
    """Runs a script as `python script.py arguments` would; one that fails ends this process at once.

    At once, because Python's own end would wait for the other processes, and these wait for this one in a collective.
    """
    sys.argv = [script, *arguments]
    if not sys.flags.safe_path:
        sys.path[0] = os.path.dirname(os.path.abspath(script))
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        if end.code not in (None, 0):
            if not isinstance(end.code, int):
                print(end.code, file=sys.stderr)
            _leave(end.code if isinstance(end.code, int) else 1)
    except BaseException as error:
        trace = _from_script(error.__traceback__, script)
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        _leave(1)


def own_lines() -> None:
    """Keeps the script's lines whole: what libraries in C++ write to standard output, in pieces, goes to standard error."""
    sys.stdout = open(os.dup(1), "w", buffering=1, encoding="utf-8", errors="replace")
    os.dup2(2, 1)


def main() -> None:
    """What the launcher runs; the command line is the script's."""
    own_lines()
    threading.Thread(target=end_with, args=(int(os.environ["LUCIOLE_LAUNCHER"]),), daemon=True).start()
    join()
    import jax

    run(sys.argv[1], sys.argv[2:])
    sys.stdout.flush()
    jax.distributed.shutdown()


def _from_script(trace: TracebackType | None, script: str) -> TracebackType | None:
    start = trace
    while start is not None and start.tb_frame.f_code.co_filename != script:
        start = start.tb_next
    return start or trace


def _leave(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 0xFF or 1)


if __name__ == "__main__":
    main()
