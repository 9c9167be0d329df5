"""Training steps for differentiable loops, of a loss(params, i) that may close over what is differentiated.

    sgd_momentum   v <- f v - (1 - f) grad loss(x);  x <- x + a v          an `Update`: it can be run backwards
    nesterov       u = f v;  v <- u - (1 - f) grad loss(x + a u);  x <- x + a v
    sgd            x <- x - a grad loss(x)

f is the decay, a the step size. The last two are steps (i, state) -> state for the strategies that store carries. They are one to one, but
to undo one means to solve an equation in which the gradient stands at the unknown: x = x' + a grad loss(x). That takes many gradients, and
ends at rounding, not at the bits.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..autodiff import grad
from .update import Add, Multiply, Update, by_leaf, rational

__all__ = ["at_step", "nesterov", "sgd", "sgd_momentum"]

Loss = Callable[[Any, Any], Any]


def at_step(schedule: Any, i: Any, params: Any) -> Any:
    """The numbers of one step, one for each leaf of `params`.

    Args:
        schedule: a scalar or an array whose first axis is the step; or a pytree of them: one for each leaf of `params`, or each branch.
    """
    return by_leaf(_now(schedule, i), params)


def _now(schedule: Any, i: Any) -> Any:
    return jax.tree.map(lambda s: s if np.ndim(s) == 0 else jnp.asarray(s)[i], schedule)


def _scaled(numbers: Any, tree: Any) -> Any:
    return jax.tree.map(lambda a, x: jnp.asarray(a, x.dtype) * x, numbers, tree)


def sgd_momentum(loss: Loss, step_size: Any, decay: Any, *, decay_at_least: float | None = None) -> Update:
    """Gradient descent with momentum on a state {"position": params, "velocity": like params}.

    The decay is rounded to a multiple of 2^-16, here and in 1 - f; its derivative is that of the decay itself.

    Args:
        loss: (params, i) -> a real scalar. step_size, decay: see `at_step`.
        decay_at_least: a lower bound, for traced decays.

    Source: Maclaurin, Duvenaud & Adams (2015), ICML, algorithm 1.
    """

    def push(i: Any, state: Any) -> Any:
        gradient = grad(loss)(state["position"], i)
        return jax.tree.map(lambda f, g: (rational(f) - 1).astype(g.dtype) * g, at_step(decay, i, gradient), gradient)

    def move(i: Any, state: Any) -> Any:
        return _scaled(at_step(step_size, i, state["velocity"]), state["velocity"])

    return Update(Multiply("velocity", lambda i: _now(decay, i), decay_at_least), Add("velocity", push), Add("position", move))


def nesterov(loss: Loss, step_size: Any, decay: Any) -> Callable[[Any, Any], Any]:
    """Nesterov's momentum: the gradient is taken where the velocity leads. State as for `sgd_momentum`; not reversible, see the module.

    Source: Sutskever, Martens, Dahl & Hinton (2013), ICML, equations 3 and 4, with 1 - f before the gradient as in `sgd_momentum`.
    """

    def step(i: Any, state: Any) -> Any:
        x, v = state["position"], state["velocity"]
        a, f = at_step(step_size, i, x), at_step(decay, i, x)
        u = _scaled(f, v)
        gradient = grad(loss)(jax.tree.map(jnp.add, x, _scaled(a, u)), i)
        v = jax.tree.map(lambda u, f, g: u - (1 - jnp.asarray(f, g.dtype)) * g, u, f, gradient)
        return {"position": jax.tree.map(jnp.add, x, _scaled(a, v)), "velocity": v}

    return step


def sgd(loss: Loss, step_size: Any) -> Callable[[Any, Any], Any]:
    """Gradient descent on a state {"position": params}; not reversible, see the module."""

    def step(i: Any, state: Any) -> Any:
        x = state["position"]
        moved = _scaled(at_step(step_size, i, x), grad(loss)(x, i))
        return {"position": jax.tree.map(jnp.subtract, x, moved)}

    return step
