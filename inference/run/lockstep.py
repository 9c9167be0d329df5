"""Whether devices that share chains do the same: they must, as they meet in sums, and one that does not come is waited for.

Devices along the axes of data and sites run one machine on parts of the same vectors. What decides where a chain goes, its log density,
sums over its coordinates, random numbers, is equal on all of them to the bit. If it is not, because a kernel forgot to sum over devices or
one adds up in another order, chains stand at different places, and the next collective hangs or sums what does not belong together.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ...transforms.errors import SamplerError
from ...transforms.processes import whole
from ..kernels.coordinates import Per
from .placement import Placement

__all__ = ["check_counters", "check_replicas", "met_over"]

_ADVICE = (
    "A kernel's sums over coordinates must go by way of inference/kernels/coordinates.py, and nothing that differs between devices may "
    "decide where a chain goes. Please report it if the kernel is Luciole's."
)


def met_over(placement: Placement) -> Callable[[Any], Any]:
    """A truth, bool (), as true on all devices that share chains if it is on one of them: so none waits for another for ever."""
    axes = tuple(axis for axis in placement.sizes if axis not in placement.axes)

    def met(truth: Any) -> Any:
        with jax.named_scope(Per.CALL):
            return lax.pmax(truth.astype(jnp.int32), axes) > 0

    return met


def check_counters(machine: Any, placement: Placement, turns: int) -> None:
    """Compares the program counters of the chains over the devices that share them.

    Args:
        machine: its state, a leading axis of devices.
        placement: where.
        turns: of the machine, since the beginning of the chunk.

    Raises:
        SamplerError: they differ; says of which chain, and on which devices.
    """
    counters = whole(machine["program counter"])
    sizes = placement.sizes
    shaped = counters.reshape(*sizes.values(), -1)
    sharing = tuple(i for i, axis in enumerate(sizes) if axis not in placement.axes)
    spread = np.ptp(shaped, axis=sharing) if sharing else np.zeros_like(shaped)
    if not spread.any():
        return
    *group, chain = (int(i) for i in np.argwhere(spread)[0])
    number = 0
    for axis, place in zip(placement.axes, group, strict=True):
        number = number * sizes[axis] + place
    number = number * shaped.shape[-1] + chain
    raise SamplerError(
        f"MCMC: after {turns} turns of a chunk chain {number} stands at different places of the sampler on the devices that share it (over "
        f"{' and '.join(repr(axis) for axis in sizes if axis not in placement.axes)}): the next collective would hang. {_ADVICE}"
    )


def check_replicas(log_density: Any, placement: Placement) -> None:
    """Compares, after a chunk, the chains' log densities as the devices of this process have them.

    Raises:
        SamplerError: they differ.
    """
    seen: dict[Any, tuple[Any, np.ndarray]] = {}
    for shard in log_density.addressable_shards if isinstance(log_density, jax.Array) else ():
        device, found = seen.setdefault(str(shard.index), (shard.device, np.asarray(shard.data)))
        if not np.array_equal(found, np.asarray(shard.data), equal_nan=True):
            raise SamplerError(
                f"MCMC: {device} and {shard.device} share chains and have different log densities of them after a chunk: their draws do "
                f"not belong together, and none of this chunk was kept. {_ADVICE}"
            )
