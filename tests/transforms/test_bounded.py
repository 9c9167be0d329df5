"""`bounded_jit`: `jax.jit` with static arguments, of which only the latest are kept."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from luciole.transforms.bounded import bounded_jit


class Setting:
    """A static argument that holds data; equal to those with the same number."""

    def __init__(self, number):
        self.number, self.data = number, jnp.full(3, float(number))

    def __eq__(self, other):
        return isinstance(other, Setting) and self.number == other.number

    def __hash__(self):
        return hash(self.number)


@pytest.mark.slow
def test_equal_arguments_share_a_program_and_old_ones_are_dropped():
    traces = []

    @bounded_jit(static_argnums=1, maxsize=2)
    def scaled(x, setting, *, shift=0.0):
        traces.append(setting.number)
        return x * setting.number + shift

    settings = [Setting(n) for n in (2, 2, 3, 4)]
    for s in settings:
        np.testing.assert_array_equal(scaled(jnp.ones(3), s, shift=jnp.ones(3)), s.number + 1.0)
    assert (traces, scaled._cache_size()) == ([2, 3, 4], 2)
    dropped, arrays = weakref.ref(settings[0]), len(jax.live_arrays())
    del settings, s
    gc.collect()
    assert dropped() is None
    assert len(jax.live_arrays()) <= arrays - 2  # of the two that are equal; others may go as well


def test_a_program_is_named_as_its_function_and_nests():
    @bounded_jit(static_argnums=(0, 2))
    def power(n, x, name):
        return x**n

    text = str(jax.make_jaxpr(lambda x: power(3, x, "cube"))(2.0))
    assert "name=power" in text
    assert jax.grad(lambda x: power(3, x, "cube"))(2.0) == 12.0


def test_donation_counts_all_arguments():
    @bounded_jit(static_argnums=0, donate_argnums=1)
    def moved(setting, x, y):
        return x + y

    x, y = jnp.ones(3), jnp.ones(3)
    moved("a", x, y)
    assert x.is_deleted()
    assert not y.is_deleted()


def test_unhashable_static_arguments():
    with pytest.raises(TypeError, match="unhashable"):
        bounded_jit(static_argnums=0)(lambda n, x: x)([1], 2.0)
