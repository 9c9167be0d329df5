"""Losses whose gradients are made of different things, and the state and update that train them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from luciole.transforms import reversible


class Problem(NamedTuple):
    """loss: (params, i) -> scalar. params: a pytree of arrays."""

    loss: Callable[[Any, Any], Any]
    params: Any

    def state(self) -> dict[str, Any]:
        return {"position": self.params, "velocity": jax.tree.map(jnp.zeros_like, self.params)}

    def update(self, step_size: Any = 0.05, decay: Any = 0.9, **bound: float) -> reversible.Update:
        return reversible.sgd_momentum(self.loss, step_size, decay, **bound)


def elementwise(draw: Any) -> Problem:
    target = draw(30)
    return Problem(lambda w, i: jnp.mean(jnp.log1p(jnp.exp(jnp.sin(3 * w) * target)) + 0.1 * w**4 / (1 + w**2)), draw(30))


def normalised(draw: Any) -> Problem:
    """Batch normalisation and weight normalisation, on minibatches that depend on the step."""
    x, y = draw(40, 8), draw(40)

    def loss(w: Any, i: Any) -> Any:
        rows = (i * 10 + jnp.arange(10)) % 40
        direction = w["v"] / jnp.linalg.norm(w["v"], axis=0) * w["g"]
        hidden = x[rows] @ direction
        hidden = (hidden - hidden.mean(0)) / jnp.sqrt(hidden.var(0) + 0.1)
        return jnp.mean((jnp.tanh(hidden) @ w["b"] - y[rows]) ** 2)

    return Problem(loss, {"v": draw(8, 6), "g": 1 + 0 * draw(6), "b": draw(6)})


def convolution(draw: Any) -> Problem:
    x, y = draw(6, 1, 10, 10), draw(6)

    def loss(w: Any, i: Any) -> Any:
        hidden = jax.nn.relu(jax.lax.conv(x, w["k"], (1, 1), "SAME"))
        pooled = jax.lax.reduce_window(hidden, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
        return jnp.mean((pooled.mean((2, 3)) @ w["b"] - y) ** 2)

    return Problem(loss, {"k": draw(3, 1, 3, 3), "b": draw(3)})


def segments(draw: Any) -> Problem:
    """Messages gathered along edges and summed at their ends: scatters forwards and backwards."""
    rng = np.random.default_rng(5)
    ends, begins = (jnp.asarray(rng.integers(0, 12, 60).astype(np.int32)) for _ in range(2))
    y = draw(12)

    def loss(w: Any, i: Any) -> Any:
        sent = jnp.tanh(w["node"][begins] * w["edge"])
        return jnp.mean((jax.ops.segment_sum(sent, ends, num_segments=12).sum(1) - y) ** 2)

    return Problem(loss, {"node": draw(12, 4), "edge": draw(60, 4)})


def inner_scan(draw: Any) -> Problem:
    x, y = draw(7, 5, 3), draw(5)

    def loss(w: Any, i: Any) -> Any:
        hidden, _ = jax.lax.scan(lambda h, row: (jnp.tanh(h @ w["a"] + row @ w["u"]), None), jnp.zeros((5, 4)), x)
        return jnp.mean((hidden @ w["b"] - y) ** 2)

    return Problem(loss, {"a": draw(4, 4), "u": draw(3, 4), "b": draw(4)})


LOSSES = {f.__name__: f for f in (elementwise, normalised, convolution, segments, inner_scan)}


@pytest.fixture
def problem() -> Callable[[str], Problem]:
    """Problem by name, in the float type of the moment."""

    def make(name: str) -> Problem:
        rng = np.random.default_rng(sum(map(ord, name)))
        return LOSSES[name](lambda *shape: jnp.asarray(0.5 * rng.normal(size=shape), float))

    return make
