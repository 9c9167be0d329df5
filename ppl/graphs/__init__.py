"""Graphs of any size: what a user hands in (`graphs.py`), its layout on the device (`packed.py`), the way there (`packing.py`)."""

from .graphs import Graphs
from .packed import PackedGraphs
from .packing import Packer

__all__ = ["Graphs", "PackedGraphs", "Packer"]
