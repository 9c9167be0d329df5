if __name__ == "inference":
    raise ImportError("this folder is part of the package luciole: write `from luciole import inference`")
