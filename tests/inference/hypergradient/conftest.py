"""A small network, all kinds of hyperparameters, and its training written out for JAX."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

STEPS, ROWS = 100, 40


class Training(NamedTuple):
    """What `hypergradient` takes; data are (x, y) to validate on."""

    train_loss: Any
    valid_loss: Any
    params: Any
    hypers: dict[str, Any]


def network(params: Any, x: Any) -> Any:
    return jnp.tanh(x @ params["in"]["w"] + params["in"]["b"]) @ params["out"]["w"]


@pytest.fixture
def training() -> Training:
    """Step sizes and decays by step and layer, penalties by weight, scales of the initial values, training data, weights of examples."""
    rng = np.random.default_rng(3)
    shapes = {"in": {"w": (4, 6), "b": (6,)}, "out": {"w": (6,)}}
    base = jax.tree.map(lambda s: jnp.asarray(0.5 * rng.normal(size=s), float), shapes, is_leaf=lambda s: isinstance(s, tuple))
    x, held_out = (jnp.asarray(rng.normal(size=(ROWS, 4)), float) for _ in range(2))
    y, target = jnp.sin(x[:, 0]) + 0.1 * x[:, 1], jnp.sin(held_out[:, 0]) + 0.1 * held_out[:, 1]

    def by_layer(low: float, high: float) -> Any:
        draw = lambda: jnp.asarray(rng.uniform(low, high, STEPS), float)  # noqa: E731
        return {"in": draw(), "out": {"w": draw()}}

    hypers = {
        "step_size": by_layer(0.1, 0.4),
        "decay": by_layer(0.5, 0.95),
        "penalty": jax.tree.map(lambda p: jnp.full(p.shape, 1e-3, float), base),
        "scale": jnp.asarray([0.9, 1.2], float),
        "x": x,
        "weights": jnp.ones(ROWS, float),
    }

    def train_loss(params: Any, h: Any, step: Any) -> Any:
        rows = (10 * step + jnp.arange(10)) % ROWS
        errors = (network(params, h["x"][rows]) - y[rows]) ** 2
        penalties = jax.tree.map(lambda a, p: jnp.sum(a * p**2), h["penalty"], params)
        return jnp.mean(h["weights"][rows] * errors) + sum(jax.tree.leaves(penalties))

    def valid_loss(params: Any) -> Any:
        return jnp.mean((network(params, held_out) - target) ** 2)

    def params(h: Any) -> Any:
        return {"in": jax.tree.map(lambda p: h["scale"][0] * p, base["in"]), "out": {"w": h["scale"][1] * base["out"]["w"]}}

    return Training(train_loss, valid_loss, params, hypers)


@pytest.fixture
def by_tape():
    """value and gradient of a `Training`, by JAX's reverse mode through a scan."""

    def run(t: Training) -> Any:
        def end(h: Any) -> Any:
            per_leaf = lambda s: {"in": {"w": s["in"], "b": s["in"]}, "out": s["out"]}  # noqa: E731
            sizes, decays = per_leaf(h["step_size"]), per_leaf(h["decay"])
            decays = jax.tree.map(lambda f: f + jax.lax.stop_gradient(jnp.round(f * 2**16) / 2**16 - f), decays)

            def step(s: Any, i: Any) -> Any:
                g = jax.grad(t.train_loss)(s[0], h, i)
                v = jax.tree.map(lambda f, v, g: f[i] * v - (1 - f[i]) * g, decays, s[1], g)
                return (jax.tree.map(lambda x, a, v: x + a[i] * v, s[0], sizes, v), v), None

            start = t.params(h)
            return t.valid_loss(jax.lax.scan(step, (start, jax.tree.map(jnp.zeros_like, start)), jnp.arange(STEPS))[0][0])

        return jax.jit(jax.value_and_grad(end))(t.hypers)

    return run
