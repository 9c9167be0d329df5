"""NumPyro's validation during a trace: it stays as it is, and it compiles nothing twice."""

import threading
import time

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


def test_validation_is_the_same_before_during_and_after_a_trace_in_every_thread():
    before = dist.Distribution.validate_args
    inside, seen = threading.Event(), threading.Event()
    during = []

    def model():
        lc.sample("x", dist.Normal(0.0, 1.0))
        inside.set()
        assert seen.wait(60)

    def look():
        assert inside.wait(60)
        try:
            during.append(dist.Distribution.validate_args)
            dist.Normal(0.0, -1.0)
        except ValueError as error:
            during.append(str(error))
        seen.set()

    thread = threading.Thread(target=look)
    thread.start()
    lc.log_density(model)
    thread.join()
    assert during[0] is before
    assert "invalid scale" in during[1]
    assert dist.Distribution.validate_args is before
    with pytest.raises(ValueError, match="invalid scale"):
        dist.Normal(0.0, -1.0)


def test_two_threads_that_trace_keep_their_sites_apart():
    """One begins while the other is in the middle of its model."""
    inside = threading.Event()
    found = {}

    def trace(name):
        def model(scale):
            lc.sample(name, dist.Normal(jnp.zeros(2), scale))
            inside.set()
            time.sleep(0.05)  # the other is about to trace
            lc.sample(f"{name}{name}", dist.Normal(0.0, 1.0))

        found[name] = list(lc.trace(model, jnp.ones(2)).sites)

    other = threading.Thread(target=lambda: (inside.wait(60), trace("b")))
    other.start()
    trace("a")
    other.join()
    assert found == {"a": ["a", "aa"], "b": ["b", "bb"]}


def test_a_log_prob_inside_the_model_still_knows_its_support():
    def model():
        x = lc.sample("x", dist.Normal(0.0, 1.0))
        lc.factor("half", dist.HalfNormal(1.0).log_prob(x))

    density = lc.log_density(model)
    for x in (0.5, -0.5):
        position = {"x": np.float32(x)}
        np.testing.assert_allclose(density(position), -jax.jit(potential_energy, static_argnums=(0,))(model, (), {}, position), rtol=1e-6)
    assert density({"x": np.float32(-0.5)}) == -np.inf
