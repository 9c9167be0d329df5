"""The meaning of a program, and how it prints."""

import jax.numpy as jnp
import numpy as np
import pytest

from luciole.transforms import ProgramError
from luciole.transforms.autobatch.ir import Jump, Slot, interpret, trace_block

from .by_hand import fibonacci, greatest_common_divisor, parity


def test_programs_mean_what_they_say():
    assert [int(interpret(fibonacci(), [jnp.int32(n)])[0]) for n in range(8)] == [0, 1, 1, 2, 3, 5, 8, 13]
    assert [bool(interpret(parity(), [jnp.int32(n)])[0]) for n in range(4)] == [True, False, True, False]
    assert int(interpret(greatest_common_divisor(), [jnp.int32(84), jnp.int32(36)])[0]) == 12


def test_too_many_open_calls():
    with pytest.raises(ProgramError, match="fib: more than 3 calls"):
        interpret(fibonacci(), [jnp.int32(9)], max_depth=3)


def test_a_block_that_does_not_fit_its_slots():
    x = Slot("f.x", (2,), np.dtype(np.float32))
    with pytest.raises(ProgramError, match=r"f.x has type float32\[2\], and float32\[\] is written"):
        trace_block("f", "f", 1, lambda x: [x.sum()], [x], [x], Jump("f"))


def test_the_printed_program_names_blocks_and_exits():
    text = str(fibonacci())
    assert "fib(fib.n: int32[]) -> (int32[])" in text
    assert "branch fib.test: fib.base else fib.left" in text
    assert "call fib(fib.less) then fib.right" in text
