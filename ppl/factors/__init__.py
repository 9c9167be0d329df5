"""The likelihood of tall data, found in a plain model: rows of a design matrix, a family, and the rest of the density."""

from .find import find_factor
from .records import Factor, Family, Rows

__all__ = ["Factor", "Family", "Rows", "find_factor"]
