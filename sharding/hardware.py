"""What a device can do in a second: a table of some, and three measurements of the one at hand."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

__all__ = ["HARDWARE", "Hardware", "calibrate"]


class Hardware(NamedTuple):
    """One device and its links.

    Attributes:
        name: what it is called.
        flops: floating-point operations per second that a matrix product reaches.
        memory_bandwidth: bytes per second read from memory or written to it.
        link_bandwidth: bytes per second that it sends to the other devices, all links together.
        latency: seconds that a collective takes however small it is.
        memory_bytes: what it holds; None if that is not known.
    """

    name: str
    flops: float
    memory_bandwidth: float
    link_bandwidth: float
    latency: float
    memory_bytes: float | None = None


HARDWARE: dict[str, Hardware] = {
    "cpu": Hardware("cpu", 10e9, 4e9, 1e9, 3e-4),
    "tpu_v3": Hardware("tpu_v3", 61.5e12, 450e9, 140e9, 1e-6, 16 * 2**30),
    "tpu_v4": Hardware("tpu_v4", 275e12, 1200e9, 300e9, 1e-6, 32 * 2**30),
    "tpu_v5e": Hardware("tpu_v5e", 197e12, 819e9, 200e9, 1e-6, 16 * 2**30),
    "a100": Hardware("a100", 312e12, 2039e9, 300e9, 1e-5, 80e9),
    "h100": Hardware("h100", 989e12, 3350e9, 450e9, 1e-5, 80e9),
}
"""Peaks that the makers publish, for bfloat16 where there is a matrix unit; one direction of the links; latencies are orders of magnitude.

Source: Jouppi et al. (2023), "TPU v4", table 4 (v3: a chip's 123 TFLOP/s, 900 GB/s, 32 GiB and 4 x 70 GB/s, halved, as JAX sees its two
cores as devices; v4: 275, 1200 GB/s, 32 GiB, 6 x 50 GB/s); Google Cloud's page on v5e (197, 819 GB/s, 16 GB, 1600 Gbit/s); NVIDIA's data
sheets of A100 and H100 (SXM, 80 GB; NVLink at 600 and 900 GB/s for both directions together). "cpu" is one of eight forced host devices
on a small machine: a guess, for `calibrate` to replace.
"""


def calibrate(devices: Sequence[Any] | None = None) -> Hardware:
    """Measures the devices at hand in some seconds: a product of matrices, a copy, and a sum over all devices of a small and a large array.

    All devices work at once, each on arrays of its own, so that what they share (cores, memory) is shared in the numbers too.

    Args:
        devices: all of the default backend if None. Of a single one the links are not measured, but taken as fast as its memory.
    """
    mesh = Mesh(np.asarray(jax.devices() if devices is None else devices), ("all",))
    k = mesh.size
    small, large, side, long = 1, 1 << 20, 512, 1 << 22
    product, side = _matmul(mesh, side)
    copy = _seconds(mesh, lambda x: x + 1, (long,))
    bandwidth = 2 * 4 * long / copy
    link, latency = bandwidth, 0.0
    if k > 1:
        latency, full = (_seconds(mesh, lambda x: jax.lax.psum(x, "all") / k, (n,)) for n in (small, large))
        link = 2 * 4 * large * (k - 1) / k / max(full - latency, 1e-9)
    device = mesh.devices.flat[0]
    memory = (device.memory_stats() or {}).get("bytes_limit") if hasattr(device, "memory_stats") else None
    return Hardware(f"{device.device_kind}, measured", 2.0 * side**3 / product, bandwidth, link, latency, memory)


def _matmul(mesh: Mesh, side: int) -> tuple[float, int]:
    """Seconds of a product of square matrices so large that it takes 2 ms, and their side."""
    while (seconds := _seconds(mesh, lambda x: x @ x / x.shape[0], (side, side))) < 2e-3 and side < 8192:
        side *= 2
    return seconds, side


def _seconds(mesh: Mesh, function: Callable[[jax.Array], jax.Array], shape: tuple[int, ...], runs: int = 5) -> float:
    """Median time of a function that every device applies to an array of its own, float32.

    The result takes the place of the argument: a program allocates its memory once, and not at each of its steps.
    """
    spec = PartitionSpec("all")
    local = jax.shard_map(lambda x: function(x[0])[None], mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    compiled = jax.jit(local, donate_argnums=0)
    x = jax.jit(lambda: jnp.ones((mesh.size, *shape), jnp.float32), out_shardings=NamedSharding(mesh, spec))()
    x = compiled(x).block_until_ready()
    times = []
    for _ in range(runs):
        begin = time.perf_counter()
        x = compiled(x).block_until_ready()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)
