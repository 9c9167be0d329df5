"""Programs that every stage and every executor is tried on, with arguments for one member each: `EXAMPLES`.

Each is plain Python when it is called plainly, and that is what the rest must equal.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from luciole.transforms import program


@program
def fib(n):
    if n < 2:
        return n
    return fib(n - 1) + fib(n - 2)


@program
def is_even(n):
    if n == 0:
        return True
    return is_odd(n - 1)


@program
def is_odd(n):
    if n == 0:
        return False
    return is_even(n - 1)


@program
def ackermann(m, n):
    if m == 0:
        return n + 1
    if n == 0:
        return ackermann(m - 1, 1)
    return ackermann(m - 1, ackermann(m, n - 1))


@program
def gcd(a, b):
    while b:
        a, b = b, a % b
    return a


@program
def collatz(n):
    """The number of steps to 1, and the highest number on the way."""
    steps = 0
    top = n
    while n != 1:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        top = max(top, n)
        steps += 1
    return steps, top
