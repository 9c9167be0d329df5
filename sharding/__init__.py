"""Programs and meshes: a room not yet furnished.

Here will stand `partition` and the tactics that lay a program out over several devices and say beforehand which
collectives that costs. It will know `transforms` and nothing of models: `ppl` and `sharding` never meet.
"""

if __name__ == "sharding":
    raise ImportError("this folder is part of the package luciole: write `from luciole import sharding`")

__all__: list[str] = []
