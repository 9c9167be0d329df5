"""Recursive programs over a batch: written for one member, run for thousands that never wait for one another.

program                 the decorator `@program`
source                  the text of a function, and errors that point into it
lower                   source -> `graph`, blocks of statements without types; its `expressions` become jumps, calls and `operators`
types                   what is known of each variable (`lattice`) at each block, by abstract evaluation (`trace`) to a fixpoint
assemble                typed blocks -> functions of blocks over array leaves (`ir`, which also says what a program means)
front                   all of these in one call, `lower`
passes, liveness        blocks -> fewer blocks, fewer slots, less to save at a call
frames                  calls -> one register per slot and member, stacks for what a recursive call saves, return addresses
cost, schedule          which block is heavy, in which order the others follow it, which cycles become inner loops
masked                  the code of one block for all members, of whom only some stand there
program_counter         one `while_loop` for the whole batch: a program counter and stacks for every member
compaction              the last members of a batch in a smaller one
local_static            the recursion stays in the host, members are masked: slower, simpler, for comparison
stats                   executions and utilisation of every block, and a picture
api                     all of these in one call, `autobatch`
scratch                 room that a program writes before it reads
closures                a program over data that are only known later
"""

from .api import Autobatched, Stages, autobatch, compile_program
from .closures import Closed, close
from .compaction import gather, scatter, smaller
from .program import BatchProgram, program
from .program_counter import Machine, build_machine
from .scratch import scratch
from .stats import BlockStats, History, Stats

__all__ = [
    "Autobatched",
    "BatchProgram",
    "BlockStats",
    "Closed",
    "History",
    "Machine",
    "Stages",
    "Stats",
    "autobatch",
    "build_machine",
    "close",
    "compile_program",
    "gather",
    "program",
    "scatter",
    "scratch",
    "smaller",
]
