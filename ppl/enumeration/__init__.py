"""Discrete latent sites with finitely many states, summed out of a model's program, and drawn back."""

from .marginal import marginal_log_density
from .marginalize import chosen_sites

__all__ = ["chosen_sites", "marginal_log_density"]
