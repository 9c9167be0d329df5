"""Every pass, alone, in pairs, in order and all together, against the meaning of the program it was given."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from luciole.transforms.autobatch.ir import interpret
from luciole.transforms.autobatch.passes import ORDER, PASSES, optimise

from . import more_by_hand as more
from .by_hand import fibonacci, greatest_common_divisor, parity
from .register_machine import run


def ints(*rows):
    return [[jnp.int32(x) for x in row] for row in rows]


VECTOR = [jnp.int32(2), jnp.arange(3, dtype=jnp.float32), jnp.ones(3, jnp.float32)]
CASES = {
    "fibonacci": (fibonacci, ints([0], [6])),
    "parity": (parity, ints([0], [5])),
    "gcd": (greatest_common_divisor, ints([84, 36], [7, 0])),
    "ackermann": (more.ackermann, ints([2, 2], [0, 3])),
    "swaps": (more.swaps, ints([0, 5], [3, 5])),
    "chain": (more.chain, ints([4])),
    "countdown": (more.countdown, ints([5, 2, 9], [0, 1, 2])),
    "dead": (more.dead, ints([3])),
    "diamonds": (more.diamonds, ints([3], [8], [7], [-1])),
    "clobber": (more.clobber, ints([4, 2])),
    "vectors": (more.vectors, [VECTOR]),
    "bounded": (more.bounded, ints([0], [3], [9])),
}
PIPELINES = [(), *((name,) for name in PASSES), *itertools.permutations(PASSES, 2)]


def check(original, passes, inputs):
    """The rewritten program means the same, to `interpret` and on registers."""
    rewritten = optimise(original, passes)
    for arguments in inputs:
        expected = interpret(original, arguments)
        for found in (interpret(rewritten, arguments), run(rewritten, arguments)):
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-6, err_msg=f"{passes}\n{rewritten}")
    return rewritten


@pytest.mark.parametrize("name", CASES)
def test_all_passes_together(name):
    make, inputs = CASES[name]
    once = check(make(), ORDER, inputs)
    check(once, ORDER, inputs)
    check(make(), tuple(reversed(ORDER)), inputs)


@pytest.mark.parametrize("name", CASES)
def test_passes_alone_and_in_pairs(name):
    make, inputs = CASES[name]
    original = make()
    for passes in PIPELINES:
        check(original, passes, inputs[-1:])
