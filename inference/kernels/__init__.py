"""Kernels: what one chain does in one transition, what it adapts, and where it starts. Nothing here knows of many chains or of the host.

Read `kernel.py` (what a run asks of a kernel) and `records.py` (what a chain carries), then `nuts.py` and `trajectory.py`.
"""
