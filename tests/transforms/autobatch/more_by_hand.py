"""More programs by hand, each with something in it that a pass may get wrong."""

import jax.numpy as jnp
import numpy as np
from jax import lax

from luciole.transforms.autobatch.ir import Branch, Call, Function, Jump, Program, Return, Slot, trace_block

I32, F32, BOOL = np.dtype(np.int32), np.dtype(np.float32), np.dtype(np.bool_)


class Writer:
    """Notes down blocks: ints by default, predicates named in `tests`."""

    def __init__(self, name, parameters, results=("result",), tests=("test",), vectors=()):
        self.name, self.blocks, self.results = name, [], tuple(results)
        self.types = {**dict.fromkeys(tests, ((), BOOL)), **dict.fromkeys(vectors, ((3,), F32))}
        self.parameters = tuple(self.slot(p) for p in parameters.split())

    def slot(self, name):
        """A slot of this function, or of another if the name has its function before a point."""
        full = name if "." in name else f"{self.name}.{name}"
        shape, dtype = self.types.get(name, ((), I32))
        return Slot(full, shape, dtype)

    def slots(self, names):
        return tuple(self.slot(n) for n in names.split())

    def block(self, name, code, reads, writes, exit):
        match exit.split():
            case "jump", target:
                made = Jump(self.label(target))
            case "branch", test, yes, no:
                made = Branch(self.slot(test), self.label(yes), self.label(no))
            case "call", callee, *arguments, continuation:
                made = Call(callee, self.slots(" ".join(arguments)), self.label(continuation))
            case "return", *values:
                made = Return(self.slots(" ".join(values)))
            case _:
                raise ValueError(exit)
        block = trace_block(self.label(name), self.name, len(self.blocks) + 1, code, self.slots(reads), self.slots(writes), made)
        self.blocks.append(block)

    def label(self, name):
        return f"{self.name}:{name}"

    def function(self):
        results = tuple(self.slot(r) for r in self.results)
        return Function(self.name, self.parameters, results, self.blocks[0].name, {b.name: b for b in self.blocks})


def program(*writers):
    return Program({w.name: w.function() for w in writers}, writers[0].name)


NOTHING = lambda *_: []  # noqa: E731


def ackermann():
    """A(m, n), whose outer calls are tail calls and whose inner one saves m."""
    w = Writer("ack", "m n", tests=("none", "last"))
    w.block("start", lambda m: [m == 0], "m", "none", "branch none base step")
    w.block("base", lambda n: [n + 1], "n", "value", "return value")
    w.block("step", lambda n: [n == 0], "n", "last", "branch last zero inner")
    w.block("zero", lambda m: [m - 1, jnp.int32(1)], "m", "less one", "call ack less one back")
    w.block("inner", lambda n: [n - 1], "n", "fewer", "call ack m fewer outer")
    w.block("outer", lambda m, r: [m - 1, r], "m result", "less value", "call ack less value back")
    w.block("back", NOTHING, "", "", "return result")
    return program(w)


def swaps():
    """Two values change places in a loop, copies are kept of both, and the first two begin equal."""
    w = Writer("swap", "n a", results=("x", "y", "z"))
    w.block("start", lambda a: [a, a, jnp.int32(0)], "a", "b c i", "jump head")
    w.block("head", lambda i, n: [i < n], "i n", "test", "branch test body end")
    w.block("body", lambda a, b: [b, a, a], "a b", "a b old", "jump next")
    w.block("next", lambda a, i, old, c: [a + i, i + 1, c + old], "a i old c", "a i c", "jump head")
    w.block("end", lambda a, b, c: [a, b - c], "a b c", "first second", "return first second c")
    return program(w)


def chain():
    """Three functions in a row; the helper is called at two sites, and an earlier result of it is needed after a call that calls it."""
    outer = Writer("outer", "x")
    outer.types["middle.result"] = outer.types["helper.result"] = ((), I32)
    outer.block("start", lambda x: [x + 1], "x", "y", "call helper y second")
    outer.block("second", NOTHING, "", "", "call middle x third")
    outer.block("third", lambda h, m, x: [h * 100 + m - x], "helper.result middle.result x", "value", "return value")
    middle = Writer("middle", "x")
    middle.block("start", lambda x: [x * 2], "x", "y", "call helper y more")
    middle.block("more", lambda h, x: [h + x], "helper.result x", "y", "call helper y done")
    middle.block("done", lambda h: [h], "helper.result", "value", "return value")
    helper = Writer("helper", "x")
    helper.block("start", lambda x: [x * x - 3], "x", "value", "return value")
    return program(outer, middle, helper)


def kept():
    """A result of a recursive function is needed after the call of another function, which calls that one as well."""
    outer, middle, fact = Writer("outer", "x"), Writer("middle", "x"), Writer("fact", "n")
    outer.block("start", NOTHING, "", "", "call fact x second")
    outer.block("second", lambda x: [x - 2], "x", "less", "call middle less third")
    outer.block("third", lambda a, b: [a - 3 * b], "fact.result middle.result", "value", "return value")
    middle.block("start", NOTHING, "", "", "call fact x done")
    middle.block("done", lambda r: [r + 1], "fact.result", "value", "return value")
    fact.block("start", lambda n: [n <= 1], "n", "test", "branch test base step")
    fact.block("base", lambda: [jnp.int32(1)], "", "value", "return value")
    fact.block("step", lambda n: [n - 1], "n", "less", "call fact less last")
    fact.block("last", lambda n, r: [n * r], "n result", "value", "return value")
    return program(outer, middle, fact)


def guarded():
    """A variable that only one way assigns, and only who went that way reads; a function of two results, of which both are read."""
    w = Writer("guard", "n", tests=("odd",))
    w.block("start", lambda n: [n % 2 == 1], "n", "odd", "branch odd yes join")
    w.block("yes", lambda n: [n * 3], "n", "x", "jump join")
    w.block("join", NOTHING, "", "", "call both n after")
    w.block("after", NOTHING, "", "", "branch odd use end")
    w.block("use", lambda n, x: [n + x], "n x", "n", "jump end")
    w.block("end", lambda n, p, q: [n + 10 * p - q], "n both.p both.q", "value", "return value")
    both = Writer("both", "n", results=("p", "q"))
    both.block("start", lambda n: [n + 1, n * n], "n", "one two", "return one two")
    return program(w, both)


def countdown():
    """A self tail call whose arguments change places."""
    w = Writer("count", "n a b")
    w.block("start", lambda n: [n <= 0], "n", "test", "branch test base step")
    w.block("base", lambda a, b: [a - 2 * b], "a b", "value", "return value")
    w.block("step", lambda n, a: [n - 1, a + n], "n a", "less more", "call count less b more back")
    w.block("back", lambda r: [r], "result", "value", "jump out")
    w.block("out", NOTHING, "", "", "return value")
    return program(w)


def dead():
    """A loop variable nobody wants, an argument nobody reads, a result nobody takes, blocks and a function nobody enters."""
    w = Writer("dead", "n")
    w.block("start", lambda: [jnp.int32(0), jnp.int32(7)], "", "i waste", "jump head")
    w.block("head", lambda i, n: [i < n], "i n", "test", "branch test body end")
    w.block("body", lambda i, waste: [i + 1, waste * 3], "i waste", "i waste", "call pair i waste head")
    w.block("end", lambda a: [a + 1], "pair.sum", "value", "return value")
    w.block("never", NOTHING, "", "", "jump never")
    pair = Writer("pair", "x y", results=("sum", "other"))
    pair.block("start", lambda x: [x * 5, x - 1], "x", "five less", "return five less")
    lost = Writer("lost", "x")
    lost.block("start", NOTHING, "", "", "call pair x x start")
    return program(w, pair, lost)


def diamonds():
    """A triangle within a diamond, slots that one way leaves alone, and a way whose `while` ends only on positive numbers."""
    w = Writer("dia", "n", tests=("odd", "big", "positive"))
    w.block("start", lambda n: [n % 2 == 1, n, n > 0], "n", "odd x positive", "branch odd left right")
    w.block("left", lambda n: [n * 3, n > 4], "n", "x big", "branch big more join")
    w.block("more", lambda x: [x - 10, jnp.int32(1)], "x", "x y", "jump join")
    w.block("right", lambda x, n: [n, x + 1], "x n", "y x", "jump join")
    w.block("join", lambda x, n: [x * 2, n], "x n", "x keep", "branch positive loop end")
    w.block("loop", lambda n, x: [lax.while_loop(lambda i: i != 0, lambda i: i - 1, n) + x], "n x", "x", "jump end")
    w.block("end", lambda x, keep: [x + keep], "x keep", "value", "return value")
    return program(w)


def clobber():
    """tree(n, k) = n k + tree(n - 1, k + 1) + tree(n - 2, k) - k: needs n, k and the first sum again after calls that overwrite them."""
    w = Writer("tree", "n k")
    w.block("start", lambda n: [n <= 0], "n", "test", "branch test base left")
    w.block("base", lambda k: [k], "k", "value", "return value")
    w.block("left", lambda n, k: [n - 1, k + 1], "n k", "less more", "call tree less more right")
    w.block("right", lambda n, k, r: [n - 2, n * k + r], "n k result", "less sum", "call tree less k end")
    w.block("end", lambda s, r, k: [s + r - k], "sum result k", "value", "return value")
    return program(w)


def vectors():
    """A tree with a vector argument that never changes, one that does, a heavy leaf called from two sites, and two results."""
    w = Writer("build", "depth e x", results=("p", "q"), vectors=("e", "x", "half", "p", "q", "leaf.out", "left", "y", "z"))
    w.block("start", lambda d: [d == 0], "depth", "test", "branch test base left")
    w.block("base", NOTHING, "", "", "call leaf x e done")
    w.block("done", lambda y, x: [y, x], "leaf.out x", "y z", "return y z")
    w.block("left", lambda d: [d - 1], "depth", "less", "call build less e x right")
    w.block("right", lambda p, d: [p, d - 1], "p depth", "left less", "call build less e left join")
    w.block("join", lambda a, b, q: [a + b, q], "left p q", "y z", "call leaf y e last")
    w.block("last", lambda y, z: [y, z], "leaf.out z", "y z", "return y z")
    leaf = Writer("leaf", "x e", results=("out",), vectors=("x", "e", "out", "y"))
    table = np.arange(9, dtype=np.float32).reshape(3, 3) / 20
    leaf.block("start", lambda x, e: [jnp.tanh(jnp.asarray(table) @ x) + e], "x e", "y", "return y")
    return program(w, leaf)


def bounded():
    """for i in range(3) within for j in range(n), with break: tests that fold where the loop begins, and a nest to rotate."""
    w = Writer("nest", "n", tests=("outer", "inner", "stop"))
    w.block("start", lambda: [jnp.int32(0), jnp.int32(0)], "", "j total", "jump outer")
    w.block("outer", lambda j, n: [j < n], "j n", "outer", "branch outer begin end")
    w.block("begin", lambda: [jnp.int32(0)], "", "i", "jump inner")
    w.block("inner", lambda i: [i < 3], "i", "inner", "branch inner body after")
    w.block("body", lambda t, i, j: [t + i * j, t > 40], "total i j", "total stop", "branch stop end next")
    w.block("next", lambda i: [i + 1], "i", "i", "jump inner")
    w.block("after", lambda j: [j + 1], "j", "j", "jump outer")
    w.block("end", NOTHING, "", "", "return total")
    return program(w)
