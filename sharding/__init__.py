if __name__ == "sharding":
    raise ImportError("this folder is part of the package luciole: write `from luciole import sharding`")
