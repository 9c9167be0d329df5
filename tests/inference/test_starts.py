"""Where chains start: never, if it can be helped, where rounding hides a whole nat of the log density."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from luciole.inference import NUTS
from luciole.inference.kernels.kernel import start_chain
from luciole.inference.kernels.starts import searching
from luciole.transforms import stream_for
from luciole.transforms.autobatch import autobatch, program

CHAINS = 64
TUNING = jax.tree.map(jnp.asarray, NUTS(None).tuning(1, np.dtype(np.float32)))


def starts(log_density, given=None):
    """Starting positions (chain,), and whether they are finite, for a density on one coordinate."""

    value_and_grad = jax.value_and_grad(lambda x: log_density(x[0]))

    @program
    def density(position, auxiliary):
        return *value_and_grad(position), auxiliary

    def initial(words, fixed):
        return jax.random.uniform(jax.random.wrap_key_data(words), (1,), minval=-2.0, maxval=2.0)

    def begin(chain):
        start = jnp.full(1, 0.0 if given is None else given)
        return start_chain((jnp.float32(0), jnp.zeros(1)), start, stream_for(jnp.asarray([1, 2], jnp.uint32), chain), TUNING)

    search = autobatch(searching(density, initial), in_axes=(0, None, None))
    states = jax.vmap(begin)(jnp.arange(CHAINS, dtype=jnp.uint32))
    state, ok, _ = search(states, jnp.asarray(given is not None), {})
    return np.asarray(state.position[:, 0]), np.asarray(ok)


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
