"""STAND-IN, to be replaced: an exact key of a jaxpr's structure."""

from collections.abc import Hashable

__all__ = ["structure"]


def structure(closed_jaxpr) -> Hashable:
    """A key that is equal for two jaxprs exactly when they are the same program; constants enter by shape only."""
    return str(closed_jaxpr.jaxpr)
