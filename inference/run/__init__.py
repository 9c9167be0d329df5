"""A run: many chains of a kernel in one program, and the loop around the device. No kernel is known here by name.

Read `mcmc.py` (what a user runs), `host.py` (the loop), `batching.py` and `chain.py` (the program), `compilation.py`.
"""
