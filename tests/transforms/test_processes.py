"""What hosts say to one another, where there is one; tests/house/test_launch.py has two."""

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from luciole.transforms.processes import agreed, barrier, put, whole


def test_an_array_comes_back_whole():
    host = np.arange(16.0, dtype=np.float32).reshape(8, 2)
    mesh = Mesh(np.array(jax.devices()[:8]), ("d",))
    for sharding in (NamedSharding(mesh, PartitionSpec("d")), NamedSharding(mesh, PartitionSpec()), SingleDeviceSharding(jax.devices()[1])):
        placed = put(host, sharding)
        assert placed.sharding == sharding
        np.testing.assert_array_equal(whole(placed), host)
        assert type(whole(placed)) is np.ndarray
    assert whole(host) is host
    assert whole(3.5) == np.asarray(3.5)


def test_one_process_agrees_with_itself_in_silence(monkeypatch):
    for name in ("process_allgather", "sync_global_devices"):
        monkeypatch.setattr(multihost_utils, name, lambda *_, **__: pytest.fail("it spoke"))
    number = 0.1
    assert agreed(number) is number
    barrier("alone")
