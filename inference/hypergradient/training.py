"""The loop that trains: which optimiser, from which state, by which step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ...transforms import DerivativeError, grad
from ...transforms.reversible import Update, nesterov, sgd, sgd_momentum

__all__ = ["NAMES", "Training"]

NAMES = ("sgd_momentum", "sgd", "nesterov")


@dataclass(frozen=True)
class Training:
    """Training by gradient descent on train_loss(params, hypers, step).

    Attributes:
        loss: train_loss, a `Function`, or one bound to its data.
        optimiser: a name of `NAMES`; or an optax gradient transformation, or (hypers) -> one.
    """

    loss: Any
    optimiser: Any

    @property
    def reads(self) -> tuple[str, ...]:
        """The entries of hypers that the optimiser itself reads."""
        return {"sgd": ("step_size",)}.get(self.optimiser, ("step_size", "decay")) if isinstance(self.optimiser, str) else ()

    @property
    def reversible(self) -> bool:
        return self.optimiser == "sgd_momentum"

    def start(self, params: Any, hypers: Any) -> dict[str, Any]:
        """The state before the first step."""
        if isinstance(self.optimiser, str):
            extra = {} if self.optimiser == "sgd" else {"velocity": jax.tree.map(jnp.zeros_like, params)}
            return {"position": params, **extra}
        return {"position": params, "optimiser": self.transformation(hypers).init(params)}

    def update(self, hypers: Any) -> Update:
        """The step as an update that can be undone."""
        return sgd_momentum(self.with_hypers(hypers), hypers["step_size"], hypers["decay"])

    def with_hypers(self, hypers: Any) -> Callable[[Any, Any], Any]:
        """The loss as a function of (params, i)."""
        return lambda params, i: self.loss(params, hypers, i)

    def step(self, hypers: Any) -> Callable[[Any, Any], Any]:
        """(i, state) -> state."""
        loss = self.with_hypers(hypers)
        if self.reversible:
            return self.update(hypers)
        if self.optimiser == "nesterov":
            return nesterov(loss, hypers["step_size"], hypers["decay"])
        if self.optimiser == "sgd":
            return sgd(loss, hypers["step_size"])
        transformation = self.transformation(hypers)

        def step(i: Any, state: Any) -> Any:
            params = state["position"]
            changes, after = transformation.update(grad(loss)(params, i), state["optimiser"], params)
            moved = jax.tree.map(lambda x, change: x + change.astype(x.dtype), params, changes)
            return {
                "position": moved,
                "optimiser": jax.tree.map(lambda new, old: jnp.asarray(new, jnp.result_type(old)), after, state["optimiser"]),
            }

        return step

    def transformation(self, hypers: Any) -> Any:
        """The optax gradient transformation."""
        made = self.optimiser if hasattr(self.optimiser, "update") else self.optimiser(hypers)
        if not (hasattr(made, "init") and hasattr(made, "update")):
            raise DerivativeError(
                f"hypergradient: optimiser(hypers) is a {type(made).__name__}, an optax gradient transformation expected, as "
                'optimiser=lambda hypers: optax.adam(hypers["step_size"]).'
            )
        return made
