"""Several processes that run one program in step, as `python -m luciole.launch` starts them: what their hosts say to one another.

Every function but `put` may communicate: then all processes call it, at the same place of the program. With one process none does. A
message costs a few milliseconds between processes of one machine.
"""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Sharding

__all__ = ["agreed", "barrier", "put", "whole"]


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


def barrier(name: str) -> None:
    """Waits until all processes are here, however long that takes; an error where they are at barriers of different names."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
