"""A model's density over the devices of a mesh: names for tactics, and the programs that one device runs.

Start reading at `names.py` (what a tactic may name), then `density.py`.
"""
