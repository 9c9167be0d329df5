"""What hosts say to one another, where there is one; tests/house/test_launch.py has two."""

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from luciole.transforms import StoreError
from luciole.transforms.processes import agreed, barrier, in_step, put, spans_processes, whole


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
    with in_step("nothing") as leads:
        assert leads is True
    assert not spans_processes(Mesh(np.array(jax.devices()), ("d",)))


@pytest.mark.parametrize("mine", [None, OSError("no space here")], ids=["well", "failed"])
@pytest.mark.parametrize("theirs", [None, "process 0: OSError: no space there"], ids=["well", "failed"])
def test_a_step_fails_on_all_processes_or_on_none(monkeypatch, mine, theirs):
    """Here is the second of two."""

    def allgather(x):
        if x.dtype == np.uint8:  # words
            return np.stack([np.frombuffer((theirs or "").encode().ljust(x.size, b"\0"), np.uint8), x])
        return np.stack([np.array([float(theirs is not None)]).view(np.uint32), x])

    monkeypatch.setattr(multihost_utils, "process_allgather", allgather)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)

    def step():
        with in_step("store 'x': writing") as leads:
            assert leads is False
            if mine is not None:
                raise mine

    if mine is not None:
        with pytest.raises(OSError, match="no space here"):
            step()
    elif theirs is not None:
        with pytest.raises(StoreError, match=f"^store 'x': writing failed on another process. {theirs}$"):
            step()
    else:
        step()
