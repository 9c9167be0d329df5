"""More programs by hand: what a machine can get wrong. Each comes with arguments for a ragged batch."""

import jax.numpy as jnp
import numpy as np
from jax import lax

from luciole.transforms.autobatch.ir import Branch, Call, Function, Jump, Program, Return, Slot, trace_block

from .by_hand import BOOL, I32, fibonacci, greatest_common_divisor, parity

F32 = np.dtype(np.float32)


def ackermann() -> Program:
    """A(m, n), with one call in the argument of another."""
    m, n, r, m1, n1, one = (Slot(f"ack.{name}", (), I32) for name in ("m", "n", "result", "m1", "n1", "one"))
    test, other = Slot("ack.test", (), BOOL), Slot("ack.other", (), BOOL)
    blocks = [
        trace_block("ack", "ack", 1, lambda m: [m == 0], [m], [test], Branch(test, "ack.base", "ack.else")),
        trace_block("ack.base", "ack", 2, lambda n: [n + 1], [n], [n1], Return((n1,))),
        trace_block("ack.else", "ack", 3, lambda n: [n == 0], [n], [other], Branch(other, "ack.zero", "ack.inner")),
        trace_block("ack.zero", "ack", 4, lambda m: [m - 1, jnp.int32(1)], [m], [m1, one], Call("ack", (m1, one), "ack.tail")),
        trace_block("ack.inner", "ack", 5, lambda n: [n - 1], [n], [n1], Call("ack", (m, n1), "ack.outer")),
        trace_block("ack.outer", "ack", 5, lambda m: [m - 1], [m], [m1], Call("ack", (m1, r), "ack.tail")),
        trace_block("ack.tail", "ack", 5, lambda: [], [], [], Return((r,))),
    ]
    return Program({"ack": Function("ack", (m, n), (r,), "ack", {b.name: b for b in blocks})}, "ack")


def tree_sum() -> Program:
    """Sums f(x w) over the leaves of a tree of depth n, with a vector that all calls share, and keeps a log of leaves in a buffer.

    walk(n, x, w, log, count) -> (sum, log, count); a leaf writes log[count] = x[0].
    """
    v, b = (3,), (40,)
    n, x, w, log, count = Slot("w.n", (), I32), Slot("w.x", v, F32), Slot("w.w", v, F32), Slot("w.log", b, F32), Slot("w.count", (), I32)
    total, rlog, rcount = Slot("w.rtotal", v, F32), Slot("w.rlog", b, F32), Slot("w.rcount", (), I32)
    less, left, out, xl = Slot("w.less", (), I32), Slot("w.left", v, F32), Slot("w.out", v, F32), Slot("w.xl", v, F32)
    leaf = Slot("w.leaf", (), BOOL)
    parameters = (n, x, w, log, count)

    def visit(x, w, log, count):
        return [jnp.tanh(x * w), log.at[count].set(x[0]), count + 1]

    blocks = [
        trace_block("w", "w", 1, lambda n: [n <= 0], [n], [leaf], Branch(leaf, "w.leafcode", "w.go")),
        trace_block("w.leafcode", "w", 2, visit, [x, w, log, count], [out, log, count], Return((out, log, count))),
        trace_block("w.go", "w", 3, lambda n, x: [n - 1, x * 0.5], [n, x], [less, xl], Call("w", (less, xl, w, log, count), "w.back")),
        trace_block("w.back", "w", 4, lambda r, n, x: [r, n - 2, x + 1], [total, n, x], [left, less, xl],
                    Call("w", (less, xl, w, rlog, rcount), "w.end")),
        trace_block("w.end", "w", 5, lambda a, b: [a + b], [left, total], [out], Return((out, rlog, rcount))),
    ]  # fmt: skip
    return Program({"w": Function("w", parameters, (total, rlog, rcount), "w", {b.name: b for b in blocks})}, "w")


def helper_twice() -> Program:
    """Calls of a function that cannot recurse, whose results must survive a second call; and a loop around them.

    main(n, s): for i in range(n): s = half(s) + half(s + i); half(x) = x / 2 if x > 1 else x.
    """
    n, s, i, r, t, u = (Slot(f"m.{name}", (), d) for name, d in zip("nsirtu", (I32, F32, I32, F32, F32, F32), strict=True))
    x, h, y = Slot("h.x", (), F32), Slot("h.result", (), F32), Slot("h.y", (), F32)
    go, big = Slot("m.go", (), BOOL), Slot("h.big", (), BOOL)
    main = [
        trace_block("m", "m", 1, lambda: [jnp.int32(0)], [], [i], Jump("m.test")),
        trace_block("m.test", "m", 1, lambda i, n: [i < n], [i, n], [go], Branch(go, "m.first", "m.end")),
        trace_block("m.first", "m", 2, lambda: [], [], [], Call("h", (s,), "m.second")),
        trace_block("m.second", "m", 2, lambda s, i, h: [s + i, h], [s, i, h], [t, u], Call("h", (t,), "m.sum")),
        trace_block("m.sum", "m", 2, lambda u, h, i: [u + h, i + 1], [u, h, i], [s, i], Jump("m.test")),
        trace_block("m.end", "m", 3, lambda: [], [], [], Return((s,))),
    ]
    half = [
        trace_block("h", "h", 4, lambda x: [x > 1], [x], [big], Branch(big, "h.half", "h.same")),
        trace_block("h.half", "h", 4, lambda x: [x / 2], [x], [y], Return((y,))),
        trace_block("h.same", "h", 4, lambda: [], [], [], Return((x,))),
    ]
    functions = {
        "m": Function("m", (n, s), (r,), "m", {b.name: b for b in main}),
        "h": Function("h", (x,), (h,), "h", {b.name: b for b in half}),
    }
    return Program(functions, "m")


def loop_inside() -> Program:
    """A block whose own code loops `while x != 0: x -= 1`, which never ends within a lifetime for a member that is elsewhere.

    main(n): while n > 0: count += rounds(n); n -= 3. A member with n <= 0 never runs the loop, which would not stop for it.
    """
    n, count, r = (Slot(f"l.{name}", (), I32) for name in ("n", "count", "result"))
    go = Slot("l.go", (), BOOL)

    def rounds(n, count):
        _, done = lax.while_loop(lambda c: c[0] != 0, lambda c: (c[0] - 1, c[1] + 1), (n, 0))
        return [n - 3, count + done]

    blocks = [
        trace_block("l", "l", 1, lambda: [jnp.int32(0)], [], [count], Jump("l.test")),
        trace_block("l.test", "l", 1, lambda n: [n > 0], [n], [go], Branch(go, "l.body", "l.end")),
        trace_block("l.body", "l", 2, rounds, [n, count], [n, count], Jump("l.test")),
        trace_block("l.end", "l", 3, lambda: [], [], [], Return((count,))),
    ]
    return Program({"l": Function("l", (n,), (r,), "l", {b.name: b for b in blocks})}, "l")


def updates() -> Program:
    """Parts of buffers written in each of the ways that JAX has, at places that may be out of bounds.

    main(n, a, b, c): for i in range(n): a = a.at[i - 2].set(i); b = dynamic_update_slice(b, [i, i], (i - 1,));
    c = c.at[i, 1:3].add(i, mode="clip").
    """
    n, i, go = Slot("u.n", (), I32), Slot("u.i", (), I32), Slot("u.go", (), BOOL)
    a, b, c = Slot("u.a", (5,), F32), Slot("u.b", (6,), F32), Slot("u.c", (3, 4), F32)
    results = tuple(Slot(f"u.r{s.name[-1]}", s.shape, F32) for s in (a, b, c))

    def body(i, a, b, c):
        f = i.astype(jnp.float32)
        a = a.at[i - 2].set(f)
        b = lax.dynamic_update_slice(b, jnp.stack([f, f + 1]), (i - 1,))
        return [i + 1, a, b, c.at[i, 1:3].add(f, mode="clip")]

    blocks = [
        trace_block("u", "u", 1, lambda: [jnp.int32(0)], [], [i], Jump("u.test")),
        trace_block("u.test", "u", 1, lambda i, n: [i < n], [i, n], [go], Branch(go, "u.body", "u.end")),
        trace_block("u.body", "u", 2, body, [i, a, b, c], [i, a, b, c], Jump("u.test")),
        trace_block("u.end", "u", 3, lambda: [], [], [], Return((a, b, c))),
    ]
    return Program({"u": Function("u", (n, a, b, c), results, "u", {b.name: b for b in blocks})}, "u")


def straight() -> Program:
    """No loop, no call."""
    x, y, r = (Slot(f"s.{name}", (2,), F32) for name in ("x", "y", "result"))
    test = Slot("s.test", (), BOOL)
    blocks = [
        trace_block("s", "s", 1, lambda x: [x.sum() > 0], [x], [test], Branch(test, "s.up", "s.down")),
        trace_block("s.up", "s", 2, lambda x: [x + 1], [x], [y], Return((y,))),
        trace_block("s.down", "s", 3, lambda x: [x * 2], [x], [y], Return((y,))),
    ]
    return Program({"s": Function("s", (x,), (r,), "s", {b.name: b for b in blocks})}, "s")


def cases() -> dict:
    """Name -> (program, arguments of a ragged batch)."""
    rng = np.random.default_rng(3)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    def ints(*values):
        return np.array(values, np.int32)

    return {
        "fibonacci": (fibonacci(), (ints(0, 9, 1, 5, 7, 2),)),
        "parity": (parity(), (ints(4, 7, 0, 1, 12),)),
        "gcd": (greatest_common_divisor(), (ints(84, 7, 0, 144, 13), ints(36, 0, 5, 89, 13))),
        "ackermann": (ackermann(), (ints(2, 0, 1, 2, 1), ints(3, 5, 4, 0, 0))),
        "tree_sum": (tree_sum(), (ints(4, 0, 6, 1), normal(4, 3), normal(4, 3), normal(4, 40), ints(0, 3, 1, 39))),
        "helper_twice": (helper_twice(), (ints(0, 3, 8, 1), normal(4) * 3)),
        "loop_inside": (loop_inside(), (ints(-5, 9, 4, 0, 1),)),
        "updates": (updates(), (ints(0, 9, 2, 5), normal(4, 5), normal(4, 6), normal(4, 3, 4))),
        "straight": (straight(), (normal(5, 2),)),
    }
