if __name__ == "ppl":
    raise ImportError("this folder is part of the package luciole: write `from luciole import ppl`")
