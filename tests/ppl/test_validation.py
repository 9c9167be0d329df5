"""NumPyro's validation during a trace: it stays as it is, and it compiles nothing twice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.infer.util import potential_energy

import luciole as lc
from luciole import dist


@pytest.fixture
def backend_compiles():
    """A list that grows by one with every program that the backend compiles."""
    events = []

    def listen(name, duration, **_):
        if "backend_compile" in name:
            events.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    jax.monitoring.unregister_event_duration_listener(listen)


def gaussian_process(scale, y):
    """Parameters that are known while tracing, as JAX arrays: NumPyro checks them there and then."""
    rho = lc.sample("rho", dist.HalfNormal(scale[0]))
    lc.sample("effect", dist.Normal(jnp.zeros(4), scale))
    lc.sample("y", dist.MultivariateNormal(jnp.zeros(4), rho * jnp.eye(4)), obs=y)


def test_a_second_trace_compiles_nothing(backend_compiles):
    data = [(jnp.full(4, s), jnp.full(4, s)) for s in (1.0, 2.0)]
    lc.log_density(gaussian_process, *data[0])
    first = len(backend_compiles)
    lc.log_density(gaussian_process, *data[1])
    assert len(backend_compiles) == first


def test_a_parameter_out_of_bounds_is_refused():
    def model(scale):
        lc.sample("x", dist.Normal(0.0, scale))

    with pytest.raises(ValueError, match="invalid scale"):
        lc.log_density(model, jnp.array([1.0, -1.0]))


def test_validation_afterwards_is_as_it_was():
    before = dist.Distribution.validate_args
    lc.log_density(gaussian_process, jnp.ones(4), jnp.ones(4))
    assert dist.Distribution.validate_args is before
    with pytest.raises(ValueError, match="invalid scale"):
        dist.Normal(0.0, -1.0)


def test_a_log_prob_inside_the_model_still_knows_its_support():
    def model():
        x = lc.sample("x", dist.Normal(0.0, 1.0))
        lc.factor("half", dist.HalfNormal(1.0).log_prob(x))

    density = lc.log_density(model)
    for x in (0.5, -0.5):
        position = {"x": np.float32(x)}
        np.testing.assert_allclose(density(position), -jax.jit(potential_energy, static_argnums=(0,))(model, (), {}, position), rtol=1e-6)
    assert density({"x": np.float32(-0.5)}) == -np.inf
