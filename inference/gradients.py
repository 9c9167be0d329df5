"""Where gradients come from: the one place to change when another reverse mode takes over."""

from jax import value_and_grad

__all__ = ["value_and_grad"]
