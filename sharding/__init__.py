"""Programs and meshes: split a program over devices by tactics that stand beside it, and know what that costs before it runs.

    from luciole import sharding as ls

    part = ls.partition(step, (params, batch), {"data": 4, "model": 2}, [
        ls.ManualPartition({"batch": 0}, axis="data"),
        ls.ManualPartition({"params.layers.*.up": 1}, axis="model"),
    ])
    print(part)            # collectives, memory and time after every tactic
    part.check()           # the lowered program has exactly these collectives
    params = part(params, batch)

The way through: `graph.py` (the program) -> `tactics.py`, `schedule.py`, `propagate.py` (what is split) -> `lower.py` (the device-local
program of `local.py`) -> `simulate.py` (its cost) and `execute.py` (its run). `rules/` knows the primitives. The room knows
`transforms` and nothing of models: `ppl` and `sharding` never meet.
"""

if __name__ == "sharding":
    raise ImportError("this folder is part of the package luciole: write `from luciole import sharding`")

from .factors import Factor
from .grouping import GroupedRows, sort_by_group
from .hardware import HARDWARE, Hardware, calibrate
from .partition import Partitioned, partition
from .propagate import Conflict
from .report import Report
from .rules import factors_of
from .tactics import FIRST_DIVISIBLE, REPLICATED, AutomaticPartition, ManualPartition, tag

__all__ = [
    "FIRST_DIVISIBLE",
    "HARDWARE",
    "REPLICATED",
    "AutomaticPartition",
    "Conflict",
    "Factor",
    "GroupedRows",
    "Hardware",
    "ManualPartition",
    "Partitioned",
    "Report",
    "calibrate",
    "factors_of",
    "partition",
    "sort_by_group",
    "tag",
]
