"""Where chains start: never, if it can be helped, where rounding hides a whole nat of the log density."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from luciole.inference.starts import searching
from luciole.transforms import stream_for
from luciole.transforms.autobatch import autobatch, program

CHAINS = 64


def starts(log_density, given=None):
    """Starting positions (chain,), and whether they are finite, for a density on one coordinate."""

    value_and_grad = jax.value_and_grad(lambda x: log_density(x[0]))

    @program
    def density(position):
        return value_and_grad(position)

    def initial(words, fixed):
        return jax.random.uniform(jax.random.wrap_key_data(words), (1,), minval=-2.0, maxval=2.0)

    search = autobatch(searching(density, initial), in_axes=(0, None, None, None))
    streams = jax.vmap(stream_for, in_axes=(None, 0))(jnp.asarray([1, 2], jnp.uint32), jnp.arange(CHAINS, dtype=jnp.uint32))
    start = jnp.full(1, 0.0 if given is None else given)
    position, _, _, ok, _ = search(streams, start, jnp.asarray(given is not None), {})
    position = position[:, 0]
    return np.asarray(position), np.asarray(ok)


@pytest.mark.parametrize("cliff", [20.0, 40.0])
def test_unresolved_points_are_drawn_again(cliff):
    # -exp(cliff * x) passes 1 / eps of float32 at x = ln(8.4e6) / cliff, within the range that is drawn from.
    position, ok = starts(lambda x: -jnp.exp(cliff * x))
    assert ok.all()
    assert position.max() < np.log(2.0**23) / cliff
    assert position.min() < -1.5, "the rest of the range is still there"


def test_the_best_finite_point_where_none_is_resolved():
    position, ok = starts(lambda x: -1e20 * (1 + x**2) + jnp.where(x > 1, jnp.inf, 0.0))
    assert ok.all()
    assert np.abs(position).max() < 0.3, "the best of a hundred uniform draws on (-2, 2)"


def test_a_given_point_is_taken_as_it_is():
    position, ok = starts(lambda x: -jnp.exp(40 * x), given=1.5)
    assert ok.all()
    np.testing.assert_array_equal(position, 1.5)


def test_no_finite_point():
    position, ok = starts(lambda x: jnp.where(jnp.isfinite(x), -jnp.inf, 0.0) + x)
    assert not ok.any()
    assert np.abs(position).max() <= 2
