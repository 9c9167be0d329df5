"""Several processes that run one program in step, as `python -m luciole.launch` starts them: what their hosts say to one another.

Every function but `put` and `spans_processes` may communicate: then all processes call it, at the same place of the program. With one
process none does. A message costs a few milliseconds between processes of one machine.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, Sharding

from .errors import StoreError

__all__ = ["agreed", "barrier", "in_step", "put", "spans_processes", "whole"]

_REASON_BYTES = 2000  # of an error's words, as the other processes hear of it


def whole(x: Any) -> np.ndarray:
    """An array as NumPy, all of it, on every process.

    Communicates where this process does not have all of `x`; then every device holds all of it for a moment.

    Args:
        x: a NumPy array or anything that NumPy reads, which passes through; or a `jax.Array`, on whatever mesh. Of keys give the
            `jax.random.key_data`.
    """
    if not isinstance(x, jax.Array) or x.is_fully_addressable:
        return np.asarray(x)
    if x.is_fully_replicated:
        return np.asarray(x.addressable_data(0))
    return np.asarray(multihost_utils.process_allgather(x, tiled=True))


def spans_processes(mesh: Any) -> bool:
    """Whether the devices of a `Mesh` are those of several processes; what is no mesh of devices spans none. Never communicates."""
    return isinstance(mesh, Mesh) and jax.process_count() > 1 and len({device.process_index for device in mesh.devices.flat}) > 1


def agreed(number: float) -> float:
    """The largest of the processes' numbers, to the last bit; NaN if one has NaN. For loops on the host, which must take the same turns.

    Args:
        number: this process's, a clock's say.
    """
    if jax.process_count() == 1:
        return number
    halves = np.array([number], np.float64).view(np.uint32)  # JAX would round a float64
    return float(np.max(np.ascontiguousarray(multihost_utils.process_allgather(halves)).view(np.float64)))


def put(x: Any, sharding: Sharding) -> jax.Array:
    """An array that every process has, placed on a mesh that may span processes; no process looks at the others' copies.

    Args:
        x: an array of this host, equal on all processes: NumPy's, or one of JAX's on devices of this process, keys too.
        sharding: where it goes. Its number of shards divides the dimensions.
    """
    if sharding.is_fully_addressable:
        return jax.device_put(x, sharding)
    host = x if isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.extended) else np.asarray(x)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


@contextmanager
def in_step(what: str, together: bool = True) -> Iterator[bool]:
    """All processes end this block alike: where it fails on one it fails on all, once every one has come to its end.

    The block gets whether this process is to write what is written once: the first. Nothing in it may communicate.

    Args:
        what: is done, for the words of the error.
        together: whether all processes do it; else this one alone, as where there is only one.

    Raises:
        StoreError: on the processes where nothing failed, with the words of the one where it did. There it is the error itself.
    """
    if not together or jax.process_count() == 1:
        yield True
        return
    failed: BaseException | None = None
    try:
        yield jax.process_index() == 0
    except BaseException as e:  # an interrupt, too: the others wait for this process
        failed = e
    if not agreed(0.0 if failed is None else 1.0):
        return
    words = "" if failed is None else f"process {jax.process_index()}: {type(failed).__name__}: {failed}"
    reason = np.frombuffer(words.encode()[:_REASON_BYTES].ljust(_REASON_BYTES, b"\0"), np.uint8)
    told = [bytes(row).rstrip(b"\0").decode(errors="replace") for row in multihost_utils.process_allgather(reason)]
    if failed is not None:
        raise failed
    raise StoreError(f"{what} failed on another process. {next(filter(None, told))}")


def barrier(name: str) -> None:
    """Waits until all processes are here, however long that takes; an error where they are at barriers of different names."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
