"""Closed-form log densities with the interface that samplers ask of a model's density."""

from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from luciole.inference.run import host


class FakeDensity:
    """A log density given by plain functions; its leaves are its data.

    `log_density(position, data)`, `constrain(position, data)` are functions of a dict by site.
    """

    def __init__(self, shapes, log_density, data=(), constrain=None, initial=None):
        self.shapes = tuple(shapes.items()) if isinstance(shapes, dict) else shapes
        self.log_density, self.data = log_density, data
        self.constrain_, self.initial_ = constrain, initial

    @property
    def positions(self):
        dtype = jnp.result_type(float)
        return {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in self.shapes}

    @property
    def dim(self):
        return sum(int(np.prod(shape)) for _, shape in self.shapes)

    def __call__(self, position):
        return self.log_density(position, self.data)

    def constrain(self, position):
        return dict(position) if self.constrain_ is None else self.constrain_(position, self.data)

    def unconstrain(self, values):
        return dict(values)

    program = SimpleNamespace(sites={}, latents={})

    def prepare(self):
        return jax.tree.leaves(self.data)

    def evaluate(self, prepared, position):
        return self.log_density(position, jax.tree.unflatten(jax.tree.structure(self.data), prepared))

    def init(self, key, strategy=None, values=None):
        if self.initial_ is not None:
            return self.initial_(key)
        keys = jax.random.split(key, len(self.shapes))
        return {n: jax.random.uniform(k, s, minval=-2.0, maxval=2.0) for k, (n, s) in zip(keys, self.shapes, strict=True)}

    def report(self, position, gradients=True):
        return "\n".join(f"site {name}: value {value}" for name, value in position.items())


jax.tree_util.register_pytree_node(
    FakeDensity,
    lambda d: ((d.data,), (d.shapes, d.log_density, d.constrain_, d.initial_)),
    lambda aux, children: FakeDensity(aux[0], aux[1], children[0], aux[2], aux[3]),
)


class Gaussian(NamedTuple):
    mean: jax.Array
    precision: jax.Array


def gaussian(mean, covariance):
    """N(mean, covariance) on one site `x`."""
    mean = np.asarray(mean, jnp.result_type(float))
    data = Gaussian(mean, np.linalg.inv(covariance).astype(mean.dtype))

    def log_density(position, data):
        centred = position["x"] - data.mean
        return -0.5 * jnp.vdot(centred, data.precision @ centred)

    return FakeDensity({"x": mean.shape}, log_density, data)


def log_gammas(shapes):
    """Independent log-gamma variables: exp(x_i) ~ Gamma(shapes_i, 1). Skewed, with known moments."""

    def log_density(position, data):
        return (data * position["x"] - jnp.exp(position["x"])).sum()

    def constrain(position, data):
        return {"x": position["x"], "gamma": jnp.exp(position["x"])}

    return FakeDensity({"x": np.shape(shapes)}, log_density, np.asarray(shapes, jnp.result_type(float)), constrain)


@pytest.fixture(scope="session")
def targets():
    """The closed-form log densities, and the class to make more."""
    return SimpleNamespace(FakeDensity=FakeDensity, gaussian=gaussian, log_gammas=log_gammas)


@pytest.fixture(params=[False, True], ids=["float32", "float64"])
def dtype(request):
    """The run's float type."""
    with jax.enable_x64(request.param):
        yield np.float64 if request.param else np.float32


@pytest.fixture
def chunks_of(monkeypatch):
    """Cuts runs into chunks of so many transitions; the programs stay those that are compiled already."""

    def cut(transitions):
        def drive(compiled, spec, *others):
            return host.drive(compiled, spec._replace(capacity=min(transitions, spec.capacity)), *others)

        monkeypatch.setattr("luciole.inference.run.running.drive", drive)

    return cut


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
