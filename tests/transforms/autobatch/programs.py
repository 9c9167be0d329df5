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


MATRIX = jnp.asarray(np.linspace(-1.0, 1.0, 36).reshape(6, 6), jnp.float32)


def heavy(x):
    """A helper that is plain JAX: what a gradient would cost."""
    return jnp.tanh(MATRIX @ (MATRIX @ x)) + x


@program
def tree_sum(x, depth, seed):
    """A recursion whose leaves cost a matrix product; a leaf is pruned by its number."""
    if seed % 5 == 3:
        return x
    if depth == 0:
        return heavy(x)
    left = tree_sum(x, depth - 1, 2 * seed)
    right = tree_sum(0.5 * left, depth - 1, 2 * seed + 1)
    return left + right


@program
def search(tree, goal, node):
    """Depth first in a heap of keys: where `goal` stands, how many nodes were looked at, and their sum as a dict."""
    if node >= tree["keys"].shape[0]:
        return {"found": -1, "seen": 0, "sum": jnp.zeros_like(tree["weights"][0])}
    if tree["keys"][node] == goal:
        return {"found": node, "seen": 1, "sum": tree["weights"][node]}
    left = search(tree, goal, 2 * node + 1)
    if left["found"] >= 0:
        return {**left, "seen": left["seen"] + 1, "sum": left["sum"] + tree["weights"][node]}
    right = search(tree, goal=goal, node=2 * node + 2)
    total = left["sum"] + right["sum"] + tree["weights"][node]
    return {"found": right["found"], "seen": left["seen"] + right["seen"] + 1, "sum": total}


class Tree(NamedTuple):
    """A trajectory, as NUTS keeps it."""

    first: Any
    last: Any
    momentum: Any
    proposal: Any
    log_weight: Any
    turning: Any
    leaves: Any


class Phase(NamedTuple):
    position: Any
    momentum: Any


def leapfrog(phase, step):
    half = phase.momentum - 0.5 * step * (MATRIX.T @ (MATRIX @ phase.position) + phase.position)
    position = phase.position + step * half
    return Phase(position, half - 0.5 * step * (MATRIX.T @ (MATRIX @ position) + position))


def energy(phase):
    return 0.5 * (jnp.sum((MATRIX @ phase.position) ** 2) + jnp.sum(phase.position**2) + jnp.sum(phase.momentum**2))


def is_turning(first, last, momentum):
    return (momentum @ first.momentum <= 0) | (momentum @ last.momentum <= 0)


def choose(words, log_ratio):
    """Whether to accept: a hash of two words against a log probability."""
    bits = (words[0] * jnp.uint32(2654435761)) ^ (words[1] * jnp.uint32(40503) + jnp.uint32(77))
    return jnp.log((bits >> 8).astype(jnp.float32) / 2**24 + 1e-7) < log_ratio


def merged(a, b, forward, accept):
    first, last = jax.tree.map(lambda x, y: jnp.where(forward, x, y), (a.first, b.last), (b.first, a.last))
    momentum = a.momentum + b.momentum
    proposal = jax.tree.map(partial(jnp.where, accept), b.proposal, a.proposal)
    turning = b.turning | is_turning(first, last, momentum)
    return Tree(first, last, momentum, proposal, jnp.logaddexp(a.log_weight, b.log_weight), turning, a.leaves + b.leaves)


@program
def build(start, depth, forward, step, start_energy, words):
    """A balanced tree of 2**depth leapfrog steps, ended early where it turns back or diverges."""
    if depth == 0:
        end = leapfrog(start, jnp.where(forward, step, -step))
        log_weight = start_energy - energy(end)
        return Tree(end, end, end.momentum, end, log_weight, log_weight < -1000, 1)
    left = build(start, depth - 1, forward, step, start_energy, words)
    if left.turning:
        return left
    right = build(left.last if forward else left.first, depth - 1, forward, step, start_energy, words + jnp.uint32(17))
    weight = jnp.logaddexp(left.log_weight, right.log_weight)
    return merged(left, right, forward, choose(words + jnp.uint32(right.leaves), right.log_weight - weight))


@program
def nuts_like(position, momentum, step, words, max_depth=5):
    """Doubling until the trajectory turns back: a transition of NUTS, random numbers from a hash."""
    start = Phase(position, momentum)
    start_energy = energy(start)
    tree = Tree(start, start, momentum, start, jnp.float32(0), jnp.bool_(False), jnp.int32(0))
    depth = 0
    while depth < max_depth and not tree.turning:
        forward = choose(words, jnp.log(0.5))
        words = words + jnp.uint32(101)
        new = build(tree.last if forward else tree.first, depth, forward, step, start_energy, words)
        if new.turning:
            break
        accept = choose(words + jnp.uint32(3), new.log_weight - tree.log_weight)
        tree = merged(tree, new, forward, accept)
        depth += 1
    return tree.proposal.position, tree.leaves, depth


@program
def next_even(n, at_least=4, *, by=1):
    if n < at_least:
        return next_even(n + by, by=by)
    return n if n % 2 == 0 else n + 1


def scaled(x, factor=3):
    return jnp.maximum(x * factor, 1)


@program
def mix(n, limit):
    """A little of everything."""
    total = 0
    i = -1
    for i in range(n, -3, -2):
        if i == 4:
            continue
        elif 0 < i <= fib(5) < limit or not (fib(2) and limit):
            total -= 1 if is_even(abs(i)) else 2
            if total < -4:
                break
        elif i < 0 and next_even(i + 6, at_least=5) > 5:
            total += next_even(i, by=2) or 100
        else:
            total += scaled(fib(scaled(2, factor=2)) + (i or 7))
    sign = 1 if total > 0 else -1
    return sign * total, i, 1 < total < 50, not total


@program
def nested_loops(n, m):
    count, last = 0, jnp.int32(0)
    for i in range(n):
        j = 0
        while True:
            if j * i > m or j > 6:
                break
            j += 1
            if (i + j) % 3 == 0:
                continue
            count += j
        for i in range(j - 1, j + 1):
            last = last + i
    return count, last


@program
def sign_of(x):
    """Early returns without recursion."""
    if x > 0:
        if x > 100:
            return 2.0 * x
        return x
    for k in range(3):
        if x + k == 0:
            return 0.25
    return -x


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Counter:
    """A registered dataclass as a value."""

    count: Any
    history: Any


@program
def ping(state, n):
    if n <= 0:
        return state
    return pong(Counter(state.count + 1, state.history.at[n % 4].add(1.0)), n - 1, note=None)


@program
def pong(state, n, note):
    if n <= 0 and note is None:
        return Counter(-state.count, state.history)
    (first, *rest), other = (state.count, n, 3), [state.history, (n, {})]
    return ping(Counter(first * 2 + len(rest), other[0] * 0.5), other[1][0] - 2)


@program
def weak_types(small, unsigned, n):
    """Python numbers take the type of what they meet: bfloat16 stays, and so does uint32."""
    scale = 1.5
    hashed = 7
    for _ in range(n):
        scale = small * scale
        hashed = unsigned ^ (hashed * 31)
    return scale, hashed


def power_of(matrix, offset):
    """A program made by a function: it closes over arrays and over itself."""

    @program
    def power(x, n):
        if n == 0:
            return x + offset
        return matrix @ power(x, n - 1)

    return power


power = power_of(0.5 * MATRIX, jnp.float32(0.125))


@program
def two_types(x, n):
    """One name with two types in turn, which never meet."""
    y = x.sum()
    if n > 2:
        y = y + 1.0
    z = y
    y = x * z
    while y.sum() < n:
        y = y + 1.0
    return y, z


@program
def loop_bounds(start, stop, step):
    """Bounds that are known only when the program runs, evaluated once."""
    total = 0
    if step == 0:
        step = 1
    for i in range(start, stop, step):
        stop = total = total * 3 + i
        if total > 1000:
            continue
        total += 1
    return total, stop


@program
def swap(a, b, n):
    """Arguments, results and variables that change places."""
    if n == 0:
        return a, b
    a, b = swap(b, a, n - 1)
    return b + 1, a


@program
def expressions(n):
    """Calls inside chains of comparisons, conditional expressions, `and` and `or`, of which not all are reached."""
    inside = 0
    if 0 < fib(n) < fib(n + 1) <= 13 < n + fib(7):
        inside = 1
    kind = 1 if (is_even(n) and not fib(n) > 5) or n == 3 else (2 if fib(n) == 2 else 3)
    a = b = fib(n)
    fib(b)
    a, b = fib(max(b - 5, 0)), min(fib(min(a, 7)), n)
    return inside, kind, a, b, not 0 < n < 4, n if n else -1, (n and 7), (n or 9), (n - 1 and fib(n)), (a or fib(3))


@program
def containers(n):
    """Lambdas, comprehensions and lists, evaluated within a block or kept across several."""
    functions = [lambda i=n: i + 1, lambda x=3: x * n]
    n = sum([n + 1 for n in (n, 2 * n)]) + sum(f() for f in functions)
    values = [n, n + 1]
    name, nothing, k = "kept", None, 0
    while k < 3 and (is_even(n) or fib(k) < 1):
        values = [*values[1:], values[0] + k]
        k += 1
        n += 1
    return values, k + len(name), nothing, int(n / 2), float(n), bool(n)


def i32(*values):
    return tuple(jnp.int32(v) for v in values)


def _vectors(n, size=6):
    return [jnp.asarray(np.cos(np.arange(size) * (1.3 + k) + k), jnp.float32) for k in range(n)]


def _heap(k):
    return {
        "keys": jnp.asarray((np.arange(11) * 7 + k) % 11, jnp.int32),
        "weights": jnp.asarray(np.arange(22.0).reshape(11, 2) / 7, jnp.float32),
    }


class Example(NamedTuple):
    """A program, and the arguments of some members, all of one type."""

    name: str
    program: Any
    members: list[tuple[Any, ...]]


EXAMPLES = [
    Example("fib", fib, [i32(n) for n in (0, 1, 2, 5, 8, 3)]),
    Example("is_even", is_even, [i32(n) for n in (0, 1, 6, 9)]),
    Example("ackermann", ackermann, [i32(2, 3), i32(0, 4), i32(1, 5), i32(2, 0)]),
    Example("gcd", gcd, [i32(84, 36), i32(7, 0), i32(17, 5), i32(0, 3)]),
    Example("collatz", collatz, [i32(n) for n in (1, 6, 27, 9)]),
    Example("tree_sum", tree_sum, [(x, *i32(d, s)) for x, d, s in zip(_vectors(4), (0, 3, 2, 4), (1, 1, 3, 2), strict=True)]),
    Example("search", search, [(_heap(k), *i32(goal, 0)) for k, goal in ((0, 0), (3, 8), (5, 4), (1, 99))]),
    Example(
        "nuts_like",
        nuts_like,
        [
            (_vectors(10)[k], _vectors(10)[k + 4], jnp.float32(step), jnp.asarray([k, 9], jnp.uint32))
            for k, step in ((0, 0.03), (5, 0.15), (3, 0.8), (1, 0.15))
        ],
    ),
    Example("mix", mix, [i32(n, limit) for n, limit in ((9, 7), (8, 3), (-4, 1), (12, 0), (3, 40))]),
    Example("nested_loops", nested_loops, [i32(n, m) for n, m in ((0, 1), (3, 4), (5, 2))]),
    Example("sign_of", sign_of, [(jnp.float32(x),) for x in (3.0, 500.0, -1.0, -7.0, 0.0)]),
    Example("ping", ping, [(Counter(jnp.int32(k), jnp.ones(4)), jnp.int32(n)) for k, n in ((0, 0), (2, 5), (1, 9), (3, 1))]),
    Example(
        "weak_types",
        weak_types,
        [(jnp.bfloat16(x), jnp.uint32(u), jnp.int32(n)) for x, u, n in ((1.01, 5, 0), (0.7, 4000000000, 3), (2.0, 1, 6))],
    ),
    Example("power", power, [(x, jnp.int32(n)) for x, n in zip(_vectors(3), (0, 1, 4), strict=True)]),
    Example("two_types", two_types, [(x, jnp.int32(n)) for x, n in zip(_vectors(3), (0, 3, 9), strict=True)]),
    Example("loop_bounds", loop_bounds, [i32(*b) for b in ((0, 5, 1), (5, -3, -2), (3, 3, 1), (7, 0, 2), (1, 4, 0), (2, 40, 3))]),
    Example("swap", swap, [i32(1, 5, 3), i32(2, 2, 0), i32(4, 1, 2)]),
    Example("expressions", expressions, [i32(n) for n in (0, 1, 2, 3, 6)]),
    Example("containers", containers, [i32(n) for n in (0, 1, 3, 4)]),
]
