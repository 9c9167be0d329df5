"""Programs in the compiler's own form, written by hand: what the passes and executors are tried on without a front end."""

import jax.numpy as jnp
import numpy as np

from luciole.transforms.autobatch.ir import Branch, Call, Function, Jump, Program, Return, Slot, trace_block

I32, BOOL = np.dtype(np.int32), np.dtype(np.bool_)


def fibonacci() -> Program:
    """fib(n) = n if n < 2 else fib(n - 1) + fib(n - 2)."""
    n, result, first, total, less = (Slot(f"fib.{name}", (), I32) for name in ("n", "result", "first", "total", "less"))
    test = Slot("fib.test", (), BOOL)
    blocks = [
        trace_block("fib", "fib", 1, lambda n: [n < 2], [n], [test], Branch(test, "fib.base", "fib.left")),
        trace_block("fib.base", "fib", 1, lambda: [], [], [], Return((n,))),
        trace_block("fib.left", "fib", 2, lambda n: [n - 1], [n], [less], Call("fib", (less,), "fib.right")),
        trace_block("fib.right", "fib", 2, lambda r, n: [r, n - 2], [result, n], [first, less], Call("fib", (less,), "fib.sum")),
        trace_block("fib.sum", "fib", 2, lambda a, b: [a + b], [first, result], [total], Return((total,))),
    ]
    return Program({"fib": Function("fib", (n,), (result,), "fib", {b.name: b for b in blocks})}, "fib")


def parity() -> Program:
    """is_even and is_odd by mutual recursion."""
    functions = {}
    for name, other, base in (("even", "odd", True), ("odd", "even", False)):
        n, less = Slot(f"{name}.n", (), I32), Slot(f"{name}.less", (), I32)
        test, value = Slot(f"{name}.test", (), BOOL), Slot(f"{name}.value", (), BOOL)
        result, inner = Slot(f"{name}.result", (), BOOL), Slot(f"{other}.result", (), BOOL)
        blocks = [
            trace_block(name, name, 1, lambda n: [n == 0], [n], [test], Branch(test, f"{name}.base", f"{name}.call")),
            trace_block(f"{name}.base", name, 1, lambda base=base: [jnp.bool_(base)], [], [value], Return((value,))),
            trace_block(f"{name}.call", name, 2, lambda n: [n - 1], [n], [less], Call(other, (less,), f"{name}.back")),
            trace_block(f"{name}.back", name, 2, lambda: [], [], [], Return((inner,))),
        ]
        functions[name] = Function(name, (n,), (result,), name, {b.name: b for b in blocks})
    return Program(functions, "even")


def greatest_common_divisor() -> Program:
    """A loop: while b: a, b = b, a % b."""
    a, b, result = (Slot(f"gcd.{name}", (), I32) for name in ("a", "b", "result"))
    test = Slot("gcd.test", (), BOOL)
    blocks = [
        trace_block("gcd", "gcd", 1, lambda b: [b != 0], [b], [test], Branch(test, "gcd.body", "gcd.end")),
        trace_block("gcd.body", "gcd", 2, lambda a, b: [b, a % b], [a, b], [a, b], Jump("gcd")),
        trace_block("gcd.end", "gcd", 3, lambda: [], [], [], Return((a,))),
    ]
    return Program({"gcd": Function("gcd", (a, b), (result,), "gcd", {b.name: b for b in blocks})}, "gcd")
