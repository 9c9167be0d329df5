"""Luciole: probabilistic programming on JAX."""
