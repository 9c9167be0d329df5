"""The likelihood of tall data, found in a plain model: rows of a design matrix, a family, and the rest of the density."""

from ...transforms.affine.host_design import HostDesign, block_of, on_host
from .find import FullEvaluationWarning, RowsOnDeviceWarning, find_factor
from .records import POWER, Factor, Family, Rows

__all__ = [
    "POWER",
    "Factor",
    "Family",
    "FullEvaluationWarning",
    "HostDesign",
    "Rows",
    "RowsOnDeviceWarning",
    "block_of",
    "find_factor",
    "on_host",
]
