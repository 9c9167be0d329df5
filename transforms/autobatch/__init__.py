"""Recursive programs over a batch: written for one member, run for thousands that never wait for one another.

source, lower, types    Python source -> functions of typed blocks (`ir`, which also says what a program means)
passes, liveness        blocks -> fewer blocks, fewer slots, less to save at a call
schedule                which block is heavy, in which order the others follow it, which cycles become inner loops
program_counter         one `while_loop` for the whole batch: a program counter and stacks for every member
local_static            the recursion stays in the host, members are masked: slower, simpler, for comparison
"""
