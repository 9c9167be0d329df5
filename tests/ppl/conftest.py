"""What the tests of models share: double precision, and the comparison with NumPyro."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro import handlers
from numpyro.infer.util import potential_energy

from luciole import ppl as lc

TOLERANCE = 1e-12  # relative, float64: the two libraries add the same terms, at most in another order


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def random_position():
    """random_position(density, seed): normal numbers of standard deviation 0.7 in every unconstrained coordinate."""

    def draw(density, seed=0):
        rng = np.random.default_rng(seed)
        return {n: jnp.asarray(0.7 * rng.standard_normal(s.shape), s.dtype) for n, s in density.positions.items()}

    return draw


@pytest.fixture
def assert_close():
    """assert_close(found, expected, tolerance): relative to the largest entry; infinities must coincide."""

    def check(found, expected, tolerance=TOLERANCE, what=""):
        found, expected = np.asarray(found), np.asarray(expected)
        assert found.shape == expected.shape, what
        size = np.max(np.abs(expected[np.isfinite(expected)]), initial=1.0)
        np.testing.assert_allclose(found / size, expected / size, rtol=0, atol=tolerance, err_msg=str(what))

    return check


@pytest.fixture
def assert_equals_numpyro(random_position, assert_close):
    """Value and gradient of our density and NumPyro's at random points: assert_equals_numpyro(model, *args)."""

    def check(model, *args, points=3, **kwargs):
        with warnings.catch_warnings():
            warnings.simplefilter("error", lc.ScaledLatentWarning)
            density = lc.log_density(model, *args, **kwargs)
        theirs = handlers.seed(model, 0)

        @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
        def both(density, z):
            return jax.value_and_grad(density)(z), jax.value_and_grad(lambda z: -potential_energy(theirs, args, kwargs, z))(z)

        values = []
        for seed in range(points):
            z = random_position(density, seed)
            (value, gradient), (their_value, their_gradient) = both(density, z)
            assert_close(value, their_value, what=f"value at point {seed}")
            assert set(gradient) == set(their_gradient)
            for name in gradient:
                assert_close(gradient[name], their_gradient[name], what=f"gradient of {name} at point {seed}")
            values.append(float(value))
        assert np.isfinite(values).all(), "the comparison would show nothing"
        assert len(set(values)) == points, "the comparison would show nothing"
        return density

    return check
