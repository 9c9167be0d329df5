"""Which sites are summed out."""

from typing import Any

__all__ = ["chosen_sites"]


def chosen_sites(program: Any, model: Any) -> frozenset[str]:
    return frozenset(n for n, s in program.sites.items() if s.latent and s.spec.discrete)
